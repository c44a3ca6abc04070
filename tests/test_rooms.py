"""Data flows one way: a room imports only from rooms above it, and light rooms stay light."""

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dslstm_jax"
ROOMS = (
    "errors",
    "util",
    "config",
    "ops",
    "recurrence",
    "features",
    "models",
    "data",
    "runs",
    "training",
    "evaluation",
    "reporting",
    "serving",
    "api",
    "interop",
    "benchmark",
    "cli",
    "__main__",
)
"""From top to bottom, as in CONTRIBUTING.md."""
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
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room_of(module: str) -> str:
    return module.partition(".")[0]


def imports(path: Path) -> set[str]:
    """Our modules that a file imports when it runs, wherever the statement stands; not those for types only."""
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


def arrows_up(module: str, imported: set[str]) -> list[str]:
    """Imports of a module that do not come from a room above it."""
    room = ROOMS.index(room_of(module))
    return [name for name in sorted(imported) if ROOMS.index(room_of(name)) > room]


def test_every_module_is_in_a_room():
    assert {room_of(name) for name in modules() if name} <= set(ROOMS)


@pytest.mark.parametrize("name", sorted(set(modules()) - {""}))
def test_imports_come_from_rooms_above(name):
    assert not arrows_up(name, imports(modules()[name]))


def test_the_picture_shows_the_rooms_from_top_to_bottom():
    lines = (PACKAGE.parent / "CONTRIBUTING.md").read_text().partition("\ndslstm_jax/\n")[2].splitlines()
    shown = [match[1] for line in lines if (match := re.match(r"  (\w+)(?:/|\.py) ", line))]
    assert [name for name in shown if name != "pretrained"] == [room for room in ROOMS if room != "__main__"]


def test_no_imports_run_in_a_circle():
    graph = {name: imports(path) - {name} for name, path in modules().items() if name}
    for name, imported in graph.items():  # a package only names what lies in it
        graph[name] = {other for other in imported if not name.startswith(f"{other}.")}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"imports run in a circle: {' -> '.join(error.args[1])}")


def test_the_check_sees_an_arrow_that_runs_back_up(tmp_path):
    path = tmp_path / "mel.py"
    path.write_text("def f():\n    from dslstm_jax.training import step\n")
    assert arrows_up("features.mel", imports(path)) == ["training", "training.step"]


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import dslstm_jax", (*HEAVY, "jax", "flax")),
        ("import dslstm_jax.cli", (*HEAVY, "jax", "flax")),
        ("import dslstm_jax.features, dslstm_jax.recurrence", (*HEAVY, "flax")),
        (
            "import dslstm_jax.data.audio, dslstm_jax.data.corpora, dslstm_jax.data.splits",
            ("optax", "orbax", "flax", "tensorflow_datasets"),
        ),
        (
            "import dslstm_jax; dslstm_jax.load()",
            ("optax", "orbax", "grain", "tensorstore", "tensorflow_datasets", "matplotlib"),
        ),
    ],
)
def test_light_rooms_stay_light(statement, heavy):
    code = f"{statement}\nimport sys\nprint([name for name in {heavy!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
