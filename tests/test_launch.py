"""launch/: what each script would start, and two processes really started on this machine."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from tiny import MODEL, tiny_config, write_config

from dslstm_jax.cli.entry import _parse
from dslstm_jax.config import DataConfig, from_dict
from dslstm_jax.evaluation.compare import paired_difference, read_comparable
from dslstm_jax.evaluation.results import read_results

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
FLAGS = ["configs/quickstart.py", "--workdir", "my runs/$a'b", "--training.epochs", "3"]


def environment(**changes):
    """The scripts find this Python's dslstm; a process has one device."""
    found = {name: value for name, value in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return found | {"PATH": path, "PYTHONPATH": str(ROOT)} | {name: str(value) for name, value in changes.items()}


def dry_run(script, *arguments, **changes):
    """What the script prints, which starts nothing."""
    command = [str(LAUNCH / script), *arguments]
    changes = {"DRY_RUN": 1, **changes}
    found = subprocess.run(command, env=environment(**changes), cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stderr == ""
    return found.stdout


def parsed(command):
    """A printed `dslstm train ...` through the command line's own parser."""
    start = command.index("dslstm")
    assert command[start + 1] == "train"
    arguments = _parse("train", command[start + 2 :])
    assert str(arguments.workdir) == FLAGS[2]
    assert arguments.config.training.epochs == 3
    return arguments


def executable(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)
    return path


def test_shellcheck_has_nothing_to_say():
    shellcheck = shutil.which("shellcheck", path=environment()["PATH"])
    assert shellcheck, 'pip install -e ".[dev]"'
    scripts = [str(path) for path in LAUNCH.iterdir() if path.suffix in (".sh", ".sbatch")]
    assert len(scripts) == 5
    found = subprocess.run([shellcheck, *scripts], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("script", ["local_processes.sh", "slurm.sbatch", "tpu_vm.sh", "gke.sh", "tables.sh"])
def test_without_arguments_a_script_says_how_it_is_used(script):
    found = subprocess.run([str(LAUNCH / script)], capture_output=True, text=True)
    assert found.returncode == 2
    assert found.stderr.startswith("usage: ")


def test_local_processes_are_told_who_they_are():
    lines = dry_run("local_processes.sh", "2", *FLAGS, JAX_PLATFORMS="cpu").splitlines()
    found = [parsed(shlex.split(line)).parallel for line in lines]
    assert [each.process for each in found] == [0, 1]
    assert {each.processes for each in found} == {2}
    assert len({each.coordinator for each in found}) == 1
    assert found[0].coordinator.startswith("127.0.0.1:")


@pytest.mark.parametrize(("visible", "shares"), [("0,1", ["0", "1"]), ("4,5,6,7", ["4,5", "6,7"])])
def test_local_processes_share_the_gpus(visible, shares):
    lines = dry_run("local_processes.sh", "2", *FLAGS, CUDA_VISIBLE_DEVICES=visible, JAX_PLATFORMS="").splitlines()
    assert [shlex.split(line)[:2] for line in lines] == [["env", f"CUDA_VISIBLE_DEVICES={share}"] for share in shares]


def test_local_processes_ask_the_driver_for_the_gpus(tmp_path):
    path = executable(tmp_path / "bin" / "nvidia-smi", "echo 0; echo 1").parent
    changes = {"JAX_PLATFORMS": "", "PATH": f"{path}:{os.environ['PATH']}"}
    lines = dry_run("local_processes.sh", "2", *FLAGS, **changes).splitlines()
    assert [shlex.split(line)[1] for line in lines] == ["CUDA_VISIBLE_DEVICES=0", "CUDA_VISIBLE_DEVICES=1"]


def test_gpus_that_cannot_be_shared_are_an_error():
    command = [str(LAUNCH / "local_processes.sh"), "2", *FLAGS]
    changes = environment(DRY_RUN=1, CUDA_VISIBLE_DEVICES="0,1,2", JAX_PLATFORMS="")
    found = subprocess.run(command, env=changes, capture_output=True, text=True)
    assert found.returncode == 2
    assert "2 processes cannot share 3 GPUs" in found.stderr


def test_slurm_starts_what_finds_the_others_and_goes_on():
    command = shlex.split(dry_run("slurm.sbatch", *FLAGS, SLURM_CPUS_PER_TASK=8))
    assert command[:4] == ["srun", "--kill-on-bad-exit=1", "--gpu-bind=none", "--cpus-per-task=8"]
    arguments = parsed(command)
    assert arguments.resume
    assert arguments.parallel.coordinator == "auto"
    assert dry_run("slurm.sbatch", *FLAGS, "--resume").count("--resume") == 1


@pytest.mark.parametrize(
    ("code", "finished", "requeued"),
    [(0, True, False), (0, False, True), (143, False, True), (2, False, False)],
)
def test_slurm_queues_again_only_what_was_stopped(tmp_path, code, finished, requeued):
    made = "mkdir -p run/report && touch run/report/report.md;" if finished else ""
    path = executable(tmp_path / "bin" / "srun", f"{made} exit {code}").parent
    executable(path / "scontrol", 'echo "scontrol $*"')
    changes = environment(PATH=f"{path}:{os.environ['PATH']}", SLURM_JOB_ID=7)
    command = [str(LAUNCH / "slurm.sbatch"), "config.py", "--workdir=run"]
    found = subprocess.run(command, env=changes, cwd=tmp_path, capture_output=True, text=True)
    assert found.stdout == ("scontrol requeue 7\n" if requeued else "")
    assert found.returncode == (0 if requeued else code)


def test_tpu_hosts_are_given_the_code_and_started():
    lines = dry_run("tpu_vm.sh", "pod", "us-west4-a", "mine", *FLAGS).splitlines()
    tar, *remote = [shlex.split(line) for line in lines]
    assert tar[:3] == ["tar", "-czf", "dslstm_jax.tar.gz"]
    assert all((ROOT / name).exists() for name in tar[3:])
    assert [command[4] for command in remote] == ["scp", "ssh", "ssh"]
    for command in remote:
        assert command[:4] == ["gcloud", "compute", "tpus", "tpu-vm"]
        for flags in (["--zone", "us-west4-a"], ["--project", "mine"], ["--worker=all"]):
            assert " ".join(flags) in " ".join(command)
    script = remote[-1][remote[-1].index("--command") + 1]
    subprocess.run(["bash", "-n", "-c", script], check=True)
    arguments = parsed(shlex.split(script.rpartition(" && ")[2]))
    assert arguments.resume
    assert arguments.parallel.coordinator == "auto"


def job_set():
    found = yaml.safe_load(dry_run("gke.sh", "quick", "image:1", "4x4", *FLAGS))
    [job] = found["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    return found, job["template"]["spec"], pod, pod["containers"][0]


def test_the_job_set_starts_a_pod_a_host():
    found, job, pod, container = job_set()
    assert (found["kind"], found["metadata"]["name"], container["image"]) == ("JobSet", "quick", "image:1")
    assert job["completions"] == job["parallelism"] == 4
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4"
    assert container["resources"]["limits"]["google.com/tpu"] == 4
    assert pod["terminationGracePeriodSeconds"] >= 60
    assert found["spec"]["failurePolicy"]["maxRestarts"] > 0


@pytest.mark.parametrize(("told", "code", "expected"), [(False, 0, 0), (False, 2, 2), (True, 0, 143)])
def test_a_pod_that_was_told_to_end_has_not_succeeded(tmp_path, told, code, expected):
    *_, container = job_set()
    # Stands for dslstm: keeps its arguments, and ends well a moment after SIGTERM.
    wait = "trap 'sleep 0.2; touch saved; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    said = 'printf "%s\\0" dslstm "$@" >arguments'
    path = executable(tmp_path / "bin" / "dslstm", f"{said}; {wait if told else f'echo ready; exit {code}'}").parent
    arguments = [argument.replace("$$", "$") for argument in container["args"]]  # as Kubernetes would
    process = subprocess.Popen(
        [*container["command"], *arguments],
        env=environment(PATH=f"{path}:{os.environ['PATH']}"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    if told:
        process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == expected
    assert (tmp_path / "saved").exists() == told
    command = parsed((tmp_path / "arguments").read_text().split("\0")[:-1])
    assert command.resume
    assert command.parallel.coordinator == "auto"


def start(config, run, *flags, **changes):
    command = [str(LAUNCH / "local_processes.sh"), "2", str(config), "--workdir", str(run), *flags]
    changes = environment(**changes)
    return subprocess.Popen(command, env=changes, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.long
def test_two_processes_save_when_told_to_stop_and_go_on(tones, tmp_path):
    config = tiny_config(tones, data=DataConfig(max_lengths=1), model=replace(MODEL, mfcc_branch=False))
    # Too many epochs to come to an end before the signal does.
    config = replace(config, training=replace(config.training, epochs=20))
    path = write_config(tmp_path / "tiny.py", config)
    run = tmp_path / "run"
    process = start(path, run, "--resume")  # of a run that there is not yet
    for line in process.stdout:
        if line.startswith("epoch 1/"):
            process.send_signal(signal.SIGTERM)
            break
    said = process.stdout.read()
    assert process.wait() == 0, said
    hint = next(line for line in said.splitlines() if line.startswith("local_processes.sh: stopped"))
    command = shlex.split(hint.partition(": stopped; resume all with: ")[2])
    assert command == [str(LAUNCH / "local_processes.sh"), "2", str(path), "--workdir", str(run), "--resume"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "resumed after epoch" in done.stdout
    assert done.stdout.count("epoch 20/20") == 1
    assert done.stdout.count("test WA=") == 1
    assert (run / "report" / "report.md").exists()


@pytest.mark.slow
def test_a_failing_process_stops_the_others(tones, tmp_path):
    path = write_config(tmp_path / "tiny.py", tiny_config(tones))
    # Process 1 looks for its recordings elsewhere, and process 0 would wait for it for minutes.
    wrong = f'[[ "$*" == *"--parallel.process 1"* ]] && set -- "$@" --corpus.root {tmp_path}/nowhere'
    dslstm = f'{wrong}; exec {shlex.quote(sys.executable)} -m dslstm_jax "$@"'
    folder = executable(tmp_path / "bin" / "dslstm", dslstm).parent
    process = start(path, tmp_path / "run", PATH=f"{folder}:{os.environ['PATH']}")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 2, said
    assert "[1] dslstm train: " in said
    assert "local_processes.sh: process 1 ended with exit code 2; the others are stopped" in said


def test_every_row_of_the_tables_is_a_cross_validation(tmp_path):
    lines = dry_run("tables.sh", "/emodb", "/my ravdess", tmp_path, "--", "--data.keep", "device").splitlines()
    commands = [shlex.split(line) for line in lines]
    found = [_parse("crossval", command[2:]) for command in commands]
    assert all(command[:2] == ["dslstm", "crossval"] for command in commands)
    rows = [arguments.workdir.name for arguments in found]
    assert len(set(rows)) == len(rows) == 52
    for row, arguments in zip(rows, found, strict=True):
        corpus = arguments.config.corpus
        assert (corpus.name, corpus.root) == (("ravdess", "/my ravdess") if "ravdess" in row else ("emodb", "/emodb"))
        assert arguments.config.data.keep == "device"
        assert not arguments.resume
    # Each leaves out or changes another part of the recipe, or asks for another protocol.
    assert len({(repr(arguments.config), arguments.protocol, arguments.crossval) for arguments in found}) == len(rows)


def test_rows_of_the_tables_go_on_and_can_be_picked(tmp_path):
    (tmp_path / "emodb_recipe").mkdir()
    (tmp_path / "emodb_recipe" / "crossval.json").write_text("{}")
    rows = ("without_noise", "emodb_recipe")
    lines = dry_run("tables.sh", "/emodb", "/ravdess", tmp_path, *rows).splitlines()
    found = [_parse("crossval", shlex.split(line)[2:]) for line in lines]
    assert [(arguments.workdir.name, arguments.resume) for arguments in found] == [
        ("emodb_recipe", True),
        ("without_noise", False),
    ]
    wrong = subprocess.run([str(LAUNCH / "tables.sh"), "e", "r", "o", "recipe"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "there is no row recipe; there are: emodb_recipe" in wrong.stderr


def test_tables_are_run_one_after_the_other(tmp_path):
    dslstm = executable(tmp_path / "bin" / "dslstm", 'cat; echo "ran $*"')
    path = f"{dslstm.parent}:{os.environ['PATH']}"
    command = [str(LAUNCH / "tables.sh"), "e", "r", str(tmp_path), "emodb_recipe_mfcc", "emodb_recipe_ds_lstm"]
    found = subprocess.run(command, env={"PATH": path}, capture_output=True, text=True, check=True)
    assert [line.split()[-1].rpartition("/")[2] for line in found.stdout.splitlines() if line.startswith("ran ")] == [
        "emodb_recipe_mfcc",
        "emodb_recipe_ds_lstm",
    ]


TABLES = ROOT / "results" / "tables"
PUBLISHED = {
    str(file.relative_to(TABLES)).removesuffix(".json.gz"): file for file in sorted(TABLES.rglob("*.json.gz"))
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_tables_say_what_their_files_say(name):
    """Each was made by its row's command, once or `again`, and its figures stand in BENCHMARKS.md as they are."""
    results = read_results(PUBLISHED[name])
    row = _parse("crossval", shlex.split(dry_run("tables.sh", "EMODB", "RAVDESS", "RUNS", Path(name).name))[2:])
    made = from_dict(results["config"])
    assert made == replace(row.config, split=replace(row.config.split, protocol=row.protocol))
    assert len(results["seeds"]) == row.seeds
    text = (ROOT / "BENCHMARKS.md").read_text()
    assert f"`{name}`" in text
    for figures in filter(None, (results["figures"], (results["ensemble"] or {}).get("figures"))):
        assert f"| {_accuracies(figures)} |" in text
    assert results["environment"]["commit"][:7] in text
    assert not re.search(r'"/(home|root|tmp|work)/', json.dumps(results))


PAPER = [name.removeprefix("paper_random5_") for name in PUBLISHED if name.startswith("paper_random5_")]


@pytest.mark.parametrize("row", PAPER)
def test_published_rows_of_the_paper_are_those_of_the_files(row):
    """Shared speakers, unseen ones, and those once more: three pairs of columns."""
    files = (f"paper_random5_{row}", f"paper_speaker5_{row}", f"again/paper_speaker5_{row}")
    cells = [_accuracies(read_results(PUBLISHED[name])["figures"]) for name in files]
    assert f"\n| `{row}` | {' | '.join(cells)} |\n" in (ROOT / "BENCHMARKS.md").read_text()


ELEMENTS = [
    name
    for name in PUBLISHED
    if Path(name).name.startswith(("with_", "without_", "corpus_normalization", "statistics_pooling"))
    and Path(name).name != "with_all"
]


@pytest.mark.parametrize("name", ELEMENTS)
def test_published_differences_are_those_of_the_files(name):
    """A row about an element has its own figures, its difference to with_all, and what all six seeds say."""
    (row,) = re.findall(rf"^\| `{name}` \|.*$", (ROOT / "BENCHMARKS.md").read_text(), re.MULTILINE)
    own, whole = PUBLISHED[name], PUBLISHED[name].with_name("with_all.json.gz")
    first = [] if own.parent == TABLES else [TABLES / whole.name, TABLES / own.name]
    runs = read_comparable([*first, whole, own])
    cells = [_accuracies(found["figures"]) for found in (runs[-1].results, runs[-1].results["ensemble"])]
    *earlier, one, other = (run.predictions for run in runs)
    cells += _describe(paired_difference(one, other))
    if earlier:
        both = paired_difference(earlier[0].beside([one]), earlier[1].beside([other]))
        cells += [*_describe(both), "<0.001" if both.p_of_runs < 0.0005 else f"{both.p_of_runs:.3f}"]
    assert row.endswith(f"| {' | '.join(cells)} |")


def _accuracies(figures):
    return f"{figures['wa']['mean']:.3f} | {figures['ua']['mean']:.3f}"


def _describe(found):
    low, high = found.intervals["speakers"][0]
    return [f"{100 * found.pooled:+.1f}", f"{100 * low:+.1f} to {100 * high:+.1f}"]
