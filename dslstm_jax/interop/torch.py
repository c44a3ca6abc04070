"""The authors' PyTorch state dict becomes our variables; every size is read from the tensors.

Names in the state dict are those of the authors' repository on GitHub,
diaoenmao/Speech-Emotion-Recognition-with-Dual-Sequence-LSTM-Architecture.
PyTorch itself is needed only to read a file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

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


def _part(state: StateDict, prefix: str) -> StateDict:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _count(state: StateDict, pattern: str) -> int:
    """How many of pattern.format(0), pattern.format(1), ... begin some name."""
    number = 0
    while any(name.startswith(pattern.format(number)) for name in state):
        number += 1
    return number


def _linear(state: StateDict) -> Tree:
    return {"kernel": state["weight"].T, "bias": state["bias"]}


def _lstm(state: StateDict, layer: int) -> Tree:
    return {
        "input_kernel": state[f"weight_ih_l{layer}"].T,
        "recurrent_kernel": state[f"weight_hh_l{layer}"].T,
        "input_bias": state[f"bias_ih_l{layer}"],
        "recurrent_bias": state[f"bias_hh_l{layer}"],
    }


def _ds_lstm(state: StateDict) -> Tree:
    gates, time, frequency = (state[f"{name}.weight"].T for name in ("W", "WTc", "WFc"))
    size = time.shape[1]
    from_x = time.shape[0] - size
    return {
        "x_kernel": np.concatenate([gates[:from_x], time[:from_x]], axis=1),
        "y_kernel": np.concatenate([gates[from_x:-size], frequency[:-size]], axis=1),
        "recurrent_kernel": np.concatenate([gates[-size:], time[-size:], frequency[-size:]], axis=1),
        "bias": np.concatenate([state[f"{name}.bias"] for name in ("W", "WTc", "WFc")]),
        "gate_scale": state["batch.weight"],
        "gate_shift": state["batch.bias"],
        "output_scale": state["batchhT.weight"],
        "output_shift": state["batchhT.bias"],
    }


def _ds_lstm_statistics(state: StateDict) -> Tree:
    steps = range(_count(state, "batch.running_mean_{}"))
    return {
        "gate_mean": np.stack([state[f"batch.running_mean_{step}"] for step in steps]),
        "gate_variance": np.stack([state[f"batch.running_var_{step}"] for step in steps]),
        "output_mean": state["batchhT.running_mean"],
        "output_variance": state["batchhT.running_var"],
    }


def _cnn(state: StateDict) -> Tree:
    tree: Tree = {}
    for layer in range(_count(state, "lflb_cell{}.")):
        block = _part(state, f"lflb_cell{layer}.")
        tree[f"convolution_{layer}"] = {
            "kernel": block["cnn.weight"].transpose(3, 2, 1, 0),
            "bias": block["cnn.bias"],
        }
        tree[f"batch_norm_{layer}"] = {"scale": block["batch.weight"], "shift": block["batch.bias"]}
    return tree


def _cnn_statistics(state: StateDict) -> Tree:
    return {
        f"batch_norm_{layer}": {
            "running_mean": state[f"lflb_cell{layer}.batch.running_mean"],
            "running_variance": state[f"lflb_cell{layer}.batch.running_var"],
        }
        for layer in range(_count(state, "lflb_cell{}."))
    }


def _cnns(state: StateDict) -> list[StateDict]:
    """One state dict for each spectrogram's CNN."""
    cells = _part(state, "cnn_multi.") or _part(state, "cnn.")
    return [_part(cells, f"spec_cell{index}.") for index in range(_count(cells, "spec_cell{}."))]


def _lstm_layers(state: StateDict) -> range:
    return range(_count(state, "weight_ih_l{}"))


def parameters(state: StateDict) -> Tree:
    """The collection `params` of any row of the paper's table; of its gradients too, which have the same names."""
    tree: Tree = {}
    cnns = {f"cnn_{index}": _cnn(cnn) for index, cnn in enumerate(_cnns(state))}
    if "classification_raw.weight" in state:
        cells = range(_count(state, "ftlstm.ftlstm_cell{}."))
        layers = {f"ds_lstm_{layer}": _ds_lstm(_part(state, f"ftlstm.ftlstm_cell{layer}.")) for layer in cells}
        tree["spectrogram_branch"] = cnns | layers | {"classifier": _linear(_part(state, "classification_raw."))}
    elif "classification_raw1.weight" in state:
        branches = [_part(state, f"ftlstm{index + 1}.ftlstm.") for index in range(len(cnns))]
        layers = {
            f"lstm_{index}_{layer}": _lstm(branch, layer)
            for index, branch in enumerate(branches)
            for layer in _lstm_layers(branch)
        }
        tree["spectrogram_branch"] = cnns | layers | {"classifier": _linear(_part(state, "classification_raw1."))}
    if "classification_hand.weight" in state:
        audio = _part(state, "LSTM_Audio.lstm.")
        layers = {f"lstm_{layer}": _lstm(audio, layer) for layer in _lstm_layers(audio)}
        tree["mfcc_branch"] = layers | {"classifier": _linear(_part(state, "classification_hand."))}
    return tree


