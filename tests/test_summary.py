"""What a corpus holds, from its names and its files' headers."""

from pathlib import Path

import pytest
from trees import write_tone

from dslstm_jax.data.corpora.base import Corpus, Utterance
from dslstm_jax.data.summary import align, format_counts, format_sound, read_headers


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
    assert sound.seconds == pytest.approx(1.75)
    assert list(sound.sample_rates.items()) == [(16_000, 2), (44_100, 1)]
    for error, path in zip(sound.errors, paths[3:], strict=True):
        assert str(error).startswith(f"{path}: not a sound file soundfile can read (")
        assert "\n" not in str(error)


def test_counts_are_a_table_by_session_and_speaker() -> None:
    utterances = (
        Utterance("a", "tense", "bob", "2"),
        Utterance("b", "tense", "bob", "2"),
        Utterance("c", "calm", "ann", "1"),
        Utterance("d", "tense", "ann", "2"),
        Utterance("e", "calm"),
    )
    table = format_counts(Corpus("x", ("calm", "tense"), utterances))
    assert table.splitlines() == [
        "             calm  tense  total",
        "session 1       1      0      1",
        "session 2       0      3      3",
        "speaker ann     1      1      2",
        "speaker bob     0      2      2",
        "all             2      3      5",
    ]


def test_sound_is_two_lines(tmp_path: Path) -> None:
    sound = read_headers([Utterance(str(write_tone(tmp_path / "a.wav", seconds=62.4)), "calm")])
    assert format_sound(sound) == "duration: 0:01:02 (62.4 s)\nsample rates: 16000 Hz (1)"
    assert format_sound(read_headers([])) == "duration: 0:00:00 (0.0 s)\nsample rates: none"


def test_columns_are_aligned() -> None:
    assert align([["a", "b", "1"], ["ccc", "", "22"]], left=2) == "a    b   1\nccc     22"
    assert align([["a", "bb"], ["c", "d"]], left=2) == "a  bb\nc  d"
