"""The paper's network in PyTorch, written from its equations, to be timed beside ours.

Names are those of the authors' state dict, so that their weights can be loaded into it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dslstm_jax.config import Config
from dslstm_jax.models.recognizer import SPECTROGRAM_WEIGHT
from dslstm_jax.ops.convolution import block_size


class LSTM(nn.Module):
    """torch.nn.LSTM without the final states that it also returns; of padded or packed sequences."""

    def __init__(self, features: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, hidden, layers, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]


class StepBatchNorm(nn.Module):
    """Batch normalization with one row of running statistics for every time step."""

    def __init__(self, features: int, steps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((features,), 0.1))
        self.bias = nn.Parameter(torch.zeros(features))
        for step in range(steps):
            self.register_buffer(f"running_mean_{step}", torch.zeros(features))
            self.register_buffer(f"running_var_{step}", torch.ones(features))

    def running(self, step: int) -> tuple[Tensor, Tensor]:
        return getattr(self, f"running_mean_{step}"), getattr(self, f"running_var_{step}")

    def forward(self, x: Tensor, running: tuple[Tensor, Tensor]) -> Tensor:
        return functional.batch_norm(x, *running, self.weight, self.bias, self.training)


class DSLSTMCell(nn.Module):
    """One layer of the DS-LSTM, a step at a time."""

    def __init__(self, from_x: int, from_y: int, hidden: int, steps: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.W = nn.Linear(from_x + from_y + hidden, 4 * hidden)
        self.WTc = nn.Linear(from_x + hidden, hidden)
        self.WFc = nn.Linear(from_y + hidden, hidden)
        self.batch = StepBatchNorm(4 * hidden, steps)
        self.batchhT = nn.BatchNorm1d(hidden)

    def forward(
        self, inputs: tuple[Tensor, ...], h: Tensor, c: Tensor, running: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What `inputs` gives of a frame, and the state [B, H], to the output, h and c."""
        gates, time, frequency = self.products(inputs, h)
        f, i_time, o, i_frequency = self.batch(torch.sigmoid(gates), running).chunk(4, dim=1)
        c = f * c + i_time * torch.tanh(time) + i_frequency * torch.tanh(frequency)
        h = o * torch.tanh(c)
        return self.batchhT(h), h, c

    def inputs(self, x: Tensor, y: Tensor) -> list[tuple[Tensor, ...]]:
        """What `products` reads of each frame."""
        return list(zip(x.unbind(1), y.unbind(1), strict=True))

    def products(self, inputs: tuple[Tensor, ...], h: Tensor) -> tuple[Tensor, ...]:
        """Of the gates, of time and of frequency."""
        x, y = inputs
        of_all, of_x, of_y = (torch.cat(read, dim=1) for read in ([x, y, h], [x, h], [y, h]))
        return self.W(of_all), self.WTc(of_x), self.WFc(of_y)


class HoistedCell(DSLSTMCell):
    """The same cell, with the products of all frames of x and y before the loop."""

    def inputs(self, x: Tensor, y: Tensor) -> list[tuple[Tensor, ...]]:
        from_x, sizes = x.shape[2], (4 * self.hidden, self.hidden)
        of_x = x @ torch.cat([self.W.weight[:, :from_x], self.WTc.weight[:, :from_x]]).T
        of_y = y @ torch.cat([self.W.weight[:, from_x : -self.hidden], self.WFc.weight[:, : -self.hidden]]).T
        (gates_x, time), (gates_y, frequency) = of_x.split(sizes, dim=2), of_y.split(sizes, dim=2)
        projected = torch.cat([gates_x + gates_y, time, frequency], dim=2)
        projected = projected + torch.cat([self.W.bias, self.WTc.bias, self.WFc.bias])
        recurrent = torch.cat([linear.weight[:, -self.hidden :] for linear in (self.W, self.WTc, self.WFc)]).T
        return [(frame, recurrent) for frame in projected.unbind(1)]

    def products(self, inputs: tuple[Tensor, ...], h: Tensor) -> tuple[Tensor, ...]:
        projected, recurrent = inputs
        return (projected + h @ recurrent).split((4 * self.hidden, self.hidden, self.hidden), dim=1)


