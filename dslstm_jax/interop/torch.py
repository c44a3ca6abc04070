"""The authors' PyTorch state dict becomes our variables; every size is read from the tensors.

Names in the state dict are those of the authors' repository on GitHub,
diaoenmao/Speech-Emotion-Recognition-with-Dual-Sequence-LSTM-Architecture.
PyTorch itself is needed only to read a file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dslstm_jax.config import (
    BEYOND_THE_PAPER,
    SPECTROGRAM_256,
    SPECTROGRAM_512,
    SPECTROGRAM_1024,
    Config,
    ModelConfig,
    SpectrogramConfig,
)
from dslstm_jax.errors import RunError, first_line
from dslstm_jax.models.recognizer import SPECTROGRAM_WEIGHT, Variables, count_classes
from dslstm_jax.ops.convolution import block_size
from dslstm_jax.runs.checkpoint import Checkpoints
from dslstm_jax.runs.folder import RunFolder, create_run

StateDict = Mapping[str, np.ndarray]
Tree = dict[str, Any]


def read_state_dict(path: str | Path) -> StateDict:
    """The tensors of a file made by `torch.save(model.state_dict(), path)`, as numpy arrays.

    Raises:
      RunError: PyTorch is not installed, the file is missing, or it holds something else.
    """
    if not Path(path).is_file():
        raise RunError(f"{path}: no such file")
    try:
        import torch
    except ImportError as error:
        raise RunError("reading a PyTorch file needs PyTorch: pip install 'dslstm-jax[torch]'") from error
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        state = {name: tensor.numpy() for name, tensor in loaded.items()}
    except Exception as error:  # torch raises many kinds for a file of another kind
        reason = first_line(error)
        raise RunError(f"{path}: not a PyTorch state dict ({reason})") from error
    # nn.DataParallel, which the authors train with, puts its own name before every key.
    return {name.removeprefix("module."): value for name, value in state.items()}


def _count(state: StateDict, pattern: str) -> int:
    """How many of pattern.format(0), pattern.format(1), ... begin some name."""
    number = 0
    while any(name.startswith(pattern.format(number)) for name in state):
        number += 1
    return number


def _take(state: StateDict, name: str, **names: str) -> Tree:
    """Tensors under our names. Theirs have their axes the other way round."""
    return {ours: state[f"{name}.{theirs}"].T for ours, theirs in names.items()}


def _classifier(state: StateDict, name: str) -> Tree:
    return {"classifier": _take(state, name, kernel="weight", bias="bias")}


def _lstms(state: StateDict, name: str, ours: str) -> Tree:
    """All layers, under our name and their number."""
    names = {"input_kernel": "weight_ih", "recurrent_kernel": "weight_hh"}
    names |= {"input_bias": "bias_ih", "recurrent_bias": "bias_hh"}
    return {
        f"{ours}_{layer}": _take(state, name, **{leaf: f"{theirs}_l{layer}" for leaf, theirs in names.items()})
        for layer in range(_count(state, name + ".weight_ih_l{}"))
    }


def _ds_lstm_names(state: StateDict) -> list[str]:
    return [f"ftlstm.ftlstm_cell{layer}" for layer in range(_count(state, "ftlstm.ftlstm_cell{}."))]


def _ds_lstm(state: StateDict, name: str) -> Tree:
    gates, time, frequency = (state[f"{name}.{linear}.weight"].T for linear in ("W", "WTc", "WFc"))
    size = time.shape[1]
    from_x = time.shape[0] - size
    return {
        "x_kernel": np.concatenate([gates[:from_x], time[:from_x]], axis=1),
        "y_kernel": np.concatenate([gates[from_x:-size], frequency[:-size]], axis=1),
        "recurrent_kernel": np.concatenate([gates[-size:], time[-size:], frequency[-size:]], axis=1),
        "bias": np.concatenate([state[f"{name}.{linear}.bias"] for linear in ("W", "WTc", "WFc")]),
        **_take(state, f"{name}.batch", gate_scale="weight", gate_shift="bias"),
        **_take(state, f"{name}.batchhT", output_scale="weight", output_shift="bias"),
    }


def _ds_lstm_statistics(state: StateDict, name: str) -> Tree:
    steps = range(_count(state, name + ".batch.running_mean_{}"))
    return {
        "gate_mean": np.stack([state[f"{name}.batch.running_mean_{step}"] for step in steps]),
        "gate_variance": np.stack([state[f"{name}.batch.running_var_{step}"] for step in steps]),
        **_take(state, f"{name}.batchhT", output_mean="running_mean", output_variance="running_var"),
    }


def _cnn_names(state: StateDict) -> list[str]:
    """Of each spectrogram's CNN, the names of its blocks, with a place for their number."""
    several = "cnn_multi.spec_cell{}."
    cells = several if _count(state, several) else "cnn.spec_cell{}."
    return [cells.format(index) + "lflb_cell{}" for index in range(_count(state, cells))]


