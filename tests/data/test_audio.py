"""Sound of every kind comes out as mono float32 at the asked rate, or as one line that says what is wrong."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from trees import real_data, write_tone

from dslstm_jax.data.audio import (
    AUDIO_SUFFIXES,
    check_recording,
    find_audio,
    prepare_samples,
    read_audio,
    read_header,
)
from dslstm_jax.errors import AudioError

RATE = 16_000


def noise(count: int = 4_000, channels: int | None = None) -> np.ndarray:
    shape = count if channels is None else (count, channels)
    return np.random.default_rng(7).integers(-32768, 32768, shape).astype(np.int16)


def sine(frequency: float, rate: int, seconds: float = 1.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate)


def write(path: Path, samples: np.ndarray) -> Path:
    soundfile.write(path, samples, RATE, **({"format": "OGG", "subtype": "OPUS"} if path.suffix == ".opus" else {}))
    return path


def failure(path: Path) -> str:
    """The reason read_audio gives, after checking the message's form."""
    with pytest.raises(AudioError) as caught:
        read_audio(path, RATE)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_sixteen_bits_come_back_exactly(tmp_path: Path) -> None:
    samples = noise()
    samples[:2] = -32768, 32767
    soundfile.write(tmp_path / "a.wav", samples, RATE)
    read = read_audio(tmp_path / "a.wav", RATE)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, samples / 32768)
    np.testing.assert_array_equal(read_audio(str(tmp_path / "a.wav"), RATE), read)


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff", "au", "caf", "w64"])
def test_lossless_formats_agree(tmp_path: Path, suffix: str) -> None:
    samples = noise(channels=2)
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, samples, RATE)
    np.testing.assert_allclose(read_audio(path, RATE), samples.mean(axis=1) / 32768, atol=1e-7)
    assert path.suffix in AUDIO_SUFFIXES


@pytest.mark.parametrize("suffix", ["mp3", "ogg", "opus"])
def test_lossy_formats_are_close(tmp_path: Path, suffix: str) -> None:
    tone = sine(440.0, RATE)
    path = write(tmp_path / f"a.{suffix}", tone)
    read = read_audio(path, RATE)
    assert read.shape == tone.shape
    assert np.corrcoef(read, tone)[0, 1] > 0.99
    assert path.suffix in AUDIO_SUFFIXES


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_every_sample_format_has_full_scale_one(tmp_path: Path, subtype: str) -> None:
    tone = sine(440.0, RATE, 0.1)
    soundfile.write(tmp_path / "a.wav", tone, RATE, subtype=subtype)
    np.testing.assert_allclose(
        read_audio(tmp_path / "a.wav", RATE), tone, atol=1 / 127 if subtype == "PCM_U8" else 4e-5
    )


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_resampling_keeps_time_pitch_and_level(rate: int) -> None:
    resampled = prepare_samples(sine(1_000.0, rate), rate, RATE)
    assert abs(len(resampled) - RATE) <= 1
    inner = slice(1_000, RATE - 1_000)  # away from the ends, where the filter sees silence
    np.testing.assert_allclose(resampled[inner], sine(1_000.0, RATE)[inner], atol=1e-3)


