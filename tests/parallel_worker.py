"""Ten steps of SGD on one, several or shared devices, started as a process of its own: the losses go to a file.

With a folder for checkpoints, only the first five of them, and what is saved there goes on with the last five.
"""

import json
import os
import sys
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "PJRT_NPROC": "16",
}  # fewer threads than devices can wait for each other forever

import jax
import numpy as np
import optax
from tiny import MODEL, tiny_config

from dslstm_jax.config import AugmentationConfig, DataConfig
from dslstm_jax.data.corpora import load_corpus
from dslstm_jax.data.dataset import make_dataset
from dslstm_jax.data.pipeline import make_loader
from dslstm_jax.runs.checkpoint import Checkpoints
from dslstm_jax.runs.state import Progress
from dslstm_jax.training.devices import ParallelConfig
from dslstm_jax.training.parallel import make_parallel, start_processes
from dslstm_jax.training.placement import placing
from dslstm_jax.training.step import create_state

STEPS = 10
AUGMENTATION = AugmentationConfig(noise=0.5, gain=6.0, speed=0.1, frequency_masks=1, time_masks=1, mixup=0.4)


def main(tones: str, output: str, devices: str, parallel: str, saved: str = "") -> None:
    jax.config.update("jax_num_cpu_devices", int(devices))
    given = json.loads(parallel)
    keep = given.pop("keep", "files")
    settings = ParallelConfig(**given)
    start_processes(settings)
    data = DataConfig(max_lengths=1, keep=keep)
    config = tiny_config(tones, augmentation=AUGMENTATION, data=data, model=replace(MODEL, dropout=0.2))
    dataset = make_dataset(load_corpus(config.corpus), config)
    ways = make_parallel(settings)
    members = range(len(dataset.lengths) - 4)  # the last batch of eight is half empty
    loader = make_loader(dataset, members, config, 8, len(ways.devices))
    read = partial(loader.batches, share=ways.share, place=placing(dataset, config, ways))
    optimizer = optax.sgd(0.05, momentum=0.9)
    learn, examine = ways.train_step(config, optimizer), ways.eval_step(config.recognizer)
    state, begin, end = create_state(config, len(dataset.corpus.labels), optimizer), 0, STEPS
    if saved:
        with Checkpoints(Path(saved)) as checkpoints:
            restored = checkpoints.restore_latest(state, warn=print, sharding=ways.everywhere)
        if restored is None:
            end = STEPS // 2
        else:
            state, begin = restored[0], int(restored[0].step)
    state, losses = ways.spread(state), []
    batches = (
        batch
        for epoch in count(begin // loader.steps)
        for batch in read((0, epoch), start=max(0, begin - epoch * loader.steps))
    )
    for _ in range(begin, end):
        state, totals = jax.block_until_ready(learn(state, next(batches), np.uint32(0)))
        losses.append(ways.gather(totals))
    if saved and end < STEPS:
        with Checkpoints(Path(saved)) as checkpoints:
            checkpoints.save(ways.gather(state), Progress())
    seen = [ways.gather(examine(state.variables, batch)) for batch in read()]
    if ways.is_main:
        parameters = jax.tree.leaves(jax.tree.map(np.asarray, ways.gather(state.variables)))
        np.savez(
            output,
            losses=np.array([float(step.loss / step.utterances) for step in losses]),
            confusion=np.sum([np.asarray(one.confusion) for one in seen], axis=0),
            **{f"leaf{place}": leaf for place, leaf in enumerate(parameters)},
        )
    ways.wait("written")


if __name__ == "__main__":
    main(*sys.argv[1:])
