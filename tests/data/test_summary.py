"""What a corpus holds, counted from its names and its files' headers."""

from pathlib import Path

import pytest
from trees import write_tone

from dslstm_jax.data.corpora.base import StoredExample, Utterance
from dslstm_jax.data.summary import find_duplicates, read_headers


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
    headers = read_headers([Utterance(str(path), "calm") for path in paths])
    assert headers.durations == pytest.approx([0.5, 0.25, 1.0])
    assert [utterance.path for utterance in headers.readable] == [str(path) for path in paths[:3]]
    assert list(headers.sample_rates.items()) == [(16_000, 2), (44_100, 1)]
    reasons = ("not a sound file", "no such file or directory", "not a sound file")
    for error, path, reason in zip(headers.errors, paths[3:], reasons, strict=True):
        assert str(error).startswith(f"{path}: {reason}")
        assert "\n" not in str(error)


def test_a_record_needs_no_file() -> None:
    record = StoredExample("folder", 7, samples=12_000, sample_rate=8_000)
    headers = read_headers([Utterance("folder#7", "calm", record=record)])
    assert (headers.durations, headers.sample_rates, headers.errors) == ((1.5,), {8_000: 1}, ())
    assert find_duplicates(headers.readable * 2) == []


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
