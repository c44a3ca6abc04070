"""One step: the loss is the mean over utterances, and padding and batch sizes change no figure."""

import sys
import traceback
from dataclasses import replace
from functools import cache, partial

import jax
import numpy as np
import optax
import pytest
from tiny import FEATURES, MODEL

from dslstm_jax.config import AugmentationConfig, Config, TrainingConfig
from dslstm_jax.data.batches import Batch
from dslstm_jax.models.recognizer import average, forward
from dslstm_jax.training.step import StepConfig, create_state, cross_entropy, eval_step, make_optimizer, train_step
from dslstm_jax.training.totals import add

CONFIG = Config(features=FEATURES, model=MODEL)
OPTIMIZER = make_optimizer(TrainingConfig(learning_rate=1e-2, halve_after=(2,)), steps_per_epoch=3)


def batch(rows: int, utterances: int, start: int = 0) -> Batch:
    """`utterances` noises of different lengths, numbered from `start`, and padded rows of NaN with weight 0."""
    waveforms = np.full((rows, 8000), np.nan, np.float32)
    lengths, labels, weights = np.zeros(rows, np.int32), np.full(rows, 99, np.int32), np.zeros(rows, np.float32)
    for row in range(utterances):
        generator = np.random.default_rng(start + row)
        lengths[row] = generator.integers(3000, 8000)
        waveforms[row, : lengths[row]] = generator.normal(size=lengths[row]) * generator.uniform(0.01, 0.2)
        labels[row], weights[row] = (start + row) % 3, 1
    return Batch(waveforms, lengths, labels, weights, start + np.arange(rows))


@pytest.fixture(scope="module")
def state():
    return create_state(CONFIG, 3, OPTIMIZER)


learn = jax.jit(partial(train_step, config=StepConfig.of(CONFIG), optimizer=OPTIMIZER))
examine = jax.jit(partial(eval_step, config=CONFIG.recognizer))
branch_logits = jax.jit(lambda variables, *sound: forward(variables, *sound, config=CONFIG.recognizer)[0])


def assert_close(found, expected, **tolerance):
    jax.tree.map(partial(np.testing.assert_allclose, **tolerance), found, expected)


def test_evaluation_is_the_same_in_any_batches(state):
    whole = add([examine(state.variables, batch(7, 7))])
    parts = add([examine(state.variables, batch(3, n, start)) for start, n in ((0, 3), (3, 3), (6, 1))])
    assert whole.utterances == 7
    assert whole.confusion.sum() == 7
    assert_close(parts, whole, rtol=1e-5)


def test_evaluation_counts_what_the_logits_say(state):
    data = batch(7, 7)
    branches = branch_logits(state.variables, data.waveforms, data.lengths)
    totals = examine(state.variables, data)
    expected = np.zeros((3, 3))
    for label, logits in zip(data.labels, np.asarray(average(branches)), strict=True):
        expected[label, logits.argmax()] += 1
    np.testing.assert_array_equal(totals.confusion, expected)
    shares = [0.5, 0.5]
    losses = [-np.asarray(jax.nn.log_softmax(branch.logits))[np.arange(7), data.labels].sum() for branch in branches]
    np.testing.assert_allclose(totals.loss, np.dot(shares, losses), rtol=1e-5)


def test_padded_rows_change_no_training_step(state):
    without, totals = learn(state, batch(6, 6))
    padded, same = learn(state, batch(9, 6))
    assert_close(same, totals, rtol=1e-5)
    # Adam's first step has the size of the learning rate however small a gradient is: of two that are zero but for
    # rounding, as those of biases before batch norm, nothing can be said.
    assert_close(padded.variables["batch_stats"], without.variables["batch_stats"], rtol=1e-4, atol=1e-5)
    for found, expected in zip(
        jax.tree.leaves(padded.optimizer_state), jax.tree.leaves(without.optimizer_state), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-6)


def test_steps_lower_the_loss_of_their_batch(state):
    losses = []
    for _ in range(8):
        state, totals = learn(state, batch(6, 6))
        losses.append(float(totals.loss))
    assert losses[-1] < losses[0]
    assert state.step == 8


