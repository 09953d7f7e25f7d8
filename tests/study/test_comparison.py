"""From runs to records: pairing, looks, unplanned seeds, failed and unstable arms, and files."""

import json
import math

import numpy as np
import pytest

from data.resolve import dump_yaml, load_config
from tests.study.synthetic import synthetic_records
from yolact.engine.records import read_records, write_records
from yolact.study import compare_arms, compare_study, load_arm, load_run, load_runs, sentence
from yolact.study.inference import half_width
from yolact.study.resample import Resampled
from yolact.study.runs import Run, check_comparable
from yolact.study.table import main_table, others_table, quality_table, reliability_table

DRAWS = 100


def runs(aps, *, image=0.0, skipped=0, seeds=None):
    """{seed: run} with these APs; every resample adds the same normal draw times `image` to all of them."""
    shift = image * np.random.default_rng(0).standard_normal(DRAWS)
    made = {}
    for seed, ap in zip(seeds or range(len(aps)), aps):
        resampled = Resampled({"mask_ap": ap, "mask_ap50": ap + 10}, {"mask_ap": ap + shift, "mask_ap50": ap + 10 + shift}, 0.0)
        made[seed] = Run(None, seed, resampled, "truth", 200, 100, {}, skipped=skipped)
    return made


BASE = [40.0, 40.4, 39.7, 40.1, 40.3, 39.9, 40.2]


def plus(difference, spread=0.1, count=7, **options):
    noise = np.random.default_rng(3).normal(0, spread, 7)
    return runs([b + difference + e for b, e in zip(BASE[:count], noise)], **options)


def test_numbers_of_a_record():
    arm = plus(1.0, count=5, image=0.2)
    record, = compare_arms({"base": runs(BASE[:5]), "arm": arm}, "base")
    d = np.array(record.by_seed)
    assert d == pytest.approx([arm[s].resampled.point["mask_ap"] - BASE[s] for s in range(5)])
    assert record.interval.difference == pytest.approx(d.mean()) and record.seed_sd == pytest.approx(d.std(ddof=1))
    image = np.var(0.2 * np.random.default_rng(0).standard_normal(DRAWS), ddof=1)
    assert record.image_sd == pytest.approx(math.sqrt(image)) and record.df == 4
    width = half_width(d.var(ddof=1) / 5, image, 4)
    assert (record.interval.low, record.interval.high) == pytest.approx((d.mean() - width, d.mean() + width))
    assert record.others["mask_ap50"].difference == pytest.approx(d.mean()) and list(record.others) == ["mask_ap50"]
    assert record.ap == pytest.approx(record.baseline_ap + d.mean()) and record.verdict == "better"
    assert record.decided_at == 5 and not record.exploratory and record.sign_flip is None and record.needed is None


def test_verdicts_in_words():
    arms = {"base": runs(BASE), "good": plus(1), "bad": plus(-1), "same": plus(0), "small": plus(0.3), "noisy": plus(0.5, 2.0),
            "copy": runs(BASE), "none": {}}
    records = {record.arm: record for record in compare_arms(arms, "base")}
    expected = {"good": ("better", "is better than base by"), "bad": ("worse", "is worse than base by"),
                "same": ("equivalent", "is equivalent to base"), "small": ("better (< margin)", "less than the margin of 0.5"),
                "noisy": ("undecided", "is not decided"), "copy": ("identical runs", "identical runs"),
                "none": ("failed", "no finished run")}
    assert {label: record.label for label, record in records.items()} == {label: verdict for label, (verdict, _) in expected.items()}
    for label, (_, words) in expected.items():
        assert sentence(records[label]).startswith(label) and words in sentence(records[label])
    assert str(records["noisy"].needed) in sentence(records["noisy"])
    assert records["good"].sign_flip == 2**-6 and records["good"].p_holm == pytest.approx(7 * records["good"].p)  # the failed arm counts
    text = main_table(list(records.values()), arms)
    assert "sign-flip p 0.0156 on these images" in text
    assert [line.split()[0] for line in text.splitlines()[1:]] == list(arms)
    assert "mask_ap50" in others_table(list(records.values()))


