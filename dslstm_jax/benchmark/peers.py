"""What others use for the same work: flax, PyTorch, cuDNN, librosa, openSMILE; each where it is installed."""

import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dslstm_jax.benchmark.measure import Contender, compile_program
from dslstm_jax.config import BEYOND_THE_PAPER, Config, FeaturesConfig, ModelConfig
from dslstm_jax.features.mfcc import FRAME_LENGTH

if TYPE_CHECKING:
    from torch import Tensor

Pass = Literal["forward", "train"]
TorchFeatures = tuple[list["Tensor"], "Tensor", "Tensor"]
"""Spectrograms [B, 1, F, T], MFCC [B, T, 39] and its lengths [B]."""


def installed(*packages: str) -> bool:
    """Whether all of them can be imported."""
    return all(importlib.util.find_spec(package) for package in packages)


def _torch_device() -> Any:
    """The kind of device that JAX computes on, with as many threads as there are cores."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return torch.device("cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu")


def _torch_contender(name: str, network: Any, arrays: Sequence[np.ndarray], passes: Pass, dtype: str) -> Contender:
    """Output without gradients, or gradients of the output's mean; waits for the device."""
    import torch

    place = {"device": _torch_device(), "dtype": getattr(torch, dtype)}
    network = network.to(**place).train(passes == "train")
    inputs = [torch.from_numpy(array).to(**place) for array in arrays]

    def call() -> None:
        with torch.set_grad_enabled(passes == "train"):
            outputs = network(*inputs)
        if passes == "train":
            network.zero_grad()
            outputs.mean().backward()
        if outputs.is_cuda:
            torch.cuda.synchronize()

    return Contender(name, call)


class _FlaxLayers(nn.Sequential):
    def __call__(self, x: jax.Array) -> Any:
        with jax.numpy_dtype_promotion("standard"):  # flax's cells add a float32 state to their inputs
            return super().__call__(x)


def lstm_peers(x: np.ndarray, hidden: int, layers: int, passes: Pass, dtype: str = "float32") -> list[Contender]:
    """flax's LSTMs, PyTorch's (oneDNN or cuDNN), and cuDNN through JAX on a GPU (in float32), over [B, T, F]."""
    peers = []
    for cell in (nn.LSTMCell, nn.OptimizedLSTMCell):
        module = _FlaxLayers([nn.RNN(cell(hidden, dtype=dtype)) for _ in range(layers)])
        variables = jax.jit(module.init)(jax.random.key(0), x)
        peers.append(_jax_contender(f"flax {cell.__name__}", module.apply, passes, variables, jnp.asarray(x, dtype)))
    if jax.default_backend() == "gpu" and dtype == "float32":
        peers.append(_cudnn_lstm(x, hidden, layers, passes))
    if installed("torch"):
        from dslstm_jax.benchmark.peers_torch import LSTM

        peers.append(_torch_contender("torch.nn.LSTM", LSTM(x.shape[2], hidden, layers), [x], passes, dtype))
    return peers


def _cudnn_lstm(x: np.ndarray, hidden: int, layers: int, passes: Pass) -> Contender:
    from jax.experimental import rnn

    batch, time, features = x.shape
    zeros = jnp.zeros((layers, batch, hidden))
    lengths = jnp.full((batch,), time, jnp.int32)

    def apply(weights: jax.Array, x: jax.Array) -> jax.Array:
        outputs: jax.Array = rnn.lstm(x, zeros, zeros, weights, lengths, features, hidden, layers, 0.0, False)[0]
        return outputs

    weights = rnn.init_lstm_weight(jax.random.key(0), features, hidden, layers, False)
    return _jax_contender("jax.experimental.rnn (cuDNN)", apply, passes, weights, jnp.asarray(x))


def _jax_contender(name: str, apply: Callable[..., Any], passes: Pass, weights: Any, x: jax.Array) -> Contender:
    gradient = jax.grad(lambda weights, x: apply(weights, x).mean())
    program = compile_program(jax.jit(gradient if passes == "train" else apply), weights, x)
    return Contender(name, lambda: program.run(weights, x), program)