def test_loss_of_a_padded_row_is_nothing_even_if_its_logits_are_nan(state):
    branches = branch_logits(state.variables, *batch(7, 7)[:2])
    branches = tuple(branch._replace(logits=branch.logits[:2]) for branch in branches)
    spoiled = tuple(branch._replace(logits=branch.logits.at[1].set(np.nan)) for branch in branches)
    targets, weights = np.eye(3, dtype=np.float32)[:2], np.array([1.0, 0.0], np.float32)
    found = cross_entropy(spoiled, targets, weights)
    expected = cross_entropy(
        tuple(branch._replace(logits=branch.logits[:1]) for branch in branches), targets[:1], weights[:1]
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def learning_rates(optimizer, steps):
    """Adam's step for a constant gradient is the learning rate itself."""
    params = np.zeros(1, np.float32)
    state, found = optimizer.init(params), []
    for _ in range(steps):
        update, state = optimizer.update(np.ones(1, np.float32), state, params)
        found.append(-float(update[0]))
    return found


def test_the_learning_rate_is_halved_after_the_epochs_named():
    np.testing.assert_allclose(learning_rates(OPTIMIZER, 9), [1e-2] * 6 + [5e-3] * 3, rtol=1e-4)


@pytest.mark.parametrize("warmup", [0, 1, 1.5])
def test_the_cosine_rises_in_the_warmup_and_reaches_0_with_the_last_epoch(warmup):
    config = TrainingConfig(epochs=4, learning_rate=1e-2, schedule="cosine", warmup=warmup, halve_after=(1,))
    rises = int(3 * warmup)
    falls = np.arange(12 - rises + 1) / (12 - rises)
    rates = [*np.arange(1, rises + 1) / (rises + 1), *(1 + np.cos(np.pi * falls)) / 2]
    found = learning_rates(make_optimizer(config, steps_per_epoch=3), 13)
    np.testing.assert_allclose(found, 1e-2 * np.array(rates), rtol=1e-4, atol=1e-8)
    assert max(found) == found[rises]
    assert found[12] == 0 < found[11]


def test_weight_decay_shrinks_kernels_alone():
    """Whatever the gradient, here none."""
    optimizer = make_optimizer(TrainingConfig(learning_rate=0.1, weight_decay=0.2), steps_per_epoch=1)
    params = create_state(CONFIG, 3, optimizer).variables["params"]
    gradient = jax.tree.map(np.zeros_like, params)
    updates, _ = jax.jit(optimizer.update)(gradient, optimizer.init(params), params)
    expected = jax.tree.map_with_path(
        lambda path, leaf: (-0.02 if path[-1].key.endswith("kernel") else 0.0) * leaf, params
    )
    assert_close(updates, expected, rtol=1e-5)
    shrinking = {path[-1].key for path, update in jax.tree.leaves_with_path(updates) if update.any()}
    assert shrinking == {"kernel", "input_kernel", "recurrent_kernel", "x_kernel", "y_kernel"}


NO_BATCH_NORM = replace(CONFIG, model=replace(MODEL, spectrogram_branch="none", dropout=0.3))


GENTLY, FULLY = optax.sgd(0.1), optax.sgd(1.0)


@cache
def compiled_step(config, optimizer):
    return jax.jit(partial(train_step, config=StepConfig.of(config), optimizer=optimizer))


def steps(config, optimizer, *batches, classes=3):
    """The state before, and after each batch."""
    step = compiled_step(config, optimizer)
    states = [create_state(config, classes, optimizer)]
    for data in batches:
        state, totals = step(states[-1], data)
        states.append(state)
    return states, totals


def test_parts_of_a_batch_add_up_to_its_gradient():
    """Without batch norm; with ragged parts, of which one is empty."""
    parted = replace(NO_BATCH_NORM, training=TrainingConfig(batch_size=6, accumulate=3))
    for utterances in (4, 2):
        (_, whole), totals = steps(NO_BATCH_NORM, GENTLY, batch(6, utterances))
        (before, found), same = steps(parted, GENTLY, batch(6, utterances))
        assert_close(same, totals, rtol=1e-5)
        assert_close(found.variables["params"], whole.variables["params"], rtol=1e-4, atol=1e-6)
        assert not np.allclose(
            before.variables["params"]["mfcc_branch"]["classifier"]["bias"],
            found.variables["params"]["mfcc_branch"]["classifier"]["bias"],
        )


WEIGHTED = TrainingConfig(batch_size=6, label_smoothing=0.3, class_weights="balanced")
MFCC_ALONE = replace(CONFIG, model=replace(MODEL, spectrogram_branch="none"))


def weighted_batch():
    """Four utterances of the classes 0, 1, 2, 0, and two rows of padding, NaN."""
    data = batch(6, 4)
    return data._replace(weights=data.weights * np.array([0.5, 2.0, 3.0, 0.5, 7.0, 7.0], np.float32))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_weighted_step_goes_down_the_mean_of_smoothed_losses_over_the_sum_of_weights(accumulate):
    config = replace(MFCC_ALONE, training=replace(WEIGHTED, accumulate=accumulate))
    data = weighted_batch()
    (before, after), totals = steps(config, FULLY, data)
    (branch,) = jax.jit(partial(forward, config=config.recognizer))(before.variables, data.waveforms, data.lengths)[0]
    logits = np.asarray(branch.logits, np.float64)[:4]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    targets = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.8, 0.1, 0.1]])
    weights = np.array([0.5, 2.0, 3.0, 0.5])
    np.testing.assert_allclose(totals.loss, -weights @ (targets * np.log(probabilities)).sum(axis=1), rtol=1e-5)
    bias = [state.variables["params"]["mfcc_branch"]["classifier"]["bias"] for state in (before, after)]
    np.testing.assert_allclose(bias[0] - bias[1], weights @ (probabilities - targets) / 6.0, rtol=1e-4)
    # Each utterance is counted once, and none of the padding.
    assert totals.utterances == 4
    np.testing.assert_array_equal(totals.confusion.sum(axis=1), [2, 1, 1])


