# %% [markdown]
# Train on recordings of your own that a CSV lists, look at the report, ask the recognizer.
#
#     python examples/train_on_your_csv.py FOLDER
#
# FOLDER is a new one. The recordings are synthetic here, so that this runs anywhere; put your own in their place.

# %%
import csv
import subprocess
import sys
from pathlib import Path

import soundfile

import dslstm_jax
from dslstm_jax.config import CorpusConfig, SyntheticConfig
from dslstm_jax.data.corpora import load_corpus

folder = Path(sys.argv[1])
table, config, run = folder / "recordings.csv", folder / "config.py", folder / "run"

# %% The CSV: a header, then a row a recording. Speakers are never shared between training, validation and test.
voices = SyntheticConfig(speakers=6, utterances_per_emotion=3)
corpus = load_corpus(CorpusConfig(name="synthetic", root=str(folder), synthetic=voices))
with table.open("w", newline="") as stream:
    rows = csv.writer(stream)
    rows.writerow(["path", "label", "speaker"])
    rows.writerows((recording.path, recording.label, recording.speaker) for recording in corpus.utterances)
print(table.read_text()[:300], "...")

# %% The config: what differs from the paper's system. This one is small and quick; for real speech take
# configs/dual_level.py as it is.
config.write_text("""\
from dslstm_jax.config import Config, DataConfig, ModelConfig, TrainingConfig

config = Config(
    data=DataConfig(max_padding=1.0),
    model=ModelConfig(channels=(4, 4), hidden=16, mfcc_hidden=16),
    training=TrainingConfig(epochs=3, batch_size=8, learning_rate=3e-3),
)
""")


# %% Train; the run folder then holds all that is needed, and its report in report/report.md
def dslstm(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "dslstm_jax", *map(str, arguments)], check=True)


dslstm("train", config, "--corpus.name", "manifest", "--corpus.manifest", table, "--workdir", run)

# %% Test again, on the speakers that were held out
dslstm("evaluate", run)

# %% Ask it, from the command line and in Python
recording = corpus.utterances[0]
dslstm("predict", "--model", run, recording.path)
prediction = dslstm_jax.load(run)(*soundfile.read(recording.path))
print(f"said in a {recording.label} voice, heard as {prediction.label}")
