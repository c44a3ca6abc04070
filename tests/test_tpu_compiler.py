"""The real compiler for TPUs, where libtpu is installed; no TPU is needed."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).parent / "tpu_compiler.py"


pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install -e '.[tpu]'"),
]


def compiled(what):
    done = subprocess.run([sys.executable, str(WORKER), what], capture_output=True, text=True, timeout=590)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    return list(map(json.loads, done.stdout.splitlines()))


def test_training_and_predicting_compile_for_four_v5e():
    predict, *trains = compiled("train")
    assert (predict["all-reduces"], predict["program"]) == (0, "predict")
    assert [train["program"] for train in trains] == ["train step, float32", "train step, bfloat16"]
    # A CNN's two blocks, both CNNs at once: 4 in the forward pass, 2 in the gradient; a DS-LSTM layer: 2 for its
    # outputs, and 2 at each of 27 steps for its gates; gradients and totals: 1.
    for train in trains:
        assert train["all-reduces"] == (4 + 2) + 2 * (2 + 2) + 1
        assert train["all-reduces run"] == (4 + 2) + 2 * (2 + 2 * 27) + 1
        assert train["temporary"] + train["arguments"] < 16e9  # a v5e's memory
    assert trains[1]["temporary"] < trains[0]["temporary"]


def test_the_lstms_kernels_compile_and_take_less_memory_than_the_scan():
    found = {line["program"]: line for line in compiled("lstm")}
    for dtype in ("float32", "bfloat16"):
        forward, gradient = (found[f"pallas_tpu, {dtype}, {name}"] for name in ("forward", "gradient"))
        assert {name: len(used) for name, used in forward["VMEM of kernels"].items()} == {"lstm_forward": 2}
        assert {name: len(used) for name, used in gradient["VMEM of kernels"].items()} == {
            "lstm_forward": 2,
            "lstm_backward": 2,
        }
        assert all(max(used) < 2**24 for used in gradient["VMEM of kernels"].values())
        assert gradient["temporary"] < found[f"scan, {dtype}, gradient"]["temporary"]
        assert found[f"scan, {dtype}, gradient"]["VMEM of kernels"] == {}
