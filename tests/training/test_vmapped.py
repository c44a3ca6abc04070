"""Many runs in one program end as they do one by one."""

import shutil
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import optax
import pytest
from rich.console import Console
from tiny import MODEL, read_figures, tiny_config

from dslstm_jax.config import AugmentationConfig, DataConfig, ModelConfig, SplitConfig
from dslstm_jax.data.batches import Batch
from dslstm_jax.data.corpora import load_corpus
from dslstm_jax.data.dataset import make_dataset
from dslstm_jax.data.pipeline import make_loader
from dslstm_jax.data.splits import describe
from dslstm_jax.errors import ConfigError
from dslstm_jax.runs.checkpoint import Checkpoints, load_best
from dslstm_jax.runs.folder import create_run, open_run
from dslstm_jax.training.devices import ParallelConfig
from dslstm_jax.training.loop import fit
from dslstm_jax.training.parallel import make_parallel
from dslstm_jax.training.step import StepConfig, create_state, train_step
from dslstm_jax.training.trainer import display_on
from dslstm_jax.training.vmapped import Lanes, fit_in_lockstep, stack, stack_batches, train_step_of_all

AUGMENTATION = AugmentationConfig(noise=0.5, gain=6.0, speed=0.1, frequency_masks=1, time_masks=1, mixup=0.4)
SINGLE = make_parallel(ParallelConfig(mode="single"))
QUIET = Console(quiet=True)


def assert_close(found, expected, tolerance=1e-5):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), found, expected)


@pytest.fixture(scope="module")
def settings(tones):
    """Dropout and augmentation are on."""
    return tiny_config(
        tones,
        augmentation=AUGMENTATION,
        data=DataConfig(max_padding=1.0),
        model=replace(MODEL, dropout=0.2, layers=1),
    )


@pytest.mark.long
def test_five_steps_of_runs_that_differ_in_seed_and_size_are_those_of_each_alone(settings):
    """One run has two batches, the others five; rows and lengths of the batches differ."""
    dataset = make_dataset(load_corpus(settings.corpus), settings)
    config, labels = StepConfig.of(settings), len(dataset.corpus.labels)
    schedules = [optax.piecewise_constant_schedule(0.05, {after: 0.1}) for after in (3, 1)]
    optimizers = [optax.sgd(schedule, momentum=0.9) for schedule in schedules]
    seeds, which, members = (
        np.array([0, 0, 7], np.uint32),
        np.array([0, 1, 0], np.int32),
        (range(20), range(8), range(20, 40)),
    )
    states, plans = [], []
    for seed, choice, part in zip(seeds, which, members, strict=True):
        seeded = replace(settings, training=replace(settings.training, seed=int(seed)))
        states.append(create_state(seeded, labels, optimizers[choice]))
        loader = make_loader(dataset, part, settings, 4)
        batches = list(loader.batches((int(seed), 1), place=lambda batch: batch))
        longest = max(batch.lengths.max() for batch in batches)
        plans.append([batch._replace(waveforms=batch.waveforms[:, :longest]) for batch in batches])
    assert [len(plan) for plan in plans] == [5, 2, 5]
    assert len({batch.waveforms.shape[1] for plan in plans for batch in plan}) > 1

    alone, told = list(states), [[], [], []]
    steps = [jax.jit(partial(train_step, config=config, optimizer=optimizer)) for optimizer in optimizers]
    together, lanes = stack(states), Lanes(seeds, which)
    learn = jax.jit(partial(train_step_of_all, config=config, optimizers=optimizers))
    with jax.numpy_dtype_promotion("standard"):  # optax's schedules count in integers
        for step in range(5):
            batches = [plan[step] if step < len(plan) else None for plan in plans]
            for run, batch in enumerate(batches):
                if batch is not None:
                    alone[run], totals = steps[which[run]](alone[run], batch, seeds[run])
                    told[run].append(totals)
            together, totals = learn(together, *stack_batches(batches, 6)[:1], lanes, stack_batches(batches, 6)[1])
            for run, batch in enumerate(batches):
                if batch is not None:
                    assert_close(jax.tree.map(lambda leaf, run=run: leaf[run], totals), told[run][-1])
    assert list(together.step) == [5, 2, 5]
    for run, expected in enumerate(alone):
        assert_close(jax.tree.map(lambda leaf, run=run: leaf[run], together), expected)


