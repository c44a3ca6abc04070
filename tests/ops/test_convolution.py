"""The CNN's block equals its plain formulation, in values and gradients, on one device or two."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from recurrence_checks import check_values_and_gradients, largest_difference

from dslstm_jax.ops import convolution
from dslstm_jax.ops.convolution import block_size, convolution_block, smallest_size
from dslstm_jax.ops.masking import Frames, length_mask
from dslstm_jax.ops.normalization import Statistics, batch_norm, normalize

ROWS, CHANNELS = 4, 5
VALID = np.array([True, False, True, True])


def whole(time):
    """Lengths of rows that have all frames or none."""
    return VALID * time


def ragged(time):
    """The last row is too short for a window of the pool, or nearly."""
    return np.array([time, 0, time - 3, 2])


def plain_block(x, lengths, kernel, bias, scale, shift, running, *, train):
    """As PyTorch says it: Conv2d, BatchNorm2d, ReLU, MaxPool2d; a window's gradient goes to its first maximum.

    Each row is convolved and pooled alone and unpadded; only the batch norm sees all of them.
    """
    padding, rows = [((size - 1) // 2,) * 2 for size in kernel.shape[:2]], []
    for row, length in enumerate(map(int, lengths)):
        if length:
            alone = x[row : row + 1, :length]
            z = lax.conv_general_dilated(alone, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
            rows.append((row, z[0] + bias[None, None]))
    flat = jnp.concatenate([z.reshape(-1, z.shape[-1]) for _, z in rows])
    _, after = batch_norm(flat, jnp.ones((1, 1), bool), scale, shift, running, axes=(0,), train=train)
    used = Statistics(flat.mean(0), flat.var(0)) if train else running
    outputs = jnp.zeros((len(x), *map(block_size, x.shape[1:3], kernel.shape[:2]), kernel.shape[-1]), x.dtype)
    for row, convolved in rows:
        z = jax.nn.relu(normalize(convolved, used, scale, shift))
        time, frequency = z.shape[0] // 2, z.shape[1] // 2
        windows = z[: 2 * time, : 2 * frequency].reshape(time, 2, frequency, 2, z.shape[2])
        windows = windows.transpose(0, 2, 4, 3, 1).reshape(time, frequency, z.shape[2], 4)  # frequency before time
        pooled = jnp.take_along_axis(windows, windows.argmax(-1)[..., None], axis=-1)[..., 0]
        outputs = outputs.at[row, :time].set(pooled)
    return outputs, after


def example(seed, time, frequency, from_channels, kernel):
    """A block's arguments; scales of both signs and one of 0. Spectrograms are far from 0 and hold long silences."""
    generator = np.random.default_rng(seed)
    x, level = generator.normal(size=(ROWS, time, frequency, from_channels)), 1
    if from_channels == 1:
        x, level = np.maximum(20 * x - 60, -60), 100
    draw = {
        "x": x,
        "kernel": generator.normal(size=(*kernel, from_channels, CHANNELS)),
        "bias": generator.normal(size=CHANNELS),
        "scale": np.array([1.0, -0.7, 0.0, 0.3, -2.0]),
        "shift": generator.normal(size=CHANNELS),
        "running_mean": level * generator.normal(size=CHANNELS),
        "running_variance": level * generator.uniform(1, 2, size=CHANNELS),
    }
    return {name: jnp.asarray(value, float) for name, value in draw.items()}


def apply(block, tree, lengths=None, all_or_none=False, **options):
    weights = (tree[name] for name in ("kernel", "bias", "scale", "shift"))
    running = Statistics(tree["running_mean"], tree["running_variance"])
    lengths = whole(tree["x"].shape[1]) if lengths is None else lengths
    frames = Frames(lengths, all_or_none) if block is convolution_block else lengths
    return block(tree["x"], frames, *weights, running, **options)


@pytest.fixture(params=["cpu", "elsewhere"])
def machine(request, monkeypatch):
    """What a CPU computes, and what other machines do."""
    if request.param == "elsewhere":
        monkeypatch.setattr(convolution.lax, "platform_dependent", lambda *args, cpu, default: default(*args))  # noqa: ARG005


