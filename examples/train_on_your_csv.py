# %% [markdown]
# Train on recordings of your own that a CSV lists; test, ask and cross-validate the recognizer; compare two models.
#
#     python examples/train_on_your_csv.py FOLDER
#
# FOLDER is a new one. The recordings are synthetic here, so that this runs anywhere; put your own in their place.

# %%
import csv
import sys
from dataclasses import replace
from pathlib import Path

import soundfile

import dslstm_jax
from dslstm_jax.config import CorpusConfig, DataConfig, ModelConfig, SplitConfig, SyntheticConfig, TrainingConfig
from dslstm_jax.data.corpora import load_corpus

folder = Path(sys.argv[1])
table = folder / "recordings.csv"

# %% The CSV: a header, then a row for each recording
voices = SyntheticConfig(speakers=6, utterances_per_emotion=2)
recordings = load_corpus(CorpusConfig(name="synthetic", root=str(folder), synthetic=voices)).utterances
with table.open("w", newline="") as stream:
    rows = csv.writer(stream)
    rows.writerow(["path", "label", "speaker"])
    rows.writerows((recording.path, recording.label, recording.speaker) for recording in recordings)
print(table.read_text()[:300], "...")

# %% The config says what differs from the paper's system. This model is small and quick, the LSTM over the MFCC
# alone. For real speech start from configs/robust.py: `config = load_config("configs/robust.py")`.
config = dslstm_jax.Config(
    corpus=CorpusConfig(name="manifest", manifest=str(table)),
    split=SplitConfig(protocol="speaker3"),  # three folds; training, validation and test share no speaker
    data=DataConfig(max_padding=1.0),
    model=ModelConfig(spectrogram_branch="none", mfcc_hidden=16, layers=1),
    training=TrainingConfig(epochs=8, batch_size=8, learning_rate=1e-2),
)

# %% Train, and test on the held-out speakers. The run folder then holds all that is needed to predict, and a report.
curve = []
run = dslstm_jax.train(config, folder / "run", on_epoch=lambda record: curve.append(record["validation_ua"]))
print("validation UA after each epoch:", *(f"{ua:.2f}" for ua in curve))
print(f"test UA {run.evaluate().ua:.2f}, report in {run.report}")

# %% The speakers that chose the epoch: a row of the confusion matrix for each true label
validation = run.evaluate("validation")
for label, row in zip(validation.labels, validation.confusion, strict=True):
    print(f"{label} was heard as", ", ".join(f"{heard} {n:.0f} x" for heard, n in zip(run.labels, row, strict=True)))

# %% Ask the recognizer
recording = recordings[0]
prediction = run.predictor()(*soundfile.read(recording.path))
print(f"labelled {recording.label}, answered {prediction.label} ({prediction.probabilities[prediction.label]:.0%})")

# %% One fold tests few speakers. A cross-validation tests all of them, each with a network that never heard the
# speaker; take `seeds=3` for a figure to rely on.
results = dslstm_jax.crossval(config, folder / "mean", seeds=1)
ua = results["figures"]["ua"]
print("UA of each fold:", *(f"{fold:.2f}" for fold in ua["of_folds"]), f"mean: {ua['mean']:.2f}")

# %% Is another model better? Two cross-validations over the same folds, with paired tests.
attention = replace(config, model=replace(config.model, pooling="attention"))
dslstm_jax.crossval(attention, folder / "attention", seeds=1)
print(dslstm_jax.compare([folder / "mean", folder / "attention"]))