def _cnn(state: StateDict, blocks: str) -> Tree:
    tree: Tree = {}
    for layer in range(_count(state, blocks + ".")):
        block = blocks.format(layer)
        tree[f"convolution_{layer}"] = _take(state, f"{block}.cnn", kernel="weight", bias="bias")
        tree[f"batch_norm_{layer}"] = _take(state, f"{block}.batch", scale="weight", shift="bias")
    return tree


def _cnn_statistics(state: StateDict, blocks: str) -> Tree:
    names = {"running_mean": "running_mean", "running_variance": "running_var"}
    layers = range(_count(state, blocks + "."))
    return {f"batch_norm_{layer}": _take(state, blocks.format(layer) + ".batch", **names) for layer in layers}


def parameters(state: StateDict) -> Tree:
    """The collection `params` of any row of the paper's table; of its gradients too, which have the same names."""
    tree: Tree = {}
    branch = {f"cnn_{index}": _cnn(state, blocks) for index, blocks in enumerate(_cnn_names(state))}
    if "classification_raw.weight" in state:
        layers = {f"ds_lstm_{layer}": _ds_lstm(state, name) for layer, name in enumerate(_ds_lstm_names(state))}
        tree["spectrogram_branch"] = branch | layers | _classifier(state, "classification_raw")
    elif "classification_raw1.weight" in state:
        for index in range(len(branch)):
            branch |= _lstms(state, f"ftlstm{index + 1}.ftlstm", f"lstm_{index}")
        tree["spectrogram_branch"] = branch | _classifier(state, "classification_raw1")
    if "classification_hand.weight" in state:
        layers = _lstms(state, "LSTM_Audio.lstm", "lstm")
        tree["mfcc_branch"] = layers | _classifier(state, "classification_hand")
    return tree


def running_statistics(state: StateDict) -> Tree:
    """The collection `batch_stats`; empty for M_LSTM, which normalizes nothing."""
    branch = {f"cnn_{index}": _cnn_statistics(state, blocks) for index, blocks in enumerate(_cnn_names(state))}
    for layer, name in enumerate(_ds_lstm_names(state)):
        branch[f"ds_lstm_{layer}"] = _ds_lstm_statistics(state, name)
    return {"spectrogram_branch": branch} if branch else {}


def _spectrogram_of(kernels: Sequence[Any], width: int, candidates: Sequence[SpectrogramConfig]) -> SpectrogramConfig:
    """The resolution whose bands give a CNN output that is `width` wide."""
    for candidate in candidates:
        bands = candidate.mel_bands
        for kernel in kernels:
            bands = block_size(bands, kernel.shape[1])
        if bands * kernels[-1].shape[3] == width:
            return candidate
    raise RunError(f"state dict: no spectrogram gives the {width} values a frame that its recurrence reads")


