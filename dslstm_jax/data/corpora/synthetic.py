"""The synthetic corpus: source-filter voices speaking nonsense syllables in four emotions, made with numpy.

Source: Rosenberg's trigonometric glottal pulse (JASA 49, 1971) with jitter, shimmer, spectral tilt and breath
noise. Filter: formant resonators in cascade, hiss in parallel, consonant targets: Klatt (JASA 67, 1980); vowel
targets: the men of Peterson and Barney (JASA 24, 1952). The emotions' pitch, rate, loudness and brightness differ
in the directions that Juslin and Laukka report for speech (Psychological Bulletin 129, 2003). The rest of them, and
all sizes, are ours: set so that a small recognizer (configs/quickstart.py) gets about 0.9 UA on unseen voices.
"""

import dataclasses
import hashlib
import json
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import platformdirs
import scipy  # its parts load at their first use: listing the corpora stays quick
import soundfile
from jaxtyping import Float, Int16

from dslstm_jax.config import CorpusConfig, SyntheticConfig
from dslstm_jax.data.corpora.base import About, Corpus, Utterance, make_corpus
from dslstm_jax.errors import ConfigError, CorpusError

ABOUT = About(
    license="Apache-2.0",
    source="made here, on first use",
    root="where the recordings are kept (default: the user's cache folder)",
)
VERSION = 1  # raise it with any change to the sound: folders of the older sound are then left alone
SAMPLE_RATE = 16_000
EMOTIONS = ("happy", "neutral", "angry", "sad")

_FRAME = 160  # samples (10 ms) between the formants' targets

# fmt: off
_PHONES = {  # F1, F2, F3 in Hz; amplitudes of voice, breath, hiss near 2.8 kHz, hiss near 5.5 kHz
    "i": (270, 2290, 3010, 1, 0, 0, 0), "I": (390, 1990, 2550, 1, 0, 0, 0),
    "E": (530, 1840, 2480, 1, 0, 0, 0), "ae": (660, 1720, 2410, 1, 0, 0, 0),
    "a": (730, 1090, 2440, 1, 0, 0, 0), "o": (570, 840, 2410, 1, 0, 0, 0),
    "u": (300, 870, 2240, 1, 0, 0, 0),
    "w": (290, 610, 2150, 0.6, 0, 0, 0), "y": (260, 2070, 3020, 0.6, 0, 0, 0),
    "l": (310, 1050, 2880, 0.6, 0, 0, 0), "m": (480, 1270, 2130, 0.35, 0, 0, 0),
    "n": (480, 1340, 2470, 0.35, 0, 0, 0), "f": (340, 1100, 2080, 0, 0, 0.1, 0.1),
    "s": (320, 1390, 2530, 0, 0, 0, 0.6), "z": (240, 1390, 2530, 0.3, 0, 0, 0.3),
    "sh": (300, 1840, 2750, 0, 0, 0.6, 0.2), "h": (500, 1500, 2500, 0, 1, 0, 0),
    "p": (400, 1100, 2150, 0, 1, 0.1, 0), "t": (400, 1600, 2600, 0, 0.5, 0.1, 0.8),
    "k": (300, 1990, 2850, 0, 0.8, 0.6, 0), "d": (200, 1600, 2600, 0.4, 0, 0, 0.4),
    "closure": (300, 1400, 2500, 0, 0, 0, 0), "pause": (500, 1500, 2500, 0, 0, 0, 0),
}
# fmt: on
_UPPER_FORMANTS = (3500.0, 4500.0, 5500.0, 6500.0)  # Hz, of a straight tube of 17.5 cm
_BANDWIDTHS = np.array([60.0, 90.0, 150.0, 250.0, 300.0, 400.0, 500.0])  # Hz
_VOWELS = ("i", "I", "E", "ae", "a", "o", "u")
_ONSETS = (*(("closure", name) for name in "ptkd"), *((name,) for name in "wylmnfszh"), ("sh",))
_LENGTHS = dict.fromkeys(_VOWELS, 1.0) | {"closure": 0.3, "p": 0.2, "t": 0.2, "k": 0.2, "d": 0.1}  # others 0.4


class Voice(NamedTuple):
    """What a speaker brings to every utterance."""

    formant_scale: float  # formants over those of _PHONES: the inverse of the vocal tract's length
    pitch: float  # Hz
    rate: float  # factor on the syllables per second
    tilt: float  # dB lost at 3 kHz
    breath: float  # dB of the breath noise at the glottis, relative to the pulses


