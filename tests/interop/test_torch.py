"""dslstm import-torch: the authors' state dict becomes a run folder that predicts."""

import json

import numpy as np
import pytest
from golden_arrays import golden, part
from trees import write_tone

from dslstm_jax.cli import main
from dslstm_jax.config import SPECTROGRAM_512, SPECTROGRAM_1024, Config, ModelConfig
from dslstm_jax.errors import RunError
from dslstm_jax.interop.torch import import_run, import_state_dict, read_state_dict
from dslstm_jax.serving.predictor import load

LABELS = ("happy", "neutral", "angry", "sad")


def test_sizes_are_read_from_the_tensors():
    config, _ = import_state_dict(part(golden("torch_m_ds_lstm_small"), "init/"), Config())
    assert config.model.channels == (4, 2)
    assert config.model.kernels == ((4, 2), (2, 4))
    assert (config.model.hidden, config.model.layers, config.model.mfcc_branch) == (12, 2, False)
    config, _ = import_state_dict(part(golden("torch_cnn_lstm_1024_small"), "init/"), Config())
    assert config.model.spectrogram_branch == "lstm"
    assert config.features.spectrograms == (SPECTROGRAM_1024,)
    config, _ = import_state_dict(part(golden("torch_cnn_lstm_512_small"), "init/"), Config())
    assert config.features.spectrograms == (SPECTROGRAM_512,)
    config, _ = import_state_dict(part(golden("torch_m_lstm_small"), "init/"), Config())
    assert (config.model.spectrogram_branch, config.model.mfcc_hidden) == ("none", 200)
    beyond = Config(model=ModelConfig(pooling="attention", normalize="corpus"))
    assert import_state_dict(part(golden("torch_m_lstm_small"), "init/"), beyond)[0] == config, "the authors' network"


def test_the_average_is_read_from_the_tensors():
    """Ours averages both branches alike, so that the classifiers take the weights of theirs."""
    state = part(golden("torch_dual_level_small"), "init/")
    alike = import_state_dict(state, Config())[1]["params"]
    weighed = import_state_dict(state | {"weight": np.array([0.25], np.float32)}, Config())[1]["params"]
    for branch, factor in (("spectrogram_branch", 0.5), ("mfcc_branch", 1.5)):
        for name, values in alike[branch]["classifier"].items():
            np.testing.assert_array_equal(weighed[branch]["classifier"][name], factor * values)


@pytest.mark.parametrize("row", ["m_ds_lstm", "cnn_lstm_both"])
def test_the_run_folder_predicts(row, tmp_path):
    state = part(golden(f"torch_{row}_small"), "after3/")
    run = import_run(state, Config(), LABELS, tmp_path / "run")
    predictor = load(run.path)
    prediction = predictor(np.random.default_rng(0).normal(size=16_000) * 0.1, 16_000)
    assert tuple(prediction.probabilities) == LABELS
    _, variables = import_state_dict(state, Config())
    bias = variables["params"]["spectrogram_branch"]["classifier"]["bias"]
    np.testing.assert_array_equal(predictor.variables["params"]["spectrogram_branch"]["classifier"]["bias"], bias)


def test_mistakes_are_named(tmp_path):
    state = part(golden("torch_m_ds_lstm_small"), "init/")
    with pytest.raises(RunError, match="4 classes, and --labels names 2"):
        import_run(state, Config(), ("a", "b"), tmp_path / "run")
    with pytest.raises(RunError, match="no classification_raw"):
        import_state_dict({"conv1.weight": np.zeros(3)}, Config())
    del state["ftlstm.ftlstm_cell1.WTc.weight"]
    with pytest.raises(RunError, match=r"WTc\.weight"):
        import_state_dict(state, Config())
    with pytest.raises(RunError, match=r"nowhere\.pt: no such file"):
        read_state_dict(tmp_path / "nowhere.pt")


def test_the_command_reads_a_file_of_torch(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    state = part(golden("torch_m_ds_lstm_small"), "after3/")
    file, config = tmp_path / "best.pt", tmp_path / "config.py"
    torch.save({f"module.{name}": torch.from_numpy(value.copy()) for name, value in state.items()}, file)
    config.write_text("from dslstm_jax.config import Config\n\nconfig = Config()\n")
    assert main(["import-torch", str(file), str(config), "--workdir", str(tmp_path / "run")]) == 0
    tone = write_tone(tmp_path / "tone.wav", seconds=1.0)
    capsys.readouterr()
    assert main(["predict", "--model", str(tmp_path / "run"), "--format", "json", str(tone)]) == 0
    assert set(json.loads(capsys.readouterr().out)["probabilities"]) == set(LABELS)
    file.write_text("not a state dict")
    assert main(["import-torch", str(file), str(config), "--workdir", str(tmp_path / "other")]) == 2
    assert "not a PyTorch state dict" in capsys.readouterr().err