class DSLSTM(nn.Module):
    """Layers of the DS-LSTM, a Python loop over the frames; all layers read the same y."""

    def __init__(
        self, from_x: int, from_y: int, hidden: int, layers: int, steps: int, cell: type[DSLSTMCell] = DSLSTMCell
    ) -> None:
        super().__init__()
        for layer in range(layers):
            self.add_module(f"ftlstm_cell{layer}", cell(hidden if layer else from_x, from_y, hidden, steps))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """[B, T, X] and [B, T, Y] to [B, T, H]."""
        for cell in self.children():
            assert isinstance(cell, DSLSTMCell)
            h = c = x.new_zeros(x.shape[0], cell.hidden)
            outputs = []
            for step, inputs in enumerate(cell.inputs(x, y)):
                output, h, c = cell(inputs, h, c, cell.batch.running(step))
                outputs.append(output)
            x = torch.stack(outputs, dim=1)
        return x


class Block(nn.Module):
    """Convolution, batch norm, ReLU, max-pool."""

    def __init__(self, from_channels: int, channels: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        padding = ((kernel[0] - 1) // 2, (kernel[1] - 1) // 2)
        self.cnn = nn.Conv2d(from_channels, channels, kernel, padding=padding)
        self.batch = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return functional.max_pool2d(torch.relu(self.batch(self.cnn(x))), 2)


class Blocks(nn.Sequential):
    """The CNN over one spectrogram."""

    def __init__(self, channels: Sequence[int], kernel: tuple[int, int]) -> None:
        super().__init__()
        for layer, (before, after) in enumerate(zip((1, *channels), channels, strict=False)):
            self.add_module(f"lflb_cell{layer}", Block(before, after, kernel))

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1, F, T] to [B, U, D], channel-major."""
        return super().forward(x).flatten(1, 2).transpose(1, 2)


class Recognizer(nn.Module):
    """The dual-level network: features to the logits of both branches."""

    weight: Tensor

    def __init__(self, config: Config, classes: int) -> None:
        super().__init__()
        model, widths, times = config.model, [], []
        self.cnn_multi = nn.Module()
        for index, (spectrogram, kernel) in enumerate(zip(config.features.spectrograms, model.kernels, strict=True)):
            self.cnn_multi.add_module(f"spec_cell{index}", Blocks(model.channels, kernel))
            bands, frames = spectrogram.mel_bands, spectrogram.frames
            for _ in model.channels:
                bands, frames = block_size(bands, kernel[0]), block_size(frames, kernel[1])
            widths.append(bands * model.channels[-1])
            times.append(frames)
        self.steps = times[0] // 2 - 1
        self.ftlstm = DSLSTM(widths[0], widths[1], model.hidden, model.layers, self.steps)
        self.LSTM_Audio = LSTM(39, model.mfcc_hidden, model.layers)
        self.classification_raw = nn.Linear(model.hidden, classes)
        self.classification_hand = nn.Linear(model.mfcc_hidden, classes)
        self.register_buffer("weight", torch.tensor([SPECTROGRAM_WEIGHT]))

    def forward(self, spectrograms: Sequence[Tensor], mfcc: Tensor, mfcc_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Spectrograms [B, 1, F, T], MFCC [B, T, 39] and its lengths [B] (on the CPU) to two times [B, C]."""
        x, y = (cnn(spectrogram) for cnn, spectrogram in zip(self.cnn_multi.children(), spectrograms, strict=True))
        twice = 2 * self.steps
        x = (x[:, 0:twice:2] + x[:, 1:twice:2] + x[:, 2 : twice + 1 : 2]) / 3
        raw = self.classification_raw(self.ftlstm(x, y[:, : self.steps]).mean(dim=1))
        packed = nn.utils.rnn.pack_padded_sequence(mfcc, mfcc_lengths, batch_first=True, enforce_sorted=False)
        hidden, _ = nn.utils.rnn.pad_packed_sequence(self.LSTM_Audio(packed), batch_first=True)
        hand = self.classification_hand(hidden.sum(dim=1) / mfcc_lengths[:, None].to(hidden))
        return raw, hand

    def loss(self, logits: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
        raw, hand = (functional.cross_entropy(branch, labels) for branch in logits)
        return self.weight[0] * raw + (1 - self.weight[0]) * hand
