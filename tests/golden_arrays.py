"""Arrays made by openSMILE, librosa and the authors' PyTorch network, from tests/golden or from DSLSTM_TEST_DATA."""

import os
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent / "golden"
SPEECH = ("03a01Fa", "03a01Nc", "03a01Wa", "03a05Tc")
SYNTHETIC = ("synthetic_a", "synthetic_b")
ROWS = (
    "m_lstm",
    "cnn_lstm_512",
    "cnn_lstm_1024",
    "cnn_lstm_both",
    "cnn_lstm_512_plus_m_lstm",
    "cnn_lstm_both_plus_m_lstm",
    "m_ds_lstm",
    "dual_level",
)


def golden(name: str) -> dict[str, np.ndarray]:
    """The arrays of golden/NAME.npz; skips the test where the file is not at hand."""
    folders = [HERE]
    if "DSLSTM_TEST_DATA" in os.environ:
        folders.append(Path(os.environ["DSLSTM_TEST_DATA"]) / "golden")
    for folder in folders:
        if (folder / f"{name}.npz").is_file():
            with np.load(folder / f"{name}.npz") as arrays:
                return dict(arrays)
    pytest.skip(f"golden/{name}.npz is not in tests/ and DSLSTM_TEST_DATA does not name a folder that has it")


def part(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays under a prefix such as "init/", without it."""
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
