"""Configs of version 0.1.0, as its run folders and exported files hold them, in today's fields."""

import copy
from collections.abc import Mapping
from typing import Any

from dslstm_jax.errors import ConfigError

FIXED: dict[str, Any] = {
    "augmentation.noise_snr": [10.0, 30.0],
    "augmentation.frequency_mask_width": 0.15,
    "augmentation.time_mask_width": 0.15,
    "features.mfcc.frame_length": 400,
    "features.mfcc.n_fft": 512,
    "features.mfcc.lifter": 22,
    "features.mfcc.preemphasis": 0.97,
    "features.mfcc.delta_window": 2,
    "model.spectrogram_weight": 0.5,
    "model.unroll": None,
    "training.evaluation_batch_size": None,
}
"""Fields of then that are constants now, and their values; None: any value, since they changed no figure."""


def upgrade(values: Mapping[str, Any]) -> dict[str, Any]:
    """The dictionary of a config, with fields of version 0.1.0 dropped or under today's names.

    Raises:
      ConfigError: a field that is a constant now holds another value.
    """
    new = copy.deepcopy(dict(values))
    for name, fixed in FIXED.items():
        *rooms, field = name.split(".")
        part: Any = new
        for room in rooms:
            part = part.get(room) if isinstance(part, dict) else None
        if not isinstance(part, dict) or field not in part:
            continue
        value = part.pop(field)
        if fixed is not None and value != fixed:
            raise ConfigError(
                f"{name} is {value}, and this version knows {fixed} only; "
                "dslstm_jax 0.1.0 at commit fa28c09 can run it"
            )
    if isinstance(new.get("corpus"), dict):
        new["corpus"] = _upgrade_corpus(new["corpus"])
    return new


def _upgrade_corpus(corpus: dict[str, Any]) -> dict[str, Any]:
    """`*_column` become `columns`; `names` and `roots`, two lists side by side, become `parts`."""
    columns = [(column, corpus.pop(f"{column}_column", column)) for column in ("path", "label", "speaker", "session")]
    if renamed := [f"{column}={name}" for column, name in columns if name != column]:
        corpus["columns"] = renamed
    names = [name.strip() for entry in corpus.pop("names", ()) for name in entry.split(",") if name.strip()]
    roots = corpus.pop("roots", ()) or [None] * len(names)
    if names:
        own = {name: corpus.pop(name) for name in ("manifest", "columns", "synthetic") if name in corpus}
        corpus["parts"] = [own | {"name": name, "root": root} for name, root in zip(names, roots, strict=False)]
    return corpus