def test_evaluation_knows_no_smoothing():
    variables = create_state(MFCC_ALONE, 3, OPTIMIZER).variables
    plain, found = (
        jax.jit(partial(eval_step, config=replace(MFCC_ALONE, training=training).recognizer))(variables, batch(6, 4))
        for training in (TrainingConfig(), WEIGHTED)
    )
    assert_close(found, plain, rtol=0)


def test_smoothing_spreads_what_mixup_mixed():
    """A loss is linear in its targets: where all targets are mixed alike, so is it in the share that is spread."""
    losses = {}
    for smoothing, alpha in ((0.0, 0.0), (0.0, 0.4), (0.2, 0.4), (0.8, 0.4)):
        training = replace(WEIGHTED, label_smoothing=smoothing)
        config = replace(MFCC_ALONE, training=training, augmentation=AugmentationConfig(mixup=alpha))
        losses[smoothing, alpha] = float(steps(config, GENTLY, weighted_batch())[1].loss)
    rises = [losses[smoothing, 0.4] - losses[0.0, 0.4] for smoothing in (0.2, 0.8)]
    assert abs(rises[0]) > 1e-3
    assert rises[1] == pytest.approx(4 * rises[0], rel=1e-2)
    assert losses[0.0, 0.0] != pytest.approx(losses[0.0, 0.4], rel=1e-2)


def test_batch_norm_takes_the_parts_one_after_the_other():
    config = replace(CONFIG, training=TrainingConfig(batch_size=6, accumulate=2))
    data = batch(6, 5)
    (_, found), _ = steps(config, optax.sgd(0.0), data)
    rows = [Batch(*(leaf[part::2] for leaf in data)) for part in range(2)]
    (_, _, expected), _ = steps(CONFIG, optax.sgd(0.0), *rows)
    assert_close(found.variables["batch_stats"], expected.variables["batch_stats"], rtol=1e-4, atol=1e-5)


def test_long_gradients_are_clipped_to_the_norm():
    """Adam's first moment after one step is a tenth of the gradient it was given."""
    norms = {}
    for clip_norm in (0.0, 1e-3):
        optimizer = make_optimizer(TrainingConfig(clip_norm=clip_norm), steps_per_epoch=1)
        (_, after), _ = steps(NO_BATCH_NORM, optimizer, batch(3, 3))
        norms[clip_norm] = 10 * float(optax.global_norm(optax.tree.get(after.optimizer_state, "mu")))
    assert norms[0.0] > 0.01
    np.testing.assert_allclose(norms[1e-3], 1e-3, rtol=1e-4)


def test_the_average_follows_weights_and_statistics():
    config = replace(CONFIG, training=TrainingConfig(ema_decay=0.15))
    (before, first, second), _ = steps(config, GENTLY, batch(3, 3), batch(3, 3, 3))
    assert second.evaluated is second.average
    share = {1: 0.1, 2: 0.15}  # (1 + step) / (10 + step), at most ema_decay
    expected = before.variables
    for step, state in {1: first, 2: second}.items():
        expected = jax.tree.map(
            lambda old, new, share=share[step]: share * old + (1 - share) * new, expected, state.variables
        )
    assert_close(second.average, expected, rtol=1e-5, atol=1e-6)
    plain = create_state(CONFIG, 3, OPTIMIZER)
    assert plain.average is None
    assert plain.evaluated is plain.variables


def test_few_calls_lie_between_the_train_step_and_a_frame_of_the_ds_lstm(state, monkeypatch):
    """A stranger who follows the loss to the cell reads at most 12 functions of ours, both ends included."""
    module = sys.modules["dslstm_jax.recurrence.ds_lstm"]  # the package has a function of that name
    stacks, sigmoid = [], module.sigmoid

    def recorded(z):
        names = [frame.name for frame in traceback.extract_stack() if "/dslstm_jax/" in frame.filename]
        stacks.append(names[names.index("train_step") :])
        return sigmoid(z)

    monkeypatch.setattr(module, "sigmoid", recorded)
    jax.clear_caches()
    jax.eval_shape(partial(train_step, config=StepConfig.of(CONFIG), optimizer=OPTIMIZER), state, batch(3, 3))
    assert {names[-1] for names in stacks} == {"step"}
    assert max(map(len, stacks)) <= 12, stacks