def test_batches_are_padded_to_the_longest_of_them():
    short = Batch(np.ones((1, 2), np.float32), *np.ones((4, 1), np.int32))
    long = Batch(np.ones((2, 3), np.float32), *np.ones((4, 2), np.int32))
    stacked, active = stack_batches([short, None, long], rows=2)
    assert active.tolist() == [True, False, True]
    np.testing.assert_array_equal(stacked.waveforms.sum(axis=2), [[2, 0], [0, 0], [3, 3]])
    np.testing.assert_array_equal(stacked.weights, [[1, 0], [0, 0], [1, 1]])
    assert stacked.waveforms.shape == (3, 2, 3)


@pytest.fixture(scope="module")
def quick(settings):
    """Compiled in a moment; the learning rate falls in the steps that a run has, and its classes differ in weight."""
    model = ModelConfig(spectrogram_branch="none", mfcc_hidden=6, layers=1, dropout=0.2)
    training = replace(
        settings.training,
        schedule="cosine",
        warmup=0.5,
        weight_decay=0.1,
        label_smoothing=0.1,
        class_weights="balanced",
    )
    corpus = replace(settings.corpus, label_map=("sad=neutral",))
    return replace(settings, corpus=corpus, augmentation=AugmentationConfig(gain=6.0), model=model, training=training)


def make_runs(folder, settings, kinds, keep="files"):
    """Run folders and datasets for (fold, seed)."""
    settings = replace(settings, data=replace(settings.data, keep=keep))
    runs, datasets = [], []
    for fold, seed in kinds:
        config = replace(
            settings,
            split=SplitConfig("speaker4", fold=fold),
            training=replace(settings.training, epochs=2, learning_rate=1e-3, seed=seed),
        )
        dataset = make_dataset(load_corpus(config.corpus), config)
        folds = describe(dataset.corpus.utterances, dataset.split)
        runs.append(create_run(folder / f"fold{fold}_seed{seed}", config, dataset.corpus.labels, folds))
        datasets.append(dataset)
    return runs, datasets


def run_together(runs, datasets, stop=lambda: False):
    displays = [display_on(QUIET)] * len(runs)
    return fit_in_lockstep(runs, datasets, parallel=SINGLE, displays=displays, preempted=stop)


def test_runs_together_end_as_alone_and_either_way_goes_on_with_the_others_checkpoints(quick, tmp_path):
    kinds = [(0, 0), (2, 0), (2, 1)]
    alone, datasets = make_runs(tmp_path / "alone", quick, kinds)
    assert len({len(dataset.split.train) for dataset in datasets}) > 1
    for run, dataset in zip(alone, datasets, strict=True):
        assert fit(run, dataset, parallel=SINGLE, display=display_on(QUIET), preempted=lambda: False)
    together, _ = make_runs(tmp_path / "together", quick, kinds, keep="device")
    asked = []
    # Stopped in the first epoch, at another batch in each run.
    assert not run_together(together, datasets, stop=lambda: asked.append(None) or len(asked) > 6)
    assert all(list(run.checkpoints.iterdir()) for run in together)
    shutil.copytree(tmp_path / "together", tmp_path / "mixed")
    assert run_together(together, datasets)
    mixed = [open_run(tmp_path / "mixed" / run.path.name) for run in together]
    for run, dataset in zip(mixed, datasets, strict=True):
        assert fit(run, dataset, parallel=SINGLE, display=display_on(QUIET), preempted=lambda: False)
    for expected, *others in zip(alone, together, mixed, strict=True):
        for run in others:
            for row, same in zip(read_figures(run.path), read_figures(expected.path), strict=True):
                assert row == pytest.approx(same, abs=2e-4)
            assert_close(load_best(run)[0], load_best(expected)[0], 1e-4)
            with Checkpoints(run.checkpoints) as checkpoints:
                assert checkpoints.restore_best(load_best(run)[0], last=True)[1] == 2


def test_several_devices_are_refused():
    two = make_parallel(ParallelConfig(mode="pmap"))
    with pytest.raises(ConfigError, match=r"--parallel\.mode single"):
        fit_in_lockstep([], [], parallel=two, displays=[], preempted=lambda: False)