SIZES = [(13, 10, 1, (2, 4)), (12, 11, 1, (4, 2)), (8, 9, 1, (1, 1)), (9, 13, 3, (2, 4)), (10, 10, 2, (3, 3))]


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("rows", [whole, ragged], ids=["whole", "ragged"])
def test_equals_the_plain_block_in_float64(size, train, rows):
    """Each row as it is alone and unpadded."""
    with jax.enable_x64(True):
        lengths = rows(size[0])
        check_values_and_gradients(
            jax.jit(lambda tree: apply(convolution_block, tree, lengths, train=train, all_or_none=rows is whole)),
            jax.jit(lambda tree: apply(plain_block, tree, lengths, train=train)),
            example(0, *size),
            tolerance=1e-9,
        )


def values_and_gradients(block, **options):
    """Values, running statistics, and the gradients of a sum of waves of the outputs."""

    def loss(tree):
        outputs, running = apply(block, tree, **options)
        return jnp.sum(jnp.sin(5 * outputs)), (outputs, running)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def test_float32_loses_nothing_to_the_level_of_decibels_or_to_what_neighbors_have_in_common():
    """Three of the kernels take differences of a spectrogram that varies slowly and lies far from 0.

    It varies so slowly that what is measured is our choice of sums, not how well a CPU's library adds them up: with
    the level left in, or with moments of the taps themselves, errors are above the bounds on CPUs of either kind.
    """
    generator = np.random.default_rng(1)
    tree = example(1, 60, 40, 1, (2, 4))
    slow = 30 * np.sin(np.arange(60)[:, None] / 72 + np.arange(40) / 56 + np.arange(ROWS)[:, None, None])
    tree["x"] = jnp.asarray(slow + 0.1 * generator.normal(size=slow.shape) - 70, float)[..., None]
    differences = tree["kernel"] - tree["kernel"].mean((0, 1, 2), keepdims=True)
    tree["kernel"] = jnp.where(jnp.arange(CHANNELS) < 3, differences, tree["kernel"])
    (_, (values, running)), gradients = values_and_gradients(convolution_block, train=True)(tree)
    with jax.enable_x64(True):
        tree = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)
        (_, expected), expected_gradients = values_and_gradients(plain_block, train=True)(tree)

    def error(found, expected):
        found, expected = np.asarray(found, np.float64), np.asarray(expected)
        return np.linalg.norm(found - expected) / (np.linalg.norm(expected) + 1e-9)

    del gradients["bias"]
    errors = jax.tree.map(error, (values, running), expected)
    errors_of_gradients = {name: error(leaf, expected_gradients[name]) for name, leaf in gradients.items()}
    print("relative errors:", errors, errors_of_gradients)
    assert max(jax.tree.leaves(errors)) <= 1e-6
    assert max(errors_of_gradients.values()) <= 9e-6


def test_in_training_the_bias_moves_nothing_but_the_running_mean():
    tree = example(2, 9, 8, 1, (2, 4))
    (_, (outputs, running)), gradients = values_and_gradients(convolution_block, train=True)(tree)
    moved, moved_running = apply(convolution_block, {**tree, "bias": tree["bias"] + 7}, train=True)
    assert not gradients["bias"].any()
    np.testing.assert_allclose(moved, outputs, atol=1e-5)
    np.testing.assert_allclose(moved_running.mean, running.mean + 0.1 * 7, rtol=1e-5)


@pytest.mark.parametrize("from_channels", [1, 3])
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("rows", [whole, ragged], ids=["whole", "ragged"])
def test_padding_has_no_influence(from_channels, train, rows):
    """NaN in it, and NaN that comes back from above, change neither values nor statistics nor gradients."""
    tree, time = example(3, 9, 8, from_channels, (2, 4)), 9

    def gradients(tree, lengths, of_padding):
        block = partial(apply, convolution_block, lengths=lengths, train=train, all_or_none=rows is whole)
        (outputs, running), pull = jax.vjp(block, tree)
        valid = length_mask(block_size(lengths, 2), outputs.shape[1])
        of_outputs = jnp.where(valid[..., None, None], jnp.cos(outputs), of_padding)
        return outputs, running, pull((of_outputs, running))[0], valid

    mask = length_mask(rows(time), time)
    spoiled = {**tree, "x": jnp.where(mask[..., None, None], tree["x"], jnp.nan)}
    outputs, running, found, valid = gradients(spoiled, rows(time), jnp.nan)
    jax.tree.map(np.testing.assert_array_equal, (outputs, running, found), gradients(tree, rows(time), 0.0)[:3])
    assert not outputs[~valid].any()
    assert not found["x"][~mask].any()
    alone = gradients({**tree, "x": tree["x"][VALID]}, rows(time)[VALID], 0.0)
    np.testing.assert_allclose(outputs[VALID], alone[0], rtol=1e-5, atol=1e-6)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), running, alone[1])
    found["x"] = found["x"][VALID]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), found, alone[2])


