"""The whole network against the authors' PyTorch modules, all rows of the paper's table, number by number."""

import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_arrays import ROWS, golden, part
from tiny import FEATURES, MODEL

from dslstm_jax.config import (
    SPECTROGRAM_512,
    SPECTROGRAM_1024,
    Config,
    FeaturesConfig,
    ModelConfig,
    RecognizerConfig,
    TrainingConfig,
)
from dslstm_jax.errors import ConfigError
from dslstm_jax.features import Features
from dslstm_jax.interop.torch import import_state_dict, parameters
from dslstm_jax.models.recognizer import (
    Recognizer,
    average,
    count_parameters,
    forward,
    initialize,
    variable_shapes,
)
from dslstm_jax.training.step import cross_entropy, make_optimizer

LEARNING_RATE = 1e-3
every_row = pytest.mark.parametrize("row", ROWS)


def inputs(arrays: dict[str, np.ndarray], config: Config) -> Features:
    read = () if config.model.spectrogram_branch == "none" else config.features.spectrograms
    mels = [arrays[f"input/mel_{resolution.n_fft}_db"][:, 0] for resolution in read]
    spectrograms = tuple(jnp.asarray(mel).swapaxes(1, 2) for mel in mels)
    mfcc, lengths = jnp.asarray(arrays["input/mfcc"]), jnp.asarray(arrays["input/mfcc_lengths"])
    return Features(mfcc, lengths, spectrograms, tuple(jnp.full(len(x), x.shape[1]) for x in spectrograms))


@pytest.fixture(scope="module")
def three_steps():
    """Trains a row for three steps from the authors' initial weights; once for all tests of the row."""
    trained = {}

    def train(row: str):
        if row in trained:
            return trained[row]
        arrays = golden(f"torch_{row}_small")
        config, variables = import_state_dict(part(arrays, "init/"), Config())
        features, labels = inputs(arrays, config), jnp.asarray(arrays["input/labels"])
        model, optimizer = Recognizer(config.recognizer, 4), make_optimizer(TrainingConfig(), steps_per_epoch=100)

        def loss(params, batch_stats):
            branches, updated = model.apply(
                {"params": params, "batch_stats": batch_stats}, features, train=True, mutable=["batch_stats"]
            )
            return cross_entropy(branches, jax.nn.one_hot(labels, 4), jnp.ones(4)) / 4, updated.get("batch_stats", {})

        step = jax.jit(jax.value_and_grad(loss, has_aux=True))
        params, batch_stats, state = (
            variables["params"],
            variables["batch_stats"],
            optimizer.init(variables["params"]),
        )

        @jax.jit
        def update(gradient, state, params):
            updates, state = optimizer.update(gradient, state, params)
            return optax.apply_updates(params, updates), state

        losses, gradients, trajectory = [], [], [params]
        for _ in range(3):
            (value, batch_stats), gradient = step(params, batch_stats)
            params, state = update(gradient, state, params)
            losses.append(float(value))
            gradients.append(gradient)
            trajectory.append(params)
        trained[row] = arrays, losses, gradients[0], trajectory, batch_stats
        return trained[row]

    return train


@every_row
def test_three_training_losses_equal_the_authors(row, three_steps):
    arrays, losses, *_ = three_steps(row)
    relative = np.abs(np.array(losses) / arrays["train_losses"] - 1).max()
    print(f"{row}: three Adam losses within {relative:.1e} relative")
    assert relative <= 1e-4


