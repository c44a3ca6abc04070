"""The synthetic corpus: source-filter voices speaking nonsense syllables in four emotions, made with numpy.

Source: Rosenberg's trigonometric glottal pulse (JASA 49, 1971) with jitter, shimmer, spectral tilt and breath noise.
Filter: five formant resonators in cascade, hiss in parallel, consonant targets: Klatt (JASA 67, 1980); vowel targets:
the men of Peterson and Barney (JASA 24, 1952). The emotions differ in the directions Juslin and Laukka report for
speech (Psychological Bulletin 129, 2003); the sizes are ours, set so that unseen voices are a fair small test.
"""

import dataclasses
import hashlib
import json
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import platformdirs
import soundfile
from jaxtyping import Float, Int16
from scipy import ndimage, signal

from dslstm_jax.config import CorpusConfig, SyntheticConfig
from dslstm_jax.data.corpora.base import Corpus, Utterance, make_corpus
from dslstm_jax.errors import ConfigError, CorpusError

VERSION = 1  # raise it with any change to the sound: it keeps older folders from being taken for this one's
SAMPLE_RATE = 16_000
EMOTIONS = ("happy", "neutral", "angry", "sad")

_FRAME = 160  # samples (10 ms) in which the formants stand still

# name: F1, F2, F3 in Hz; amplitude of voice, breath, hiss near 2.8 kHz, hiss near 5.5 kHz
_PHONES = {
    "i": (270, 2290, 3010, 1, 0, 0, 0),
    "I": (390, 1990, 2550, 1, 0, 0, 0),
    "E": (530, 1840, 2480, 1, 0, 0, 0),
    "ae": (660, 1720, 2410, 1, 0, 0, 0),
    "a": (730, 1090, 2440, 1, 0, 0, 0),
    "o": (570, 840, 2410, 1, 0, 0, 0),
    "u": (300, 870, 2240, 1, 0, 0, 0),
    "w": (290, 610, 2150, 0.6, 0, 0, 0),
    "y": (260, 2070, 3020, 0.6, 0, 0, 0),
    "l": (310, 1050, 2880, 0.6, 0, 0, 0),
    "m": (480, 1270, 2130, 0.35, 0, 0, 0),
    "n": (480, 1340, 2470, 0.35, 0, 0, 0),
    "f": (340, 1100, 2080, 0, 0, 0.1, 0.1),
    "s": (320, 1390, 2530, 0, 0, 0, 0.6),
    "z": (240, 1390, 2530, 0.3, 0, 0, 0.3),
    "sh": (300, 1840, 2750, 0, 0, 0.6, 0.2),
    "h": (500, 1500, 2500, 0, 1, 0, 0),
    "p": (400, 1100, 2150, 0, 1, 0.1, 0),
    "t": (400, 1600, 2600, 0, 0.5, 0.1, 0.8),
    "k": (300, 1990, 2850, 0, 0.8, 0.6, 0),
    "d": (200, 1600, 2600, 0.4, 0, 0, 0.4),
    "closure": (300, 1400, 2500, 0, 0, 0, 0),
    "pause": (500, 1500, 2500, 0, 0, 0, 0),
}
_UPPER_FORMANTS = np.array([3500.0, 4500.0, 5500.0, 6500.0])  # Hz, of a straight tube of 17.5 cm
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
    "happy": Delivery(9.0, 4.0, -3.0, 5.0, 2.0, 2.0, 0.0, 0.010, 4.0),
    "neutral": Delivery(0.0, 1.2, 2.0, 4.4, 0.0, 2.0, 5.0, 0.010, 0.0),
    "angry": Delivery(4.0, 2.0, 5.0, 5.6, 4.0, 7.0, -8.0, 0.060, -10.0),
    "sad": Delivery(-2.0, 0.5, 1.0, 3.2, -4.0, 1.0, 15.0, 0.015, 18.0),
}
_SPREAD = Delivery(1.0, 0.4, 1.0, 0.3, 2.0, 0.7, 1.2, 0.004, 2.0)
_LEAST = Delivery(-12.0, 0.2, -12.0, 2.5, -20.0, 0.5, -20.0, 0.002, -20.0)


