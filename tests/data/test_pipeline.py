"""Batches: every utterance once, of like length, padded and masked; seed, epoch and step fix them on any machine."""

import itertools
from dataclasses import replace

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_config
from trees import real_data, write_tone

from dslstm_jax.config import Config, CorpusConfig, DataConfig, SplitConfig
from dslstm_jax.data.audio import read_audio
from dslstm_jax.data.batches import (
    balanced_weights,
    bucket_length,
    choose_lengths,
    pad_waveforms,
    padding,
    plan_epoch,
)
from dslstm_jax.data.corpora import Corpus, Utterance, load_corpus
from dslstm_jax.data.dataset import Dataset, make_dataset
from dslstm_jax.data.pipeline import Loader, make_loader
from dslstm_jax.data.splits import Split
from dslstm_jax.errors import AudioError, ConfigError


@pytest.fixture(scope="module")
def dataset(tones):
    """48 tones of 0.3 to 0.6 s."""
    config = tiny_config(tones)
    return make_dataset(load_corpus(config.corpus), config)


def make(dataset, batch_size=7, **data) -> Loader:
    everyone = range(len(dataset.corpus.utterances))
    return make_loader(dataset, everyone, Config(data=DataConfig(**data)), batch_size)


def everything(batches):
    return [jax.tree.map(np.asarray, batch) for batch in batches]


