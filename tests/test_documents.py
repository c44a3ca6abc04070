"""README, docs/ and CONTRIBUTING: every code block runs here, or is listed with who else runs it or why nobody can.

The commands run as they stand, in a folder that holds all that they name.
"""

import importlib.util
import io
import re
import shlex
import shutil
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import soundfile
import yaml
from tiny import tiny_config, write_config
from trees import ravdess_tree, write_table

from dslstm_jax import __version__
from dslstm_jax.cli import main
from dslstm_jax.cli.entry import COMMANDS
from dslstm_jax.cli.entry import _parse as parse
from dslstm_jax.config import CorpusConfig, ModelConfig, load_config

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(page.relative_to(ROOT)) for page in ROOT.glob("docs/*.md"))]
TEXT = ("csv", "bibtex", "text")
"""Languages of blocks that are no code."""
NOT_RUN = {
    "pip install": "would change this environment; .ci/run runs the README's",
    "(ruff|mypy|mkdocs|pytest)": ".ci/run",
    "dslstm train configs/quickstart.py": "tests/training/test_quickstart.py",
    "dslstm train .* --parallel.coordinator": "several machines; tests/training/test_parallel.py",
    "dslstm crossval": "many runs; tests/evaluation/test_crossval.py",
    "dslstm compare": "many runs; tests/evaluation/test_compare.py",
    r"import dslstm_jax\n\nresults = dslstm_jax.crossval": "many runs; tests/test_api.py",
    "dslstm export": "tests/serving/test_export.py",
    "dslstm serve": "never ends; tests/serving/test_web.py",
    "curl ": "needs the server; tests/serving/test_web.py",
    "dslstm import-torch": "the authors' weights are theirs; tests/interop/test_torch.py",
    "dslstm train .* --corpus.root IEMOCAP": "a licensed corpus",
    "dslstm benchmark": "times this machine; tests/benchmark/test_benchmark_commands.py",
    "dslstm prepare": "tests/data/test_builders.py",
    "dslstm train .* --corpus.name records": "tests/data/test_corpora_records.py",
    "import dataclasses, functools, json, jax, numpy": "tests/serving/test_export.py",
    "recognize, header = load": "tests/serving/test_export.py",
    "stream = predictor.stream": "needs a microphone; tests/serving/test_streaming.py",
}
"""How commands and scripts begin that do not run here, and why. Those of dslstm are still parsed."""
TRAINED = ("quickstart", "imported")
"""Folders of runs/ that pages take for granted."""
FAILS = {"runs/missing": 2}
"""Exit codes that a page wants, of commands with this in them."""


class Unit(NamedTuple):
    """A command of a shell block, or all of another one."""

    page: str
    language: str
    text: str

    @property
    def listed(self) -> bool:
        return any(re.match(start, self.text) for start in NOT_RUN)


def units(page: str) -> list[Unit]:
    found = []
    content = (ROOT / page).read_text()
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", content, re.MULTILINE | re.DOTALL)
    assert content.count("```") == 2 * len(blocks), f"{page}: a fence that is not read"
    for language, text in blocks:
        parts = commands(text) if language == "bash" else [text]
        found += [Unit(page, language, part) for part in parts]
    return found


