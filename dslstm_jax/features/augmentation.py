"""Random changes to training recordings: speed, noise, gain, SpecAugment's masks, mixup.

Every draw belongs to an utterance, not to a row: `example_keys` gives each its key, and each purpose folds its own
number into it. The draws are therefore the same in whatever row, batch or padding the utterance stands and on
whatever device, and turning one change on or off moves no other's.
"""

import math
from enum import IntEnum

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from dslstm_jax.config import AugmentationConfig
from dslstm_jax.errors import ConfigError
from dslstm_jax.features import signal
from dslstm_jax.features.frontend import Features
from dslstm_jax.ops.masking import length_mask, masked_mean, zero_padding


class Purpose(IntEnum):
    """What is folded into an utterance's key before a draw; a number once given is never given again."""

    SPEED = 0
    NOISE = 1
    NOISE_SAMPLES = 2
    GAIN = 3
    FREQUENCY_MASKS = 4
    TIME_MASKS = 5
    MIXUP = 6
    DROPOUT = 7


NOISE_SNR = (10.0, 30.0)
"""Decibels of signal over noise, lowest and highest."""
FREQUENCY_MASK_WIDTH = 0.15
"""Widest band that a mask blanks, as a share of the mel bands."""
TIME_MASK_WIDTH = 0.15
"""Longest stretch that a mask blanks, as a share of the frames."""
NOISE_BLOCK = 4096
"""Samples of noise drawn from one key: the draw of a fixed shape cannot depend on the padded length."""
SPEED_UNITS = 1 << 16
"""A speed is a whole number of these parts, so that positions in the recording are exact integers."""
TAPS = 32
"""Samples that the interpolation weighs for one."""
KAISER_BETA = 5.65
"""60 dB beside the pass band (Kaiser 1974). The slope down to there is (60 - 8) / (2.285 pi TAPS) = 0.23 of half the
sample rate wide, and has its middle, -6 dB, at half the sample rate itself: had it its end there, the highest bands
would be empty in training and in training only."""
POLYNOMIAL_TERMS = 5
"""Between two samples the taps are polynomials of this many terms; as near to them as the window's 60 dB."""


def is_on(config: AugmentationConfig) -> bool:
    """Whether anything is changed at all."""
    changes = (config.noise, config.gain, config.speed, config.frequency_masks, config.time_masks, config.mixup)
    return any(change > 0 for change in changes)