def ds_lstm_peers(
    x: np.ndarray, y: np.ndarray, hidden: int, layers: int, passes: Pass, dtype: str = "float32"
) -> list[Contender]:
    """PyTorch loops over the frames of [B, T, X] and [B, T, Y]: as the equations stand, with the products of x and y
    taken out of the loop, and that with its cell compiled (compiling whole loops takes minutes)."""
    if not installed("torch"):
        return []
    from dslstm_jax.benchmark.peers_torch import DSLSTM, DSLSTMCell, HoistedCell

    peers = []
    for name, cell, compiled in (
        ("PyTorch loop", DSLSTMCell, False),
        ("PyTorch loop, hoisted", HoistedCell, False),
        ("torch.compile, hoisted", HoistedCell, True),
    ):
        network = DSLSTM(x.shape[2], y.shape[2], hidden, layers, x.shape[1], cell)
        if compiled:
            for layer in network.children():
                layer.compile()
        peers.append(_torch_contender(name, network, [x, y], passes, dtype))
    return peers


class LibrosaOpenSmile:
    """The same features as the authors compute them: one utterance after the other, by librosa and openSMILE."""

    def __init__(self, config: FeaturesConfig) -> None:
        import opensmile

        mfcc, rate = config.mfcc, config.sample_rate
        options = {"frame": FRAME_LENGTH / rate, "hop": mfcc.hop_length / rate, "highest": rate / 2}
        options |= {"bands": mfcc.mel_bands, "cepstra": mfcc.cepstra}
        conf = Path(__file__).with_name("mfcc_e_d_a.conf")
        self.config = config
        self._smile = opensmile.Smile(feature_set=str(conf), feature_level="lld", options=options)

    def of(self, waveform: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """MFCC [T, 39], and spectrograms [F, frames] in decibels, stretched as the config says; of one utterance."""
        import librosa
        import torch

        spectrograms = []
        for resolution in self.config.spectrograms:
            power = librosa.feature.melspectrogram(
                y=waveform * np.float32(32768),
                sr=self.config.sample_rate,
                n_fft=resolution.n_fft,
                hop_length=resolution.hop_length,
                n_mels=resolution.mel_bands,
            )
            decibels = torch.from_numpy(10 * np.log10(np.maximum(power, 1e-10)))
            if resolution.frames:
                decibels = torch.nn.functional.interpolate(decibels[None], resolution.frames)[0]
            spectrograms.append(decibels.numpy())
        return self._smile(waveform, self.config.sample_rate)[0].T, spectrograms

    def __call__(self, waveforms: Sequence[np.ndarray]) -> TorchFeatures:
        """A padded batch for the PyTorch network."""
        import torch

        arrays, by_utterance = zip(*map(self.of, waveforms), strict=True)
        mfccs = [torch.from_numpy(np.ascontiguousarray(mfcc)) for mfcc in arrays]
        stacked = [torch.from_numpy(np.stack(found)[:, None]) for found in zip(*by_utterance, strict=True)]
        lengths = torch.tensor([len(mfcc) for mfcc in mfccs])
        return stacked, torch.nn.utils.rnn.pad_sequence(mfccs, batch_first=True), lengths


def has_twin(config: Config) -> bool:
    """Whether the network of a config is the dual-level one, and PyTorch, librosa and openSMILE are there."""
    model, features, paper = config.model, config.features, ModelConfig()
    return (
        model.spectrogram_branch == "ds_lstm"
        and model.mfcc_branch
        and all(getattr(model, name) == getattr(paper, name) for name in BEYOND_THE_PAPER)
        and all(spectrogram.frames for spectrogram in features.spectrograms)
        and not (features.trim or features.pitch)
        and installed("torch", "librosa", "opensmile")
    )


class Twin:
    """The whole system as one would build it in PyTorch."""

    def __init__(self, config: Config, classes: int) -> None:
        import torch

        from dslstm_jax.benchmark.peers_torch import Recognizer

        self.device = _torch_device()
        self.features = LibrosaOpenSmile(config.features)
        self.network = Recognizer(config, classes).to(self.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), config.training.learning_rate)

    def _place(self, features: TorchFeatures) -> TorchFeatures:
        spectrograms, mfcc, lengths = features
        return [spectrogram.to(self.device) for spectrogram in spectrograms], mfcc.to(self.device), lengths

    def train_step(self, features: TorchFeatures, labels: np.ndarray) -> float:
        """One step of Adam; returns the loss before it."""
        import torch

        self.network.train()
        self.optimizer.zero_grad()
        targets = torch.from_numpy(labels.astype(np.int64)).to(self.device)
        loss = self.network.loss(self.network(*self._place(features)), targets)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def predict(self, waveform: np.ndarray) -> np.ndarray:
        """Probabilities of one recording. [C]"""
        import torch

        self.network.eval()
        with torch.no_grad():
            raw, hand = self.network(*self._place(self.features([waveform])))
            share = self.network.weight
            answer: np.ndarray = torch.softmax(share * raw + (1 - share) * hand, dim=1)[0].cpu().numpy()
        return answer
