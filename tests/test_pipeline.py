"""Batches: every utterance once, padded and masked, in an order that the seed and epoch fix."""

import numpy as np
import pytest
from trees import emodb_tree, write_tone

from dslstm_jax.config import CorpusConfig
from dslstm_jax.data.audio import read_audio
from dslstm_jax.data.corpora import Utterance, load_corpus
from dslstm_jax.data.pipeline import batches, bucket_length, measure, pad_waveforms
from dslstm_jax.errors import AudioError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = emodb_tree(tmp_path_factory.mktemp("emodb"), speakers=("03", "08", "09"), emotions="FNWT")
    return load_corpus(CorpusConfig(name="emodb", root=str(root)))


def read(corpus, batch_size=7, shuffle=None):
    return list(
        batches(
            corpus.utterances, corpus.labels, batch_size=batch_size, length=8000, sample_rate=16_000, shuffle=shuffle
        )
    )


def test_every_utterance_comes_once_and_the_last_batch_is_masked(corpus):
    assert len(corpus.utterances) == 24
    found = read(corpus)
    assert [batch.weights.sum() for batch in found] == [7, 7, 7, 3]
    assert all(batch.waveforms.shape == (7, 8000) for batch in found)
    assert not found[-1].waveforms[3:].any()
    assert not found[-1].lengths[3:].any()
    labels = np.concatenate([batch.labels[batch.weights > 0] for batch in found])
    assert [corpus.labels[label] for label in labels] == [utterance.label for utterance in corpus.utterances]
    first = read_audio(corpus.utterances[0].path, 16_000)
    np.testing.assert_array_equal(found[0].waveforms[0, : len(first)], first)
    assert found[0].lengths[0] == len(first)
    assert not found[0].waveforms[0, len(first) :].any()


def test_the_order_depends_on_seed_and_epoch_alone(corpus):
    def order(shuffle):
        return [float(np.abs(row).sum()) for batch in read(corpus, shuffle=shuffle) for row in batch.waveforms]

    def labels(shuffle):
        return [tuple(batch.labels) for batch in read(corpus, shuffle=shuffle)]

    assert order((0, 1)) == order((0, 1))
    assert labels((0, 1)) == labels((0, 1))
    assert labels((0, 1)) != labels((0, 2))
    assert labels((0, 1)) != labels((1, 1))
    assert sorted(order((0, 1))) == sorted(order(None))


def test_a_bad_file_is_found_before_training_and_named(tmp_path):
    text = tmp_path / "notes.wav"
    text.write_text("not sound")
    good = write_tone(tmp_path / "tone.wav", seconds=0.5)
    lengths, errors = measure([Utterance(str(text), "sad"), Utterance(str(good), "sad")], 16_000)
    assert lengths == [8000]
    assert len(errors) == 1
    assert str(errors[0]).startswith(f"{text}: ")
    with pytest.raises(AudioError, match=r"notes\.wav"):
        list(batches([Utterance(str(text), "sad")], ["sad"], batch_size=1, length=8000, sample_rate=16_000))


@pytest.mark.parametrize(
    ("seconds", "padded"), [(0.01, 1), (1, 1), (1.001, 2), (2, 2), (3, 4), (5, 8), (9, 16), (31, 32), (33, 64)]
)
def test_bucket_lengths_are_powers_of_two(seconds, padded):
    assert bucket_length(round(seconds * 16_000), 16_000) == padded * 16_000


def test_pad_waveforms():
    padded, lengths = pad_waveforms([np.ones(3), np.ones(1)], rows=3, length=4)
    np.testing.assert_array_equal(padded, [[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    assert lengths.tolist() == [3, 1, 0]
