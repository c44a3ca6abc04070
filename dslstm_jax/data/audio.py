"""Any sound file or array to mono float32 samples at the asked rate, or one clear error."""

import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
from jaxtyping import Float, Float32

from dslstm_jax.errors import AudioError, one_line
from dslstm_jax.util.quiet import quiet_libraries

AUDIO_SUFFIXES = frozenset(
    {".aif", ".aifc", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav", ".w64"}
)
"""Names that a walk through a folder takes for sound, in lower case: what soundfile reads by itself."""

SHORTEST = 0.01
"""Seconds; one period of a low voice. A recording with less is a click or a damaged file."""

_RATE_RANGE = (1_000.0, 1_000_000.0)
"""Hertz; a rate outside is a slip (kilohertz, a sample count), not a recording."""
_LARGEST_PEAK = 32.0
"""Float samples beyond this many times full scale (30 dB) were never scaled to [-1, 1]."""
_MOST_CHANNELS = 32
"""An array with more is taken for a mistake in its layout."""
# Writers that cannot seek back leave a size near 2^31 or 2^32 in the header, and careless ones count the header
# itself in; neither means that sound is missing.
_STREAMED_BYTES, _SLACK_BYTES = 0x7FFF0000, 1024
_BLOCK = 1 << 18
"""Samples of each channel that `read_blocks` decodes at a time: 16 seconds at 16 kHz, 6 at 44.1."""
_NOT_MPEG = (b"RIFF", b"RIFX", b"riff", b"FORM", b"fLaC", b"OggS", b"caff", b".snd", b"dns.")
"""How files begin that libsndfile does not take for MP3, whose decoder prints on stderr; unless they are named so."""


def read_audio(
    path: str | Path, sample_rate: int, longest: float | None = None, most_values: int | None = None
) -> Float32[np.ndarray, " N"]:
    """One sound file as mono samples in [-1, 1] (mean of the channels) at `sample_rate` (hertz).

    A 16-bit mono file at `sample_rate` comes back exactly as int16 / 32768; see `prepare_samples` for the rest.

    Args:
      path: the file.
      sample_rate: of the result, in hertz.
      longest: in seconds; a file that is longer by its header is not decoded.
      most_values: samples times channels; a file with more by its header is not decoded.

    Raises:
      AudioError: `PATH: REASON` in one line, whatever is wrong: missing, unreadable, not sound, truncated, no
        samples, NaN or infinite samples, too long, too short or silent (`check_recording`).
    """
    with _opened(path) as file:
        _check_length(file.frames, file.samplerate, longest)
        if most_values is not None and file.frames * file.channels > most_values:
            raise AudioError(
                f"{file.frames} samples of {file.channels} channels, but at most {most_values:,} values can be "
                "decoded; lower its rate, or mix it to mono"
            )
        samples = _decode(file, file.frames)
        _check_whole(file, len(samples))
        recording = _to_mono_at_rate(samples, file.samplerate, sample_rate, longest)
        check_recording(recording, sample_rate)
    return recording


def read_blocks(path: str | Path, sample_rate: int) -> Iterator[Float32[np.ndarray, " N"]]:
    """A sound file of any length, piece by piece: memory holds one piece.

    Side by side the pieces are what `read_audio` gives, to the last bits of the resampler.

    Args:
      path: the file.
      sample_rate: of the pieces, in hertz.

    Raises:
      AudioError: as `read_audio`; what only the whole file can tell (truncated, silent) after the last piece.
    """
    with _opened(path) as file:
        resampler = Resampler(file.samplerate, sample_rate)
        found, given, silent, last = 0, 0, True, False
        while not last:
            samples = _decode(file, _BLOCK)
            last = len(samples) < _BLOCK
            found += len(samples)
            block = resampler(_to_mono(samples), last)
            silent = silent and not block.any()
            given += len(block)
            yield block
        _check_whole(file, found)
        check_sound(given, silent, sample_rate)


def read_header(path: str | Path) -> tuple[int, int]:
    """The number of samples of a sound file and their rate in hertz, without decoding it.

    Raises:
      AudioError: `PATH: REASON`, as `read_audio` says it, where the header is enough to tell.
    """
    with _opened(path) as file:
        _check_complete(file.extra_info)
        if file.frames == 0:
            raise AudioError("no samples")
        return file.frames, file.samplerate


def check_recording(recording: Float32[np.ndarray, " N"], sample_rate: int) -> None:
    """Makes sure that mono samples at `sample_rate` (hertz) are more than digital silence or a click.

    Raises:
      AudioError: all samples are zero, or there are fewer than SHORTEST seconds of them.
    """
    check_sound(len(recording), not recording.any(), sample_rate)


def check_sound(count: int, silent: bool, sample_rate: int) -> None:
    """`check_recording`, of the number of samples and whether all of them are 0."""
    if count < SHORTEST * sample_rate:
        raise AudioError(f"too short: {count} samples at {sample_rate} Hz, less than {SHORTEST} s")
    if silent:
        raise AudioError("digital silence: all samples are zero")


def prepare_samples(
    samples: npt.ArrayLike, sample_rate: float, target_rate: int, longest: float | None = None
) -> Float32[np.ndarray, " N"]:
    """An array of samples as mono float32 in [-1, 1] at `target_rate`, resampled with soxr HQ if the rates differ.

    Args:
      samples: [N] or [N, channels]; floats with full scale 1 (what exceeds it is clipped, as in a 16-bit file), or
        int8, int16, int32 and uint8 (zero at 128), which are divided by their full range as soundfile does.
      sample_rate: of `samples`, in hertz.
      target_rate: of the result, in hertz.
      longest: in seconds; more is refused before it is resampled.

    Raises:
      AudioError: no samples; another shape or type; [channels, N]; NaN or infinite samples; floats that were never
        scaled; a rate that no recording has; too long.
    """
    return _to_mono_at_rate(_to_floats(samples), sample_rate, target_rate, longest)


def mono_part(samples: npt.ArrayLike) -> Float32[np.ndarray, " N"]:
    """Some samples of a recording, or none, at their own rate: mono, not yet clipped; see `prepare_samples`.

    Raises:
      AudioError: as `prepare_samples` for the samples.
    """
    return _to_mono(_to_floats(samples, part=True))


class Resampler:
    """Mono samples of one recording, part by part, to another rate: side by side what `prepare_samples` gives, to the
    last bits of the resampler.

    Raises:
      AudioError: a rate that no recording has.
    """

    def __init__(self, sample_rate: float, target_rate: float) -> None:
        _check_rate("sample rate", sample_rate)
        _check_rate("target rate", target_rate)
        self._stream = None
        if sample_rate != target_rate:
            self._stream = soxr.ResampleStream(sample_rate, target_rate, 1, dtype="float32", quality="HQ")

    def __call__(self, mono: Float32[np.ndarray, " N"], last: bool = False) -> Float32[np.ndarray, " M"]:
        """What is known of the result after these samples; after the `last` ones all of it."""
        if self._stream is not None:
            mono = self._stream.resample_chunk(mono, last=last)
        return np.clip(mono, -1.0, 1.0)


def find_audio(path: str | Path) -> list[Path]:
    """The sound files in a folder and its subfolders (AUDIO_SUFFIXES, nothing hidden), sorted; a file is itself.

    Raises:
      AudioError: `PATH: REASON`: there is no such path, or no sound file in the folder.
    """
    folder = Path(path)
    try:
        if not stat.S_ISDIR(folder.stat().st_mode):
            return [folder]
    except (OSError, ValueError) as error:
        raise AudioError(f"{path}: {_reason(error)}") from error
    found = sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in AUDIO_SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and file.is_file()
    )
    if not found:
        raise AudioError(f"{path}: no sound file in this folder (looked for {', '.join(sorted(AUDIO_SUFFIXES))})")
    return found


