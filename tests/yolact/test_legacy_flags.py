"""The tables of YOLACT's flags: each says what a flag became, in settings that exist."""

import pytest

from data.resolve import KEYS, load_config
from yolact import cli, legacy_flags

TABLES = {"train": legacy_flags.TRAIN, "eval": legacy_flags.EVAL}
FLAGS = [(name, flag) for name, table in TABLES.items() for flag in table]


@pytest.mark.parametrize("table, flag", FLAGS, ids=[f"{t}-{f.names[0]}" for t, f in FLAGS])
def test_every_flag_says_what_became_of_it(table, flag):
    assert flag.setting in (*KEYS, "")
    for change in filter(None, (flag.on, flag.off)):
        load_config("yolact_base", [change], check_names=False)
    meanings = [bool(flag.setting), bool(flag.on), bool(flag.became)]
    assert sum(meanings) <= 1 and len(flag.describes) > 5
    assert not flag.refused or flag.became


def test_values_become_settings_before_what_is_given_as_such():
    flags = cli.Parser()
    legacy_flags.add(flags, legacy_flags.TRAIN)
    arguments = flags.parse(["--weight_decay=0.1", "--no_autoscale", "--save_interval", "9"])
    assert legacy_flags.train_settings(arguments) == [
        "train.weight_decay=0.1",
        "train.autoscale=false",
        "train.save_every=9",
        "train.keep_every=9",
    ]


@pytest.mark.parametrize("words, expected", [([], []), (["--fast_nms"], ["eval.nms=fast"])])
def test_a_switch_that_is_not_given_changes_nothing(words, expected):
    flags = cli.Parser()
    legacy_flags.add(flags, legacy_flags.EVAL)
    assert legacy_flags.settings(flags.parse(words), legacy_flags.EVAL) == expected
