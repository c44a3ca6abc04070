"""The DS-LSTM: equal to the paper's equations, in training too; padding has no influence."""

import importlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recurrence_checks import check_padding, check_values_and_gradients, largest_difference, random_tree

from dslstm_jax.recurrence import DSLSTMStatistics, DSLSTMWeights, LSTMState, Statistics, ds_lstm

module = importlib.import_module("dslstm_jax.recurrence.ds_lstm")  # whose name in the package is the function's

B, T, X, Y, H = 4, 5, 3, 6, 4
SHAPES = {
    "x_kernel": (X, 5 * H),
    "y_kernel": (Y, 5 * H),
    "recurrent_kernel": (H, 6 * H),
    "bias": (6 * H,),
    "gate_scale": (4 * H,),
    "gate_shift": (4 * H,),
    "output_scale": (H,),
    "output_shift": (H,),
    "x": (B, T, X),
    "y": (B, T, Y),
    "hidden": (B, H),
    "cell": (B, H),
}


def split(tree):
    weights = DSLSTMWeights(*(tree[name] for name in DSLSTMWeights._fields))
    return weights, tree["x"], tree["y"], LSTMState(tree["hidden"], tree["cell"])


def some_statistics(steps: int) -> DSLSTMStatistics:
    tree = random_tree(9, gate_mean=(steps, 4 * H), gate=(steps, 4 * H), output_mean=(H,), output=(H,))
    return DSLSTMStatistics(
        Statistics(tree["gate_mean"], 1 + tree["gate"] ** 2), Statistics(tree["output_mean"], 1 + tree["output"] ** 2)
    )


def torch_update(running: Statistics, mean: jax.Array, biased: jax.Array) -> Statistics:
    unbiased = biased * B / (B - 1)
    return Statistics(0.9 * running.mean + 0.1 * mean, 0.9 * running.variance + 0.1 * unbiased)


RAGGED = jnp.arange(T)[None] < jnp.array([T, 2, 4, 3])[:, None]


def statistics_of(norm: str, steps: int = T) -> DSLSTMStatistics | None:
    return {"step": some_statistics(steps), "shared": some_statistics(1)}.get(norm)


def of_rows(z: jax.Array) -> jax.Array:
    """Layer normalization without scale and shift."""
    return (z - z.mean(-1, keepdims=True)) / jnp.sqrt(z.var(-1, keepdims=True) + 1e-5)


def plain_loop(tree, mask, norm: str, train: bool):
    """Every norm, over sequences of any length: frame by frame and row by row, with lists of what is valid."""
    weights, x, y, (h, c) = split(tree)
    statistics, valid = statistics_of(norm), np.asarray(mask)
    outputs, gates, hidden = [], [], []
    for t in range(T):
        rows = valid[:, t].nonzero()[0]
        shared = weights.recurrent_kernel[:, : 4 * H]
        z = x[rows, t] @ weights.x_kernel[:, : 4 * H] + y[rows, t] @ weights.y_kernel[:, : 4 * H] + h[rows] @ shared
        g = jax.nn.sigmoid(z + weights.bias[None, : 4 * H])
        gates.append(g)
        if norm in ("step", "shared"):
            row = jax.tree.map(lambda a, t=t: a[min(t, len(a) - 1)], statistics.gates)
            mean, variance = (g.mean(0), g.var(0)) if train else row
            g = (g - mean[None]) / jnp.sqrt(variance + 1e-5)[None]
        elif norm == "layer":
            g = of_rows(g.reshape(-1, 4, H)).reshape(-1, 4 * H)
        if norm != "none":
            g = g * weights.gate_scale[None] + weights.gate_shift[None]
        f, i_time, o, i_frequency = jnp.split(g, 4, axis=1)
        candidates = [
            jnp.tanh(sequence[rows, t] @ kernel[:, 4 * H :] + h[rows] @ weights.recurrent_kernel[:, part] + bias)
            for sequence, kernel, part, bias in (
                (x, weights.x_kernel, slice(4 * H, 5 * H), weights.bias[None, 4 * H : 5 * H]),
                (y, weights.y_kernel, slice(5 * H, 6 * H), weights.bias[None, 5 * H :]),
            )
        ]
        cell = f * c[rows] + i_time * candidates[0] + i_frequency * candidates[1]
        new = o * jnp.tanh(cell)
        h, c = h.at[rows].set(new), c.at[rows].set(cell)
        hidden.append(new)
        if norm in ("step", "shared"):
            mean, variance = (new.mean(0), new.var(0)) if train else statistics.output
            new = (new - mean[None]) / jnp.sqrt(variance + 1e-5)[None]
        elif norm == "layer":
            new = of_rows(new)
        if norm != "none":
            new = new * weights.output_scale[None] + weights.output_shift[None]
        outputs.append(jnp.zeros((B, H), x.dtype).at[rows].set(new))
    remembered = ()
    if norm == "shared" and train:
        remembered = tuple(
            (
                0.9 * old.mean + 0.1 * values.mean(0, keepdims=old.mean.ndim > 1),
                0.9 * old.variance + 0.1 * values.var(0, ddof=1, keepdims=old.mean.ndim > 1),
            )
            for old, values in zip(statistics, map(jnp.concatenate, (gates, hidden)), strict=True)
        )
    return jnp.stack(outputs, axis=1), (h, c), remembered