def blocks(leaf: np.ndarray, path: str, hidden: int) -> list[np.ndarray]:
    """A fused kernel or bias of the DS-LSTM in its gates and candidates, as fine as the authors' tensors or finer."""
    name = path.rsplit("/", 1)[-1]
    fused = "ds_lstm" in path and name in ("x_kernel", "y_kernel", "recurrent_kernel", "bias")
    return np.split(leaf, leaf.shape[-1] // hidden, axis=-1) if fused else [leaf]


def named_leaves(tree) -> dict[str, np.ndarray]:
    return {
        "/".join(str(key.key) for key in path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def no_true_gradient(path: str) -> bool:
    """A bias before batch norm cancels out: its gradient is zero, and what PyTorch records is rounding noise."""
    return "convolution" in path and path.endswith("bias")


@every_row
def test_first_gradients_equal_the_authors(row, three_steps):
    arrays, _, gradient, *_ = three_steps(row)
    found, expected = named_leaves(gradient), named_leaves(parameters(part(arrays, "grad/")))
    assert found.keys() == expected.keys()
    worst = ("", 0.0)
    for path, reference in expected.items():
        if no_true_gradient(path):
            assert np.abs(found[path]).max() < 1e-6
            assert np.abs(reference).max() < 1e-6
            continue
        pairs = zip(blocks(found[path], path, 12), blocks(reference, path, 12), strict=True)
        relative = max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs)
        worst = max(worst, (path, relative), key=lambda item: item[1])
    print(f"{row}: first gradients within {worst[1]:.1e} relative L2 (largest in {worst[0]})")
    assert worst[1] <= 1e-3


def authors_biases(arrays: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The authors' convolution biases before each of the three steps.

    Adam turns their rounding noise of a gradient into steps of up to the learning rate. The first step follows
    from the recorded gradient; the second lies halfway to the end, within half a learning rate.
    """
    start, gradient, end = (
        {
            path: leaf
            for path, leaf in named_leaves(parameters(part(arrays, prefix))).items()
            if no_true_gradient(path)
        }
        for prefix in ("init/", "grad/", "after3/")
    )
    first = {p: start[p] - LEARNING_RATE * gradient[p] / (np.abs(gradient[p]) + 1e-8) for p in start}
    return [start, first, {p: (first[p] + end[p]) / 2 for p in start}]


@every_row
def test_running_statistics_after_three_steps_equal_the_authors(row, three_steps):
    """Within 1e-4. The means after a convolution hold its bias, which wanders by rounding noise in PyTorch and ours;
    they are compared with both wanderings taken out."""
    arrays, _, _, trajectory, batch_stats = three_steps(row)
    _, after = import_state_dict(part(arrays, "after3/"), Config())
    found, expected = named_leaves(batch_stats), named_leaves(after["batch_stats"])
    assert found.keys() == expected.keys()
    ours, theirs = [named_leaves(params) for params in trajectory[:3]], authors_biases(arrays)
    plain, largest = 0.0, 0.0
    for path in expected:
        difference = found[path] - expected[path]
        if "/cnn_" in path and path.endswith("mean"):
            plain = max(plain, float(np.abs(difference).max()))
            bias = path.replace("batch_norm", "convolution").replace("running_mean", "bias")
            shares = (0.9**2 * 0.1, 0.9 * 0.1, 0.1)
            difference = difference - sum(
                share * (a[bias] - b[bias]) for share, a, b in zip(shares, ours, theirs, strict=True)
            )
        largest = max(largest, float(np.abs(difference).max()))
    print(f"{row}: running statistics within {largest:.1e} ({plain:.1e} with the wandering convolution biases)")
    assert largest <= 1e-4
    assert plain <= 1e-4 + LEARNING_RATE * (0.9 * 0.1 * 2 + 0.1 * 4)


@pytest.mark.parametrize("name", [f"{row}_small" for row in ROWS] + ["dual_level_paper"])
def test_evaluation_equals_the_authors(name):
    arrays = golden(f"torch_{name}")
    config, variables = import_state_dict(part(arrays, "after3/"), Config())
    features = inputs(arrays, config)
    model = Recognizer(config.recognizer, 4)
    branches, _ = jax.jit(partial(model.apply, train=False, mutable=["batch_stats"]))(variables, features)
    expected = [value for key, value in sorted(arrays.items(), reverse=True) if "eval/classification" in key]
    differences = [float(np.abs(b.logits - e).max()) for b, e in zip(branches, expected, strict=True)]
    print(f"{name}: logits within {max(differences):.1e}")
    assert max(differences) <= 1e-4
    np.testing.assert_array_equal(jnp.argmax(average(branches), axis=-1), arrays["eval_pred"])
    loss = cross_entropy(branches, jax.nn.one_hot(arrays["input/labels"], 4), jnp.ones(4)) / 4
    np.testing.assert_allclose(loss, arrays["eval_loss"], atol=1e-4)


def test_the_papers_model_has_3732296_parameters():
    assert count_parameters(variable_shapes(Config().recognizer, classes=4)) == 3_732_296


SMALL = RecognizerConfig(model=ModelConfig(channels=(3, 2), hidden=4, mfcc_hidden=5))


@pytest.fixture(scope="module")
def variables():
    return initialize(jax.random.key(0), SMALL, classes=3)


def waveforms(padding: float) -> tuple[jax.Array, jax.Array]:
    lengths = jnp.array([16_000, 9_000, 0])
    noise = np.random.default_rng(0).normal(size=(3, 16_000)).astype(np.float32) * 0.1
    return jnp.where(jnp.arange(16_000)[None] < lengths[:, None], noise, padding), lengths


def losses_and_gradient(variables, waveforms, lengths):
    def loss(params):
        branches, batch_stats = forward({**variables, "params": params}, waveforms, lengths, config=SMALL, train=True)
        return cross_entropy(branches, jnp.eye(3), jnp.array([1.0, 1.0, 0.0])), batch_stats

    return jax.value_and_grad(loss, has_aux=True)(variables["params"])


def test_nan_padding_and_padded_rows_change_neither_loss_nor_gradient_nor_statistics(variables):
    step = jax.jit(losses_and_gradient)
    expected = step(variables, *waveforms(0.0))
    jax.tree.map(np.testing.assert_array_equal, step(variables, *waveforms(float("nan"))), expected)
    without = jax.tree.map(lambda x: x[:2], waveforms(0.0))

    def two_rows(variables, waveforms, lengths):
        def loss(params):
            branches, batch_stats = forward(
                {**variables, "params": params}, waveforms, lengths, config=SMALL, train=True
            )
            return cross_entropy(branches, jnp.eye(3)[:2], jnp.ones(2)), batch_stats

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    found = jax.jit(two_rows)(variables, *without)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        # An element near 0 carries the rounding of its tensor.
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6 + 1e-4 * np.abs(b).max())


def test_initial_weights_are_pytorchs():
    """Uniform within 1 / sqrt(fan-in); batch-norm scales 1, and 0.1 in the cell; all reproducible."""
    shapes = ModelConfig(channels=(16, 8), hidden=24, mfcc_hidden=24)
    config = RecognizerConfig(model=shapes)
    leaves = named_leaves(initialize(jax.random.key(1), config, classes=4)["params"])
    x, y, h = 8 * 31, 8 * 63, 24
    bounds = {
        "mfcc_branch/lstm_0/input_kernel": h,
        "mfcc_branch/lstm_1/recurrent_bias": h,
        "mfcc_branch/classifier/kernel": h,
        "spectrogram_branch/classifier/bias": h,
        "spectrogram_branch/cnn_0/convolution_0/kernel": 8,
        "spectrogram_branch/cnn_0/convolution_1/kernel": 16 * 8,
        "spectrogram_branch/cnn_0/convolution_1/bias": 16 * 8,
    }
    for path, fan_in in bounds.items():
        largest = np.abs(leaves[path]).max() * np.sqrt(fan_in)
        assert 0.5 < largest <= 1, path
    cell = "spectrogram_branch/ds_lstm_0"
    for name, columns, fan_in in [
        ("x_kernel", slice(0, 4 * h), x + y + h),
        ("x_kernel", slice(4 * h, None), x + h),
        ("y_kernel", slice(0, 4 * h), x + y + h),
        ("y_kernel", slice(4 * h, None), y + h),
        ("recurrent_kernel", slice(0, 4 * h), x + y + h),
        ("recurrent_kernel", slice(4 * h, 5 * h), x + h),
        ("recurrent_kernel", slice(5 * h, None), y + h),
    ]:
        largest = np.abs(leaves[f"{cell}/{name}"][:, columns]).max() * np.sqrt(fan_in)
        assert 0.9 < largest <= 1, (name, columns)
    assert np.unique(leaves[f"{cell}/gate_scale"]) == np.float32(0.1)
    assert np.unique(leaves[f"{cell}/output_scale"]) == 1
    assert np.unique(leaves["spectrogram_branch/cnn_1/batch_norm_0/scale"]) == 1


@pytest.mark.parametrize(("frames", "said"), [(12, "cannot be aligned"), (3, "too few for 2 CNN layers")])
def test_spectrograms_that_are_too_short_are_refused(frames, said):
    short = replace(SPECTROGRAM_512, frames=frames)
    config = RecognizerConfig(features=FeaturesConfig(spectrograms=(short, SPECTROGRAM_1024)), model=SMALL.model)
    with pytest.raises(ConfigError, match=said):
        variable_shapes(config, classes=3)


def outputs_and_gradients(config, variables, waveforms, lengths):
    def loss(params):
        branches, statistics = forward({**variables, "params": params}, waveforms, lengths, config=config, train=True)
        return jnp.sum(jnp.stack([branch.logits for branch in branches]) ** 2), (branches, statistics)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])


@pytest.fixture(scope="module")
def tiny_gradients():
    config = RecognizerConfig(features=FEATURES, model=MODEL)
    variables = initialize(jax.random.key(0), config, 3)
    waveforms = 0.1 * jax.random.normal(jax.random.key(1), (4, 8000))
    lengths = jnp.array([8000, 6000, 3000, 0])
    return config, (variables, waveforms, lengths), outputs_and_gradients(config, variables, waveforms, lengths)


@jax.jit
def relative_distance(found, expected):
    return optax.global_norm(jax.tree.map(jnp.subtract, found, expected)) / optax.global_norm(expected)


def test_bfloat16_products_give_nearly_the_same_and_keep_the_rest_in_float32(tiny_gradients):
    config, arguments, ((_, (expected, _)), gradients) = tiny_gradients
    short = replace(config, model=replace(MODEL, dtype="bfloat16"))
    (_, (found, statistics)), of_params = outputs_and_gradients(short, *arguments)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.logits.dtype == jnp.float32
        np.testing.assert_allclose(ours.logits[:3], theirs.logits[:3], atol=0.03)
        assert not np.array_equal(ours.logits, theirs.logits)
    assert {leaf.dtype for leaf in jax.tree.leaves((of_params, statistics))} == {jnp.dtype(jnp.float32)}
    assert relative_distance(of_params, gradients) < 0.2
    program = jax.jit(partial(forward, config=short, train=True)).lower(*arguments).as_text()
    products = re.findall(r"stablehlo\.(?:dot_general|convolution).*?: \((tensor<\S+>), (tensor<\S+>)\)", program)
    wide = [operands for operands in products if not all(operand.endswith("xbf16>") for operand in operands)]
    # Features, the patches' moments of each first convolution and the classifiers are float32.
    assert len(products) - len(wide) >= 2 * MODEL.layers + 3


def test_rematerialization_changes_no_figure(tiny_gradients):
    config, arguments, ((_, (expected, _)), gradients) = tiny_gradients
    config = replace(config, model=replace(MODEL, remat_every=7))
    program = jax.jit(partial(outputs_and_gradients, config)).lower(*arguments)
    plain = jax.jit(partial(outputs_and_gradients, tiny_gradients[0])).lower(*arguments)
    assert program.as_text().count("stablehlo.while") > plain.as_text().count("stablehlo.while")
    (_, (found, _)), of_params = program.compile()(*arguments)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.logits, theirs.logits, rtol=1e-4, atol=1e-6)
    assert relative_distance(of_params, gradients) < 1e-4