def load(config: CorpusConfig) -> Corpus:
    """The corpus, written once as 16-bit WAV and found again by later calls, whole or not at all.

    It lies in `config.root`, or in the user's cache folder, in a sub-folder named after `config.synthetic`.

    Raises:
      ConfigError: a field of `config.synthetic` is out of its range.
      CorpusError: the folder cannot be written, or has lost some of its files.
    """
    settings = config.synthetic
    _check(settings)
    digest = hashlib.sha256(json.dumps([VERSION, dataclasses.asdict(settings)]).encode()).hexdigest()[:12]
    root = Path(config.root).expanduser() if config.root else platformdirs.user_cache_path("dslstm_jax")
    folder = root / f"synthetic-{digest}"
    try:
        if not folder.is_dir():
            _write(settings, folder)
        present = {path.name for path in folder.iterdir()}
    except (OSError, soundfile.LibsndfileError) as error:
        raise CorpusError(
            f"the synthetic corpus cannot be kept in {folder} ({error}); name a writable folder: --corpus.root DIR"
        ) from error
    names = _file_names(settings)
    if lost := names.keys() - present:
        raise CorpusError(f"{folder} has lost {len(lost)} of its {len(names)} recordings; delete it to make it anew")
    utterances = [
        Utterance(str(folder / name), emotion, _speaker_name(speaker))
        for name, (speaker, emotion, _) in names.items()
    ]
    return make_corpus("synthetic", EMOTIONS, utterances, f"in {folder}")


def synthesize(config: SyntheticConfig, speaker: int, emotion: str, take: int) -> Int16[np.ndarray, " N"]:
    """One utterance, drawn from (config.seed, speaker, emotion, take) alone, whatever was made before it.

    Args:
      speaker: any number from 0, also beyond `config.speakers`.
      emotion: one of EMOTIONS.
      take: any number from 0.

    Returns:
      Mono samples at 16 kHz, 1.3 to 2.1 s.

    Raises:
      ConfigError: a field or an argument is out of its range.
    """
    _check(config)
    if emotion not in EMOTIONS or speaker < 0 or take < 0:
        raise ConfigError(
            f"synthetic speaker {speaker}, emotion {emotion!r}, take {take}: the numbers start at 0, "
            f"the emotions are {', '.join(EMOTIONS)}"
        )
    voice = draw_voice(config, speaker)
    rng = _generator(config, speaker, EMOTIONS.index(emotion), take)
    delivery = draw_delivery(config, emotion, rng)
    semitones, formants, amplitudes = _plan(delivery, voice.rate, rng)
    voicing, breath, hiss_low, hiss_high = _to_samples(amplitudes).T
    pitch = voice.pitch * 2.0 ** (_to_samples(semitones) / 12.0)

    flow, pulses = _glottis(pitch, delivery.jitter, rng)
    pulses = _tilted(pulses, max(0.5, voice.tilt + delivery.tilt))
    # the breath is strongest while the glottis is open
    breath = 0.2 * breath + 10.0 ** ((voice.breath + delivery.breath) / 20.0) * voicing * (0.5 + flow)
    source = voicing * pulses + breath * rng.standard_normal(len(breath))
    speech = _vocal_tract(source, voice.formant_scale * formants)
    for amplitude, hertz, width in ((hiss_low, 2800.0, 1000.0), (hiss_high, 5500.0, 2000.0)):
        noise = 0.15 * amplitude * rng.standard_normal(len(amplitude))
        speech += signal.sosfilt(_resonators(np.array([hertz * voice.formant_scale]), np.array([width])), noise)
    return _recorded(speech, delivery.loudness, rng)


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
    """How an utterance is spoken: normal about its emotion's mean, drawn toward the mean of all by `overlap`."""
    common = np.mean(list(_MEANS.values()), axis=0)
    mean = common + (1.0 - config.overlap) * (np.array(_MEANS[emotion]) - common)
    return Delivery(*np.maximum(rng.normal(mean, _SPREAD), _LEAST).tolist())


def _generator(config: SyntheticConfig, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=key))