@pytest.mark.parametrize("count, verdict", [(1, "no verdict"), (2, "no verdict"), (3, "better")])
def test_few_seeds(count, verdict):
    record, = compare_arms({"base": runs(BASE[:count]), "arm": plus(3, 0.05, count, image=0.3)}, "base")
    assert record.label == verdict and record.interval.low < 3 < record.interval.high
    if count == 1:
        image = np.var(0.3 * np.random.default_rng(0).standard_normal(DRAWS), ddof=1)
        assert record.interval.high - record.interval.low == pytest.approx(2 * 1.96 * math.sqrt(image), rel=1e-3)
        assert "for these two checkpoints" in sentence(record) and math.isnan(record.seed_sd)


def test_unequal_seeds_are_compared_on_the_common_ones():
    arm = plus(1)
    del arm[2]
    records = compare_arms({"base": runs(BASE), "arm": arm, "whole": plus(1)}, "base", planned=range(7))
    partial, whole = records
    assert partial.seeds == (0, 1, 3, 4, 5, 6) and partial.missing == (2,) and "without 2" in sentence(partial)
    assert partial.label == "better, exploratory" and whole.label == "better"
    assert partial.baseline_ap == pytest.approx(np.mean([BASE[s] for s in partial.seeds]))


def test_one_look_at_the_planned_seeds():
    arms = {"base": runs(BASE), "arm": plus(1)}
    early, = compare_arms(arms, "base", planned=range(10))
    assert early.exploratory == "7 of 10 planned seeds" and early.label == "better, exploratory"
    added, = compare_arms(arms, "base", planned=range(5))
    assert added.exploratory == "seeds 5, 6 were not planned" and added.seeds == tuple(range(7))
    assert compare_arms(arms, "base", exploratory="amended")[0].label == "better, exploratory"


def test_looks_spend_the_level_and_keep_what_was_decided():
    arms = {"base": runs(BASE), "arm": plus(1)}
    record, = compare_arms(arms, "base", planned=range(7), looks=[3, 7])
    assert record.decided_at == 3 and record.level == pytest.approx(0.02) and record.seeds == tuple(range(7))
    assert "decided at the look of 3 seeds" in sentence(record)
    waiting, = compare_arms({"base": runs(BASE[:5]), "arm": plus(1, count=5)}, "base", planned=range(10), looks=[3, 10])
    assert waiting.seeds == (0, 1, 2) and not waiting.exploratory and "seeds 3, 4 wait for the look at 10 seeds" in sentence(waiting)
    few, = compare_arms({"base": runs(BASE[:4]), "arm": plus(1, count=4)}, "base", planned=range(10), looks=[5, 10])
    assert few.exploratory == "4 of 5 planned seeds"
    late = plus(1)
    for seed in range(3):  # what happened before the look of 3 is undone: undecided there
        late[seed].resampled.point["mask_ap"] += (-4, 4, 1)[seed]
    record, = compare_arms({"base": runs(BASE), "arm": late}, "base", planned=range(7), looks=[3, 7])
    assert record.verdict == "undecided" and record.decided_at is None and record.level == pytest.approx(0.03)
    assert record.needed is not None


def test_an_unstable_arm_is_marked():
    arm = plus(1) | plus(1, count=2, skipped=4)
    record, = compare_arms({"base": runs(BASE), "arm": arm}, "base")
    assert record.unstable == 2 and record.label == "better, unstable 2/7" and "2 of 7 runs" in sentence(record)


def test_copies_that_differ_from_the_baseline_prove_nothing():
    record, = compare_arms({"base": runs([40.0] * 5), "arm": runs([41.0] * 5)}, "base")
    assert record.verdict == "undecided" and "copies of each other" in sentence(record)


@pytest.mark.parametrize("options, message", [
    ({"baseline": "bse"}, "no arm 'bse'"), ({"primary": "box_ap"}, "arm has no box_ap|base has no box_ap"), ({"margin": 0}, "margin=0"),
    ({"looks": [5, 3]}, "looks")])
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        compare_arms({"base": runs(BASE), "arm": plus(1)}, **{"baseline": "base", **options})


# ---------------------------------------------------------------------------------------------------------------- folders

