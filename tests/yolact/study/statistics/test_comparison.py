"""From runs to records: pairing, looks, unplanned seeds, failed and unstable arms, and files."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tests.yolact.study.made_runs import FEW, few_run
from yolact.engine.records import read_records, write_records
from yolact.study.statistics import (
    compare_arms,
    compare_study,
    load_arm,
    load_run,
    load_runs,
)
from yolact.study.statistics.comparison import about_the_start, unstable_baseline
from yolact.study.statistics.conditions import check_study
from yolact.study.statistics.finished import FinishedRun, check_comparable
from yolact.study.statistics.inference import half_width
from yolact.study.statistics.resample import Resampled
from yolact.study.statistics.table import (
    main_table,
    others_table,
    quality_table,
    reliability_table,
)

DRAWS = 100


def runs(aps, *, image=0.0, skipped=0, seeds=None):
    """{seed: run} with these APs; every resample adds the same normal draw times `image` to all of
    them."""
    shift = image * np.random.default_rng(0).standard_normal(DRAWS)
    made = {}
    for seed, ap in zip(seeds or range(len(aps)), aps):
        resampled = Resampled(
            {"mask_ap": ap, "mask_ap50": ap + 10},
            {"mask_ap": ap + shift, "mask_ap50": ap + 10 + shift},
            0.0,
        )
        made[seed] = FinishedRun(None, seed, resampled, "truth", 200, 100, {}, skipped=skipped)
    return made


BASE = [40.0, 40.4, 39.7, 40.1, 40.3, 39.9, 40.2]


def plus(difference, spread=0.1, count=7, **options):
    noise = np.random.default_rng(3).normal(0, spread, 7)
    return runs([b + difference + e for b, e in zip(BASE[:count], noise)], **options)


def test_numbers_of_a_record():
    arm = plus(1.0, count=5, image=0.2)
    (record,) = compare_arms({"base": runs(BASE[:5]), "arm": arm}, "base")
    d = np.array(record.by_seed)
    assert d == pytest.approx([arm[s].resampled.point["mask_ap"] - BASE[s] for s in range(5)])
    assert record.interval.difference == pytest.approx(
        d.mean()
    ) and record.seed_sd == pytest.approx(d.std(ddof=1))
    image = np.var(0.2 * np.random.default_rng(0).standard_normal(DRAWS), ddof=1)
    assert record.image_sd == pytest.approx(math.sqrt(image)) and record.df == 4
    width = half_width(d.var(ddof=1) / 5, image, 4)
    assert (record.interval.low, record.interval.high) == pytest.approx(
        (d.mean() - width, d.mean() + width)
    )
    assert record.others["mask_ap50"].difference == pytest.approx(d.mean()) and list(
        record.others
    ) == ["mask_ap50"]
    assert record.ap == pytest.approx(record.baseline_ap + d.mean()) and record.verdict == "better"
    assert (
        record.decided_at == 5
        and not record.exploratory
        and record.sign_flip is None
        and record.needed is None
    )


def test_verdicts_in_words():
    arms = {
        "base": runs(BASE),
        "good": plus(1),
        "bad": plus(-1),
        "same": plus(0),
        "small": plus(0.3),
        "noisy": plus(0.5, 2.0),
        "copy": runs(BASE),
        "none": {},
    }
    records = {record.arm: record for record in compare_arms(arms, "base")}
    expected = {
        "good": ("better", "is better than base by"),
        "bad": ("worse", "is worse than base by"),
        "same": ("equivalent", "is equivalent to base"),
        "small": ("better (< margin)", "less than the margin of 0.5"),
        "noisy": ("undecided", "is not decided"),
        "copy": ("identical runs", "identical runs"),
        "none": ("failed", "no finished run"),
    }
    assert {label: record.label for label, record in records.items()} == {
        label: verdict for label, (verdict, _) in expected.items()
    }
    for label, (_, words) in expected.items():
        assert records[label].sentence.startswith(label) and words in records[label].sentence
    assert str(records["noisy"].needed) in records["noisy"].sentence
    # the failed arm counts
    assert records["good"].sign_flip == 2**-6 and records["good"].p_holm == pytest.approx(
        7 * records["good"].p
    )
    text = main_table(list(records.values()), arms)
    assert "sign-flip p 0.0156 on these images" in text
    assert [line.split()[0] for line in text.splitlines()[1:]] == list(arms)
    assert "mask_ap50" in others_table(list(records.values()))


def test_a_line_of_the_table_has_its_own_arms_numbers():
    arms = {"base": runs(BASE[:3]), "up": plus(2, count=3), "down": plus(-2, count=3)}
    lines = main_table(compare_arms(arms, "base", margin=1), arms).splitlines()
    noise = np.random.default_rng(3).normal(0, 0.1, 7)[:3]
    half = stats.t.ppf(0.975, 2) * noise.std(ddof=1) / 3**0.5
    base = np.mean(BASE[:3])
    assert lines[1].split() == ["base", f"{base:.2f}", "3", "baseline"]
    for line, name, d in zip(lines[2:], ("up", "down"), (2, -2)):
        mean = d + noise.mean()
        ends = f"[{mean - half:+.2f}, {mean + half:+.2f}]"
        label, ap, count, gap, *span, p, t, sd, image, verdict = line.split()
        assert (label, ap, count) == (name, f"{base + mean:.2f}", "3")
        assert (gap, " ".join(span)) == (f"{mean:+.2f}", ends)
        assert (sd, image) == (f"{noise.std(ddof=1):.2f}", "0.00")
        assert verdict == ("better" if d > 0 else "worse") and 0 < float(p) < 0.05
        expected = stats.ttest_1samp(d + noise, 0).pvalue  # without Holm's factor of two
        assert float(t) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("count, verdict", [(1, "no verdict"), (2, "no verdict"), (3, "better")])
def test_few_seeds(count, verdict):
    (record,) = compare_arms(
        {"base": runs(BASE[:count]), "arm": plus(3, 0.05, count, image=0.3)}, "base"
    )
    assert record.label == verdict and record.interval.low < 3 < record.interval.high
    if count == 1:
        image = np.var(0.3 * np.random.default_rng(0).standard_normal(DRAWS), ddof=1)
        assert record.interval.high - record.interval.low == pytest.approx(
            2 * 1.96 * math.sqrt(image), rel=1e-3
        )
        assert "for these two checkpoints" in record.sentence and math.isnan(record.seed_sd)


def test_unequal_seeds_are_compared_on_the_common_ones():
    arm = plus(1)
    del arm[2]
    records = compare_arms(
        {"base": runs(BASE), "arm": arm, "whole": plus(1)}, "base", planned=range(7)
    )
    partial, whole = records
    assert (
        partial.seeds == (0, 1, 3, 4, 5, 6)
        and partial.missing == (2,)
        and "without 2" in partial.sentence
    )
    assert partial.label == whole.label == "better" and not partial.exploratory
    assert partial.baseline_ap == pytest.approx(np.mean([BASE[s] for s in partial.seeds]))


def test_without_a_plan_no_seed_is_missing_from_one():
    records = compare_arms({"base": runs(BASE), "arm": plus(1, count=3), "other": plus(1)}, "base")
    assert [record.label for record in records] == ["better", "better"] and not records[
        0
    ].exploratory
    assert (
        "compared on seeds 0, 1, 2; without 3, 4, 5, 6" in records[0].sentence
        and "without" not in records[1].sentence
    )


def test_a_lost_seed_does_not_hold_up_later_looks():
    base, arm = (
        runs([*BASE, 40.6, 39.8, 40.0]),
        runs([b + 1 + e for b, e in zip([*BASE, 40.6, 39.8, 40.0], [0.4, -0.5, 0.3] * 4)]),
    )
    options = {"planned": range(10), "looks": [3, 5, 10]}
    for gone in (arm, base):
        lost = gone.pop(4)
        (record,) = compare_arms({"base": base, "arm": arm}, "base", **options)
        assert (
            record.seeds == (0, 1, 2, 3, 5, 6, 7, 8, 9)
            and record.decided_at == 5
            and not record.exploratory
        )
        assert (
            record.label == "better"
            and "without 4" in record.sentence
            and "wait" not in record.sentence
        )
        gone[4] = lost
    first = {seed: run for seed, run in arm.items() if seed not in (0, 1, 9)}
    (record,) = compare_arms(
        {"base": base, "arm": first}, "base", **options
    )  # seed 9 may still come
    assert (
        record.seeds
        == (
            2,
            3,
            4,
        )
        and "seeds 5, 6, 7, 8 wait for the look at 10 seeds" in record.sentence
    )
    few = {seed: arm[seed] for seed in (0, 1)}
    (record,) = compare_arms({"base": base, "arm": few}, "base", **options)
    assert record.exploratory == "2 of 10 planned seeds"


def test_one_look_at_the_planned_seeds():
    arms = {"base": runs(BASE), "arm": plus(1)}
    (early,) = compare_arms(arms, "base", planned=range(10))
    assert early.exploratory == "7 of 10 planned seeds" and early.label == "better, exploratory"
    (added,) = compare_arms(arms, "base", planned=range(5))
    assert added.exploratory == "seeds 5, 6 were not planned" and added.seeds == tuple(range(7))
    assert compare_arms(arms, "base", exploratory="amended")[0].label == "better, exploratory"


def test_looks_spend_the_level_and_keep_what_was_decided():
    arms = {"base": runs(BASE), "arm": plus(1)}
    (record,) = compare_arms(arms, "base", planned=range(7), looks=[3, 7])
    assert (
        record.decided_at == 3
        and record.level == pytest.approx(0.02)
        and record.seeds == tuple(range(7))
    )
    assert "decided at the look of 3 seeds" in record.sentence
    (waiting,) = compare_arms(
        {"base": runs(BASE[:5]), "arm": plus(1, count=5)}, "base", planned=range(10), looks=[3, 10]
    )
    assert (
        waiting.seeds == (0, 1, 2)
        and not waiting.exploratory
        and "seeds 3, 4 wait for the look at 10 seeds" in waiting.sentence
    )
    (few,) = compare_arms(
        {"base": runs(BASE[:4]), "arm": plus(1, count=4)}, "base", planned=range(10), looks=[5, 10]
    )
    assert few.exploratory == "4 of 10 planned seeds"
    late = plus(1)
    for seed in range(3):  # what happened before the look of 3 is undone: undecided there
        late[seed].resampled.point["mask_ap"] += (-4, 4, 1)[seed]
    (record,) = compare_arms(
        {"base": runs(BASE), "arm": late}, "base", planned=range(7), looks=[3, 7]
    )
    assert (
        record.verdict == "undecided"
        and record.decided_at is None
        and record.level == pytest.approx(0.03)
    )
    assert record.needed is not None


def from_starts(found, starts):
    return {seed: replace(run, start=start) for (seed, run), start in zip(found.items(), starts)}


def test_a_verdict_from_one_start_says_so():
    one, own = ["a"] * 7, list("abcdefg")
    arms = {
        "base": from_starts(runs(BASE), one),
        "good": from_starts(plus(1), one),
        "small": from_starts(plus(0.3, skipped=1), one),
        "noisy": from_starts(plus(0.5, 2.0), one),
        "copy": from_starts(runs(BASE), one),
        "elsewhere": from_starts(plus(1), ["b"] * 7),
        "late": from_starts(plus(1), [*one[:6], "b"]),
        "drawn": plus(1),
    }
    records = {record.arm: record for record in compare_arms(arms, "base")}
    assert {label: record.label for label, record in records.items()} == {
        "good": "better, given this start",
        "small": "better (< margin), given this start, unstable 7/7",
        "noisy": "undecided, given this start",
        "copy": "identical runs",
        "elsewhere": "better",
        "late": "better",
        "drawn": "better",
    }
    for record in records.values():
        assert ("given this start" in record.sentence) == ("given this start" in record.label)
    assert main_table(list(records.values()), arms).count("given this start") == 3
    assert about_the_start(records.values()).startswith("given this start: all runs were trained")
    arms = {"base": from_starts(runs(BASE), own), "good": from_starts(plus(1), own)}
    found = compare_arms(arms, "base")
    assert found[0].label == "better" and about_the_start(found) == ""


def test_an_unstable_arm_is_marked():
    arm = plus(1) | plus(1, count=2, skipped=4)
    (record,) = compare_arms({"base": runs(BASE), "arm": arm}, "base")
    assert (
        record.unstable == 2
        and record.label == "better, unstable 2/7"
        and "2 of 7 runs" in record.sentence
    )


def test_an_unstable_baseline_is_marked():
    arms = {"base": runs(BASE) | {2: runs(BASE, skipped=1)[2]}, "arm": plus(1)}
    assert "baseline, unstable 1/7" in main_table(compare_arms(arms, "base"), arms)
    assert unstable_baseline("base", arms["base"].values()) == (
        "base, the baseline, is unstable: 1 of 7 runs had steps whose loss or "
        "gradient was not finite"
    )
    assert unstable_baseline("arm", arms["arm"].values()) == ""


@pytest.mark.parametrize(
    "base, arm, label, words",
    [
        (
            {},
            plus(1),
            "no verdict",
            "arm cannot be compared: base, the baseline, has no finished run",
        ),
        (runs(BASE[:3]), {}, "failed", "arm has no finished run to compare"),
        ({}, {}, "failed", "arm has no finished run to compare"),
        (
            runs(BASE[:3]),
            plus(1, count=3, seeds=[7, 8, 9]),
            "no verdict",
            "arm has no seed that base has too",
        ),
    ],
)
def test_who_is_missing_is_named(base, arm, label, words):
    (record,) = compare_arms({"base": base, "arm": arm}, "base", planned=range(3))
    assert record.label == label and record.sentence == words


def test_copies_that_differ_from_the_baseline_prove_nothing():
    (record,) = compare_arms({"base": runs([40.0] * 5), "arm": runs([41.0] * 5)}, "base")
    assert record.verdict == "undecided" and "copies of each other" in record.sentence


@pytest.mark.parametrize(
    "options, message",
    [
        ({"baseline": "bse"}, "no arm 'bse'"),
        ({"primary": "box_ap"}, "arm has no box_ap|base has no box_ap"),
        ({"margin": 0}, "margin=0"),
        ({"looks": [5, 3]}, "looks"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        compare_arms({"base": runs(BASE), "arm": plus(1)}, **{"baseline": "base", **options})


# ------------------------------------------------------------------------------------------ folders


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "few"
    for seed in range(3):
        few_run(folder / "bce" / f"seed{seed}-0000000{seed}", seed)
        few_run(
            folder / "dice" / f"seed{seed}-0000000{seed}",
            seed,
            skill=1.0,
            skipped=2 * (seed == 1),
            loss="dice",
        )
    few_run(folder / "mse" / "seed0-00000000", 0, skill=0.5, step=25, loss="mse")
    (folder / "mse" / "seed1-00000001").mkdir()
    (folder / "study.yaml").write_text(FEW)
    return folder


def test_a_study_from_its_folder(study):
    found = load_runs(study, resamples=DRAWS)
    assert found.baseline == "bce" and list(found.arms) == ["bce", "dice", "mse"]
    assert list(found.arms["dice"]) == [0, 1, 2] and not found.arms["mse"]
    for why, expected in zip(
        found.unfinished["mse"].values(), ("step 25", "unfinished", "not begun"), strict=True
    ):
        assert expected in why
    dice, mse = compare_study(found)
    assert (
        dice.verdict == "better"
        and dice.unstable == 1
        and dice.margin == 3
        and dice.interval.difference > 5
    )
    assert mse.label == "failed" and dice.p_holm == pytest.approx(2 * dice.p)
    assert found.arms["dice"][1].diverged and not found.arms["dice"][0].diverged
    assert (study / "bce" / "seed0-00000000" / "results" / "records.resampled.npz").exists()
    again = load_runs(study, resamples=DRAWS)
    assert compare_study(again)[0] == dice
    arms = {label: runs for label, runs in found.arms.items() if runs}
    assert (
        "oLRP" in quality_table(arms)
        and quality_table(arms).count("mask") == 2
        and len(reliability_table(arms).splitlines()) == 3
    )


def test_a_folders_name_does_not_say_what_was_trained(tmp_path):
    folder = tmp_path / "few"
    for seed in range(3):
        for arm in ("bce", "dice", "mse"):
            few_run(folder / arm / f"seed{seed}-00000000", seed, loss=arm)
    (folder / "study.yaml").write_text(FEW)
    assert not load_runs(folder, resamples=DRAWS).strays
    few_run(folder / "dice" / "seed0-00000000", 0, loss="bce")
    few_run(folder / "dice" / "seed1-00000000", 1, loss="dice", settings=["train.lr=0.5"])
    few_run(folder / "mse" / "seed2-00000000", 1, loss="mse")  # another seed than its folder's
    # beside the one that is meant
    few_run(folder / "bce" / "seed1-ffffffff", 1, loss="bce", iterations=100, step=100, skill=1)
    found = load_runs(folder, resamples=DRAWS)
    assert "loss.mask is bce instead of dice" in found.unfinished["dice"][0] and list(
        found.arms["dice"]
    ) == [2]
    assert (
        "train.lr is 0.5 instead of" in found.unfinished["dice"][1]
        and "train.seed is 1 instead of 2" in found.unfinished["mse"][2]
    )
    assert list(found.arms["bce"]) == [0, 1, 2] and not found.departures
    ((place, why),) = found.strays.items()
    assert place.name == "seed1-ffffffff" and "train.iterations is 100 instead of 50" in why
    (folder / "bce" / "seed0-00000000" / "config.yaml").unlink()
    assert "no config.yaml" in load_runs(folder, resamples=DRAWS).unfinished["bce"][0]


def test_runs_that_are_all_of_another_length_than_the_study_says_are_refused(tmp_path):
    folder = tmp_path / "few"
    for seed in range(3):
        for arm in ("bce", "dice", "mse"):
            few_run(folder / arm / f"seed{seed}-00000000", seed, loss=arm, iterations=100, step=100)
    (folder / "study.yaml").write_text(FEW)
    found = load_runs(folder, resamples=DRAWS)
    with pytest.raises(
        ValueError,
        match="Different length: train.iterations is 100 instead of 50 in bce seed 0.*--mixed",
    ):
        check_study(found)
    assert all(
        "runs of different length" in record.exploratory
        for record in compare_study(found, check_study(found, mixed=True))
    )


def test_tuned_settings_are_part_of_what_is_meant(tmp_path):
    folder = tmp_path / "few"
    for seed in range(3):
        for arm, rate in (("bce", 0.01), ("dice", 0.02), ("mse", 0.02)):
            few_run(
                folder / arm / f"seed{seed}-00000000", seed, loss=arm, settings=[f"train.lr={rate}"]
            )
    (folder / "study.yaml").write_text(FEW + "tune: {grid: {train.lr: [0.01, 0.02]}}\n")
    # one of the grid, as far as can be known
    assert not any(load_runs(folder, resamples=DRAWS).unfinished.values())
    (folder / "tune.json").write_text(
        json.dumps(
            {"plan": {}, "chosen": {arm: {"train.lr": 0.02} for arm in ("bce", "dice", "mse")}}
        )
    )
    unfinished = load_runs(folder, resamples=DRAWS).unfinished
    assert (
        set(unfinished["bce"]) == {0, 1, 2}
        and "train.lr is 0.01 instead of 0.02" in unfinished["bce"][0]
    )
    assert not unfinished["dice"] and not unfinished["mse"]


def test_an_arm_from_its_folder(study, tmp_path):
    assert list(load_arm(study / "bce", resamples=DRAWS)) == [0, 1, 2]
    few_run(tmp_path / "unpaired" / "seed2-01234567", 1002)
    assert list(load_arm(tmp_path / "unpaired", resamples=DRAWS)) == [2], (
        "as the study counts it, and not as it trained"
    )
    with pytest.raises(ValueError, match="holds no finished run"):
        load_arm(tmp_path)
    for name in ("a", "b"):
        few_run(tmp_path / name, 4)
    with pytest.raises(ValueError, match="both of seed 4"):
        load_arm(tmp_path, resamples=DRAWS)


def test_a_run_that_is_not_at_its_end_is_refused(tmp_path):
    folder = few_run(tmp_path / "run", 0, iterations=100)
    with pytest.raises(
        ValueError, match=r"step 50, but the run has 100 iterations.*--resume=.*eval.py"
    ):
        load_run(folder, resamples=DRAWS)
    # a records file speaks for itself
    assert load_run(folder / "results" / "records.npz", resamples=DRAWS).seed == 0
    (tmp_path / "empty" / "results").mkdir(parents=True)
    with pytest.raises(ValueError, match="records.npz does not exist"):
        load_run(tmp_path / "empty")


def test_runs_of_different_data_are_not_compared(tmp_path):
    one, other, fewer = (
        load_run(few_run(tmp_path / name, 0, **options), resamples=10)
        for name, options in (("a", {}), ("b", {"skill": 1}), ("c", {"images": 30}))
    )
    assert check_comparable({"a": one, "b": other}) == []
    with pytest.raises(
        ValueError, match=r"c and a were evaluated on different images.*\(30 images against 40\)"
    ):
        check_comparable({"a": one, "b": other, "c": fewer})
    records = read_records(other.path)
    records.note["eval"] = {"nms": "traditional"}
    write_records(other.path, records)
    (note,) = check_comparable({"a": one, "b": load_run(tmp_path / "b", resamples=10)})
    assert "different settings (eval)" in note and "traditional" in note
