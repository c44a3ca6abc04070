# %% [markdown]
# Emotions from sound with a trained recognizer: one file, several arrays, a folder, and inside your own JAX program.
#
#     python examples/predict.py MODEL SOUND FOLDER
#
# MODEL is a run folder (`dslstm train configs/quickstart.py --workdir runs/quickstart`) or a file of `dslstm export`.

# %%
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import soundfile

import dslstm_jax

model, sound, folder = sys.argv[1:]
predictor = dslstm_jax.load(model)
print(f"{model} knows {', '.join(predictor.labels)}")

# %% One recording, of any rate, mono or stereo, floats or integers
samples, rate = soundfile.read(sound)
prediction = predictor(samples, rate)
print(f"{sound}: {prediction.label}, {prediction.probabilities[prediction.label]:.0%} sure")

# %% Several at once, here the two halves of one
halves = np.array_split(samples, 2)
for name, prediction in zip(("first", "second"), predictor.batch(halves, rate), strict=True):
    print(f"{name} half: {prediction.label}")

# %% A folder of any size; what cannot be read is said, and the others go on
files = sorted(Path(folder).rglob("*.wav"))
for path, answer in zip(files, predictor.files(files), strict=True):
    if isinstance(answer, dslstm_jax.AudioError):
        print(f"cannot use {answer}")
    else:
        print(f"{path}: {answer.label}")


# %% Inside your own program: a pure function from samples to probabilities, to be jitted, mapped and differentiated
@jax.jit
def doubt(waveforms, lengths):
    """The entropy of the answer, in bits. [B, N], [B] -> [B]"""
    probabilities = dslstm_jax.predict(predictor.variables, waveforms, lengths, config=predictor.config)
    return -jnp.sum(probabilities * jnp.log2(probabilities), axis=-1)


second = predictor.sample_rate
waveforms = np.random.default_rng(0).normal(scale=0.1, size=(2, second)).astype(np.float32)
print("doubt about noise:", doubt(waveforms, np.array([second, second // 2])), "bits")
