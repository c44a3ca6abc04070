"""Which samples the frames depend on that the recurrences read."""

from typing import NamedTuple

from dslstm_jax.config import RecognizerConfig, SpectrogramConfig
from dslstm_jax.features.mfcc import DELTA_WINDOW, FRAME_LENGTH
from dslstm_jax.features.pitch import BESIDE
from dslstm_jax.models.branches import ALIGNED, shortest_recording
from dslstm_jax.ops.convolution import block_reach


class ReceptiveField(NamedTuple):
    """Of a sequence whose frame t depends on the samples t * hop - before to t * hop + after - 1.

    All recordings with t * hop + after samples have that frame, whatever follows.
    """

    hop: int
    before: int
    after: int
    shortest: int = 0
    """Samples; a shorter recording goes on with zeros to as many."""

    @property
    def context(self) -> int:
        """Frames at the beginning of a cut-out, which starts at a multiple of the hop, that see what is not there."""
        return -(-self.before // self.hop)

    def complete(self, samples: int) -> int:
        """Frames that are known after so many samples."""
        return max(0, (samples - self.after) // self.hop + 1)


def receptive_fields(config: RecognizerConfig) -> tuple[ReceptiveField, ...]:
    """Those of the sequences that the recurrences read: of the spectrograms, then of the MFCC. None is stretched."""
    fields, model, features = [], config.model, config.features
    if model.spectrogram_branch != "none":
        shortest = shortest_recording(config)
        of_cnns = [
            _of_cnn(spectrogram, kernel[1], len(model.channels), shortest)
            for spectrogram, kernel in zip(features.spectrograms, model.kernels, strict=True)
        ]
        if model.spectrogram_branch == "ds_lstm":
            x, y = of_cnns
            # A frame reads its first frames of x, and the last one of them says that there is such a frame.
            after = max((ALIGNED - 1) * x.hop + x.after, y.after)
            of_cnns = [ReceptiveField(y.hop, max(x.before, y.before), after, shortest)]
        fields += of_cnns
    if model.mfcc_branch:
        mfcc = features.mfcc
        accelerations = 2 * DELTA_WINDOW * mfcc.hop_length
        more = BESIDE if features.pitch else 0
        after = accelerations + FRAME_LENGTH + more
        fields.append(ReceptiveField(mfcc.hop_length, accelerations + more, after))
    return tuple(fields)


def _of_cnn(spectrogram: SpectrogramConfig, kernel: int, layers: int, shortest: int) -> ReceptiveField:
    """Of a CNN's outputs; `kernel` is its kernels' size in time."""
    before = after = 0  # frames of a layer, and at last of the spectrogram
    for _ in range(layers):
        more_before, more_after = block_reach(kernel)
        before, after = 2 * before + more_before, 2 * after + more_after
    hop, window = spectrogram.hop_length, spectrogram.n_fft
    return ReceptiveField(2**layers * hop, before * hop + window // 2, after * hop + window - window // 2, shortest)