def test_resampling_removes_what_the_lower_rate_cannot_hold() -> None:
    resampled = prepare_samples(sine(12_000.0, 48_000), 48_000, RATE)
    assert np.abs(resampled[1_000:-1_000]).max() < 1e-3


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [("uint8", 0, 255), ("int8", -128, 127), ("int16", -32768, 32767), ("int32", -(2**31), 2**31 - 1)],
)
def test_integers_are_scaled_by_their_full_range(tmp_path: Path, dtype: str, low: int, high: int) -> None:
    samples = np.array([low, high, (low + high + 1) // 2] * 80, dtype)
    read = prepare_samples(samples, RATE, RATE)
    step = 2 / (high - low + 1)
    np.testing.assert_allclose(read[:3], [-1.0, 1.0 - step, 0.0], atol=1e-7)
    if dtype in ("int16", "int32"):  # the types soundfile writes from: the file must say the same as the array
        soundfile.write(tmp_path / "a.wav", samples, RATE, subtype={"int16": "PCM_16", "int32": "PCM_32"}[dtype])
        np.testing.assert_array_equal(read_audio(tmp_path / "a.wav", RATE), read)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", ">i2"])
def test_types_of_the_same_samples_agree(dtype: str) -> None:
    values = noise(64) // 512 * 512  # exact in float16
    samples = values.astype(dtype) if dtype == ">i2" else (values / 32768).astype(dtype)
    np.testing.assert_array_equal(prepare_samples(samples, RATE, RATE), values / 32768)


def test_channels_are_averaged() -> None:
    samples = noise(channels=3)
    read = prepare_samples(samples, RATE, RATE)
    assert read.shape == (4_000,)
    np.testing.assert_allclose(read, samples.mean(axis=1) / 32768, atol=1e-6)


def test_the_array_passed_is_left_alone() -> None:
    samples = np.full(100, 1.5, np.float32)
    read = prepare_samples(samples, RATE, RATE)
    assert (read == 1.0).all()  # clipped
    assert (samples == 1.5).all()
    assert not np.shares_memory(read, samples)


def test_resampled_full_scale_stays_in_range() -> None:
    square = np.sign(sine(300.0, 44_100)).astype(np.float32)
    assert np.abs(prepare_samples(square, 44_100, RATE)).max() <= 1.0


def test_lists_of_floats_are_samples() -> None:
    np.testing.assert_array_equal(prepare_samples([0.0, 0.5, -0.5], RATE, RATE), [0.0, 0.5, -0.5])


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.zeros(0, np.float32), "no samples"),
        (np.zeros((0, 2), np.float32), "no samples"),
        (np.float32(0.5), r"shape \(\)"),
        (np.zeros((2, 100, 1)), r"shape \(2, 100, 1\); give \[N\] or \[N, channels\]"),
        (np.zeros((2, 16_000)), r"16000 channels of 2 samples.*not \[channels, N\]"),
        (np.zeros((2, 3)), "3 channels of 2 samples"),
        (np.zeros((1_000, 33)), r"33 channels of 1000 samples"),
        (np.array([0.0, np.nan, 0.1]), "NaN"),
        (np.array([[0.0, np.inf], [0.0, 0.1]]), "infinite"),
        (np.array([0.0, -np.inf], np.float32), "infinite"),
        (np.array([0.0, 1e300]), "full scale is 1"),
        (noise().astype(np.float32), "divide by 32768"),
        (np.zeros(100, bool), "type bool"),
        (np.zeros(100, complex), "type complex128"),
        (np.zeros(100, object), "type object"),
        (np.zeros(100, np.int64), "type int64"),
        (np.zeros(100, np.uint16), "type uint16"),
        ("speech.wav", "shape"),
        (["0.5"], "type <U3"),
        ([[0.1, 0.2], [0.3]], "not an array"),
    ],
)
def test_bad_arrays_say_what_is_wrong(samples: object, reason: str) -> None:
    with pytest.raises(AudioError, match=reason) as caught:
        prepare_samples(samples, RATE, RATE)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rate", [0, -16_000, 16, 10**9, float("nan"), float("inf"), True, None, "16000"])
def test_bad_rates_say_hertz(rate: object) -> None:
    with pytest.raises(AudioError, match=r"^sample rate .* in hertz"):
        prepare_samples(noise(), rate, RATE)  # type: ignore[arg-type]
    with pytest.raises(AudioError, match=r"^target rate .* in hertz"):
        prepare_samples(noise(), RATE, rate)  # type: ignore[arg-type]


def test_less_than_one_sample_is_an_error() -> None:
    with pytest.raises(AudioError, match="1 samples at 48000 Hz are less than one at 16000 Hz"):
        prepare_samples([0.5], 48_000, RATE)


def test_a_file_of_more_channels_than_samples_is_no_transposed_array(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(20, channels=24), 1_000)
    assert read_audio(tmp_path / "a.wav", 1_000).shape == (20,)
    soundfile.write(tmp_path / "a.wav", np.array([[0.5, 0.25]]), RATE)
    assert failure(tmp_path / "a.wav") == "too short: 1 samples at 16000 Hz, less than 0.01 s"


def test_missing_and_special_files(tmp_path: Path) -> None:
    assert failure(tmp_path / "no.wav") == "no such file or directory"
    assert failure(tmp_path / ("x" * 300 + ".wav")) == "file name too long"
    assert "null" in failure(tmp_path / "a\0.wav")
    assert failure(tmp_path) == "a folder, not a sound file"
    os.mkfifo(tmp_path / "pipe.wav")
    assert "not a regular file" in failure(tmp_path / "pipe.wav")


def test_a_forbidden_file_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tone(tmp_path / "a.wav")
    path.chmod(0)
    if os.access(path, os.R_OK):  # the superuser may read everything
        monkeypatch.setattr(Path, "open", forbid)
    assert failure(path) == "permission denied"


def forbid(path: Path, *_: object) -> None:
    raise PermissionError(13, "Permission denied", str(path))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"the file is empty \(0 bytes\)"),
        (
            b"path,label\n" * 100,
            r"not a sound file soundfile can read \((Format not recognised|no MPEG frame)\); convert",
        ),
        (bytes(5_000), r"not a sound file"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", r"not a sound file"),
    ],
)
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.txt"])
def test_files_that_are_not_sound(tmp_path: Path, content: bytes, reason: str, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(AudioError, match=reason):
        read_audio(path, RATE)
    failure(path)


def test_headerless_sound_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.raw"
    path.write_bytes(noise().tobytes())
    assert "not a sound file" in failure(path)


def test_a_header_without_samples(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(0), RATE)
    assert failure(tmp_path / "a.wav") == "no samples"


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff", "au", "caf", "ogg", "opus", "mp3"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_cut_files_are_refused(tmp_path: Path, suffix: str, part: float) -> None:
    path = write(tmp_path / f"a.{suffix}", noise(60_000))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    assert re.match("truncated|damaged|not a sound file|no samples", failure(path))


def test_a_cut_file_says_how_much_is_there(tmp_path: Path) -> None:
    path = write_tone(tmp_path / "a.wav", seconds=1.0)
    path.write_bytes(path.read_bytes()[: 44 + 10_000])
    assert failure(path) == "truncated: 10000 of its 32000 bytes of sound are there"


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000, 8_000 + 36])
def test_a_header_written_by_a_stream_is_no_cut(tmp_path: Path, size: int) -> None:
    samples = noise(4_000)
    path = tmp_path / "a.wav"
    soundfile.write(path, samples, RATE)
    whole = path.read_bytes()
    path.write_bytes(whole[:40] + size.to_bytes(4, "little") + whole[44:])
    np.testing.assert_array_equal(read_audio(path, RATE), samples / 32768)