def commands(text: str) -> list[str]:
    """The commands of a shell block, one by one, without comments."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        parts = shlex.join(shlex.split(line, comments=True)).split(" '&&' ")
        found += [part.replace("'|'", "|") for part in parts if part]
    return found


ALL = [unit for page in PAGES for unit in units(page)]


@pytest.fixture(scope="module")
def world(trained, tones, tmp_path_factory) -> Path:
    """A folder with everything that the documents name; the configs are tiny ones."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "EMODB").symlink_to(tones)
    ravdess_tree(folder / "RAVDESS")
    (folder / "configs").mkdir()
    base = tiny_config(tones)
    quick = replace(
        base,
        corpus=CorpusConfig(),
        model=ModelConfig(spectrogram_branch="none", mfcc_hidden=6, layers=1),
        training=replace(base.training, epochs=1),
    )
    write_config(folder / "configs" / "dual_level.py", quick)
    for name in TRAINED:
        shutil.copytree(trained, folder / "runs" / name)
    sounds = sorted((tones / "wav").glob("*.wav"))
    labels = {"F": "happy", "N": "neutral", "W": "angry", "T": "sad"}
    rows = [(str(path), labels[path.name[5]], path.name[:2]) for path in sounds]
    write_table(folder / "my.csv", [("path", "label", "speaker"), *rows])
    names = ("calm", "excited", "bored", "sad")
    calls = [(str(path), name, "anna") for path, name in zip(sounds, names, strict=False)]
    write_table(folder / "calls.csv", [("path", "label", "speaker"), *calls])
    for name in ("speech.wav", "new.wav", "recordings/a.wav", "more/deep/b.wav"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        shutil.copy(sounds[0], folder / name)
    samples, rate = soundfile.read(sounds[0])
    for name in ("other.flac", "meeting.flac"):
        soundfile.write(folder / name, samples, rate)
    return folder


def run(command: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a command of dslstm, with what a pipe brings it."""
    *feeders, command = command.split(" | ")
    if feeders:
        listed = subprocess.run(" | ".join(feeders), shell=True, check=True, capture_output=True).stdout
        assert listed
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(listed)))
    words = shlex.split(command)
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        monkeypatch.setenv(*words.pop(0).split("="))
    assert words[0] == "dslstm", f"neither run nor listed in NOT_RUN: {command}"
    for word in words:
        if word.startswith("configs/"):
            load_config(str(ROOT / word))  # the true one is there
    return main(words[1:])


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_block_runs(page, world, monkeypatch, capsys):
    for made in set((world / "runs").iterdir()) - {world / "runs" / name for name in TRAINED}:
        shutil.rmtree(made)  # by another page
    monkeypatch.chdir(world)
    for unit in units(page):
        if unit.language in TEXT or unit.listed:
            continue
        assert unit.language in ("bash", "python"), f"{page}: what is the language of this block?\n{unit.text}"
        if unit.language == "python":
            exec(compile(unit.text, page, "exec"), {})
        else:
            wanted = next((code for part, code in FAILS.items() if part in unit.text), 0)
            code = run(unit.text, monkeypatch)
            assert code == wanted, f"{page}: {unit.text}\n{capsys.readouterr().err}"


@pytest.mark.parametrize("start", NOT_RUN)
def test_what_is_listed_is_there_and_parsed(start, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = [unit.text for unit in ALL if re.match(start, unit.text)]
    assert found, "no block begins so any more: take it from NOT_RUN"
    for path in re.findall(r"tests/\S+\.py", NOT_RUN[start]):
        assert (ROOT / path).exists()
    for _, command, *arguments in (shlex.split(text) for text in found if text.startswith("dslstm ")):
        parse(command, arguments)


def test_all_commands_are_in_the_documents():
    found = {shlex.split(unit.text)[1] for unit in ALL if unit.language == "bash" and unit.text.startswith("dslstm ")}
    assert found == COMMANDS.keys()


def test_the_tables_of_the_readme_are_measured():
    measured = (ROOT / "BENCHMARKS.md").read_text()
    results = (ROOT / "README.md").read_text().partition("## Results")[2]
    rows = re.findall(r"^\| (.*) \|$", results, re.MULTILINE)
    figures = [cell for row in rows for cell in row.split(" | ") if re.fullmatch(r"[\d. ]+", cell)]
    assert len(figures) >= 13
    for figure in figures:
        assert f"| {figure} |" in measured, f"{figure} is in no row of BENCHMARKS.md"


def test_the_picture_shows_the_default_config(tmp_path):
    specification = importlib.util.spec_from_file_location("architecture", ROOT / "docs" / "architecture.py")
    architecture = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(architecture)
    architecture.write(tmp_path / "new.svg")
    new, kept = (
        re.findall(r"<text[^>]*>(.*?)</text>", path.read_text())
        for path in (tmp_path / "new.svg", architecture.PICTURE)
    )
    assert "DS-LSTM" in new
    assert new == kept, "run python docs/architecture.py"


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [hooks] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert f"ruff=={hooks['rev'].removeprefix('v')}" in project["optional-dependencies"]["dev"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == project["version"] == __version__
    assert project["license"].startswith(f"{citation['license']} AND ")  # the code's, and that of the weights


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_issue_forms_are_what_github_takes(name):
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text())
    assert form.keys() <= {"name", "description", "title", "labels", "body"}
    assert form.keys() >= {"name", "description", "body"}
    for field in form["body"]:
        assert field["type"] == "textarea"
        assert field["attributes"].keys() <= {"label", "description", "placeholder", "value", "render"}
        assert field["attributes"]["label"]
