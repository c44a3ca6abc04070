"""Draws architecture.svg, the picture of the README: python docs/architecture.py"""

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dslstm_jax.config import Config

PICTURE = Path(__file__).with_suffix(".svg")
BLUE, ORANGE, GREY = "#dbe7f6", "#fde5cf", "#eeeeee"


def box(axes: Axes, x: float, y: float, width: float, text: str, color: str) -> tuple[float, float, float]:
    """A box with its middle at (x, y); returns where it begins, where it ends, and y."""
    style = {"boxstyle": "round,pad=0.08", "facecolor": color, "edgecolor": "#555555"}
    axes.add_patch(mpl.patches.FancyBboxPatch((x - width / 2, y - 0.36), width, 0.72, **style))
    axes.text(x, y, text, ha="center", va="center", fontsize=9, linespacing=1.3)
    return x - width / 2 - 0.08, x + width / 2 + 0.08, y


def draw() -> Figure:
    """The dual-level model with the sizes of the default config."""
    config = Config()
    model, (first, second) = config.model, config.features.spectrograms
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, 12.6), ylim=(-0.6, 3.9), aspect="equal")
    axes.axis("off")
    waveform = box(axes, 0.75, 1.65, 1.2, f"waveform\n{config.features.sample_rate // 1000} kHz", GREY)
    mels = [
        box(axes, 3.3, y, 2.3, f"mel-spectrogram\nFFT {s.n_fft}, {s.mel_bands} bands", BLUE)
        for s, y in ((first, 3.3), (second, 2.1))
    ]
    cnns = [
        box(axes, 6.1, mel[2], 2.1, f"CNN {frequency} x {time}\n{', '.join(map(str, model.channels))} channels", BLUE)
        for mel, (frequency, time) in zip(mels, model.kernels, strict=True)
    ]
    ds_lstm = box(axes, 8.9, 2.7, 1.9, f"DS-LSTM\n{model.layers} x {model.hidden} units", ORANGE)
    cepstra = 3 * (config.features.mfcc.cepstra + 1)
    mfcc = box(axes, 3.3, 0.4, 2.3, f"MFCC, energy, slopes\n{cepstra} a frame", BLUE)
    lstm = box(axes, 8.9, 0.4, 1.9, f"LSTM\n{model.layers} x {model.mfcc_hidden} units", ORANGE)
    answer = box(axes, 11.6, 1.65, 1.4, "average\nof logits", GREY)
    arrows = [(waveform, part) for part in (*mels, mfcc)]
    arrows += [*zip(mels, cnns, strict=True), *((cnn, ds_lstm) for cnn in cnns)]
    arrows += [(mfcc, lstm), (ds_lstm, answer), (lstm, answer)]
    for (_, end, y), (begin, _, to) in arrows:
        axes.annotate("", (begin, to), (end, y), arrowprops={"arrowstyle": "->", "color": "#555555"})
    return figure


def write(path: Path) -> None:
    """The same bytes for the same drawing."""
    with mpl.rc_context({"svg.hashsalt": "dslstm_jax", "svg.fonttype": "none", "font.family": "sans-serif"}):
        draw().savefig(path, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    write(PICTURE)
