import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dslstm_jax.errors import RunError
from dslstm_jax.util.files import make_folder, to_json, whole_file, write_json, write_text


def test_text_is_written_as_utf8_and_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    write_text(path, "old")
    write_text(path, "Ärger\n")
    assert path.read_bytes() == "Ärger\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "report.md"
    path.write_text("old")

    def write_half() -> None:
        with whole_file(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "matrix.png"
    with whole_file(path) as temporary:
        temporary.write_bytes(b"half")
        assert not path.exists()
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".png"
    assert path.read_bytes() == b"half"


def test_others_may_read_the_file_as_the_umask_says(tmp_path: Path) -> None:
    umask = os.umask(0o022)
    try:
        write_text(tmp_path / "config.json", "{}")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "config.json").stat().st_mode) == 0o644


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    link = tmp_path / "labels.txt"
    link.symlink_to(tmp_path / "kept" / "labels.txt")
    write_text(link, "angry")
    assert link.is_symlink()
    assert (tmp_path / "kept" / "labels.txt").read_text() == "angry"


def test_a_pipe_is_written_to_and_not_replaced() -> None:
    code = "from dslstm_jax.util.files import write_json; write_json('/dev/stdout', [1])"
    written = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout
    assert json.loads(written) == [1]


def test_what_cannot_be_written_is_one_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot write .*missing/a\.txt: No such file or directory"):
        write_text(tmp_path / "missing" / "a.txt", "")
    with pytest.raises(RunError, match=f"cannot write {tmp_path}: Is a directory"):
        write_text(tmp_path, "")


def test_json_is_indented_in_files_and_has_null_for_what_json_lacks(tmp_path: Path) -> None:
    value = {"wa": np.float64(0.5), "recalls": (0.25, float("nan"), float("inf")), "label": "Ärger", "n": 3}
    plain = {"wa": 0.5, "recalls": [0.25, None, None], "label": "Ärger", "n": 3}
    assert to_json(value) == '{"wa": 0.5, "recalls": [0.25, null, null], "label": "Ärger", "n": 3}'
    write_json(tmp_path / "figures.json", value)
    text = (tmp_path / "figures.json").read_text(encoding="utf-8")
    assert json.loads(text) == plain
    assert text.startswith('{\n  "wa": 0.5,\n')
    assert text.endswith("}\n")


def test_file_names_that_are_no_text_can_be_written(tmp_path: Path) -> None:
    name = os.fsdecode(b"/\xff/\xc3\xa4.wav")
    write_json(tmp_path / "folds.json", {"utterances": [name]})
    assert json.loads((tmp_path / "folds.json").read_text(encoding="utf-8")) == {"utterances": [name]}
    write_text(tmp_path / "report.md", name)
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == "/\\udcff/ä.wav"


def test_a_folder_is_made_with_those_above_it_once(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "first"
    assert make_folder(folder) == make_folder(str(folder)) == folder
    assert folder.is_dir()
    write_text(tmp_path / "file", "")
    with pytest.raises(RunError, match=r"cannot make the folder .*file/below: Not a directory"):
        make_folder(tmp_path / "file" / "below")
