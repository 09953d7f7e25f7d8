"""The campaigns, run small."""

import pytest

from tests.campaigns import damage, data_files


@pytest.mark.parametrize("kind", ["checkpoint_bytes", "checkpoint_content"])
def test_damaged_files_are_refused_in_one_line_or_read(kind):
    outcomes, failures = damage.run(24, seed=1, chosen=[kind])
    assert not failures
    assert outcomes[kind, "refused"] >= 12


def test_the_campaign_notices_what_is_read_wrongly(monkeypatch):
    monkeypatch.setattr("yolact.weights_file._check_content", lambda path: None)
    _, failures = damage.run(8, seed=1, chosen=["checkpoint_bytes"])
    assert any("other numbers were read" in text for text in failures)


@pytest.mark.parametrize("door", ["check", "compare"])
def test_damaged_data_is_told_in_one_line_or_accepted(door, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["data_files", "--door", door, "--count", "12", "--seed", "2"])
    assert data_files.main() == 0
    assert "told" in capsys.readouterr().out