def _plan(
    delivery: Delivery, rate: float, rng: np.random.Generator
) -> tuple[Float[np.ndarray, " T"], Float[np.ndarray, "T 7"], Float[np.ndarray, "T 4"]]:
    """What is said, frame by frame: pitch in semitones, formants in Hz, the amplitudes of _PHONES."""
    seconds = rng.uniform(1.4, 2.2)
    syllables = max(3, round(seconds * delivery.rate * rate))
    phones = [("pause", 0)]
    for syllable in range(syllables):
        vowel = _VOWELS[rng.integers(len(_VOWELS))]
        rest = ("pause",) if rng.random() < 0.07 else ()
        phones += [(name, syllable) for name in (*_ONSETS[rng.integers(len(_ONSETS))], vowel, *rest)]
    phones.append(("pause", syllables - 1))

    frames = round(seconds * SAMPLE_RATE / _FRAME)
    ends = np.cumsum([_LENGTHS.get(name, 0.4) * rng.lognormal(0.0, 0.2) for name, _ in phones])
    phone = np.searchsorted(ends * frames / ends[-1], np.arange(frames) + 0.5)
    targets = np.array([_PHONES[name] for name, _ in phones], float)[phone]
    syllable_of = np.array([syllable for _, syllable in phones])[phone]

    accents = rng.normal(0.0, delivery.pitch_range, syllables)[syllable_of]
    time = (np.arange(frames) - frames / 2) * _FRAME / SAMPLE_RATE
    semitones = delivery.pitch + _smooth(accents, 5.0) - delivery.fall * time
    levels = 10.0 ** (rng.normal(0.0, delivery.stress, syllables) / 20.0)
    amplitudes = targets[:, 3:] * levels[syllable_of, None]
    formants = np.hstack([targets[:, :3], np.broadcast_to(_UPPER_FORMANTS, (frames, 4))])
    return semitones, _smooth(formants, 3.0), _smooth(amplitudes, 1.0)


def _smooth(track: Float[np.ndarray, "T ..."], frames: float) -> Float[np.ndarray, "T ..."]:
    smoothed: np.ndarray = ndimage.gaussian_filter1d(track, frames, axis=0, mode="nearest")
    return smoothed


def _to_samples(track: Float[np.ndarray, "T ..."]) -> Float[np.ndarray, "N ..."]:
    """A line through the frames' middles, read at every sample."""
    position = np.clip((np.arange(len(track) * _FRAME) + 0.5) / _FRAME - 0.5, 0.0, len(track) - 1.0)
    before = np.minimum(position.astype(int), len(track) - 2)
    weight = (position - before).reshape(-1, *(1,) * (track.ndim - 1))
    return (1.0 - weight) * track[before] + weight * track[before + 1]


