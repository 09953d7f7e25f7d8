"""The campaigns, run small."""

import time

import pytest

from tests.campaigns import __main__ as campaigns
from tests.campaigns import endurance, kills
from tests.campaigns.runner import campaign

SMALL = {"check": 12, "compare": 12, "config": 60, "study": 40}
SMALL |= {"checkpoint_bytes": 24, "checkpoint_content": 24}


def row(door, count, capsys, monkeypatch, expected=0):
    """{column: value} of what a campaign printed of a door."""
    words = ["campaigns", "--door", door, "--count", str(count), "--seed", "2"]
    monkeypatch.setattr("sys.argv", words)
    assert campaigns.main() == expected
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    head, found = ([cell.strip() for cell in line.split("|")] for line in lines)
    return dict(zip(head, found, strict=True))


@pytest.mark.parametrize("door", SMALL)
def test_damaged_files_are_told_in_one_line_or_accepted(door, capsys, monkeypatch):
    found = row(door, SMALL[door], capsys, monkeypatch)
    assert int(found["told"]) >= SMALL[door] // 4


def test_mended_copies_hold_no_flaw(capsys, monkeypatch):
    assert int(row("mend", 12, capsys, monkeypatch)["accepted"]) >= 6


def test_the_campaign_notices_what_is_read_wrongly(capsys, monkeypatch):
    monkeypatch.setattr("yolact.weights_file._check_content", lambda path: None)
    assert int(row("checkpoint_bytes", 24, capsys, monkeypatch, expected=1)["silent"])


def test_a_campaign_survives_its_own_mistakes():
    def run(case):
        if case == 1:
            raise KeyError("x")
        return "accepted", ""

    assert [one.verdict for one in campaign(run, range(3))] == ["accepted", "crash", "accepted"]


def test_a_case_that_hangs_is_told_from_one_that_waits_for_its_turn(monkeypatch):
    def run(case):
        if case == 0:
            time.sleep(0.2)
        while case == 1:
            pass
        if case == 2:
            time.sleep(100)
        return "accepted", ""

    monkeypatch.setattr("tests.campaigns.runner.LOOK", 0.05)
    verdicts = [one.verdict for one in campaign(run, range(4), limit=0.4)]
    assert verdicts == ["accepted", "hang", "hang", "accepted"]


def test_a_kill_at_a_file_operation_and_one_at_random_leave_no_trace(capsys):
    assert not kills.campaign(operations=1, moments=1, seed=3)


def test_endurance_notices_what_grows():
    def used(step, handles):
        return endurance.Use(step, 100.0, 50.0, handles, 4, 1, 1.0)

    flat = [used(step, 20) for step in range(10)]
    assert not endurance.grown(flat)
    assert endurance.grown([*flat, used(10, 21)]) == ["handles: 20 at step 2, 21 at step 10"]