def example_keys(key: Key[Array, ""], examples: Int[Array, " B"]) -> Key[Array, " B"]:
    """One key for each utterance of a batch, the same for the same utterance in any row.

    Args:
      key: of this training step.
      examples: which utterance of the corpus each row is.
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.asarray(examples))


def _uniform(keys: Key[Array, " B"], purpose: Purpose, *shape: int) -> Float[Array, "B *shape"]:
    """Draws of each row from [0, 1)."""
    return jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, purpose), shape))(keys)


def augment_waveforms(
    keys: Key[Array, " B"], waveforms: Float[Array, "B N"], lengths: Int[Array, " B"], config: AugmentationConfig
) -> tuple[Float[Array, "B M"], Int[Array, " B"]]:
    """Changes the speed, adds white noise, changes the level, in this order; what is off in `config` costs nothing.

    The noise is thus measured against the recording at its new speed and keeps its SNR under the gain. Values may
    leave [-1, 1] and are not clipped: the features are computed from floats, and a louder recording is to differ in
    level only.

    Args:
      keys: one for each utterance, from `example_keys`.
      waveforms: samples in [-1, 1], valid up to `lengths`; what lies behind is ignored, NaN too.
      lengths: samples of each waveform; a row of length 0 keeps it.
      config: largest change of speed s, probability of the noise, largest gain.

    Returns:
      The waveforms, M = ceil(N / (1 - s)), and their lengths: N samples at the speed f, uniform in [1 - s, 1 + s],
      are the ceil(N / f) that start before the recording's end. With any change on, padding is 0.
    """
    if config.speed > 0:
        waveforms, lengths = change_speed(waveforms, lengths, _uniform(keys, Purpose.SPEED), config.speed)
    if config.noise > 0:
        waveforms = _add_noise(keys, waveforms, lengths, config)
    if config.gain > 0:
        decibels = config.gain * (2 * _uniform(keys, Purpose.GAIN) - 1)
        valid = length_mask(lengths, waveforms.shape[1])
        waveforms = zero_padding(waveforms, valid) * 10 ** (decibels[:, None] / 20)
    return waveforms, lengths


def _white_noise(keys: Key[Array, " B"], samples: int) -> Float[Array, "B N"]:
    """Samples of mean 0 and variance 1, uniform as two halves of a random word are, which takes a CPU a fifth of the
    time of normal ones; the first n are the same however many there are."""
    blocks = jnp.arange(-(-samples // NOISE_BLOCK))

    def draw(key: Key[Array, ""], block: Int[Array, ""]) -> Float[Array, " block"]:
        words = jax.random.bits(jax.random.fold_in(key, block), (NOISE_BLOCK // 2,))
        halves = jnp.concatenate([words >> 16, words & 65535]).astype(jnp.float32)
        return (halves - 32767.5) * np.float32(math.sqrt(12 / (65536**2 - 1)))

    noise = jax.vmap(jax.vmap(draw, in_axes=(None, 0)), in_axes=(0, None))(keys, blocks)
    return noise.reshape(keys.shape[0], -1)[:, :samples]


def _add_noise(
    keys: Key[Array, " B"], waveforms: Float[Array, "B N"], lengths: Int[Array, " B"], config: AugmentationConfig
) -> Float[Array, "B N"]:
    """White noise whose power over the valid samples is exactly the drawn SNR below the signal's; none in silence."""
    chance, place = jnp.moveaxis(_uniform(keys, Purpose.NOISE, 2), 1, 0)
    lowest, highest = NOISE_SNR
    ratio = 10 ** (-(lowest + (highest - lowest) * place) / 10)
    valid = length_mask(lengths, waveforms.shape[1])
    signals = zero_padding(waveforms, valid)
    folded = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, Purpose.NOISE_SAMPLES)
    noise = zero_padding(_white_noise(folded, waveforms.shape[1]), valid)
    power, noise_power = (masked_mean(x[..., None] ** 2, valid)[:, 0] for x in (signals, noise))
    noisy = (chance < config.noise) & (power > 0)
    # The square root has no slope at 0: where there is no noise it is taken of 1.
    scale = jnp.where(noisy, jnp.sqrt(jnp.where(noisy, ratio * power / jnp.where(noisy, noise_power, 1), 1)), 0)
    return signals + scale[:, None] * noise


def change_speed(
    waveforms: Float[Array, "B N"], lengths: Int[Array, " B"], draws: Float[Array, " B"], most: float
) -> tuple[Float[Array, "B M"], Int[Array, " B"]]:
    """Plays each row at the speed f = 1 + most (2 draw - 1), rounded to 1 / 65536: out(m) = in(m f), pitch included.

    in(t) is interpolated with a Kaiser-windowed sinc. What lies 0.12 of half the sample rate below the highest
    frequency that both input and output can hold passes; that frequency itself is 6 dB down, and what lies 0.12 above
    it 60 dB; what is between them aliases into the slope. The taps are polynomials in the position between two
    samples (Farrow, "A continuously variable digital delay element", ISCAS 1988), so that a few fixed filters serve
    all positions, and only their outputs are gathered.

    Args:
      waveforms: valid up to `lengths`; what lies behind is ignored, NaN too.
      lengths: samples of each waveform.
      draws: in [0, 1].
      most: largest change of speed, in (0, 0.5].

    Returns:
      The waveforms, M = ceil(N / (1 - most)), 0 behind their lengths, and the lengths: ceil(N / f).
    """
    samples = waveforms.shape[1]
    size = math.ceil(samples / (1 - most))
    excess = jnp.round((2 * draws - 1) * math.floor(most * SPEED_UNITS)).astype(jnp.int32)
    index, fraction = _positions(excess, size)
    inside = index < lengths[:, None]
    cutoff = jnp.minimum(1, SPEED_UNITS / (SPEED_UNITS + excess))
    terms = _filter(zero_padding(waveforms, length_mask(lengths, samples)), _interpolation_filters(cutoff))
    # From one long row, without a check of the bounds: else a CPU takes longer for this than for all the rest.
    places = jnp.minimum(index, samples - 1) + terms.shape[1] * np.arange(len(terms), dtype=np.int32)[:, None]
    picked = terms.reshape(-1, POLYNOMIAL_TERMS).at[places].get(mode="promise_in_bounds")
    offset, result = fraction - 0.5, picked[..., -1]
    for term in reversed(range(POLYNOMIAL_TERMS - 1)):
        result = result * offset + picked[..., term]
    return zero_padding(result, inside), inside.sum(axis=1, dtype=lengths.dtype)


