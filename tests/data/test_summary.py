"""What a corpus holds, from its names and its files' headers, in figures and as a picture."""

from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from trees import write_tone

from dslstm_jax.data.corpora.base import Corpus, Record, Utterance
from dslstm_jax.data.summary import (
    Sound,
    align,
    draw_corpus,
    find_duplicates,
    format_counts,
    format_sound,
    read_headers,
)
from dslstm_jax.errors import RunError

UTTERANCES = (
    Utterance("a", "tense", "bob", "2"),
    Utterance("b", "tense", "bob", "2"),
    Utterance("c", "calm", "ann", "1"),
    Utterance("d", "tense", "ann", "2"),
    Utterance("e", "calm"),
)
CORPUS = Corpus("x", ("calm", "tense"), UTTERANCES)


def sounds(durations: tuple[float, ...], **rates: int) -> Sound:
    return Sound((), durations, {int(rate[1:]): count for rate, count in rates.items()}, ())


def test_headers_give_durations_rates_and_errors(tmp_path: Path) -> None:
    paths = [
        write_tone(tmp_path / "a.wav", seconds=0.5, sample_rate=44_100),
        write_tone(tmp_path / "b.wav", seconds=0.25),
        write_tone(tmp_path / "c.wav", seconds=1.0),
        tmp_path / "pointer.wav",
        tmp_path / "missing.wav",
        tmp_path / "headerless.raw",
    ]
    paths[3].write_text("version https://git-lfs.github.com/spec/v1\n")
    paths[5].write_bytes(bytes(100))
    sound = read_headers([Utterance(str(path), "calm") for path in paths])
    assert sound.durations == pytest.approx([0.5, 0.25, 1.0])
    assert [utterance.path for utterance in sound.readable] == [str(path) for path in paths[:3]]
    assert list(sound.sample_rates.items()) == [(16_000, 2), (44_100, 1)]
    reasons = ("not a sound file", "no such file or directory", "not a sound file")
    for error, path, reason in zip(sound.errors, paths[3:], reasons, strict=True):
        assert str(error).startswith(f"{path}: {reason}")
        assert "\n" not in str(error)


def test_a_record_needs_no_file() -> None:
    record = Record("folder", 7, samples=12_000, sample_rate=8_000)
    sound = read_headers([Utterance("folder#7", "calm", record=record)])
    assert (sound.durations, sound.sample_rates, sound.errors) == ((1.5,), {8_000: 1}, ())
    assert find_duplicates(sound.readable * 2) == []


def test_files_of_the_same_bytes_are_told(tmp_path: Path) -> None:
    same = [write_tone(tmp_path / f"{name}.wav") for name in ("a", "b", "c")]
    other = write_tone(tmp_path / "of_the_same_size.wav", frequency=441.0)
    longer = write_tone(tmp_path / "longer.wav", seconds=0.5)
    first, second, third = (Utterance(str(path), "calm", "ann") for path in same)
    rest = [Utterance(str(path), "calm", "ann") for path in (other, longer)]
    assert find_duplicates([first, *rest]) == []
    told = f"2 files hold the same recording: {same[0]} (calm), {same[1]} (calm)"
    assert find_duplicates([first, *rest, second]) == [told]
    bob = Utterance(str(same[1]), "tense", "bob")
    assert find_duplicates([first, bob, third]) == [
        f"3 files hold the same recording: {same[0]} (calm), {same[1]} (tense), {same[2]} (calm); "
        "their labels and speakers differ"
    ]


def test_counts_are_a_table_by_session_and_speaker() -> None:
    assert format_counts(CORPUS).splitlines() == [
        "             calm  tense  total",
        "session 1       1      0      1",
        "session 2       0      3      3",
        "speaker ann     1      1      2",
        "speaker bob     0      2      2",
        "all             2      3      5",
    ]


def test_sound_is_three_lines() -> None:
    assert format_sound(sounds((62.4, 1.0, 2.0, 6.6), r8000=1, r16000=3)).splitlines() == [
        "duration: 0:01:12 (72.0 s)",
        "recordings: shortest 1.00 s, median 4.30 s, mean 18.00 s, longest 62.40 s",
        "sample rates: 8000 Hz (1), 16000 Hz (3)",
    ]
    assert format_sound(sounds(())).splitlines() == [
        "duration: 0:00:00 (0.0 s)",
        "recordings: none",
        "sample rates: none",
    ]


def test_columns_are_aligned() -> None:
    assert align([["a", "b", "1"], ["ccc", "", "22"]], left=2) == "a    b   1\nccc     22"
    assert align([["a", "bb"], ["c", "d"]], left=2) == "a  bb\nc  d"


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Corpus, Sound], list[Axes]]:
    """Draws, looks at the file, and gives the panels: labels, durations, rates."""

    def draw(corpus: Corpus, sound: Sound) -> list[Axes]:
        figures: list[Figure] = []
        whole = FigureCanvasAgg.print_figure

        def keep(canvas: FigureCanvasAgg, *arguments: object, **options: object) -> None:
            figures.append(canvas.figure)
            whole(canvas, *arguments, **options)

        monkeypatch.setattr(FigureCanvasAgg, "print_figure", keep)
        draw_corpus(corpus, sound, tmp_path / "picture.png")
        picture = imread(tmp_path / "picture.png")
        assert min(picture.shape[:2]) > 400
        assert picture[..., :3].std() > 0.02, "it is not blank"
        return figures[0].axes

    return draw


def test_the_picture_shows_labels_by_speaker_durations_and_rates(drawn) -> None:
    labels, durations, rates = drawn(CORPUS, sounds((1.0, 2.0, 2.0, 4.0), r8000=1, r16000=3))
    bars = {bars.get_label(): [bar.get_height() for bar in bars] for bars in labels.containers}
    assert bars == {"2 calm": [1, 0, 1], "3 tense": [1, 2, 0]}
    assert [bar.get_y() for bar in labels.containers[1]] == [1, 0, 1], "stacked"
    assert [tick.get_text() for tick in labels.get_xticklabels()] == ["ann", "bob", "unknown"]
    assert sum(bar.get_height() for bar in durations.patches) == 4
    assert durations.get_legend().get_texts()[0].get_text() == "median 2.00 s"
    assert [bar.get_width() for bar in rates.patches] == [1, 3]
    assert [tick.get_text() for tick in rates.get_yticklabels()] == ["8000 Hz", "16000 Hz"]


def test_one_sample_rate_needs_no_panel(drawn) -> None:
    assert len(drawn(CORPUS, sounds((1.0,), r16000=5))) == 2


@pytest.mark.parametrize("speakers", [1, 30, 150])
def test_any_number_of_speakers_and_any_names_can_be_drawn(drawn, speakers: int) -> None:
    names = [f"{number:03} " + "s" * 80 for number in range(speakers)]
    labels = ("$x$ _", "_y", "z" * 80, *(f"label {number}" for number in range(8)))
    utterances = tuple(Utterance("a", label, name) for label in labels for name in names)
    panel = drawn(Corpus("x", labels, utterances), sounds((1.0, 2.0), r8000=1, r16000=1))[0]
    assert len(panel.containers) == len(labels)
    assert len(panel.get_legend().get_texts()) == len(labels)
    assert len(panel.get_xticklabels()) == {1: 1, 30: 30, 150: 75}[speakers]


def test_a_corpus_without_readable_recordings_is_drawn(drawn) -> None:
    assert not drawn(CORPUS, sounds(()))[1].patches


def test_a_picture_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot write"):
        draw_corpus(CORPUS, sounds((1.0,)), tmp_path / "nowhere" / "x.png")