class Delivery(NamedTuple):
    """How one utterance is spoken."""

    pitch: float  # semitones above the voice's
    pitch_range: float  # semitones, standard deviation over the syllables
    fall: float  # semitones per second
    rate: float  # syllables per second
    loudness: float  # dB
    stress: float  # dB, standard deviation of the level over the syllables
    tilt: float  # dB lost at 3 kHz beyond the voice's
    jitter: float  # standard deviation of the pitch periods, as a fraction
    breath: float  # dB beyond the voice's


_MEANS = {
    "happy": Delivery(9.0, 4.0, -3.0, 5.2, 2.0, 3.0, -1.0, 0.010, 10.0),
    "neutral": Delivery(0.0, 1.2, 2.0, 4.2, 0.0, 2.0, 5.0, 0.010, 0.0),
    "angry": Delivery(4.0, 2.0, 5.0, 5.6, 4.0, 7.0, -8.0, 0.060, -10.0),
    "sad": Delivery(-2.0, 0.5, 1.0, 3.2, -4.0, 1.0, 15.0, 0.015, 18.0),
}
_SPREAD = Delivery(1.2, 0.5, 1.2, 0.4, 2.0, 0.8, 1.6, 0.006, 2.5)
_LEAST = Delivery(-12.0, 0.2, -12.0, 2.5, -20.0, 0.5, -20.0, 0.002, -20.0)


def load(config: CorpusConfig) -> Corpus:
    """The corpus: 16-bit WAV files, written at the first call and found again by later ones, whole or not at all.

    They lie in `config.root`, or else in the user's cache folder, in a sub-folder named after `config.synthetic`.

    Raises:
      CorpusError: the folder cannot be written, or has lost some of its files.
    """
    settings = config.synthetic
    digest = hashlib.sha256(json.dumps([VERSION, dataclasses.asdict(settings)]).encode()).hexdigest()[:12]
    cache = platformdirs.user_cache_path("dslstm_jax", appauthor=False)
    folder = (Path(config.root).expanduser() if config.root else cache) / f"synthetic-{digest}"
    try:
        if not folder.is_dir():
            _write(settings, folder)
        present = {path.name for path in folder.iterdir()}
    except (OSError, soundfile.LibsndfileError) as error:
        raise CorpusError(
            f"the synthetic corpus cannot be kept in {folder} ({error}); name a writable folder: --corpus.root DIR"
        ) from error
    takes = _takes(settings)
    if lost := takes.keys() - present:
        raise CorpusError(f"{folder} has lost {len(lost)} of its {len(takes)} recordings; delete it to make it anew")
    utterances = [
        Utterance(str(folder / name), emotion, name.partition("_")[0]) for name, (_, emotion, _) in takes.items()
    ]
    return make_corpus("synthetic", EMOTIONS, utterances, f"looked in {folder}")


def _takes(config: SyntheticConfig) -> dict[str, tuple[int, str, int]]:
    """The file names of the whole corpus, and the speaker, emotion and take of each."""
    return {
        f"voice{speaker:02d}_{emotion}_{take:02d}.wav": (speaker, emotion, take)
        for speaker in range(config.speakers)
        for emotion in EMOTIONS
        for take in range(config.utterances_per_emotion)
    }


