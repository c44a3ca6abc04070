# %% [markdown]
# Emotions while the sound comes in: a file, streamed as if it were live.
#
#     python examples/stream.py MODEL SOUND
#
# MODEL is a run folder or a file of `dslstm export`, of a config that can stream (docs/stream.md), such as
# configs/robust.py.

# %%
import sys
import time

import soundfile

import dslstm_jax

model, sound = sys.argv[1:]
predictor = dslstm_jax.load(model)
rate = soundfile.info(sound).samplerate

# %% One stream a recording. A microphone's callback would push what it gets in the same way.
stream = predictor.stream(rate)
print(f"sound is part of an answer at most {stream.latency_seconds:.2f} s after it was heard")
seconds, start = 0.0, time.perf_counter()
for block in soundfile.blocks(sound, blocksize=rate // 10):  # a tenth of a second, mono or stereo
    seconds += len(block) / rate
    prediction = stream.push(block)
    if prediction is not None:  # about twice a second
        print(f"{seconds:6.1f} s: {prediction.label}, {prediction.probabilities[prediction.label]:.0%} sure")

# %% The end: the answer for the whole recording, which is that of the file read at once
prediction = stream.finish()
print(
    f"in all: {prediction.label}, in {(time.perf_counter() - start) / seconds:.1%} of the time that the sound takes"
)
print(f"at once: {predictor(*soundfile.read(sound)).label}")
