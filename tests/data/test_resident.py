"""Recordings that stay on the devices: cut out of there, batches are those that are read from files."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from tiny import tiny_config

from dslstm_jax.config import DataConfig
from dslstm_jax.data.corpora import load_corpus
from dslstm_jax.data.dataset import make_dataset
from dslstm_jax.data.pipeline import make_loader
from dslstm_jax.data.resident import MOST_SAMPLES, gather_waveforms, read_recordings, without_waveforms
from dslstm_jax.errors import AudioError, ConfigError

DEVICE = DataConfig(keep="device")


@pytest.fixture(scope="module")
def dataset(tones):
    """48 tones of 0.3 to 0.6 s."""
    config = tiny_config(tones)
    return make_dataset(load_corpus(config.corpus), config)


def batches_of(dataset, data, place):
    loader = make_loader(dataset, range(48), tiny_config("unused", data=data), 7)
    return [jax.tree.map(np.asarray, batch) for batch in loader.batches((0, 1), place=place)]


def test_batches_are_those_of_the_files(dataset):
    recordings = jax.device_put(read_recordings(dataset, 16_000))
    found = batches_of(
        dataset,
        DEVICE,
        lambda batch: gather_waveforms(recordings, without_waveforms(batch), batch.waveforms.shape[1]),
    )
    expected = batches_of(dataset, DataConfig(), jax.device_put)
    assert len(found) == len(expected) == 7
    assert any(not batch.weights.all() for batch in expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_who_forgets_to_cut_gets_nan_and_no_memory_is_spent_on_it(dataset):
    loader = make_loader(dataset, range(48), tiny_config("unused", data=DEVICE), 7)
    batch = next(iter(loader.batches(place=lambda batch: batch)))
    assert np.isnan(batch.waveforms).all()
    assert batch.waveforms.strides == (0, 0)


def test_batches_side_by_side_are_cut_at_once(dataset):
    recordings = read_recordings(dataset, 16_000)
    two = batches_of(dataset, DEVICE, without_waveforms)[:2]
    together = jax.tree.map(lambda *leaves: np.stack(leaves), *two)
    for row, batch in enumerate(two):
        alone = gather_waveforms(recordings, batch, 9600)
        np.testing.assert_array_equal(gather_waveforms(recordings, together, 9600).waveforms[row], alone.waveforms)


def test_too_many_recordings_are_an_error(dataset):
    longer = replace(dataset, lengths=(*dataset.lengths[:-1], MOST_SAMPLES))
    with pytest.raises(ConfigError, match=r"data\.keep device: 37 hours of recordings are too many"):
        read_recordings(longer, 16_000)


def test_a_recording_that_is_gone_is_named(dataset, tmp_path):
    lost = replace(dataset.corpus.utterances[3], path=tmp_path / "gone.wav")
    utterances = (*dataset.corpus.utterances[:3], lost, *dataset.corpus.utterances[4:])
    with pytest.raises(AudioError, match=r"gone\.wav"):
        read_recordings(replace(dataset, corpus=replace(dataset.corpus, utterances=utterances)), 16_000)