@contextmanager
def _opened(path: str | Path) -> Iterator[soundfile.SoundFile]:
    """A file whose header makes sense; the AudioErrors of the block begin with its path."""
    try:
        with _open(Path(path)) as file:
            _check_rate("sample rate", file.samplerate)
            if file.frames == sys.maxsize:  # FLAC from an encoder that could not seek back; soundfile cannot read it
                raise AudioError("its header does not say how long it is; convert it to WAV or FLAC once more")
            yield file
    except AudioError as error:
        raise AudioError(f"{path}: {error}") from error


def _open(path: Path) -> soundfile.SoundFile:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise AudioError("a folder, not a sound file")
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its writer
            raise AudioError("not a regular file; sound cannot be read from a pipe or device")
        if status.st_size == 0:
            raise AudioError("the file is empty (0 bytes)")
        with path.open("rb") as opened:  # says why a file cannot be opened; soundfile does not
            start = opened.read(4)
    except (OSError, ValueError) as error:
        raise AudioError(_reason(error)) from error
    try:
        is_mpeg = start not in _NOT_MPEG or path.suffix.lower() == ".mp3"
        with quiet_libraries() if is_mpeg else nullcontext():
            return soundfile.SoundFile(os.fsencode(path))  # bytes: a name need not be text
    except (soundfile.SoundFileError, TypeError, ValueError) as error:  # TypeError: headerless, by suffix .raw
        reason = _reason(error)
        if "not a regular file" in reason:  # what libsndfile says where its MP3 decoder finds nothing
            reason = "no MPEG frame"
        raise AudioError(f"not a sound file soundfile can read ({reason}); convert it to WAV or FLAC") from error