@partial(jax.jit, static_argnames=("norm", "train"))
def scan_of(tree, mask, norm: str, train: bool):
    weights, x, y, initial = split(tree)
    if norm == "none":
        weights = weights._replace(gate_scale=None, gate_shift=None, output_scale=None, output_shift=None)
    outputs, final, new = ds_lstm(
        weights, x, y, mask, initial, statistics=statistics_of(norm), train=train, norm=norm
    )
    remembered = tuple(map(tuple, new)) if norm == "shared" and train else ()
    return outputs, tuple(final), remembered


def loop(tree, train: bool):
    """The equations of the module's docstring, with W, W_T and W_F as the paper writes them."""
    weights, x, y, (h, c) = split(tree)
    statistics = some_statistics(T)
    gates, candidate = slice(0, 4 * H), slice(4 * H, 5 * H)
    w = jnp.concatenate([weights.x_kernel[:, gates], weights.y_kernel[:, gates], weights.recurrent_kernel[:, gates]])
    w_time = jnp.concatenate([weights.x_kernel[:, candidate], weights.recurrent_kernel[:, candidate]])
    w_frequency = jnp.concatenate([weights.y_kernel[:, candidate], weights.recurrent_kernel[:, 5 * H :]])
    outputs, gate_rows, output_running = [], [], statistics.output
    for t in range(T):
        z = jnp.concatenate([x[:, t], y[:, t], h], axis=1)
        g = 1 / (1 + jnp.exp(-(z @ w + weights.bias[None, gates])))
        row = Statistics(statistics.gates.mean[t], statistics.gates.variance[t])
        mean, variance = (g.mean(0), g.var(0)) if train else row
        gate_rows.append(torch_update(row, g.mean(0), g.var(0)) if train else row)
        factor = weights.gate_scale / jnp.sqrt(variance + 1e-5)
        g = (g - mean[None]) * factor[None] + weights.gate_shift[None]
        f, i_time, o, i_frequency = (g[:, k * H : (k + 1) * H] for k in range(4))
        c_time = jnp.tanh(jnp.concatenate([x[:, t], h], axis=1) @ w_time + weights.bias[None, candidate])
        c_frequency = jnp.tanh(jnp.concatenate([y[:, t], h], axis=1) @ w_frequency + weights.bias[None, 5 * H :])
        c = f * c + i_time * c_time + i_frequency * c_frequency
        h = o * jnp.tanh(c)
        mean, variance = (h.mean(0), h.var(0)) if train else statistics.output
        if train:
            output_running = torch_update(output_running, mean, variance)
        factor = weights.output_scale / jnp.sqrt(variance + 1e-5)
        outputs.append((h - mean[None]) * factor[None] + weights.output_shift[None])
    rows = tuple(jnp.stack(column) for column in zip(*gate_rows, strict=True))
    return jnp.stack(outputs, axis=1), (h, c), rows, tuple(output_running)


def scan(tree, train: bool):
    weights, x, y, initial = split(tree)
    mask = jnp.ones((B, T), bool)
    outputs, final, new = ds_lstm(weights, x, y, mask, initial, statistics=some_statistics(T), train=train)
    return outputs, tuple(final), tuple(new.gates), tuple(new.output)


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_equals_a_loop_in_float64(train):
    with jax.enable_x64(True):
        tree = random_tree(0, **SHAPES)
        check_values_and_gradients(lambda t: scan(t, train), lambda t: loop(t, train), tree, tolerance=1e-10)


@pytest.mark.parametrize(
    ("norm", "train"),
    [("step", False), ("step", True), ("shared", False), ("shared", True), ("layer", True), ("none", True)],
)
def test_every_norm_equals_a_loop_over_what_is_valid(norm, train):
    """Values, running statistics and gradients, and the same with NaN at padded frames."""
    with jax.enable_x64(True):
        tree = random_tree(10, **SHAPES)
        if norm == "none":
            tree = {name: leaf for name, leaf in tree.items() if not name.endswith(("scale", "shift"))}
        fill = dict.fromkeys(DSLSTMWeights._fields) if norm == "none" else {}

        def found(tree):
            spoiled = {name: jnp.where(RAGGED[..., None], tree[name], jnp.nan) for name in ("x", "y")}
            return scan_of(fill | tree | spoiled, RAGGED, norm, train)

        def expected(tree):
            return plain_loop(fill | tree, RAGGED, norm, train)

        check_values_and_gradients(found, expected, tree, tolerance=1e-10)


