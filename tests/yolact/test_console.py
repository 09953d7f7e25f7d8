"""The console command: it lists every program, opens each, and suggests the nearest name."""

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import yolact
from yolact.__main__ import console
from yolact.commands import COMMANDS

ROOT = Path(__file__).parents[2]


def test_every_program_is_a_command_and_has_a_line_of_help(capsys):
    modules = {module.name for module in pkgutil.iter_modules([ROOT / "yolact" / "commands"])}
    assert modules == {module for module, _ in COMMANDS.values()}
    assert console(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, (_, summary) in COMMANDS.items():
        assert [line for line in lines if line.split() == [name, *summary.split()]]
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("name", COMMANDS)
def test_usage_names_the_command_as_it_was_called(name, capsys):
    before = sys.argv
    with pytest.raises(SystemExit) as stop:
        console([name, "--help"])
    assert stop.value.code == 0 and sys.argv is before
    assert capsys.readouterr().out.startswith(f"usage: yolact {name} ")


def test_a_command_gets_the_words_behind_its_name(monkeypatch):
    seen = []
    module = importlib.import_module("yolact.commands.train")
    monkeypatch.setattr(module, "program", lambda: seen.append(sys.argv) or 3)
    assert console(["train", "--config=a", "b=c"]) == 3
    assert seen == [["yolact train", "--config=a", "b=c"]]


def test_unknown_commands_suggest_the_nearest(capsys):
    assert console(["qickstart"]) == 2
    message = capsys.readouterr().err
    assert "did you mean quickstart" in message and message.count("\n") == 1


def test_module_form_and_version():
    done = subprocess.run(
        [sys.executable, "-m", "yolact", "--version"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"{yolact.__version__}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_wrong_flag_is_one_line_that_a_terminal_may_get(name, capsys):
    with pytest.raises(SystemExit, match="2"):
        console([name, "--nosuch\x1b[2J\n"])
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1 and told.startswith("error: ")
    assert told.rstrip("\n").isprintable()
    assert "--nosuch\\x1b[2J" in told or "are required" in told or "choose from" in told
