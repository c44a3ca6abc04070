"""Compiled programs are kept."""

import jax
import pytest

from dslstm_jax.cli.entry import main
from dslstm_jax.util.programs import keep_programs

MINIMA = ("compile_time_secs", "entry_size_bytes")


@pytest.fixture
def cache_settings():
    names = [f"jax_{name}" for name in ("compilation_cache_dir", *(f"persistent_cache_min_{n}" for n in MINIMA))]
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.usefixtures("cache_settings")
def test_programs_are_kept_where_the_user_said_or_in_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "elsewhere"))
    keep_programs()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "elsewhere")
    jax.config.update("jax_compilation_cache_dir", None)
    keep_programs()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "dslstm_jax" / "programs")
    jax.config.update("jax_compilation_cache_dir", None)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    keep_programs()
    assert jax.config.jax_compilation_cache_dir is None


@pytest.mark.parametrize("command", ["train", "crossval", "evaluate"])
@pytest.mark.usefixtures("cache_settings")
def test_training_keeps_its_programs(command, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    jax.config.update("jax_compilation_cache_dir", None)
    corpus = ["configs/quickstart.py", "--corpus.root", str(tmp_path / "none"), "--workdir", str(tmp_path / "run")]
    arguments = [str(tmp_path / "run")] if command == "evaluate" else [*corpus, "--corpus.name", "emodb"]
    assert main([command, *arguments]) == 2  # there is nothing to train on or to evaluate
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "cache" / "dslstm_jax" / "programs")