def test_what_a_layer_normalizes_does_not_depend_on_the_batch():
    tree = random_tree(11, **SHAPES)
    for train in (True, False):
        whole = scan_of(tree, RAGGED, "layer", train)[0]
        for row in range(B):
            alone = {
                name: leaf if name in DSLSTMWeights._fields else leaf[row : row + 1] for name, leaf in tree.items()
            }
            np.testing.assert_allclose(
                scan_of(alone, RAGGED[row : row + 1], "layer", train)[0][0], whole[row], atol=1e-6
            )


@partial(jax.jit, static_argnames=("steps", "train"))
def run(tree, sequences, mask, steps=T, train=False, initial=None):
    weights = split(tree)[0]
    return ds_lstm(weights, *sequences, mask, initial, statistics=some_statistics(steps), train=train)


def test_padding_has_no_influence():
    tree = random_tree(1, **SHAPES)
    check_padding(lambda sequences, mask: run(tree, sequences, mask)[:2], (tree["x"], tree["y"]), (T, 2, 0, 4))


def test_padded_rows_take_no_part_in_the_batch_statistics():
    tree = random_tree(2, **SHAPES)
    sequences, mask = (tree["x"], tree["y"]), jnp.ones((B, T), bool)
    outputs, _, statistics = run(tree, sequences, mask, train=True)
    more = tuple(jnp.concatenate([x, jnp.full((2, *x.shape[1:]), jnp.nan)]) for x in sequences)
    padded, _, same = run(tree, more, jnp.concatenate([mask, jnp.zeros((2, T), bool)]), train=True)
    assert largest_difference((padded[:B], same), (outputs, statistics)) < 1e-6
    assert not padded[B:].any()


def test_a_step_without_valid_rows_leaves_its_statistics():
    tree = random_tree(3, **SHAPES)
    mask = jnp.broadcast_to(jnp.arange(T) < 2, (B, T))
    _, _, new = run(tree, (tree["x"], tree["y"]), mask, train=True)
    old = some_statistics(T)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[2:], b[2:]), new.gates, old.gates)
    assert largest_difference(new.gates, old.gates) > 1e-3
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(new))


@pytest.mark.parametrize("steps", [2, 9])
def test_sequences_shorter_and_longer_than_the_statistics(steps):
    """A longer sequence reuses the last step's statistics; a shorter one leaves the later ones untouched."""
    tree = random_tree(4, **SHAPES)
    sequences, mask = (tree["x"], tree["y"]), jnp.ones((B, T), bool)
    outputs, _, _ = run(tree, sequences, mask, steps=steps)
    old = some_statistics(steps)
    rows = np.minimum(np.arange(T), steps - 1)
    spread = old._replace(gates=jax.tree.map(lambda a: a[rows], old.gates))
    expected, _, _ = jax.jit(ds_lstm)(split(tree)[0], *sequences, mask, statistics=spread)
    np.testing.assert_allclose(outputs, expected, atol=1e-6)
    _, _, new = run(tree, sequences, mask, steps=steps, train=True)
    assert new.gates.mean.shape == (steps, 4 * H)
    assert np.abs(new.gates.mean[:T] - old.gates.mean[:T]).max() > 1e-3
    np.testing.assert_array_equal(new.gates.mean[T:], old.gates.mean[T:])


def test_in_two_parts_equals_the_whole():
    tree = random_tree(5, **SHAPES)
    _, x, y, initial = split(tree)
    mask, statistics = jnp.ones((B, T), bool), some_statistics(1)  # the same statistics at every step
    weights = split(tree)[0]
    run = jax.jit(partial(ds_lstm, statistics=statistics))
    whole, final, _ = run(weights, x, y, mask, initial)
    first, state, _ = run(weights, x[:, :2], y[:, :2], mask[:, :2], initial)
    second, last, _ = run(weights, x[:, 2:], y[:, 2:], mask[:, 2:], state)
    assert largest_difference(jnp.concatenate([first, second], axis=1), whole) < 1e-6
    assert largest_difference(last, final) < 1e-6


def masked(tree, remat_every=0):
    weights, x, y, initial = split(tree)
    statistics = some_statistics(T)
    outputs, final, new = ds_lstm(
        weights, x, y, RAGGED, initial, statistics=statistics, train=True, remat_every=remat_every
    )
    return outputs, tuple(final), tuple(new.gates), tuple(new.output)


