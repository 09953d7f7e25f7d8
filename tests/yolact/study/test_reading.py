"""What the files of a run say: which validation counts, the last one of its last step, and its
config."""

import json

import pytest

from data.resolve import ConfigError, dump_yaml, load_config
from yolact.study.folder.reading import final_validation, read_config


@pytest.fixture
def run(tmp_path):
    """Validated twice at its end, as after a resumption that evaluated anew."""
    lines = [
        {"kind": "validation", "step": 5, "segm": {"ap": 40.0}},
        {"kind": "train", "step": 10, "losses": {}},
        {"kind": "validation", "step": 10, "segm": {"ap": 20.0}},
        {"kind": "validation", "step": 10, "segm": {"ap": 30.0}},
        {"kind": "validation", "step": 15, "segm": {"ap": 50.0}},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"kind": "valid', encoding="utf-8")
    return tmp_path


def test_the_last_of_two_validations_of_the_last_step_counts(run):
    assert final_validation(run, 10)["segm"]["ap"] == 30.0


def test_other_steps_do_not_count(run):
    assert final_validation(run, 5)["segm"]["ap"] == 40.0
    assert final_validation(run, 7) is None


def test_a_config_is_parsed_once_and_again_when_it_changes(tmp_path):
    with pytest.raises(ConfigError, match="no such config file"):
        read_config(tmp_path)
    for lr in ("1e-3", "1e-4"):
        config = load_config("yolact_small", [f"train.lr={lr}"], check_names=False)
        (tmp_path / "config.yaml").write_text(dump_yaml(config))
        assert read_config(tmp_path) == config and read_config(tmp_path) is read_config(tmp_path)