def _decode(file: soundfile.SoundFile, count: int) -> Float32[np.ndarray, "N channels"]:
    """The next `count` samples of each channel, or as many as there are; AudioError without the path."""
    try:
        with quiet_libraries() if file.format == "MP3" else nullcontext():
            return file.read(count, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise AudioError(f"damaged or truncated ({_reason(error)})") from error
    except (MemoryError, ValueError) as error:  # NumPy's "array is too big"
        raise AudioError(f"{count} samples do not fit in memory") from error


def _check_whole(file: soundfile.SoundFile, found: int) -> None:
    """Makes sure that the `found` samples of each channel are all that the file promised."""
    if found < file.frames:
        raise AudioError(f"truncated: {found} of its {file.frames} samples are there")
    _check_complete(file.extra_info)
    if found == 0:
        raise AudioError("no samples")


def _check_length(count: int, sample_rate: float, longest: float | None) -> None:
    """Refuses `count` samples at `sample_rate` (hertz) if they are more than `longest` seconds."""
    if longest is not None and count > longest * sample_rate:
        raise AudioError(
            f"{count / sample_rate:.1f} s long, but at most {longest:g} s can be used; cut it into utterances"
        )


def _check_complete(log: str) -> None:
    """Finds WAV, AIFF, AU and Ogg files cut short: libsndfile reads what is there and only logs it."""
    if "Junk after the last page" in log:
        raise AudioError("truncated: its last Ogg page is incomplete")
    found = re.search(r"^\s*(?:data|SSND|Data Size) *: (\d+) \(should be (\d+)\)", log, re.MULTILINE)
    if found:
        promised, present = map(int, found.groups())
        if promised < _STREAMED_BYTES and promised - present > _SLACK_BYTES:
            raise AudioError(f"truncated: {present} of its {promised} bytes of sound are there")


def _to_floats(samples: npt.ArrayLike, part: bool = False) -> Float[np.ndarray, "N *channels"]:
    """The samples as an array of floats, whose shape makes sense; a part may have fewer samples than channels."""
    try:
        array = np.asarray(samples)
    except Exception as error:  # the object passed decides what its conversion raises
        raise AudioError(f"samples are not an array ({one_line(error)})") from error
    if array.ndim not in (1, 2):
        raise AudioError(f"samples have shape {array.shape}; give [N] or [N, channels]")
    most_channels = _MOST_CHANNELS if part else min(_MOST_CHANNELS, len(array))
    if array.ndim == 2 and array.size and array.shape[1] > most_channels:
        count, channels = array.shape
        raise AudioError(
            f"samples of shape {array.shape} are {channels} channels of {count} samples; give [N, channels], "
            "not [channels, N] or a batch"
        )
    if array.dtype.kind == "f":
        return array
    if array.dtype == np.uint8:
        return (array.astype(np.float32) - 128) / 128
    if array.dtype.kind == "i" and array.dtype.itemsize <= 4:
        return array.astype(np.float32) / 2 ** (8 * array.dtype.itemsize - 1)
    raise AudioError(f"samples of type {array.dtype}; give floats in [-1, 1], int8, int16, int32 or uint8")


def _to_mono_at_rate(
    samples: Float[np.ndarray, "N *channels"], sample_rate: float, target_rate: float, longest: float | None
) -> Float32[np.ndarray, " N"]:
    """Checks the values and rates, averages the channels and resamples."""
    _check_rate("sample rate", sample_rate)
    _check_rate("target rate", target_rate)
    _check_length(len(samples), sample_rate, longest)
    if samples.size == 0:
        raise AudioError("no samples")
    mono = _to_mono(samples)
    if sample_rate != target_rate:
        mono = soxr.resample(mono, float(sample_rate), float(target_rate), quality="HQ")
        if mono.size == 0:
            raise AudioError(f"{len(samples)} samples at {sample_rate} Hz are less than one at {target_rate} Hz")
    return np.clip(mono, -1.0, 1.0)


def _to_mono(samples: Float[np.ndarray, "N *channels"]) -> Float32[np.ndarray, " N"]:
    """The mean of the channels, after checking the values."""
    if samples.size == 0:
        return np.zeros(0, np.float32)
    peak = max(samples.max(), -samples.min())  # NaN passes through both
    if not np.isfinite(peak):
        raise AudioError("NaN or infinite samples")
    if peak > _LARGEST_PEAK:
        raise AudioError(
            f"float samples reach {peak:.6g} where full scale is 1; scale them (16-bit values: divide by 32768)"
        )
    return samples.mean(axis=1, dtype=np.float32) if samples.ndim == 2 else samples.astype(np.float32)


def _check_rate(name: str, rate: object) -> None:
    low, high = _RATE_RANGE
    if not isinstance(rate, int | float | np.integer | np.floating) or not low <= rate <= high:  # nor NaN
        raise AudioError(f"{name} {_show(rate)}; give it in hertz, from {low:g} to {high:.0f}")


def _show(value: object) -> str:
    try:
        return f"{one_line(repr(value)):.50}"
    except Exception:  # an integer of thousands of digits, or an object's own mistake
        return f"of type {type(value).__name__}"


def _reason(error: Exception) -> str:
    """A library's message without the path, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return one_line(getattr(error, "error_string", error)).rstrip(".")