@pytest.mark.parametrize("from_channels", [1, 3])
def test_a_batch_of_padding_changes_nothing(from_channels):
    tree = example(4, 9, 8, from_channels, (4, 2))
    found = values_and_gradients(convolution_block, lengths=jnp.zeros(ROWS, int), train=True)(tree)
    (_, (outputs, running)), gradients = found
    assert not outputs.any()
    np.testing.assert_array_equal(running.mean, tree["running_mean"])
    np.testing.assert_array_equal(running.variance, tree["running_variance"])
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize(("from_channels", "lengths"), [(1, [9, 0, 6, 2]), (3, [9, 0, 6, 2]), (1, [9, 9, 0, 0])])
def test_two_devices_equal_one(from_channels, lengths):
    """Each has half of the rows, and in the last case the second has none; the gradients of the weights add up."""
    lengths = jnp.array(lengths)
    with jax.enable_x64(True):
        tree = example(5, 9, 8, from_channels, (2, 4))
        (_, expected), gradients = values_and_gradients(convolution_block, lengths=lengths, train=True)(tree)

        def on_each(x, lengths, weights):
            (_, found), of = values_and_gradients(convolution_block, lengths=lengths, train=True, axis_name="data")(
                {**weights, "x": x}
            )
            of_x = of.pop("x")
            return found, of_x, lax.psum(of, "data")

        weights = {name: leaf for name, leaf in tree.items() if name != "x"}
        split, whole = PartitionSpec("data"), PartitionSpec()
        mapped = jax.shard_map(
            on_each,
            mesh=Mesh(jax.devices()[:2], "data"),
            in_specs=(split, split, whole),
            out_specs=((split, whole), split, whole),
            check_vma=False,
        )
        found, of_x, of_weights = jax.jit(mapped)(tree["x"], lengths, weights)
        difference = largest_difference((found, {**of_weights, "x": of_x}), (expected, gradients))
    print(f"two devices differ from one by {difference:.1e}")
    assert difference <= 1e-9


@pytest.mark.parametrize("from_channels", [1, 3])
def test_several_models_at_once_equal_one_after_the_other(from_channels):
    tree = example(6, 9, 8, from_channels, (2, 4))
    x = tree.pop("x")
    models = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf, leaf + 1]), tree)

    def run(model):
        return values_and_gradients(convolution_block, train=True)({**model, "x": x})

    found = jax.jit(jax.vmap(run))(models)
    one_by_one = [run(jax.tree.map(lambda leaf, index=index: leaf[index], models)) for index in range(3)]
    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *one_by_one)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-3), found, expected)


def test_the_shorter_float_stays_what_it_is():
    """But for the statistics, which are those of float32."""
    tree = example(7, 9, 8, 1, (2, 4))
    (_, (expected, expected_running)), _ = values_and_gradients(convolution_block, train=True)(tree)
    short = {name: leaf if "running" in name else leaf.astype(jnp.bfloat16) for name, leaf in tree.items()}
    (_, (found, running)), gradients = values_and_gradients(convolution_block, train=True)(short)
    assert found.dtype == gradients["x"].dtype == gradients["kernel"].dtype == jnp.bfloat16
    assert running.variance.dtype == jnp.float32
    np.testing.assert_allclose(running.variance, expected_running.variance, rtol=0.01)
    np.testing.assert_allclose(found.astype(jnp.float32), expected, atol=0.1 * float(expected.max()))


@pytest.mark.parametrize(("size", "taps"), [(10, 1), (10, 2), (11, 2), (10, 3), (10, 4), (11, 4), (4, 4), (5, 4)])
def test_block_size_is_the_size_of_the_outputs(size, taps):
    tree = example(8, 6, size, 1, (2, taps))
    shape = jax.eval_shape(lambda tree: apply(plain_block, tree, train=False)[0], tree).shape
    assert shape[2] == block_size(size, taps) > 0


def test_block_size_of_what_is_too_small():
    assert [block_size(size, 4) for size in (1, 2, 3)] == [0, 0, 1]
    assert [block_size(size, 2) for size in (1, 2, 3)] == [0, 0, 1]


@pytest.mark.parametrize("taps", [1, 2, 3, 4])
def test_smallest_size_is_the_smallest_that_leaves_so_many(taps):
    for positions in (1, 2, 5):
        size = smallest_size(positions, taps)
        assert block_size(size, taps) == positions > block_size(size - 1, taps)