def _positions(excess: Int[Array, " B"], size: int) -> tuple[Int[Array, "B M"], Float[Array, "B M"]]:
    """m (1 + excess / 65536) for m < `size`: whole part and fraction, both exact.

    float32 would be a hundredth of a sample off after four seconds.
    """
    blocks, offsets = np.divmod(np.arange(size, dtype=np.int32)[None], 256)
    coarse = blocks * excess[:, None]
    fine = ((coarse & 255) << 8) + offsets * excess[:, None]
    whole = jnp.arange(size, dtype=jnp.int32)[None] + (coarse >> 8) + (fine >> 16)
    return whole, (fine & 65535).astype(jnp.float32) / SPEED_UNITS


def _interpolation_filters(cutoff: Float[Array, " B"]) -> Float[Array, "B K P"]:
    """Tap k as a polynomial in (fraction - 1/2): the low-pass at `cutoff`, a share of half the sample rate."""
    nodes = np.cos(np.pi * (np.arange(POLYNOMIAL_TERMS) + 0.5) / POLYNOMIAL_TERMS) / 2
    distances = nodes + 0.5 + (TAPS // 2 - 1 - np.arange(TAPS))[:, None]
    window = np.i0(KAISER_BETA * np.sqrt(1 - (2 * distances / TAPS) ** 2)) / np.i0(KAISER_BETA)
    values = jnp.sinc(cutoff[:, None, None] * distances.astype(np.float32)[None]) * cutoff[:, None, None]
    through_nodes = np.linalg.inv(np.vander(nodes, increasing=True)).T
    return signal.project(values * window.astype(np.float32)[None], through_nodes)


def _filter(x: Float[Array, "B N"], filters: Float[Array, "B K P"]) -> Float[Array, "B M P"]:
    """out[b, n, p] = sum_k filters[b, k, p] x[b, n + k - K / 2 + 1], for N rounded up to a multiple of K.

    One matrix product for each block of K samples: devices are made for products, not for convolutions whose filters
    differ from row to row.
    """
    rows, samples = x.shape
    blocks = -(-samples // TAPS)
    padded = jnp.pad(x, ((0, 0), (TAPS // 2 - 1, 0)))
    frames = signal.frame(padded, 2 * TAPS, TAPS, blocks)
    shifts = np.arange(2 * TAPS)[:, None] - np.arange(TAPS)
    inside = (shifts >= 0) & (shifts < TAPS)
    products = jnp.where(inside[None, ..., None], filters[:, np.clip(shifts, 0, TAPS - 1)], 0)
    filtered = jnp.einsum("btk,bknp->btnp", frames, products, precision=lax.Precision.HIGHEST)
    return filtered.reshape(rows, blocks * TAPS, -1)


def augment_spectrograms(keys: Key[Array, " B"], features: Features, config: AugmentationConfig) -> Features:
    """Blanks bands and stretches of time in the mel-spectrograms (SpecAugment, Park et al. 2019); the MFCC stays.

    A mask's width is uniform from 0 to its largest share and its place uniform where it fits. All spectrograms of
    an utterance lose the same shares: they show the same sound, and one must not tell what the other hides. Blank is
    the spectrogram's mean in decibels, as in the paper: the floor would itself be a signal, silence in the middle of
    speech.

    Args:
      keys: one for each utterance, from `example_keys`.
      features: of the augmented waveforms. Shares of the time are those of the valid frames.
      config: numbers of the masks; what is off costs nothing.
    """
    if not config.frequency_masks and not config.time_masks:
        return features

    times = _stretches(keys, Purpose.TIME_MASKS, config.time_masks, TIME_MASK_WIDTH)
    bands = _stretches(keys, Purpose.FREQUENCY_MASKS, config.frequency_masks, FREQUENCY_MASK_WIDTH)

    def blank(spectrogram: Float[Array, "B T F"], lengths: Int[Array, " B"]) -> Float[Array, "B T F"]:
        frames, size = spectrogram.shape[1:]
        of_time = _centers(frames)[None] / lengths[:, None].astype(np.float32)
        of_bands = _centers(size)[None] / np.float32(size)
        hidden = _covered(times, of_time)[:, :, None] | _covered(bands, of_bands)[:, None, :]
        mean = masked_mean(spectrogram, length_mask(lengths, frames)).mean(axis=1)
        return jnp.where(hidden, mean[:, None, None], spectrogram)

    spectrograms = map(blank, features.spectrograms, features.spectrogram_lengths)
    return features._replace(spectrograms=tuple(spectrograms))


def _stretches(keys: Key[Array, " B"], purpose: Purpose, count: int, widest: float) -> Float[Array, "2 B count"]:
    """Where `count` masks of each row start and end, as shares of the whole."""
    width, place = jnp.moveaxis(_uniform(keys, purpose, count, 2), -1, 0)
    width = widest * width
    start = (1 - width) * place
    return jnp.stack([start, start + width])


def _centers(size: int) -> Float[np.ndarray, " size"]:
    """Of each of `size` positions."""
    return np.arange(size, dtype=np.float32) + np.float32(0.5)


def _covered(
    stretches: Float[Array, "2 B count"], centers: Float[Array | np.ndarray, "#B size"]
) -> Bool[Array, "B size"]:
    """Which positions have their center, as a share of the whole, in one of the stretches."""
    start, end = stretches[..., None]
    return ((centers[:, None] >= start) & (centers[:, None] < end)).any(axis=1)


def mixup(
    keys: Key[Array, " B"],
    waveforms: Float[Array, "B N"],
    lengths: Int[Array, " B"],
    targets: Float[Array, "B C"],
    weights: Float[Array, " B"],
    alpha: float,
) -> tuple[Float[Array, "B N"], Float[Array, "B C"]]:
    """Mixes the neighbors 2k and 2k + 1 of a batch, sounds and targets alike (Zhang et al., ICLR 2018).

    Both rows of a pair take the share max(l, 1 - l) of their own and the rest of the other's, l ~ Beta(alpha, alpha).
    A row thus keeps its length, to which the other sound is cut or padded with zeros, and mostly its emotion. l
    depends on the two utterances and not on their order. A row of weight 0 mixes with none. Where several devices
    share a batch, each must hold an even number of rows: then the pairs are the same on any number of devices.

    Args:
      keys: one for each utterance, from `example_keys`.
      waveforms: valid up to `lengths`; what lies behind is ignored, NaN too.
      lengths: samples of each waveform.
      targets: probabilities of the classes.
      weights: 0 for padding rows.
      alpha: positive; the smaller, the purer the mixtures.

    Returns:
      The waveforms, 0 behind `lengths`, and the targets.

    Raises:
      ConfigError: the number of rows is odd.
    """
    rows = waveforms.shape[0]
    if rows % 2:
        raise ConfigError(
            f"augmentation.mixup mixes pairs and cannot pair {rows} rows; set training.batch_size to an even number "
            "of rows for each device, and to no more than there are training utterances"
        )
    data = jax.random.key_data(keys)
    pairs = jax.random.wrap_key_data(data + _neighbors(data), impl=jax.random.key_impl(keys))
    draws = jax.vmap(lambda key: jax.random.beta(jax.random.fold_in(key, Purpose.MIXUP), alpha, alpha))(pairs)
    paired = (weights > 0) & (_neighbors(weights) > 0)
    own = jnp.where(paired, jnp.maximum(draws, 1 - draws), 1)[:, None]
    valid = length_mask(lengths, waveforms.shape[1])
    sounds = zero_padding(waveforms, valid)
    mixed = own * sounds + (1 - own) * _neighbors(sounds)
    return zero_padding(mixed, valid), own * targets + (1 - own) * _neighbors(targets)


def _neighbors(values: Array) -> Array:
    """The rows 1, 0, 3, 2, ..."""
    return values.reshape(-1, 2, *values.shape[1:])[:, ::-1].reshape(values.shape)
