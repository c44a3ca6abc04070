"""What a corpus holds, as a table, as three lines and as a picture."""

from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from dslstm_jax.data.corpora.base import Corpus, Utterance
from dslstm_jax.data.summary import Headers
from dslstm_jax.errors import RunError
from dslstm_jax.reporting.corpus import draw_corpus, format_counts, format_headers

UTTERANCES = (
    Utterance("a", "tense", "bob", "2"),
    Utterance("b", "tense", "bob", "2"),
    Utterance("c", "calm", "ann", "1"),
    Utterance("d", "tense", "ann", "2"),
    Utterance("e", "calm"),
)
CORPUS = Corpus("x", ("calm", "tense"), UTTERANCES)


def headers(durations: tuple[float, ...], **rates: int) -> Headers:
    return Headers((), durations, {int(rate[1:]): count for rate, count in rates.items()}, ())


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
    assert format_headers(headers((62.4, 1.0, 2.0, 6.6), r8000=1, r16000=3)).splitlines() == [
        "duration: 0:01:12 (72.0 s)",
        "recordings: shortest 1.00 s, median 4.30 s, mean 18.00 s, longest 62.40 s",
        "sample rates: 8000 Hz (1), 16000 Hz (3)",
    ]
    assert format_headers(headers(())).splitlines() == [
        "duration: 0:00:00 (0.0 s)",
        "recordings: none",
        "sample rates: none",
    ]


@pytest.fixture
def drawn(tmp_path: Path, figures: list[Figure]) -> Callable[[Corpus, Headers], list[Axes]]:
    """Draws, looks at the file, and gives the panels: labels, durations, rates."""

    def draw(corpus: Corpus, headers: Headers) -> list[Axes]:
        draw_corpus(corpus, headers, tmp_path / "picture.png")
        picture = imread(tmp_path / "picture.png")
        assert min(picture.shape[:2]) > 400
        assert picture[..., :3].std() > 0.02, "it is not blank"
        return figures[0].axes

    return draw


def test_the_picture_shows_labels_by_speaker_durations_and_rates(drawn) -> None:
    labels, durations, rates = drawn(CORPUS, headers((1.0, 2.0, 2.0, 4.0), r8000=1, r16000=3))
    bars = {bars.get_label(): [bar.get_height() for bar in bars] for bars in labels.containers}
    assert bars == {"2 calm": [1, 0, 1], "3 tense": [1, 2, 0]}
    assert [bar.get_y() for bar in labels.containers[1]] == [1, 0, 1], "stacked"
    assert [tick.get_text() for tick in labels.get_xticklabels()] == ["ann", "bob", "unknown"]
    assert sum(bar.get_height() for bar in durations.patches) == 4
    assert durations.get_legend().get_texts()[0].get_text() == "median 2.00 s"
    assert [bar.get_width() for bar in rates.patches] == [1, 3]
    assert [tick.get_text() for tick in rates.get_yticklabels()] == ["8000 Hz", "16000 Hz"]


def test_one_sample_rate_needs_no_panel(drawn) -> None:
    assert len(drawn(CORPUS, headers((1.0,), r16000=5))) == 2


@pytest.mark.parametrize("speakers", [1, 30, 150])
def test_any_number_of_speakers_and_any_names_can_be_drawn(drawn, speakers: int) -> None:
    names = [f"{number:03} " + "s" * 80 for number in range(speakers)]
    labels = ("$x$ _", "_y", "z" * 80, *(f"label {number}" for number in range(8)))
    utterances = tuple(Utterance("a", label, name) for label in labels for name in names)
    panel = drawn(Corpus("x", labels, utterances), headers((1.0, 2.0), r8000=1, r16000=1))[0]
    assert len(panel.containers) == len(labels)
    assert len(panel.get_legend().get_texts()) == len(labels)
    assert len(panel.get_xticklabels()) == {1: 1, 30: 30, 150: 75}[speakers]


def test_a_corpus_without_readable_recordings_is_drawn(drawn) -> None:
    assert not drawn(CORPUS, headers(()))[1].patches


def test_a_picture_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot write"):
        draw_corpus(CORPUS, headers((1.0,)), tmp_path / "nowhere" / "x.png")
