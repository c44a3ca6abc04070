"""Data flows one way: a module imports only from rooms above it, and light rooms stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dslstm_jax"
ROOMS = [
    ["errors"],
    ["files"],
    ["programs"],
    ["progress"],
    ["config_checks"],
    ["config"],
    ["masking"],
    ["batching"],
    ["features.signal"],
    ["features.mel", "features.mfcc", "features.trimming"],
    ["features.pitch"],
    ["features.frontend"],
    ["features.augmentation"],
    ["features"],
    ["recurrence.batch_norm"],
    ["recurrence.lstm_cell"],
    ["recurrence.lstm_pallas"],
    ["recurrence.lstm"],
    ["recurrence.ds_lstm"],
    ["recurrence"],
    ["convolution"],
    ["models"],
    ["models.layers"],
    ["models.pooling"],
    ["models.cnn"],
    ["models.branches"],
    ["models.receptive_field", "models.recognizer"],
    ["data"],
    ["data.quiet"],
    ["data.audio"],
    ["data.waveform"],
    ["data.corpora.base"],
    [
        f"data.corpora.{name}"
        for name in ("emodb", "ravdess", "iemocap", "crema_d", "savee", "manifest", "synthetic", "records")
    ],
    ["data.corpora"],
    ["data.summary"],
    ["data.folds"],
    ["data.reading"],
    ["data.records"],
    ["data.prepare"],
    ["data.index"],
    ["data.dataset"],
    ["data.pipeline"],
    ["data.resident"],
    ["training"],
    ["training.metrics"],
    ["training.step"],
    ["training.environment"],
    ["training.run"],
    ["training.parallel"],
    ["training.feeding"],
    ["training.digests", "training.quiet", "training.choice"],
    ["training.checkpoint"],
    ["training.refit"],
    ["training.loop"],
    ["training.together"],
    ["evaluation"],
    ["evaluation.report"],
    ["evaluation.evaluate"],
    ["evaluation.statistics"],
    ["evaluation.calibration"],
    ["evaluation.results"],
    ["evaluation.crossval_report"],
    ["evaluation.crossval"],
    ["evaluation.compare"],
    ["serving"],
    ["serving.export"],
    ["serving.timeline", "serving.streaming"],
    ["serving.predictor"],
    ["serving.formats", "serving.picture", "serving.web"],
    ["serving.job"],
    ["benchmark"],
    ["benchmark.harness"],
    ["benchmark.program"],
    ["benchmark.plot"],
    ["benchmark.measure"],
    ["benchmark.peers_torch"],
    ["benchmark.peers"],
    ["benchmark.features"],
    ["benchmark.data", "benchmark.recurrence", "benchmark.train", "benchmark.predict"],
    ["benchmark.scaling"],
    ["interop"],
    ["interop.torch"],
    ["cli.common"],
    [f"cli.{name}" for name in ("training", "predict", "export", "serve", "data", "interop", "benchmark")],
    ["cli.entry"],
    ["cli"],
    ["__main__"],
]
"""From top to bottom, as in CONTRIBUTING.md; modules of one line do not import each other. `__init__` only names
what lies below it."""
LEVEL = {name: level for level, names in enumerate(ROOMS) for name in names}
HEAVY = (
    "optax",
    "orbax",
    "grain",
    "matplotlib",
    "tensorboardX",
    "tensorflow",
    "tensorflow_datasets",
    "torch",
    "scipy",
)


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = path
    return found


def imports(path: Path) -> set[str]:
    """Names of our modules that a file imports when it runs, wherever they stand; not those for types only."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    ours = {name.removeprefix("dslstm_jax.") for name in names if name and name.startswith("dslstm_jax.")}
    return ours & modules().keys()


def test_every_module_has_its_room():
    assert modules().keys() - {""} == LEVEL.keys()


@pytest.mark.parametrize("name", sorted(set(modules()) - {""}))
def test_imports_point_upward(name):
    for imported in imports(modules()[name]) - {name}:
        package = name.startswith(f"{imported}.")  # `from dslstm_jax.features import signal` names its own package
        assert package or LEVEL[imported] < LEVEL[name], f"{name} imports {imported}, which lies beside or below it"


def test_the_check_sees_an_arrow_that_runs_back_up(tmp_path):
    path = tmp_path / "mel.py"
    path.write_text("def f():\n    from dslstm_jax.training import step\n")
    assert any(LEVEL[name] > LEVEL["features.mel"] for name in imports(path))


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import dslstm_jax", (*HEAVY, "jax", "flax")),
        ("import dslstm_jax.cli", (*HEAVY, "jax", "flax")),
        ("import dslstm_jax.features, dslstm_jax.recurrence", (*HEAVY, "flax")),
        (
            "import dslstm_jax.data.audio, dslstm_jax.data.corpora, dslstm_jax.data.folds",
            ("optax", "orbax", "flax", "tensorflow_datasets"),
        ),
    ],
)
def test_light_rooms_stay_light(statement, heavy):
    code = f"{statement}\nimport sys\nprint([name for name in {heavy!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
