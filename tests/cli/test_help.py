"""The help of every command: few options, each with one short line that reads well."""

import re

import pytest

from dslstm_jax.cli import main
from dslstm_jax.cli.entry import COMMANDS

MOST = {"train": 60}
"""Options of a command, --help among them."""
WIDEST = 110
"""Characters of an option's help, its default included."""


@pytest.fixture(params=COMMANDS)
def shown(request, capsys, monkeypatch):
    """The command, and the lines of its help on a terminal that has room for one column of them."""
    monkeypatch.setenv("COLUMNS", "80")
    assert main([request.param, "--help"]) == 0
    return request.param, capsys.readouterr().out.splitlines()


def options(lines):
    """The help of each flag; --x, --no-x is one."""
    found, said = {}, []
    for line in lines:
        text = line.strip("│ ")  # without the box
        if name := re.match(r". (?:-h, )?(--[a-z][a-z0-9.-]*)", line):
            _, _, beside = text.partition("  ")
            found[name[1]] = said = [beside.strip()] if beside else []
        elif line[1:3] == "  " and text:
            said.append(text)
        else:  # a border, or words about a group
            said = []
    return {name: " ".join(said) for name, said in found.items()}


def test_there_are_few_options(shown):
    command, lines = shown
    found = options(lines)
    assert "--help" in found
    print(f"{command}: {len(found)} options")
    assert len(found) <= MOST.get(command, 70)


def test_each_has_one_line_that_reads_well(shown):
    _, lines = shown
    assert "noqa" not in "".join(lines)
    assert "(default: )" not in "".join(lines)
    for name, said in options(lines).items():
        assert said, name
        assert "(default: None)" not in said
        assert len(said) <= WIDEST, (name, said)
        assert name == "--help" or said.endswith((".", ")")), (name, said)
