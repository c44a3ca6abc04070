"""dslstm predict: what it reads, where it writes, and jobs that are killed and go on."""

import csv
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dslstm_jax.cli import main
from dslstm_jax.errors import AudioError, RunError
from dslstm_jax.serving import formats
from dslstm_jax.serving.formats import FORMATS, from_row, to_row
from dslstm_jax.serving.job import _picture_paths, answer_and_keep, read_kept
from dslstm_jax.serving.predictor import GROUP, Prediction
from dslstm_jax.serving.timeline import Window

LABELS = ("happy", "sad")


def run(capsys, *arguments) -> tuple[int, list[str], list[str]]:
    """Exit code, and the lines of stdout and stderr."""
    capsys.readouterr()
    code = main(["predict", *map(str, arguments)])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out.splitlines(), captured.err.splitlines()


@pytest.fixture
def sounds(tmp_path):
    """Three recordings in two folders, one of them of a name that is a pattern."""
    folder = tmp_path / "sounds"
    for index, name in enumerate(["a/1.wav", "a/2.wav", "b/[3].wav"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(index).uniform(-0.3, 0.3, 5_000)
        soundfile.write(folder / name, noise, 16_000)
    (folder / "a" / "notes.txt").write_text("no sound")
    return folder


def paths_of(out: list[str]) -> list[str]:
    return [json.loads(line)["path"] for line in out]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["a/*.wav"], ["a/1.wav", "a/2.wav"]),
        (["*"], ["a/1.wav", "a/2.wav", "b/[3].wav"]),
        (["**/[0-9].wav"], ["a/1.wav", "a/2.wav"]),
        (["b/[3].wav", "a/?.wav"], ["b/[3].wav", "a/1.wav", "a/2.wav"]),
        (["a", "a/1.wav"], ["a/1.wav", "a/2.wav", "a/1.wav"]),
    ],
)
def test_patterns_folders_and_files(capsys, trained, sounds, monkeypatch, given, found):
    monkeypatch.chdir(sounds)
    code, out, err = run(capsys, "--model", trained, "--format", "json", *given)
    assert (code, paths_of(out), err) == (0, found, [])


def test_a_file_whose_name_is_a_pattern_is_itself(capsys, trained, sounds):
    (sounds / "b" / "3.wav").symlink_to(sounds / "a" / "1.wav")
    _, out, _ = run(capsys, "--model", trained, "--format", "json", sounds / "b" / "[3].wav")
    assert paths_of(out) == [str(sounds / "b" / "[3].wav")]


def test_a_pattern_that_matches_nothing_or_a_text_is_named(capsys, trained, sounds):
    code, out, err = run(capsys, "--model", trained, "--format", "json", sounds / "*.flac", sounds / "a" / "*")
    assert (code, len(out), len(err)) == (1, 4, 2)
    assert err[0].endswith("*.flac: no such file or directory")
    assert "notes.txt: not a sound file" in err[1]


@pytest.mark.parametrize("list_of", [b"a/1.wav\nb/[3].wav\r\n\nno.wav\n", b"a/1.wav\0b/[3].wav\0no.wav\0"])
def test_a_list_on_stdin(capsys, trained, sounds, monkeypatch, list_of):
    monkeypatch.chdir(sounds)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(list_of)))
    code, out, err = run(capsys, "--model", trained, "--format", "json", "-", "a/2.wav")
    assert (code, paths_of(out)) == (1, ["a/1.wav", "b/[3].wav", "no.wav", "a/2.wav"])
    assert err == ["dslstm predict: no.wav: no such file or directory"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    code, out, err = run(capsys, "--model", trained, "--format", "json", "-")
    assert (code, err) == (1, ["dslstm predict: -: no path on stdin"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "give the files"),
        (["x.wav", "--resume"], "--resume needs the --output FILE"),
        (["x.wav", "--pictures", "x"], "add --timeline"),
        (["x.wav", "--output", "x.xls"], "give --format, or one of the endings .json, .jsonl, .csv, .txt"),
        (["x.wav", "--output", "/dev/null", "--format", "csv"], "is no file"),
        (["x.wav", "--output", "no/such/x.csv"], "cannot write no/such/x.csv.part"),
        (["x.wav", "--timeline", "--window", "0"], "a window of 0 seconds; give 0.01 to 600"),
        (["x.wav", "--timeline", "--hop", "5"], "a hop of 5 seconds; give 0.01 to the window's 3"),
    ],
)
def test_flags_that_do_not_go_together(capsys, trained, tmp_path, monkeypatch, flags, said):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "--model", trained, *flags)
    assert (code, out, len(err)) == (2, [], 1)
    assert said in err[0]
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_output_is_what_stdout_would_show(capsys, trained, sounds, tmp_path):
    inputs = [sounds, tmp_path / "missing.wav"]
    for name, format_name in [("x.csv", "csv"), ("x.jsonl", "json"), ("x.txt", "table"), ("X.JSON", "json")]:
        _, shown, _ = run(capsys, "--model", trained, "--format", format_name, *inputs)
        code, out, err = run(capsys, "--model", trained, "--output", tmp_path / name, *inputs)
        assert (code, len(err)) == (1, 1)
        assert out == [f"answers: {tmp_path / name} (1 of 4 files could not be used)"]
        assert (tmp_path / name).read_text().splitlines() == shown
    code, out, _ = run(capsys, "--model", trained, "--output", tmp_path / "x.csv", "--format", "json", sounds)
    assert (code, out) == (0, [f"answers: {tmp_path / 'x.csv'}"])
    assert len(paths_of((tmp_path / "x.csv").read_text().splitlines())) == 3
    assert not list(tmp_path.glob("*.part"))