def _glottis(
    pitch: Float[np.ndarray, " N"], jitter: float, rng: np.random.Generator
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """Rosenberg's flow through the glottis (0 to 1), and its derivative at unit RMS."""
    samples = np.arange(len(pitch))
    phase = np.cumsum(pitch / SAMPLE_RATE)
    starts = np.interp(np.arange(int(phase[-1]) + 1), phase, samples)
    periods = np.diff(starts) * np.clip(1.0 + jitter * rng.standard_normal(len(starts) - 1), 0.7, 1.3)
    starts = starts[0] + np.concatenate([[0.0], np.cumsum(periods)[:-1]])
    period = np.clip(np.searchsorted(starts, samples, side="right") - 1, 0, None)
    moment = (samples - starts[period]) / periods[period]
    opening = 0.5 - 0.5 * np.cos(np.pi * moment / 0.4)  # Rosenberg's 40 % opening, 16 % closing
    closing = np.cos(0.5 * np.pi * (moment - 0.4) / 0.16)
    flow = np.select([moment < 0.0, moment < 0.4, moment < 0.56], [0.0, opening, closing], 0.0)
    shimmer = np.exp(3.0 * jitter * rng.standard_normal(len(periods)))[period]
    pulses = np.diff(shimmer * flow, prepend=0.0)
    return flow, pulses / np.sqrt(np.mean(pulses**2))


def _tilted(source: Float[np.ndarray, " N"], loss: float) -> Float[np.ndarray, " N"]:
    """A one-pole low pass that loses `loss` dB at 3 kHz, as Klatt's parameter TL."""
    power = 10.0 ** (-loss / 10.0)
    half = (1.0 - power * np.cos(2.0 * np.pi * 3000.0 / SAMPLE_RATE)) / (1.0 - power)
    pole = half - np.sqrt(half**2 - 1.0)
    tilted: np.ndarray = signal.lfilter([1.0 - pole], [1.0, -pole], source)
    return tilted


def _resonators(hertz: Float[np.ndarray, "*S"], width: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*S 6"]:
    """Klatt's digital resonators (his equation 2) as second-order sections, unit gain at 0 Hz."""
    radius = np.exp(-np.pi * width / SAMPLE_RATE)
    first, second = -2.0 * radius * np.cos(2.0 * np.pi * hertz / SAMPLE_RATE), radius**2 + 0.0 * hertz
    one, zero = np.ones_like(first), np.zeros_like(first)
    return np.stack([1.0 + first + second, zero, zero, one, first, second], axis=-1)


def _vocal_tract(source: Float[np.ndarray, " N"], formants: Float[np.ndarray, "T 7"]) -> Float[np.ndarray, " N"]:
    """The cascade of the resonators: Hann frames that overlap by half, each with its own response, added up."""
    blocks = 6  # of _FRAME samples, in which the response has died away
    delay = np.exp(-2j * np.pi * np.arange(blocks * _FRAME // 2 + 1) / (blocks * _FRAME))
    sections = _resonators(formants, _BANDWIDTHS)[..., None]
    response = sections[:, :, 0].prod(axis=1) + 0j * delay
    denominator = np.ones_like(response)
    for section in sections.swapaxes(0, 1):
        denominator *= 1.0 + delay * (section[:, 4] + delay * section[:, 5])
    response = response / denominator
    windowed = np.lib.stride_tricks.sliding_window_view(np.pad(source, (_FRAME // 2, _FRAME // 2)), 2 * _FRAME)[
        ::_FRAME
    ]
    windowed = windowed * signal.windows.hann(2 * _FRAME, sym=False)
    ringing = np.fft.irfft(response * np.fft.rfft(windowed, blocks * _FRAME)).reshape(-1, blocks, _FRAME)
    out = np.zeros((len(formants) + blocks, _FRAME))
    for block in range(blocks):
        out[block : block + len(ringing)] += ringing[:, block]
    return out.ravel()[_FRAME // 2 : _FRAME // 2 + source.size]


def _recorded(speech: Float[np.ndarray, " N"], loudness: float, rng: np.random.Generator) -> Int16[np.ndarray, " N"]:
    """In a room with some noise, by a recorder whose gain nobody noted: the level says little about the loudness."""
    speech = speech / np.sqrt(np.mean(speech**2))
    speech = speech + 10.0 ** (rng.normal(-58.0, 3.0) / 20.0) * rng.standard_normal(len(speech))
    level = 10.0 ** ((-29.0 + loudness + rng.uniform(-8.0, 8.0)) / 20.0)
    level = min(level, 0.97 / np.abs(speech).max())
    return np.round(32767.0 * level * speech).astype(np.int16)


def _check(config: SyntheticConfig) -> None:
    least = {"speakers": 1, "utterances_per_emotion": 1, "seed": 0}
    for field, value in least.items():
        if getattr(config, field) < value:
            raise ConfigError(f"corpus.synthetic.{field} is {getattr(config, field)}; it must be at least {value}")
    if not 0.0 <= config.overlap <= 1.0:
        raise ConfigError(f"corpus.synthetic.overlap is {config.overlap}; it must be in [0, 1]")


def _speaker_name(speaker: int) -> str:
    return f"voice{speaker:02d}"


def _file_names(config: SyntheticConfig) -> dict[str, tuple[int, str, int]]:
    """File name to (speaker, emotion, take), the whole corpus."""
    return {
        f"{_speaker_name(speaker)}_{emotion}_{take:02d}.wav": (speaker, emotion, take)
        for speaker in range(config.speakers)
        for emotion in EMOTIONS
        for take in range(config.utterances_per_emotion)
    }


def _write(config: SyntheticConfig, folder: Path) -> None:
    """Writes beside `folder` and renames at the end, so that nobody ever sees a part of it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=folder.parent, prefix=f".{folder.name}-", ignore_cleanup_errors=True
    ) as temporary:
        unfinished = Path(temporary) / folder.name
        unfinished.mkdir()
        for name, take in _file_names(config).items():
            soundfile.write(unfinished / name, synthesize(config, *take), SAMPLE_RATE, subtype="PCM_16")
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first, with the same bytes
                raise