def assert_same(found, expected):
    assert len(found) == len(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_every_utterance_comes_once_and_rows_to_spare_are_masked(dataset):
    loader = make(dataset)
    utterances = dataset.corpus.utterances
    assert (loader.steps, len(utterances)) == (7, 48)
    found = everything(loader.batches((0, 1)))
    assert sorted(batch.weights.sum() for batch in found) == [6, 7, 7, 7, 7, 7, 7]
    seen = [int(example) for batch in found for example in batch.examples[batch.weights > 0]]
    assert sorted(seen) == list(range(48))
    for batch in found:
        for row in range(7):
            if not batch.weights[row]:
                assert not batch.waveforms[row].any()
                assert batch.lengths[row] == 0
                continue
            utterance = utterances[batch.examples[row]]
            expected = read_audio(utterance.path, 16_000)
            np.testing.assert_array_equal(batch.waveforms[row, : len(expected)], expected)
            assert batch.lengths[row] == len(expected)
            assert not batch.waveforms[row, len(expected) :].any()
            assert dataset.corpus.labels[batch.labels[row]] == utterance.label


def test_the_order_depends_on_seed_and_epoch_alone(dataset):
    loader = make(dataset)
    assert loader.plan((0, 1)) == loader.plan((0, 1))
    assert loader.plan((0, 1)) != loader.plan((0, 2))
    assert loader.plan((0, 1)) != loader.plan((1, 1))
    together = {frozenset(batch.members) for epoch in range(5) for batch in loader.plan((0, epoch))}
    assert len(together) > 4 * loader.steps, "the same utterances meet in every epoch"


@pytest.mark.parametrize("start", [1, 3, 6])
def test_an_epoch_goes_on_from_a_step(dataset, start):
    loader = make(dataset)
    assert_same(everything(loader.batches((0, 1), start=start)), everything(loader.batches((0, 1)))[start:])


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_processes_read_rows_of_the_same_batches(dataset, processes):
    loader = make(dataset, batch_size=8)
    shares = [loader.batches((3, 2), share=(process, processes)) for process in range(processes)]
    together = [
        jax.tree.map(lambda *rows: np.concatenate(rows), *everything(parts)) for parts in zip(*shares, strict=True)
    ]
    assert_same(together, everything(loader.batches((3, 2))))
    assert sum(batch.weights.sum() for batch in together) == 48


def test_rows_that_cannot_be_shared_are_an_error(dataset):
    with pytest.raises(ConfigError, match=r"training\.batch_size: 7 rows cannot be shared by 2 processes"):
        make(dataset).batches(share=(0, 2))


def test_batches_are_put_where_they_are_asked_to_be(dataset):
    device = jax.devices()[1]
    batch = next(iter(make(dataset).batches(place=lambda batch: jax.device_put(batch, device))))
    assert batch.waveforms.devices() == {device}


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 200_000), min_size=1, max_size=90),
    batch_size=st.integers(1, 20),
    most=st.integers(1, 6),
    epoch=st.integers(0, 3),
)
def test_any_plan_holds_everyone_once_in_full_batches(lengths, batch_size, most, epoch):
    padded = choose_lengths(lengths, batch_size=batch_size, sample_rate=16_000, max_padding=0.15, most=most)
    assert list(padded) == sorted(set(padded))
    assert len(padded) <= most
    plan = plan_epoch(range(len(lengths)), lengths, batch_size, padded, (0, epoch))
    assert sorted(member for batch in plan for member in batch.members) == list(range(len(lengths)))
    assert all(batch.length in padded for batch in plan)
    assert all(lengths[member] <= batch.length for batch in plan for member in batch.members)
    assert len(plan) == -(-len(lengths) // batch_size)
    ragged = [batch for batch in plan if len(batch.members) < batch_size]
    assert len(ragged) <= 1
    assert all(batch.length == min(other.length for other in plan) for batch in ragged)


@settings(deadline=None, max_examples=40)
@given(lengths=st.lists(st.integers(1, 12_000), min_size=1, max_size=25), count=st.integers(1, 3))
def test_no_other_lengths_would_pad_less(lengths, count):
    def cost(padded):
        return sum(min(height for height in padded if height >= length) for length in lengths)

    chosen = choose_lengths(lengths, batch_size=1, sample_rate=16_000, max_padding=1e-9, most=count)
    heights = sorted({-(-length // 800) * 800 for length in lengths})
    others = itertools.combinations(heights[:-1], min(count, len(heights)) - 1)
    assert cost(chosen) == min(cost((*other, heights[-1])) for other in others)


def test_there_are_as_few_lengths_as_the_padding_allows():
    lengths = [16_000] * 50 + [32_000] * 50 + [64_000] * 50

    def choose(max_padding, most=8):
        return choose_lengths(lengths, batch_size=10, sample_rate=16_000, max_padding=max_padding, most=most)

    assert choose(1.0) == (64_000,)
    assert choose(0.15) == (32_000, 64_000)
    assert choose(0.12) == (16_000, 32_000, 64_000)
    assert choose(0.12, most=2) == (32_000, 64_000)
    plan = plan_epoch(range(150), lengths, 10, (32_000, 64_000))
    assert padding(plan, lengths, 10) == pytest.approx(1 - 50 * (1 + 2 + 4) / (100 * 2 + 50 * 4))


def test_rows_to_spare_count_as_padding():
    plan = plan_epoch([0, 1, 2], [800, 800, 800], 2, (800,))
    assert padding(plan, [800, 800, 800], 2) == pytest.approx(0.25)


@pytest.mark.corpus
@pytest.mark.parametrize(("name", "batch_size"), [("emodb", 16), ("ravdess", 16), ("ravdess", 32), ("ravdess", 64)])
def test_padding_of_real_corpora_is_below_15_percent(name, batch_size, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = Config(corpus=CorpusConfig(name=name, root=str(real_data(f"data/{name}"))))
    loader = make(make_dataset(load_corpus(config.corpus), config), batch_size, max_lengths=12)
    share = padding(loader.plan((0, 1)), loader.dataset.lengths, loader.batch_size)
    lengths = [length / 16_000 for length in loader.padded_lengths]
    with capsys.disabled():
        print(f"{name}, batches of {batch_size}: {share:.1%} padding, padded to {lengths} s")
    assert share < 0.15


def test_balanced_weights_make_all_classes_that_occur_weigh_the_same():
    np.testing.assert_allclose(balanced_weights([0, 0, 0, 1, 3, 3], classes=5), [6 / 9, 2, 0, 1, 0])


def test_a_balanced_loader_weighs_its_own_members(dataset):
    members = [
        index
        for index, utterance in enumerate(dataset.corpus.utterances)
        if utterance.label == "happy" or (utterance.label == "sad" and index < 20)
    ]
    loader = make_loader(dataset, members, tiny_config("unused"), 5, balanced=True)
    weights = {"happy": [], "sad": []}
    for batch in everything(loader.batches((0, 1))):
        for label, weight, length in zip(batch.labels, batch.weights, batch.lengths, strict=True):
            if length:
                weights[dataset.corpus.labels[label]].append(weight)
            else:
                assert weight == 0
    counts = {label: len(found) for label, found in weights.items()}
    assert 0 < counts["sad"] < counts["happy"]
    for label, found in weights.items():
        np.testing.assert_allclose(found, len(members) / (2 * counts[label]), rtol=1e-6)


def test_a_file_that_went_bad_is_named(tmp_path):
    path = write_tone(tmp_path / "tone.wav", seconds=0.5)
    corpus = Corpus("manifest", ("sad",), (Utterance(str(path), "sad"),))
    loader = make(Dataset(corpus, (8000,), Split((0,), (), ())), batch_size=1)
    path.write_text("not sound")
    with pytest.raises(AudioError, match=r"tone\.wav"):
        list(loader.batches())


def test_a_side_smaller_than_a_batch_gets_smaller_batches(dataset):
    config = replace(tiny_config("unused"), split=SplitConfig())
    loader = make_loader(dataset, [3, 1], config, 32)
    (batch,) = everything(loader.batches())
    assert batch.waveforms.shape[0] == 2
    assert sorted(batch.examples) == [1, 3]


@pytest.mark.parametrize(
    ("seconds", "padded"), [(0.01, 1), (1, 1), (1.001, 2), (2, 2), (3, 4), (5, 8), (9, 16), (31, 32), (33, 64)]
)
def test_bucket_lengths_are_powers_of_two(seconds, padded):
    assert bucket_length(round(seconds * 16_000), 16_000) == padded * 16_000


def test_pad_waveforms():
    padded, lengths = pad_waveforms([np.ones(3), np.ones(1)], rows=3, length=4)
    np.testing.assert_array_equal(padded, [[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    assert lengths.tolist() == [3, 1, 0]


@pytest.mark.parametrize("length", [1, 4_001, 150_000])
def test_a_cpu_reads_padded_waveforms_where_they_lie(length):
    padded, _ = pad_waveforms([np.ones(1)], rows=3, length=length)
    assert jax.device_put(padded).unsafe_buffer_pointer() == padded.ctypes.data
