"""`start` or `epoch` over a manifest in a process of its own; prints how long it took and the memory it took."""

# ruff: noqa: E402

import json
import resource
import sys
import time

STARTED = time.perf_counter()

from dslstm_jax.config import Config, CorpusConfig, TrainingConfig
from dslstm_jax.data.corpora import load_corpus
from dslstm_jax.data.dataset import make_dataset
from dslstm_jax.data.pipeline import make_loader

config = Config(corpus=CorpusConfig(name="manifest", manifest=sys.argv[1]), training=TrainingConfig(batch_size=32))
dataset = make_dataset(load_corpus(config.corpus), config)
loader = make_loader(dataset, range(len(dataset.lengths)), config, config.training.batch_size)
batches = iter(loader.batches((0, 1)))
utterances = int(next(batches).weights.sum())
started = time.perf_counter() - STARTED
if sys.argv[2] == "epoch":
    utterances += sum(int(batch.weights.sum()) for batch in batches)
print(
    json.dumps(
        {
            "start_seconds": started,
            "epoch_seconds": time.perf_counter() - STARTED - started,
            "utterances": utterances,
            "hours": sum(dataset.lengths) / 16_000 / 3600,
            "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        }
    )
)