def answer_to(name: str) -> Prediction | AudioError:
    number = int(re.sub(r"\D", "", name))
    if number % 7 == 3:
        return AudioError(f"{name}: the {number}th is bad")
    share = number / 1_000
    windows = (Window(0.0, 0.5, "sad", {"happy": 0.1, "sad": 0.9}), Window(0.5, 1.0, None, None))
    return Prediction("happy", {"happy": share, "sad": 1 - share}, 0.1 * number, windows if number % 2 else None)


NAMES = [f"x{number}\n\udcff.wav" for number in range(3 * GROUP + 5)]


def said(answers) -> list:
    return [str(answer) if isinstance(answer, AudioError) else answer for answer in answers]


def keep(path: Path, resume: bool, starts: list[int], names=NAMES, identity="me") -> list:
    def answer(start: int):
        starts.append(start)
        return (answer_to(name) for name in names[start:])

    return said(answer_and_keep(path, identity, names, answer, resume=resume))


EXPECTED = said(map(answer_to, NAMES))


def test_rows_come_back_as_what_they_were():
    for name in NAMES[:20]:
        row = json.loads(json.dumps(to_row(name, answer_to(name))))
        assert said([from_row(row)]) == said([answer_to(name)])


def test_a_job_that_was_cut_anywhere_goes_on_at_a_whole_group(tmp_path):
    kept = tmp_path / "x.part"
    assert keep(kept, False, []) == EXPECTED
    whole = kept.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    cuts = [
        0,
        5,
        ends[0],
        ends[1] - 1,
        ends[GROUP] - 1,
        ends[GROUP],
        ends[GROUP] + 9,
        ends[2 * GROUP + 3],
        len(whole),
    ]
    for end in cuts:
        starts: list[int] = []
        kept.write_bytes(whole[:end])
        assert keep(kept, True, starts) == EXPECTED
        done = sum(place <= end for place in ends[1:])
        assert starts == [done if done == len(NAMES) else done // GROUP * GROUP]
        assert kept.read_bytes() == whole
        assert said(read_kept(kept)) == EXPECTED


def test_a_damaged_middle_is_made_again(tmp_path):
    kept = tmp_path / "x.part"
    keep(kept, False, [])
    whole = kept.read_bytes()
    for damage in (b"\0" * 40, b'{"path": "x1"}', b'{"path": 3, "label": []}\n', b"[]\n"):
        starts: list[int] = []
        place = len(whole) // 2
        kept.write_bytes(whole[:place] + damage + whole[place:])
        assert keep(kept, True, starts) == EXPECTED
        assert starts[0] in (GROUP, 2 * GROUP)
        assert kept.read_bytes() == whole


def test_a_row_that_is_missing_is_made_again(tmp_path):
    kept = tmp_path / "x.part"
    keep(kept, False, [])
    whole = kept.read_bytes()
    lines = whole.splitlines(keepends=True)
    del lines[2 * GROUP]
    starts: list[int] = []
    kept.write_bytes(b"".join(lines))
    assert keep(kept, True, starts) == EXPECTED
    assert starts == [GROUP]
    assert kept.read_bytes() == whole


def test_what_belongs_to_another_job_is_not_taken_over(tmp_path):
    kept = tmp_path / "x.part"
    keep(kept, False, [])
    with pytest.raises(
        RunError, match=r"x.part holds answers to other files, of another model or with other windows"
    ):
        keep(kept, True, [], identity="other")
    assert keep(kept, False, [], names=NAMES[:4], identity="other") == EXPECTED[:4]
    assert keep(tmp_path / "new.part", True, []) == EXPECTED, "nothing to go on from"


def test_an_interrupted_command_goes_on(capsys, trained, sounds, tmp_path, monkeypatch):
    """The old file stays until the new one is whole; another model or list is refused."""
    from dslstm_jax.serving.predictor import Predictor

    output = tmp_path / "x.csv"
    flags = ["--model", trained, "--output", output, sounds, sounds / "a"]
    monkeypatch.setattr("dslstm_jax.serving.job.GROUP", 2)
    assert run(capsys, *flags)[0] == 0
    expected = output.read_bytes()
    output.write_text("old")
    files = Predictor.files

    def interrupted(predictor, paths, **windows):
        for number, answer in enumerate(files(predictor, paths, **windows)):
            if number == 3:
                raise KeyboardInterrupt
            yield answer

    monkeypatch.setattr(Predictor, "files", interrupted)
    code, _, err = run(capsys, *flags)
    assert (code, err) == (130, ["dslstm predict: interrupted; with --output, go on with --resume"])
    assert output.read_text() == "old"
    assert len((tmp_path / "x.csv.part").read_text().splitlines()) == 1 + 3
    monkeypatch.setattr(Predictor, "files", files)
    code, _, err = run(capsys, *flags[:-1], "--resume")
    assert (code, len(err)) == (2, 1)
    assert "other files" in err[0]
    asked = []
    monkeypatch.setattr(
        Predictor, "files", lambda self, paths, **windows: (asked.append(paths), files(self, paths, **windows))[1]
    )
    assert run(capsys, *flags, "--resume")[0] == 0
    assert output.read_bytes() == expected
    assert len(asked[-1]) == 5 - 2
    assert not (tmp_path / "x.csv.part").exists()


def test_every_timeline_has_a_picture_of_its_own():
    names = ["a/x.wav", "b/X.wav", "x-2.wav", "c/x.flac", "y.wav"]
    pictures = [path.name for path in _picture_paths(Path("p"), names)]
    assert pictures == [f"{stem}.timeline.png" for stem in ("x", "X-2", "x-2-2", "x-3", "y")]


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def on_terminal(labels, rows, encoding="utf-8") -> list[str]:
    stream = Terminal(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    writer = FORMATS["table"](stream, labels, [path for path, _ in rows])
    for path, answer in rows:
        writer.write(path, answer)
    stream.flush()
    return stream.buffer.getvalue().decode(encoding).splitlines()


EIGHT = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")


@pytest.mark.parametrize("labels", [EIGHT[2:5], EIGHT[:4], EIGHT])
@pytest.mark.parametrize("path", ["x.wav", "recordings/of/many/speakers/Actor_01/03-01-06-01-02-01-12.wav"])
def test_a_terminal_of_80_columns_holds_the_table(monkeypatch, labels, path):
    monkeypatch.setenv("COLUMNS", "80")
    shares = dict.fromkeys(labels, 0.0) | {"happy": 1.0}
    lines = on_terminal(labels, [(path, Prediction("happy", shares, 1.0))])
    assert len(lines) == 2
    assert all(len(line) <= 80 for line in lines)
    assert {len(line) for line in lines} == {len(lines[0])}, "the columns stand below each other"
    assert lines[1].count("█") == lines[1].count("█" * lines[1].count("█")) * lines[1].count("█") > 0
    assert re.findall(r"\d+%", lines[1]) == ["100%" if label == "happy" else "0%" for label in labels]
    assert path[-10:] in lines[1]


def test_bars_are_as_long_as_the_shares(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    for share in np.linspace(0, 1, 23):
        answer = Prediction("happy", {"happy": share, "sad": 1 - share}, 1.0)
        line = on_terminal(LABELS, [("x.wav", answer)])[1]
        bars = re.findall(r"[█▏▎▍▌▋▊▉]+", line)
        lengths = [8 * bar.count("█") + sum(map(" ▏▎▍▌▋▊▉".find, bar.replace("█", ""))) for bar in bars]
        assert sum(lengths) == pytest.approx(64, abs=1)
        assert lengths[0] == (round(share * 64) or 64)
    ascii_line = on_terminal(LABELS, [("x.wav", Prediction("sad", {"happy": 0.25, "sad": 0.75}, 1.0))], "ascii")[1]
    assert re.findall("#+", ascii_line) == ["##", "######"]


def test_a_pipe_gets_plain_numbers_and_whole_names():
    stream = io.StringIO()
    path = "a/" * 60 + "x\n\x1b[2J.wav"
    writer = FORMATS["table"](stream, LABELS, [path])
    windows = (Window(0.0, 0.5, "sad", {"happy": 0.1, "sad": 0.9}), Window(0.5, 1.0, None, None))
    writer.write(path, Prediction("happy", {"happy": 0.75, "sad": 0.25}, 1.0, windows))
    lines = stream.getvalue().splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["a/" * 60 + r"x\n\x1b[2J.wav", "happy", "0.750", "0.250"],
        ["0.0-0.5", "s", "sad", "0.100", "0.900"],
        ["0.5-1.0", "s", "-"],
    ]


def test_every_ending_names_a_format():
    assert set(formats.ENDINGS.values()) == FORMATS.keys()


BAD = 37


def many_files(folder: Path, count: int) -> list[Path]:
    """A small recording through links, and bad files of several kinds evenly among them."""
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 3_200)
    soundfile.write(folder / "sound.wav", noise, 16_000)
    good = (folder / "sound.wav").read_bytes()
    soundfile.write(folder / "silence.wav", np.zeros(3_200), 16_000)
    soundfile.write(folder / "nan.wav", np.full(3_200, np.nan), 16_000, subtype="FLOAT")
    kinds = [b"", b"no sound", good[:30], good[:3_000], (folder / "silence.wav").read_bytes(), None]
    kinds += [(folder / "nan.wav").read_bytes(), b"\xff\xfb\x90\x64" + bytes(range(256)) * 4]
    bad = {round((number + 0.5) * count / BAD): kinds[number % len(kinds)] for number in range(BAD)}
    paths = []
    (folder / "many").mkdir()
    for number in range(count):
        path = folder / "many" / f"{number:05}.wav"
        content = bad.get(number, good)
        if content is None:
            path.symlink_to(folder / "nowhere.wav")
        elif number in bad:
            path.write_bytes(content)
        else:
            path.symlink_to(folder / "sound.wav")
        paths.append(path)
    return paths


def resident(process: subprocess.Popen) -> float:
    """MiB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024


def wait_for(path: Path, rows: int, process: subprocess.Popen) -> None:
    while not path.exists() or path.read_bytes().count(b"\n") <= rows:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.mark.long
@pytest.mark.parametrize("count", [1_000, 10_000])
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_many_files_some_of_them_bad_killed_and_resumed(trained, tmp_path, count):
    paths = many_files(tmp_path, count)
    (tmp_path / "list").write_text("".join(f"{path}\n" for path in paths))

    def start(name: str, *flags: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "dslstm_jax", "predict", "--model", str(trained), "-", *flags]
        command += ["--output", str(tmp_path / name)]
        with (tmp_path / "list").open() as stdin:
            return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    begin = time.monotonic()
    undisturbed = start("one.csv")
    wait_for(tmp_path / "one.csv.part", count // 5, undisturbed)
    early = resident(undisturbed)
    wait_for(tmp_path / "one.csv.part", count * 9 // 10, undisturbed)
    late = resident(undisturbed)
    out, err = undisturbed.communicate()
    print(
        f"{count} files in {time.monotonic() - begin:.0f} s; {early:.0f} MiB after a fifth, {late:.0f} near the end"
    )
    assert undisturbed.returncode == 1
    if count >= 10_000:  # among fewer, the programs of all lengths are still being compiled after a fifth
        assert late < early + 32
    assert out == f"answers: {tmp_path / 'one.csv'} ({BAD} of {count} files could not be used)\n"
    rows = list(csv.DictReader((tmp_path / "one.csv").open()))
    assert [row["path"] for row in rows] == [str(path) for path in paths]
    assert sum(bool(row["error"]) for row in rows) == BAD
    assert len({row["error"].split("(")[0] for row in rows if row["error"]}) >= 6
    named = [line for line in err.splitlines() if str(tmp_path) in line]
    assert named == [f"dslstm predict: {row['path']}: {row['error']}" for row in rows if row["error"]]
    assert all(row["label"] for row in rows if not row["error"])

    killed = start("two.csv")
    wait_for(tmp_path / "two.csv.part", count // 2, killed)
    killed.kill()
    killed.communicate()
    assert not (tmp_path / "two.csv").exists()
    with (tmp_path / "two.csv.part").open("ab") as part:
        part.write(b'{"path": "' + os.fsencode(paths[0]))  # half a line
    resumed = start("two.csv", "--resume")
    assert resumed.communicate()[1].count("dslstm predict: ") == BAD
    assert resumed.returncode == 1
    assert (tmp_path / "two.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    assert not (tmp_path / "two.csv.part").exists()
