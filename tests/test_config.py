"""Configs: files, JSON, and one clear line for every mistake."""

import dataclasses
import json
from pathlib import Path

import pytest
from golden_arrays import ROWS

from dslstm_jax.config import (
    Config,
    CorpusConfig,
    DataConfig,
    MfccConfig,
    ModelConfig,
    RecognizerConfig,
    TrainingConfig,
    from_dict,
    load_config,
    to_dict,
)
from dslstm_jax.errors import ConfigError

CONFIGS = Path(__file__).parents[1] / "configs"
GOLDEN = Path(__file__).parent / "golden"


def test_json_round_trip():
    config = Config(CorpusConfig(name="ravdess", root="x"), training=TrainingConfig(halve_after=(2, 3)))
    assert from_dict(to_dict(config)) == config
    assert from_dict({}) == Config()
    assert from_dict(to_dict(config.recognizer), kind=RecognizerConfig) == config.recognizer


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"model": {"hiden": 3}}, "hiden"),
        ({"model": {"hidden": "many"}}, "config.model.hidden"),
        ({"modell": {}}, "modell"),
        ({"model": {"hidden": 0}}, "model.hidden"),
        ({"training": {"class_weights": "equal"}}, "config.training.class_weights"),
    ],
)
def test_json_mistakes_are_named(values, named):
    with pytest.raises(ConfigError, match=named) as caught:
        from_dict(values, source="run/config.json")
    assert str(caught.value).startswith("run/config.json: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: TrainingConfig(batch_size=0), "training.batch_size"),
        (lambda: TrainingConfig(learning_rate=0.0), "training.learning_rate"),
        (lambda: TrainingConfig(learning_rate=float("nan")), "training.learning_rate"),
        (lambda: ModelConfig(channels=(8, 0)), "model.channels"),
        (lambda: Config(model=ModelConfig(kernels=((4, 2),))), "model.kernels"),
        (lambda: ModelConfig(remat_every=-1), "model.remat_every"),
        (lambda: TrainingConfig(batch_size=6, accumulate=4), "6 rows cannot be shared by 4 parts"),
        (lambda: TrainingConfig(accumulate=0), "training.accumulate"),
        (lambda: TrainingConfig(clip_norm=-1.0), "training.clip_norm"),
        (lambda: TrainingConfig(ema_decay=1.0), "training.ema_decay"),
        (lambda: TrainingConfig(label_smoothing=1.0), "training.label_smoothing"),
        (lambda: TrainingConfig(weight_decay=-0.1), "training.weight_decay"),
        (lambda: TrainingConfig(weight_decay=float("nan")), "training.weight_decay"),
        (lambda: TrainingConfig(epochs=5, schedule="cosine", warmup=5.0), "training.warmup is 5.0.* the 5 of"),
        (lambda: TrainingConfig(schedule="cosine", warmup=-1.0), "training.warmup"),
        (lambda: TrainingConfig(warmup=2.0), "--training.schedule cosine"),
        (lambda: TrainingConfig(schedule="cosin"), "training.schedule is cosin; .* halve, cosine"),
        (lambda: DataConfig(on_error="go on"), "data.on_error is go on; .* stop, skip"),
        (lambda: MfccConfig(hop_length=0), "features.mfcc.hop_length"),
        (lambda: ModelConfig("none", mfcc_branch=False), "both branches are off"),
    ],
)
def test_impossible_values_are_refused(make, named):
    with pytest.raises(ConfigError, match=named):
        make()


def test_whole_numbers_may_be_given_for_fractions():
    assert Config(training=TrainingConfig(clip_norm=0, warmup=0), model=ModelConfig(dropout=0)) == Config()


def test_every_config_file_loads():
    files = sorted(path for path in CONFIGS.glob("*.py") if path.name != "paper.py")
    assert {path.stem for path in files} >= {"quickstart", "dual_level"}
    for path in files:
        assert isinstance(load_config(str(path)), Config)


@pytest.mark.parametrize("row", ROWS)
def test_every_row_of_the_papers_table_has_a_config(row):
    config = load_config(f"{CONFIGS / 'paper.py'}:{row}")
    assert config.training == TrainingConfig()
    assert config.model.mfcc_branch == ("m_lstm" in row or row == "dual_level")
    assert (config.model.spectrogram_branch == "ds_lstm") == (row in ("m_ds_lstm", "dual_level"))
    sizes = [resolution.n_fft for resolution in config.features.spectrograms]
    if row.startswith("cnn_lstm"):
        assert sizes == {"512": [512], "1024": [1024], "both": [512, 1024]}[row.split("_")[2]]


def test_the_default_is_the_papers_system():
    values = to_dict(Config())
    assert values == to_dict(
        dataclasses.replace(load_config(f"{CONFIGS / 'paper.py'}:dual_level"), corpus=CorpusConfig())
    )


def test_config_file_mistakes_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.py: no such file"):
        load_config(str(tmp_path / "nowhere.py"))
    broken = tmp_path / "broken.py"
    broken.write_text("from dslstm_jax.config import Config\nconfig = Config(modle=3)\n")
    with pytest.raises(ConfigError, match=r"broken\.py does not run: TypeError.*modle"):
        load_config(str(broken))
    with pytest.raises(ConfigError, match=r"no 'mine'.*paper\.py:m_lstm"):
        load_config(f"{CONFIGS / 'paper.py'}:mine")
    with pytest.raises(ConfigError, match="no 'config'"):
        load_config(str(CONFIGS / "paper.py"))


def yesterdays(name):
    """A dictionary that version 0.1.0 wrote, at fa28c09."""
    return json.loads((GOLDEN / "configs_0.1.0.json").read_text())[name]


def test_yesterdays_configs_are_read():
    parts = tuple(CorpusConfig(name, f"/corpora/{name}") for name in ("emodb", "ravdess"))
    today = load_config(str(CONFIGS / "pretrained.py"))
    today = dataclasses.replace(today, corpus=dataclasses.replace(today.corpus, parts=parts))
    assert from_dict(yesterdays("pretrained")) == today
    own = CorpusConfig("manifest", manifest="/corpora/my.csv", columns=("path=file", "speaker=who"))
    assert from_dict(yesterdays("manifest")) == Config(own)
    kept = {name: yesterdays("pretrained")[name] for name in ("features", "model")}
    assert from_dict(kept, kind=RecognizerConfig) == today.recognizer


@pytest.mark.parametrize(
    ("room", "field", "value"),
    [
        ("augmentation", "noise_snr", [0.0, 30.0]),
        ("model", "spectrogram_weight", 0.25),
        ("features", "mfcc", {"frame_length": 320}),
    ],
)
def test_what_this_version_cannot_run_says_which_can(room, field, value):
    values = yesterdays("manifest")
    values[room][field] = value
    with pytest.raises(
        ConfigError, match=rf"config.json: {room}\.{field}.* is .*0\.1\.0 at commit fa28c09"
    ) as caught:
        from_dict(values, "run/config.json")
    assert "\n" not in str(caught.value)