def _write(config: SyntheticConfig, folder: Path) -> None:
    """Writes beside `folder` and renames at the end, so that nobody ever finds a part of it there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    hidden = f".{folder.name}-"
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=hidden, ignore_cleanup_errors=True) as temporary:
        unfinished = Path(temporary) / folder.name
        unfinished.mkdir()
        for name, take in _takes(config).items():
            soundfile.write(unfinished / name, synthesize(config, *take), SAMPLE_RATE, subtype="PCM_16")
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first, with the same sound
                raise


def synthesize(config: SyntheticConfig, speaker: int, emotion: str, take: int) -> Int16[np.ndarray, " N"]:
    """One utterance, drawn from (config.seed, speaker, emotion, take) alone, whatever was made before it.

    Args:
      speaker: any number from 0, also beyond `config.speakers`.
      emotion: one of EMOTIONS.
      take: any number from 0.

    Returns:
      Mono samples at 16 kHz, 1.4 to 2.0 s.

    Raises:
      ConfigError: an argument is out of its range.
    """
    if emotion not in EMOTIONS or speaker < 0 or take < 0:
        raise ConfigError(
            f"no synthetic speaker {speaker}, emotion {emotion!r}, take {take}: the numbers start at 0, "
            f"the emotions are {', '.join(EMOTIONS)}"
        )
    voice = draw_voice(config, speaker)
    rng = _generator(config, speaker, EMOTIONS.index(emotion), take)
    delivery = draw_delivery(config, emotion, rng)
    formants, contours = _plan(delivery, voice.rate, rng)
    semitones, voicing, breath, hiss_low, hiss_high = _to_samples(contours)

    flow, pulses = _glottis(voice.pitch * 2.0 ** (semitones / 12.0), delivery.jitter, rng)
    # the breath of a voiced sound is strongest while the glottis is open
    breath = 0.2 * breath + _ratio(voice.breath + delivery.breath) * voicing * (0.5 + flow)
    source = voicing * _tilt(pulses, max(0.5, voice.tilt + delivery.tilt))
    source += breath * rng.standard_normal(len(breath))
    speech = _vocal_tract(source, voice.formant_scale * formants)
    for amplitude, hertz, width in ((hiss_low, 2800.0, 1000.0), (hiss_high, 5500.0, 2000.0)):
        noise = 0.15 * amplitude * rng.standard_normal(len(amplitude))
        speech += scipy.signal.sosfilt(_resonators(voice.formant_scale * np.array([hertz]), np.array([width])), noise)
    return _record(speech, delivery.loudness, rng)


def draw_voice(config: SyntheticConfig, speaker: int) -> Voice:
    """The voice of a speaker: the even numbers in the male range, the odd ones in the female."""
    rng = _generator(config, speaker)
    lowest, highest, scale = (165.0, 240.0, 1.16) if speaker % 2 else (90.0, 140.0, 1.0)
    return Voice(
        formant_scale=scale * rng.uniform(0.94, 1.06),
        pitch=lowest * (highest / lowest) ** rng.uniform(),
        rate=rng.uniform(0.9, 1.1),
        tilt=rng.uniform(7.0, 10.0),
        breath=rng.uniform(-40.0, -34.0),
    )


def draw_delivery(config: SyntheticConfig, emotion: str, rng: np.random.Generator) -> Delivery:
    """How an utterance is spoken: normal about its emotion's mean, which `overlap` draws to the mean of all four."""
    common = np.mean(list(_MEANS.values()), axis=0)
    mean = common + (1.0 - config.overlap**2) * (np.array(_MEANS[emotion]) - common)
    return Delivery(*np.maximum(rng.normal(mean, _SPREAD), _LEAST).tolist())


def _generator(config: SyntheticConfig, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=key))


def _ratio(decibels: float) -> float:
    return float(10.0 ** (decibels / 20.0))


def _plan(
    delivery: Delivery, rate: float, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "T 7"], Float[np.ndarray, "T 5"]]:
    """What is said, every 10 ms: formants in Hz; pitch in semitones and the four amplitudes of _PHONES."""
    seconds = rng.uniform(1.4, 2.0)
    syllables = max(3, round(seconds * delivery.rate * rate))
    phones = ["pause"]
    for _ in range(syllables):
        phones += [*_ONSETS[rng.integers(len(_ONSETS))], _VOWELS[rng.integers(len(_VOWELS))]]
        phones += ["pause"] if rng.random() < 0.07 else []
    phones += ["pause"]

    frames = round(seconds * SAMPLE_RATE / _FRAME)
    ends = np.cumsum([_LENGTHS.get(name, 0.4) * rng.lognormal(0.0, 0.2) for name in phones])
    phone = np.searchsorted(ends * frames / ends[-1], np.arange(frames) + 0.5)
    # a syllable ends with its vowel
    vowels_before = np.cumsum([0, *(name in _VOWELS for name in phones[:-1])])
    syllable = np.minimum(vowels_before[phone], syllables - 1)
    targets = np.array([_PHONES[name] for name in phones], float)[phone]

    time = (np.arange(frames) - frames / 2) * _FRAME / SAMPLE_RATE
    accents = rng.normal(0.0, delivery.pitch_range, syllables)[syllable]
    pitch = delivery.pitch - delivery.fall * time + _smooth(accents, 4.0)
    levels = 10.0 ** (rng.normal(0.0, delivery.stress, syllables) / 20.0)
    amplitudes = _smooth(targets[:, 3:] * levels[syllable, None], 0.8)
    formants = np.hstack([_smooth(targets[:, :3], 2.4), np.tile(_UPPER_FORMANTS, (frames, 1))])
    return formants, np.column_stack([pitch, amplitudes])


def _smooth(track: Float[np.ndarray, "T *D"], frames: float) -> Float[np.ndarray, "T *D"]:
    return scipy.ndimage.gaussian_filter1d(track, frames, axis=0, mode="nearest")


def _to_samples(tracks: Float[np.ndarray, "T D"]) -> Float[np.ndarray, "D N"]:
    """Straight lines between the frames' middles."""
    position = (np.arange(len(tracks) * _FRAME) + 0.5) / _FRAME - 0.5
    return np.array([np.interp(position, np.arange(len(tracks)), track) for track in tracks.T])


