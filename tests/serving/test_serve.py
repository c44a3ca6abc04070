"""dslstm serve: what it prints, and how it ends."""

import json
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from dslstm_jax.cli import main


def test_a_taken_port_is_one_line(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--model", str(tmp_path), "--port", str(port)]) == 2
    expected = f"dslstm serve: cannot listen on 127.0.0.1, port {port}: Address already in use; try another"
    assert capsys.readouterr().err.startswith(expected)


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--port", "70000", "--port 70000: give 0 to 65535"),
        ("--host", "no.such.host.invalid", "cannot listen on no.such.host.invalid, port 8000: "),
        ("--host", "x" * 70, "cannot listen on xxx"),
    ],
)
def test_an_address_without_sense_is_one_line(tmp_path, capsys, flag, value, message):
    assert main(["serve", "--model", str(tmp_path), flag, value]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"dslstm serve: {message}")
    assert said.count("\n") == 1


def test_a_missing_model_is_one_line(tmp_path, capsys):
    assert main(["serve", "--model", str(tmp_path / "nowhere"), "--port", "0"]) == 2
    assert "no such run folder" in capsys.readouterr().err


def test_a_missing_extra_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", "--model", str(tmp_path)]) == 2
    assert 'pip install "dslstm-jax[serve]"' in capsys.readouterr().err


@pytest.mark.slow
def test_it_answers_where_it_says_and_ends_on_an_interrupt(trained, tones):
    command = [sys.executable, "-m", "dslstm_jax", "serve", "--model", str(trained), "--port", "0"]
    # Where the tests run behind a shell's &, an interrupt is ignored, and what they start would ignore it, too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    with server:
        url = server.stdout.readline().split()[0]
        assert url.startswith("http://127.0.0.1:"), "this machine alone"
        sound = (tones / "wav" / "03a01Wa.wav").read_bytes()
        with urllib.request.urlopen(f"{url}predict", sound) as answer:
            assert json.load(answer)["label"] in ("happy", "neutral", "angry", "sad")
        server.send_signal(signal.SIGINT)
        _, said = server.communicate(timeout=60)
    assert server.returncode == 130
    assert said == "dslstm serve: interrupted\n"