def write_run(folder, seed, *, skill=0.0, images=40, iterations=50, step=50, skipped=0, settings=()):
    """A finished run folder with made-up records."""
    records = synthetic_records(images, run_seed=100 * seed + int(10 * skill), skill=skill)
    records.note.update({"step": step, "weights": "last.pth", "eval": {"nms": "fast"}})
    write_records(folder / "results" / "records.npz", records)
    config = load_config("yolact_plus_tiny_cigarettes", [f"train.seed={seed}", f"train.iterations={iterations}", *settings])
    (folder / "config.yaml").write_text(dump_yaml(config))
    lines = [{"kind": "train", "step": 25, "skipped": skipped}, {"kind": "validation", "step": 50}]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n{half")
    return folder


STUDY = """
name: few
base: yolact_plus_tiny_cigarettes
arms: [bce, dice, mse]
baseline: bce
seeds: 3
budget: 50
margin: 3
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "few"
    for seed in range(3):
        write_run(folder / "bce" / f"seed{seed}-0000000{seed}", seed)
        write_run(folder / "dice" / f"seed{seed}-0000000{seed}", seed, skill=1.0, skipped=2 * (seed == 1))
    write_run(folder / "mse" / "seed0-00000000", 0, skill=0.5, step=25)
    (folder / "mse" / "seed1-00000001").mkdir()
    (folder / "study.yaml").write_text(STUDY)
    return folder


def test_a_study_from_its_folder(study):
    found = load_runs(study, resamples=DRAWS)
    assert found.baseline == "bce" and list(found.arms) == ["bce", "dice", "mse"]
    assert list(found.arms["dice"]) == [0, 1, 2] and not found.arms["mse"]
    for why, expected in zip(found.unfinished["mse"].values(), ("step 25", "unfinished", "not begun"), strict=True):
        assert expected in why
    dice, mse = compare_study(found)
    assert dice.verdict == "better" and dice.unstable == 1 and dice.margin == 3 and dice.interval.difference > 5
    assert mse.label == "failed" and dice.p_holm == pytest.approx(2 * dice.p)
    assert found.arms["dice"][1].diverged and not found.arms["dice"][0].diverged
    assert (study / "bce" / "seed0-00000000" / "results" / "records.resampled.npz").exists()
    again = load_runs(study, resamples=DRAWS)
    assert compare_study(again)[0] == dice
    arms = {label: runs for label, runs in found.arms.items() if runs}
    assert "oLRP" in quality_table(arms) and quality_table(arms).count("mask") == 2 and len(reliability_table(arms).splitlines()) == 3


def test_an_arm_from_its_folder(study, tmp_path):
    assert list(load_arm(study / "bce", resamples=DRAWS)) == [0, 1, 2]
    write_run(tmp_path / "unpaired" / "seed2-01234567", 1002)
    assert list(load_arm(tmp_path / "unpaired", resamples=DRAWS)) == [2], "as the study counts it, and not as it trained"
    with pytest.raises(ValueError, match="holds no finished run"):
        load_arm(tmp_path)
    for name in ("a", "b"):
        write_run(tmp_path / name, 4)
    with pytest.raises(ValueError, match="both of seed 4"):
        load_arm(tmp_path, resamples=DRAWS)


def test_a_run_that_is_not_at_its_end_is_refused(tmp_path):
    folder = write_run(tmp_path / "run", 0, iterations=100)
    with pytest.raises(ValueError, match=r"step 50, but the run has 100 iterations.*--resume=.*eval.py"):
        load_run(folder, resamples=DRAWS)
    assert load_run(folder / "results" / "records.npz", resamples=DRAWS).seed == 0  # a records file speaks for itself
    (tmp_path / "empty" / "results").mkdir(parents=True)
    with pytest.raises(ValueError, match="records.npz does not exist"):
        load_run(tmp_path / "empty")


def test_runs_of_different_data_are_not_compared(tmp_path):
    one, other, fewer = (load_run(write_run(tmp_path / name, 0, **options), resamples=10)
                         for name, options in (("a", {}), ("b", {"skill": 1}), ("c", {"images": 30})))
    assert check_comparable({"a": one, "b": other}) == []
    with pytest.raises(ValueError, match=r"c and a were evaluated on different images.*\(30 images against 40\)"):
        check_comparable({"a": one, "b": other, "c": fewer})
    records = read_records(other.path)
    records.note["eval"] = {"nms": "traditional"}
    write_records(other.path, records)
    note, = check_comparable({"a": one, "b": load_run(tmp_path / "b", resamples=10)})
    assert "different settings (eval)" in note and "traditional" in note
