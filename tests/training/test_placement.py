"""The way to the devices, whether recordings come from files or lie there: the same batches in the same places."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from tiny import tiny_config

from dslstm_jax.config import DataConfig
from dslstm_jax.data.corpora import load_corpus
from dslstm_jax.data.dataset import make_dataset
from dslstm_jax.data.pipeline import make_loader
from dslstm_jax.training import placement as feeding
from dslstm_jax.training.devices import ParallelConfig
from dslstm_jax.training.parallel import make_parallel
from dslstm_jax.training.placement import placing, resident


@pytest.fixture(scope="module")
def config(tones):
    return tiny_config(tones, data=DataConfig(keep="device"))


@pytest.fixture(scope="module")
def dataset(config):
    return make_dataset(load_corpus(config.corpus), config)


@pytest.mark.parametrize("mode", ["single", "pmap", "shard_map"])
def test_both_ways_lead_to_the_same_batches(config, dataset, mode):
    parallel = make_parallel(ParallelConfig(mode=mode))
    found = []
    for keep in ("files", "device"):
        kept = replace(config, data=DataConfig(keep=keep))
        loader = make_loader(dataset, range(20), kept, 16, len(parallel.devices))
        found.append(list(loader.batches((0, 1), place=placing(dataset, kept, parallel))))
    files, device = found
    assert len(files) == 2
    jax.tree.map(np.testing.assert_array_equal, files, device)
    for one, other in zip(jax.tree.leaves(files), jax.tree.leaves(device), strict=True):
        assert one.sharding.is_equivalent_to(other.sharding, one.ndim)


def test_a_corpus_is_read_once_for_all_its_folds(config, dataset, monkeypatch):
    parallel = make_parallel(ParallelConfig(mode="single"))
    first = resident(dataset, config, parallel)
    assert first is not None
    monkeypatch.setattr(feeding, "read_recordings", None)
    other = replace(dataset, split=replace(dataset.split, train=dataset.split.test, test=dataset.split.train))
    assert resident(other, config, parallel) is first
    assert resident(dataset, replace(config, data=DataConfig()), parallel) is None


def test_another_corpus_is_read_anew(config, dataset):
    parallel = make_parallel(ParallelConfig(mode="single"))
    lengths, utterances = dataset.lengths[1:], dataset.corpus.utterances[1:]
    shorter = replace(dataset, lengths=lengths, corpus=replace(dataset.corpus, utterances=utterances))
    whole, rest = (resident(one, config, parallel) for one in (dataset, shorter))
    np.testing.assert_array_equal(whole.samples[dataset.lengths[0] :], rest.samples)
