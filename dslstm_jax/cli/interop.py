"""dslstm import-torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dslstm_jax.config import load_config


@dataclass(frozen=True)
class ImportTorch:
    """Turn a state dict of the authors' PyTorch code into a run folder that predicts."""

    state_dict: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="STATE_DICT.pt")]
    """File made by torch.save(model.state_dict(), FILE)."""
    config_file: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CONFIG.py")]
    """Config file: what the tensors do not show (sample rate, frame sizes)."""
    workdir: Path
    """Run folder to be made."""
    labels: tuple[str, ...] = ("happy", "neutral", "angry", "sad")
    """The classes in the order of the logits."""


def import_torch(arguments: ImportTorch) -> int:
    """dslstm import-torch"""
    from dslstm_jax.interop.torch import import_run, read_state_dict

    config = load_config(arguments.config_file)
    run = import_run(read_state_dict(arguments.state_dict), config, arguments.labels, arguments.workdir)
    print(f"run folder: {run.path}")
    print(f"try: dslstm predict --model {run.path} FILE.wav")
    return 0
