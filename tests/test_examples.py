"""The scripts of examples/, as a reader runs them."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny import FEATURES, MODEL

from dslstm_jax.config import RecognizerConfig

EXAMPLES = Path(__file__).parents[1] / "examples"
EMOTIONS = "(happy|neutral|angry|sad)"


def run(name: str, *arguments: object) -> str:
    command = [sys.executable, EXAMPLES / name, *map(str, arguments)]
    one_device = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}  # as most people have
    done = subprocess.run(command, env=one_device, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_predict(trained, tones, tmp_path):
    sound = tones / "wav" / "03a01Wa.wav"
    shutil.copy(sound, tmp_path / "good.wav")
    (tmp_path / "text.wav").write_text("no sound")
    printed = run("predict.py", trained, sound, tmp_path)
    assert re.search(rf"{sound}: {EMOTIONS}, \d+% sure\n", printed)
    assert re.search(rf"first half: {EMOTIONS}\nsecond half: {EMOTIONS}\n", printed)
    assert re.search(rf"{tmp_path / 'good.wav'}: {EMOTIONS}\n", printed)
    assert f"cannot use {tmp_path / 'text.wav'}: not a sound file" in printed
    first, second = re.search(r"doubt about noise: \[ *(\S+) +(\S+) *\] bits", printed).groups()
    assert 0 < float(first) < 2.001
    assert 0 < float(second) < 2.001


@pytest.mark.slow
def test_stream(tones, tmp_path):
    import jax

    from dslstm_jax.models.recognizer import initialize
    from dslstm_jax.serving.predictor import Predictor

    features = replace(FEATURES, spectrograms=tuple(replace(each, frames=0) for each in FEATURES.spectrograms))
    model = replace(MODEL, normalize="corpus", pooling="attention", recurrent_norm="none")
    config, labels = RecognizerConfig(features, model), ("happy", "neutral", "angry", "sad")
    Predictor(initialize(jax.random.key(0), config, 4), config, labels).export(tmp_path / "model.dslstm")
    sounds = [soundfile.read(tones / "wav" / f"{speaker}a01Wa.wav") for speaker in ("03", "08", "09")]
    soundfile.write(tmp_path / "sound.wav", np.concatenate([samples for samples, _ in sounds]), sounds[0][1])
    printed = run("stream.py", tmp_path / "model.dslstm", tmp_path / "sound.wav")
    assert "at most 0.82 s after" in printed
    assert re.findall(rf"^ +(\S+) s: {EMOTIONS}, \d+% sure$", printed, re.MULTILINE)[0][0] == "0.5"
    label = re.search(rf"^in all: {EMOTIONS}, in \S+% of the time", printed, re.MULTILINE)[1]
    assert printed.endswith(f"at once: {label}\n")


@pytest.mark.slow
def test_train_on_your_csv(tmp_path):
    printed = run("train_on_your_csv.py", tmp_path)
    assert printed.startswith("path,label,speaker\n")
    assert len((tmp_path / "recordings.csv").read_text().splitlines()) == 1 + 6 * 4 * 2
    assert "train: 16 utterances of 2 speakers\n" in printed
    curve = re.search(r"^validation UA after each epoch:(( 0\.\d\d){8})$", printed, re.MULTILINE)[1].split()
    assert re.search(rf"^test UA \S+, report in {tmp_path / 'run' / 'report' / 'report.md'}$", printed, re.MULTILINE)
    assert (tmp_path / "run" / "report" / "report.md").exists()
    rows = re.findall(rf"^{EMOTIONS} was heard as (.*)$", printed, re.MULTILINE)
    confusion = [[int(count) for count in re.findall(r"(\d+) x", row)] for _, row in rows]
    assert [sum(row) for row in confusion] == [4] * 4
    # The epoch that was chosen is the one of the best validation UA.
    assert f"{sum(confusion[place][place] for place in range(4)) / 16:.2f}" == max(curve)
    assert re.search(rf"^labelled {EMOTIONS}, answered {EMOTIONS} \(\d+%\)$", printed, re.MULTILINE)
    folds, mean = re.search(r"^UA of each fold:((?: \S+){3}) mean: (\S+)$", printed, re.MULTILINE).groups()
    assert float(mean) == pytest.approx(sum(map(float, folds.split())) / 3, abs=0.011)
    assert re.search(rf"^{tmp_path / 'attention'} - {tmp_path / 'mean'} .* \(3 pairs\)$", printed, re.MULTILINE)