def test_a_file_of_nan_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(100, np.nan, np.float32), RATE, subtype="FLOAT")
    assert failure(tmp_path / "a.wav") == "NaN or infinite samples"


def test_a_long_file_is_read_whole(tmp_path: Path) -> None:
    path = write_tone(tmp_path / "a.flac", seconds=600.0, sample_rate=8_000)
    assert read_audio(path, RATE).shape == (600 * RATE,)
    assert read_audio(path, RATE, longest=600.0).shape == (600 * RATE,)


def test_a_file_that_is_too_long_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tone(tmp_path / "a.flac", seconds=90.0, sample_rate=1_000)
    monkeypatch.setattr(soundfile.SoundFile, "read", None)
    reason = "90.0 s long, but at most 60 s can be used; cut it into utterances"
    with pytest.raises(AudioError, match=f"^{re.escape(str(path))}: {reason}$"):
        read_audio(path, RATE, longest=60.0)


def test_an_array_that_is_too_long_is_not_resampled(monkeypatch: pytest.MonkeyPatch) -> None:
    assert prepare_samples(noise(8_000), 8_000, RATE, longest=1.0).shape == (RATE,)
    monkeypatch.setattr(soxr, "resample", None)
    with pytest.raises(AudioError, match=r"^1.1 s long, but at most 1 s can be used"):
        prepare_samples(noise(9_000), 8_000, RATE, longest=1.0)


def test_silence_is_refused_as_a_recording_not_as_an_array(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(1_000), RATE)
    assert failure(tmp_path / "a.wav") == "digital silence: all samples are zero"
    assert not prepare_samples(np.zeros(1_000), RATE, RATE).any()
    check_recording(np.full(160, 1e-9, np.float32), RATE)


def test_a_name_that_is_no_text_is_read(tmp_path: Path) -> None:
    path = write_tone(tmp_path / "a.wav").rename(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.wav")))
    assert read_audio(path, RATE).shape == (4_000,)
    assert read_audio(str(path), RATE).shape == (4_000,)


def test_a_flac_stream_without_a_length_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", noise(), RATE)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[21] &= 0xF0  # 36 bits of STREAMINFO: the number of samples
    content[22:26] = bytes(4)
    (tmp_path / "a.flac").write_bytes(content)
    assert "does not say how long it is" in failure(tmp_path / "a.flac")
    with pytest.raises(AudioError, match="does not say how long it is"):
        read_header(tmp_path / "a.flac")


def test_headers_tell_length_and_rate(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", noise(300, channels=2), 8_000)
    assert read_header(tmp_path / "a.flac") == (300, 8_000)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"path,label\n" * 100, "not a sound file"),
        (None, "truncated: 56 of its 6000 bytes"),
    ],
)
def test_headers_tell_what_is_wrong(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(3_000), RATE)
    path.write_bytes(path.read_bytes()[:100] if content is None else content)
    with pytest.raises(AudioError, match=f"^{re.escape(str(path))}: {reason}"):
        read_header(path)
    soundfile.write(path, noise(0), RATE)
    with pytest.raises(AudioError, match="no samples"):
        read_header(path)


def test_a_folder_is_walked_in_order(tmp_path: Path) -> None:
    wanted = ["a/b/1.flac", "a/2.wav", "Z.WAV", "m.mp3"]
    others = ["notes.txt", "._Z.WAV", ".cache/3.wav", "a/movie.mp4", "wav"]
    for name in wanted + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.wav").mkdir()
    assert find_audio(tmp_path) == sorted(tmp_path / name for name in wanted)
    assert find_audio(str(tmp_path / "a")) == [tmp_path / "a/2.wav", tmp_path / "a/b/1.flac"]


def test_a_hidden_folder_that_is_asked_for_is_walked(tmp_path: Path) -> None:
    path = write_tone(tmp_path / ".hidden" / "a.wav")
    assert find_audio(tmp_path / ".hidden") == [path]


def test_a_file_is_found_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    assert find_audio(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]


def test_nothing_to_find_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="no sound file in this folder"):
        find_audio(tmp_path)
    with pytest.raises(AudioError, match="no such file or directory"):
        find_audio(tmp_path / "nothing")


@pytest.mark.corpus
def test_real_recordings_are_read_exactly() -> None:
    path = real_data("data/emodb/wav/03a01Fa.wav")
    samples, rate = soundfile.read(path, dtype="int16")
    assert rate == RATE
    np.testing.assert_array_equal(read_audio(path, RATE), samples / 32768)