def config_for(state: StateDict, config: Config) -> Config:
    """The config with the sizes, branches and resolutions that the tensors show and nothing beyond the paper's model;
    the rest stays.

    Raises:
      RunError: these are not the names of one of the paper's networks.
    """
    if not {"classification_raw.weight", "classification_raw1.weight", "classification_hand.weight"} & state.keys():
        raise RunError("state dict: no classification_raw, classification_raw1 or classification_hand in it")
    tree = parameters(state)
    found: Tree = {name: getattr(ModelConfig(), name) for name in BEYOND_THE_PAPER}
    found |= {"mfcc_branch": "mfcc_branch" in tree, "spectrogram_branch": "none"}
    if found["mfcc_branch"]:
        audio = tree["mfcc_branch"]
        found |= {"mfcc_hidden": audio["lstm_0"]["recurrent_kernel"].shape[0], "layers": len(audio) - 1}
    cnns = len(_cnn_names(state))
    if not cnns:
        return replace(config, model=replace(config.model, **found))
    branch = tree["spectrogram_branch"]
    dual = "ds_lstm_0" in branch
    if dual:
        inputs = [branch["ds_lstm_0"][f"{name}_kernel"] for name in ("x", "y")]
    else:
        inputs = [branch[f"lstm_{index}_0"]["input_kernel"] for index in range(cnns)]
    first = "ds_lstm_0" if dual else "lstm_0_0"
    layers = sum(name.startswith(first[:-1]) for name in branch)
    if found.get("layers", layers) != layers:
        raise RunError(f"state dict: {layers} and {found['layers']} layers in the two branches; they must agree")
    kernels = [
        [values["kernel"] for name, values in branch[f"cnn_{index}"].items() if name.startswith("convolution")]
        for index in range(cnns)
    ]
    found |= {
        "spectrogram_branch": "ds_lstm" if dual else "lstm",
        "channels": tuple(kernel.shape[3] for kernel in kernels[0]),
        "kernels": tuple(own[0].shape[1::-1] for own in kernels),
        "hidden": branch[first]["recurrent_kernel"].shape[0],
        "layers": layers,
    }
    candidates = (*config.features.spectrograms, SPECTROGRAM_256, SPECTROGRAM_512, SPECTROGRAM_1024)
    spectrograms = tuple(
        _spectrogram_of(own, kernel.shape[0], candidates) for own, kernel in zip(kernels, inputs, strict=True)
    )
    model = replace(config.model, **found)
    return replace(config, features=replace(config.features, spectrograms=spectrograms), model=model)


def _weigh(tree: Tree, state: StateDict) -> Tree:
    """The parameters for SPECTROGRAM_WEIGHT, where the authors average their branches by the tensor `weight`."""
    if len(tree) < 2 or "weight" not in state:
        return tree
    share, weighed = float(state["weight"][0]), {}
    factors = {
        "spectrogram_branch": share / SPECTROGRAM_WEIGHT,
        "mfcc_branch": (1 - share) / (1 - SPECTROGRAM_WEIGHT),
    }
    for branch, factor in factors.items():
        classifier = {name: factor * values for name, values in tree[branch]["classifier"].items()}
        weighed[branch] = tree[branch] | {"classifier": classifier}
    return weighed


def import_state_dict(state: StateDict, config: Config) -> tuple[Config, Variables]:
    """Any of the paper's eight networks as a config and its variables.

    Args:
      state: the authors' state dict, as numpy arrays.
      config: everything that tensors do not show (corpus, frame sizes, training).

    Raises:
      RunError: the state dict is none of the paper's networks.
    """
    try:
        fitted = config_for(state, config)
        tree = {"params": _weigh(parameters(state), state), "batch_stats": running_statistics(state)}
    except KeyError as error:
        raise RunError(f"state dict: no tensor named {error}") from error
    return fitted, jax.tree.map(partial(jnp.asarray, dtype=jnp.float32), tree)


def import_run(state: StateDict, config: Config, labels: Sequence[str], path: Path) -> RunFolder:
    """Makes a run folder whose checkpoint holds the imported variables.

    Raises:
      RunError: the state dict is none of the paper's networks, the labels are not as many as its classes, or the
        folder holds a run already.
    """
    fitted, variables = import_state_dict(state, config)
    classes = count_classes(variables)
    if len(labels) != classes:
        raise RunError(f"state dict: it has {classes} classes, and --labels names {len(labels)}: {', '.join(labels)}")
    run = create_run(path, fitted, labels, folds={})
    with Checkpoints(run.checkpoints) as checkpoints:
        checkpoints.save_variables(variables)
    return run