def _glottis(
    pitch: Float[np.ndarray, " N"], jitter: float, rng: np.random.Generator
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """Rosenberg's flow through the glottis (0 to 1) at a pitch in Hz, and the flow's derivative at unit RMS."""
    samples = np.arange(len(pitch))
    phase = np.cumsum(pitch / SAMPLE_RATE)
    starts = np.interp(np.arange(int(phase[-1]) + 1), phase, samples)
    periods = np.diff(starts) * np.clip(1.0 + jitter * rng.standard_normal(len(starts) - 1), 0.7, 1.3)
    starts = starts[0] + np.concatenate([[0.0], np.cumsum(periods)[:-1]])
    period = np.maximum(np.searchsorted(starts, samples, side="right") - 1, 0)
    moment = (samples - starts[period]) / periods[period]
    opening = 0.5 - 0.5 * np.cos(np.pi * moment / 0.4)  # 40 % of the period, then 16 % closing
    closing = np.cos(0.5 * np.pi * (moment - 0.4) / 0.16)
    flow = np.select([moment < 0.0, moment < 0.4, moment < 0.56], [0.0, opening, closing], 0.0)
    shimmer = np.exp(3.0 * jitter * rng.standard_normal(len(periods)))[period]
    pulses = np.diff(shimmer * flow, prepend=0.0)
    return flow, pulses / np.sqrt(np.mean(pulses**2))


def _tilt(source: Float[np.ndarray, " N"], loss: float) -> Float[np.ndarray, " N"]:
    """A one-pole low pass that loses `loss` dB at 3 kHz, as Klatt's parameter TL."""
    power = 10.0 ** (-loss / 10.0)
    half = (1.0 - power * np.cos(2.0 * np.pi * 3000.0 / SAMPLE_RATE)) / (1.0 - power)
    pole = half - np.sqrt(half**2 - 1.0)
    return scipy.signal.lfilter([1.0 - pole], [1.0, -pole], source)


def _resonators(hertz: Float[np.ndarray, "*S"], width: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*S 6"]:
    """Klatt's digital resonators as second-order sections, with unit gain at 0 Hz."""
    radius = np.exp(-np.pi * width / SAMPLE_RATE)
    first, second = np.broadcast_arrays(-2.0 * radius * np.cos(2.0 * np.pi * hertz / SAMPLE_RATE), radius**2)
    zero = np.zeros_like(first)
    return np.stack([1.0 + first + second, zero, zero, zero + 1.0, first, second], axis=-1)


def _vocal_tract(source: Float[np.ndarray, " N"], formants: Float[np.ndarray, "T 7"]) -> Float[np.ndarray, " N"]:
    """The resonators in cascade: Hann windows that overlap by half, each with its formants' response, added up.

    Added up, the windows fade from one frame's formants to the next one's, without the clicks of a filter whose
    coefficients jump.
    """
    blocks = 6  # of _FRAME samples in a transform: the window's two, and 40 ms in which the formants ring out
    delay = np.exp(-2j * np.pi * np.arange(blocks * _FRAME // 2 + 1) / (blocks * _FRAME))
    sections = _resonators(formants, _BANDWIDTHS)[..., None]
    denominator = np.ones((len(formants), delay.size), complex)
    for section in sections.swapaxes(0, 1):
        denominator *= 1.0 + delay * (section[:, 4] + delay * section[:, 5])
    response = sections[:, :, 0].prod(axis=1) / denominator

    padded = np.pad(source, _FRAME // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * _FRAME)[::_FRAME]
    spectra = np.fft.rfft(windows * scipy.signal.windows.hann(2 * _FRAME, sym=False), blocks * _FRAME)
    ringing = np.fft.irfft(response * spectra).reshape(len(formants), blocks, _FRAME)
    speech = np.zeros((len(formants) + blocks, _FRAME))
    for block in range(blocks):
        speech[block : block + len(formants)] += ringing[:, block]
    return speech.ravel()[_FRAME // 2 :][: source.size]


def _record(speech: Float[np.ndarray, " N"], loudness: float, rng: np.random.Generator) -> Int16[np.ndarray, " N"]:
    """In a quiet room, by a recorder whose gain nobody noted: the level says little about the loudness."""
    speech = speech / np.sqrt(np.mean(speech**2))
    speech += _ratio(rng.normal(-58.0, 3.0)) * rng.standard_normal(len(speech))
    level = _ratio(-29.0 + loudness + rng.uniform(-8.0, 8.0))
    return np.round(32767.0 * min(level, 0.97 / np.abs(speech).max()) * speech).astype(np.int16)