@pytest.mark.parametrize(("frames_at_once", "remat_every"), [(2, 0), (32, 2)])
def test_blocks_of_frames_change_nothing(frames_at_once, remat_every, monkeypatch):
    """Five frames in three blocks of two, the last of them padded."""

    def in_blocks(tree):
        with monkeypatch.context() as patch:
            patch.setattr(module, "FRAMES_AT_ONCE", frames_at_once)
            return masked(tree, remat_every)

    with jax.enable_x64(True):
        check_values_and_gradients(in_blocks, masked, random_tree(6, **SHAPES), tolerance=1e-12)


def test_rematerialization_saves_memory_on_long_sequences():
    steps, tree = 4000, random_tree(7, **SHAPES)
    weights, statistics, mask = split(tree)[0], some_statistics(steps), jnp.ones((B, steps), bool)

    def temporary(remat_every):
        def loss(weights, x, y):
            outputs, *_ = ds_lstm(weights, x, y, mask, statistics=statistics, train=True, remat_every=remat_every)
            return jnp.sum(outputs**2)

        sequences = (jax.ShapeDtypeStruct((B, steps, size), jnp.float32) for size in (X, Y))
        compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(weights, *sequences).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    everything, states = temporary(0), temporary(100)
    print(f"temporary memory of the gradient: {everything / 1e6:.2f} MB, rematerialized {states / 1e6:.2f} MB")
    assert states < 0.6 * everything


def test_bfloat16_sequences_give_float32_gradients():
    tree = random_tree(8, **SHAPES)
    weights, x, y, _ = split(tree)
    x, y = x.astype(jnp.bfloat16), y.astype(jnp.bfloat16)

    def loss(weights, x, y):
        outputs, final, new = ds_lstm(weights, x, y, RAGGED, statistics=some_statistics(T), train=True)
        assert outputs.dtype == x.dtype
        assert {leaf.dtype for leaf in jax.tree.leaves((final, new))} == {jnp.dtype(jnp.float32)}
        return jnp.sum(jnp.sin(outputs.astype(jnp.float32))), new

    gradient = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
    compiled = jax.jit(gradient)
    (_, found_statistics), found = compiled(weights, x, y)
    (_, statistics), expected = compiled(weights, x.astype(jnp.float32), y.astype(jnp.float32))
    assert {leaf.dtype for leaf in found[0]} == {jnp.dtype(jnp.float32)}
    assert found[1].dtype == found[2].dtype == jnp.bfloat16
    assert 0 < largest_difference(found_statistics, statistics) < 0.02
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(a.astype(jnp.float32) - b) < 0.1 * np.linalg.norm(b)
    products = str(jax.make_jaxpr(gradient)(weights, x, y)).count("preferred_element_type=float32")
    assert products >= 9  # x, y and h: forward, for the kernel, for the sequence


@pytest.mark.parametrize("norm", ["step", "shared"])
def test_devices_train_together(norm):
    """Rows shared by two devices, whose statistics are one: the outputs and gradients of all rows on one."""

    def loss(weights, x, y, mask, axis_name=None):
        outputs, _, new = ds_lstm(
            weights, x, y, mask, statistics=statistics_of(norm), train=True, norm=norm, axis_name=axis_name
        )
        return jnp.sum(jnp.sin(jnp.cumsum(outputs, axis=1))), new

    gradient = partial(jax.value_and_grad, argnums=(0, 1, 2), has_aux=True)

    def shard(weights, *rows):
        (value, new), (of_weights, *of_sequences) = gradient(partial(loss, axis_name="data"))(weights, *rows)
        return jax.lax.psum((value, of_weights), "data"), new, of_sequences

    with jax.enable_x64(True):
        weights, *sequences, _ = split(random_tree(9, **SHAPES))
        (value, new), (of_weights, *of_sequences) = jax.jit(gradient(loss))(weights, *sequences, RAGGED)
        halves = (a.reshape(2, B // 2, *a.shape[1:]) for a in (*sequences, RAGGED))
        *shared, of_halves = jax.pmap(shard, axis_name="data", in_axes=(None, 0, 0, 0))(weights, *halves)
        # Gradients reach 100, and their rounding with them.
        tolerance = 1e-12 * max(float(jnp.abs(leaf).max()) for leaf in of_weights)
        for device in range(2):
            found = jax.tree.map(lambda a, device=device: a[device], tuple(shared))
            assert largest_difference(found, ((value, of_weights), new)) < tolerance
        joined = [a.reshape(b.shape) for a, b in zip(of_halves, of_sequences, strict=True)]
        assert largest_difference(joined, of_sequences) < tolerance
