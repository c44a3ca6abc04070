"""One file with the whole recognizer, for programs that have JAX and nothing of ours; docs/export.md describes it."""

import dataclasses
import importlib.metadata
import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export
from jaxtyping import Array, Float, Int

from dslstm_jax.config import Config, from_dict, to_dict
from dslstm_jax.errors import RunError, one_line
from dslstm_jax.files import to_json, whole_file
from dslstm_jax.models.branches import shortest_recording
from dslstm_jax.models.recognizer import Variables, count_classes

SUFFIX = ".dslstm"
FORMAT = 1
"""Of the file; one that an older loader could not read gets the next number."""
PLATFORMS = ("cpu", "cuda", "tpu")
_HEADER, _PROGRAM, _WEIGHTS = "header.json", "program.mlir", "weights/"

Program = Callable[[Float[Any, "B N"], Int[Any, " B"]], Float[Array, "B C"]]
"""Samples and lengths to the probability of each emotion."""


class Model(NamedTuple):
    """What is in an exported file."""

    variables: Variables
    config: Config
    labels: tuple[str, ...]
    program: Program
    """As it was compiled to StableHLO, whatever this version of dslstm_jax would compute."""


def write_model(
    path: str | Path, predict: Callable[..., Array], variables: Variables, config: Config, labels: Sequence[str]
) -> None:
    """Writes the recognizer for any number of rows and samples and for all PLATFORMS, whole or not at all.

    The weights stand beside the program, not in it as constants: every length that it is compiled for would hold its
    own copy.

    Args:
      path: of the file.
      predict: (variables, waveforms, lengths, config=config) to probabilities.
      variables: the recognizer's weights and running statistics.
      config: features and model. An LSTM by cuDNN is exported as the scan, which runs on all platforms.
      labels: of the columns of the probabilities.

    Raises:
      RunError: the file cannot be written.
    """
    portable = dataclasses.replace(config.model, lstm_backend="scan", remat_every=0)
    nowhere = dataclasses.replace(config.corpus, root=None, roots=(), manifest=None)  # folders of this machine
    config = dataclasses.replace(config, model=portable, corpus=nowhere)
    weights = {name: np.asarray(leaf) for name, leaf in flatten_dict(variables, sep="/").items()}
    shortest = max(config.features.mfcc.frame_length, shortest_recording(config))

    def probabilities(weights: dict[str, Array], waveforms: Array, lengths: Array) -> Array:
        return predict(unflatten_dict(weights, sep="/"), waveforms, lengths, config=config)

    with _without_source_paths():
        exported = _export(probabilities, PLATFORMS, weights, shortest)
    header = {
        "format": FORMAT,
        "labels": list(labels),
        "sample_rate": config.features.sample_rate,
        "shortest": shortest,
        "platforms": list(exported.platforms),
        "weights": sorted(weights),
        "calling_convention_version": exported.calling_convention_version,
        "versions": {name: importlib.metadata.version(name) for name in ("dslstm-jax", "jax", "jaxlib")},
        "config": to_dict(config),
    }
    with whole_file(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as file:
        # A ZipInfo's date is always the same one, so that the same recognizer makes the same bytes.
        file.writestr(zipfile.ZipInfo(_HEADER), to_json(header, indent=2), zipfile.ZIP_DEFLATED)
        file.writestr(zipfile.ZipInfo(_PROGRAM), exported.mlir_module_serialized, zipfile.ZIP_DEFLATED)
        for name, values in sorted(weights.items()):
            with file.open(zipfile.ZipInfo(f"{_WEIGHTS}{name}.npy"), "w") as member:
                np.lib.format.write_array(member, values, allow_pickle=False)


def read_model(path: str | Path) -> Model:
    """What `write_model` wrote.

    Raises:
      RunError: no such file, a damaged or foreign one, or one of a later format.
    """
    try:
        with zipfile.ZipFile(path) as file:
            header = json.loads(file.read(_HEADER))
            if header["format"] == FORMAT:
                return _read_members(file, header, str(path))
    except FileNotFoundError as error:
        raise RunError(f"{path}: no such file; make one with dslstm export RUN --output {path}") from error
    except Exception as error:  # a damaged archive fails in many ways
        reason = one_line(getattr(error, "strerror", None) or error)
        raise RunError(
            f"{path} is damaged, or is no file of dslstm export ({reason}); "
            f"write it again: dslstm export RUN --output {path}"
        ) from error
    raise RunError(f"{path} is of format {header['format']}, and this dslstm_jax reads {FORMAT}; update dslstm_jax")


def _read_members(file: zipfile.ZipFile, header: Mapping[str, Any], source: str) -> Model:
    def read_array(name: str) -> Array:
        whole = io.BytesIO(file.read(f"{_WEIGHTS}{name}.npy"))  # read to its end, where the checksum is compared
        return jnp.asarray(np.lib.format.read_array(whole, allow_pickle=False))

    program = file.read(_PROGRAM)
    weights = {name: read_array(name) for name in header["weights"]}
    variables: Variables = unflatten_dict(weights, sep="/")
    classes = count_classes(variables)

    def same_signature(weights: Any, waveforms: Array, lengths: Array) -> Array:  # noqa: ARG001
        return jnp.zeros((lengths.shape[0], classes))

    # What JAX serializes can only be read with flatbuffers; this needs JAX alone.
    exported = dataclasses.replace(
        _export(same_signature, header["platforms"], weights, header["shortest"]),
        mlir_module_serialized=program,
        calling_convention_version=header["calling_convention_version"],
        _get_vjp=None,
    )
    call = jax.jit(exported.call)
    return Model(
        variables,
        from_dict(header["config"], source),
        tuple(header["labels"]),
        lambda waveforms, lengths: call(weights, waveforms, lengths),
    )


def _export(
    function: Callable[..., Array], platforms: Sequence[str], weights: Mapping[str, Any], shortest: int
) -> export.Exported:
    """The function of (weights, waveforms, lengths), for any number of rows and of samples from `shortest` on."""
    rows, samples = export.symbolic_shape("rows, samples", constraints=[f"samples >= {shortest}"])
    sound = jax.ShapeDtypeStruct((rows, samples), jnp.float32), jax.ShapeDtypeStruct((rows,), jnp.int32)
    return export.export(jax.jit(function, keep_unused=True), platforms=platforms)(weights, *sound)


@contextmanager
def _without_source_paths() -> Iterator[None]:
    """Programs that are made inside do not say in which files of this machine they were written."""
    before = jax.config.jax_traceback_in_locations_limit  # type: ignore[attr-defined]
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)