def running_statistics(state: StateDict) -> Tree:
    """The collection `batch_stats`; empty for M_LSTM, which normalizes nothing."""
    branch = {f"cnn_{index}": _cnn_statistics(cnn) for index, cnn in enumerate(_cnns(state))}
    for layer in range(_count(state, "ftlstm.ftlstm_cell{}.")):
        branch[f"ds_lstm_{layer}"] = _ds_lstm_statistics(_part(state, f"ftlstm.ftlstm_cell{layer}."))
    return {"spectrogram_branch": branch} if branch else {}


def _kernel(cnn: StateDict) -> tuple[int, int]:
    """(frequency, time)"""
    frequency, time = cnn["lflb_cell0.cnn.weight"].shape[2:]
    return int(frequency), int(time)


def _bands_after(bands: int, kernels: list[int]) -> int:
    for kernel in kernels:
        bands = (bands + 2 * ((kernel - 1) // 2) - kernel + 1) // 2
    return bands


def _spectrogram_of(cnn: StateDict, width: int, candidates: tuple[SpectrogramConfig, ...]) -> SpectrogramConfig:
    """The resolution whose bands give a CNN output that is `width` wide."""
    blocks = [cnn[f"lflb_cell{layer}.cnn.weight"] for layer in range(_count(cnn, "lflb_cell{}."))]
    for candidate in candidates:
        if _bands_after(candidate.mel_bands, [block.shape[2] for block in blocks]) * blocks[-1].shape[0] == width:
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
        audio = _part(state, "LSTM_Audio.lstm.")
        found |= {"mfcc_hidden": audio["weight_hh_l0"].shape[1], "layers": len(_lstm_layers(audio))}
    cnns = _cnns(state)
    if not cnns:
        return replace(config, model=replace(config.model, **found))
    branch = tree["spectrogram_branch"]
    dual = "ds_lstm_0" in branch
    if dual:
        widths = [branch["ds_lstm_0"][f"{name}_kernel"].shape[0] for name in ("x", "y")]
        hidden, layers = branch["ds_lstm_0"]["recurrent_kernel"].shape[0], _count(state, "ftlstm.ftlstm_cell{}.")
    else:
        widths = [branch[f"lstm_{index}_0"]["input_kernel"].shape[0] for index in range(len(cnns))]
        hidden, layers = (
            branch["lstm_0_0"]["recurrent_kernel"].shape[0],
            _count(state, "ftlstm1.ftlstm.weight_ih_l{}"),
        )
    if found.get("layers", layers) != layers:
        raise RunError(f"state dict: {layers} and {found['layers']} layers in the two branches; they must agree")
    candidates = (*config.features.spectrograms, SPECTROGRAM_256, SPECTROGRAM_512, SPECTROGRAM_1024)
    blocks = range(_count(cnns[0], "lflb_cell{}."))
    found |= {
        "spectrogram_branch": "ds_lstm" if dual else "lstm",
        "channels": tuple(int(cnns[0][f"lflb_cell{layer}.cnn.weight"].shape[0]) for layer in blocks),
        "kernels": tuple(_kernel(cnn) for cnn in cnns),
        "hidden": hidden,
        "layers": layers,
    }
    spectrograms = tuple(_spectrogram_of(cnn, width, candidates) for cnn, width in zip(cnns, widths, strict=True))
    model = replace(config.model, **found)
    return replace(config, features=replace(config.features, spectrograms=spectrograms), model=model)


def _weigh(tree: Tree, state: StateDict) -> Tree:
    """The parameters for SPECTROGRAM_WEIGHT, where the authors average their branches by the tensor `weight`."""
    if len(tree) < 2 or "weight" not in state:
        return tree
    spectrogram = float(state["weight"][0]) / SPECTROGRAM_WEIGHT
    mfcc = (1 - float(state["weight"][0])) / (1 - SPECTROGRAM_WEIGHT)
    weighed = {}
    for branch, factor in (("spectrogram_branch", spectrogram), ("mfcc_branch", mfcc)):
        classifier = {name: factor * values for name, values in tree[branch]["classifier"].items()}
        weighed[branch] = tree[branch] | {"classifier": classifier}
    return weighed


def _to_device(tree: Tree) -> Tree:
    return {
        name: _to_device(value) if isinstance(value, dict) else jnp.asarray(value, jnp.float32)
        for name, value in tree.items()
    }


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
        return fitted, {
            "params": _to_device(_weigh(parameters(state), state)),
            "batch_stats": _to_device(running_statistics(state)),
        }
    except KeyError as error:
        raise RunError(f"state dict: no tensor named {error}") from error


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
