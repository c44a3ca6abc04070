"""One file with the whole recognizer, for programs that have JAX and nothing of ours; docs/export.md describes it."""

import importlib.metadata
import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export
from jaxtyping import Array, Float, Int

from dslstm_jax.config import RecognizerConfig, from_dict, to_dict
from dslstm_jax.errors import RunError, one_line
from dslstm_jax.features.mfcc import FRAME_LENGTH
from dslstm_jax.models.branches import shortest_recording
from dslstm_jax.models.recognizer import Variables, count_classes
from dslstm_jax.util.files import to_json, whole_file

SUFFIX = ".dslstm"
FORMAT = 1
"""Of the file; one that an older loader could not read gets the next number."""
PLATFORMS = ("cpu", "cuda", "tpu")
_HEADER, _PROGRAM, _WEIGHTS = "header.json", "program.mlir", "weights/"

Program = Callable[[Float[Any, "B N"], Int[Any, " B"]], Float[Array, "B C"]]
"""Samples and lengths to the probability of each emotion."""


class Member(NamedTuple):
    """One network, with the features that it hears: most recognizers have one, an ensemble has several."""

    variables: Variables
    config: RecognizerConfig


Model = tuple[tuple[Member, ...], tuple[str, ...], Program]
"""What is in an exported file: the networks, the labels, and the program as it was compiled to StableHLO."""


def write_model(
    path: str | Path, predict: Callable[..., Array], members: Sequence[Member], labels: Sequence[str]
) -> None:
    """Writes the recognizer for any number of rows and samples and for all PLATFORMS, whole or not at all.

    The weights stand beside the program, not in it as constants: every length that it is compiled for would hold its
    own copy.

    Args:
      path: of the file.
      predict: (members, waveforms, lengths) to probabilities.
      members: weights and running statistics, features and model of each network. An LSTM by cuDNN is exported as the
        scan, which runs on all platforms.
      labels: of the columns of the probabilities.

    Raises:
      RunError: the file cannot be written.
    """
    configs = [
        replace(config, model=replace(config.model, lstm_backend="scan", remat_every=0)) for _, config in members
    ]
    named = {str(number): member.variables for number, member in enumerate(members)}
    flat = flatten_dict(named if len(members) > 1 else members[0].variables, sep="/")
    weights = {name: np.asarray(leaf) for name, leaf in flat.items()}
    shortest = max(FRAME_LENGTH, *map(shortest_recording, configs))

    def probabilities(weights: dict[str, Array], waveforms: Array, lengths: Array) -> Array:
        return predict(_members(weights, configs), waveforms, lengths)

    said = jax.config.jax_traceback_in_locations_limit  # type: ignore[attr-defined]
    jax.config.update("jax_traceback_in_locations_limit", 0)  # where the program was written stays untold
    try:
        exported = _export(probabilities, PLATFORMS, weights, shortest)
    finally:
        jax.config.update("jax_traceback_in_locations_limit", said)
    header = {
        "format": FORMAT,
        "labels": list(labels),
        "sample_rate": configs[0].features.sample_rate,
        "shortest": shortest,
        "platforms": list(exported.platforms),
        "weights": sorted(weights),
        "calling_convention_version": exported.calling_convention_version,
        "versions": {name: importlib.metadata.version(name) for name in ("dslstm-jax", "jax", "jaxlib")},
        "config": to_dict(configs[0]),
        "others": [to_dict(config) for config in configs[1:]],
    }
    with whole_file(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as file:
        # A ZipInfo's date is always the same one, so that the same recognizer makes the same bytes.
        file.writestr(zipfile.ZipInfo(_HEADER), to_json(header, indent=2), zipfile.ZIP_DEFLATED)
        file.writestr(zipfile.ZipInfo(_PROGRAM), exported.mlir_module_serialized, zipfile.ZIP_DEFLATED)
        for name, values in sorted(weights.items()):
            with file.open(zipfile.ZipInfo(f"{_WEIGHTS}{name}.npy"), "w") as member:
                np.lib.format.write_array(member, values, allow_pickle=False)


def _members(weights: dict[str, Array], configs: Sequence[RecognizerConfig]) -> tuple[Member, ...]:
    """The networks; the weights of several are under the numbers 0, 1, ..."""
    named = unflatten_dict(weights, sep="/")
    several = [named] if len(configs) == 1 else [named[str(number)] for number in range(len(configs))]
    return tuple(map(Member, several, configs))


def read_model(path: str | Path) -> Model:
    """What `write_model` wrote; the program computes what it did then, not what this version would.

    Raises:
      RunError: no such file, a damaged or foreign one, or one of a later format.
    """
    try:
        with zipfile.ZipFile(path) as file:
            header = json.loads(file.read(_HEADER))
            if header["format"] == FORMAT:
                return _read_content(file, header, str(path))
    except FileNotFoundError as error:
        raise RunError(f"{path}: no such file; make one with dslstm export RUN --output {path}") from error
    except Exception as error:  # a damaged archive fails in many ways
        reason = one_line(getattr(error, "strerror", None) or error)
        raise RunError(
            f"{path} is damaged, or is no file of dslstm export ({reason}); "
            f"write it again: dslstm export RUN --output {path}"
        ) from error
    raise RunError(f"{path} is of format {header['format']}, and this dslstm_jax reads {FORMAT}; update dslstm_jax")


def _read_content(file: zipfile.ZipFile, header: Mapping[str, Any], source: str) -> Model:
    # Each array is read to its end, where the checksum is compared.
    arrays = {name: io.BytesIO(file.read(f"{_WEIGHTS}{name}.npy")) for name in header["weights"]}
    weights = {name: jnp.asarray(np.load(array, allow_pickle=False)) for name, array in arrays.items()}
    wholes = [header["config"], *header.get("others", ())]  # older versions wrote the whole run's, and no others
    parts = [{part: whole[part] for part in ("features", "model")} for whole in wholes]
    members = _members(weights, [from_dict(part, source, RecognizerConfig) for part in parts])
    classes = count_classes(members[0].variables)

    def same_signature(weights: Any, waveforms: Array, lengths: Array) -> Array:  # noqa: ARG001
        return jnp.zeros((lengths.shape[0], classes))

    # What JAX serializes can only be read with flatbuffers; this needs JAX alone.
    exported = replace(
        _export(same_signature, header["platforms"], weights, header["shortest"]),
        mlir_module_serialized=file.read(_PROGRAM),
        calling_convention_version=header["calling_convention_version"],
        _get_vjp=None,
    )
    return members, tuple(header["labels"]), partial(jax.jit(exported.call), weights)


def _export(
    function: Callable[..., Array], platforms: Sequence[str], weights: Mapping[str, Any], shortest: int
) -> export.Exported:
    """The function of (weights, waveforms, lengths), for any number of rows and of samples from `shortest` on."""
    rows, samples = export.symbolic_shape("rows, samples", constraints=[f"samples >= {shortest}"])
    sound = jax.ShapeDtypeStruct((rows, samples), jnp.float32), jax.ShapeDtypeStruct((rows,), jnp.int32)
    return export.export(jax.jit(function, keep_unused=True), platforms=platforms)(weights, *sound)
