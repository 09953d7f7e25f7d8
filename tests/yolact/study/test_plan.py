"""Study files: what they mean, what they become, and what is refused."""

import json
import re
from pathlib import Path

import pytest

from data.config import CONFIGS
from data.resolve import ConfigError, dump_yaml, load_config
from data.yaml_text import read_yaml
from yolact.study import arms as arms_module
from yolact.study.arms import (
    arms_of,
    change_label,
    check_losses,
    config_differences,
    config_of,
    hash8,
    init_run,
    runs_of,
)
from yolact.study.folder import progress
from yolact.study.folder.layout import TUNE_FOLDER
from yolact.study.plan import dump_study, load_study, read_study
from yolact.study.train.estimate import describe_study
from yolact.study.tuning import (
    best_settings,
    is_held_out,
    on_split,
    search_run,
    trials_of,
    tune_split,
    write_splits,
)

BASE = {
    "name": "s",
    "base": "yolact_plus_tiny_cigarettes",
    "arms": ["bce", "dice"],
    "baseline": "bce",
    "seeds": 3,
    "budget": 400,
}


def study(**changes):
    return read_study({**BASE, **changes})


def labels(**changes):
    return [arm.label for arm in arms_of(study(**changes))]


def configs(made, seed=0):
    return {arm.label: config_of(made, arm, seed) for arm in arms_of(made)}


def test_a_file_takes_its_name_and_is_read_back_as_it_was_written(tmp_path):
    path = tmp_path / "my_study.yaml"
    path.write_text(
        "base: quickstart\narms: [bce, {grid: {loss.mask: [dice, mse], train.batch_size: [2, "
        "4]}}]\nbaseline: bce\nseeds: 2\nbudget: 10\ninit_from: {iterations: 5}\ntune: {grid: "
        "{train.lr: [1e-3, 1e-4]}}\nsearch: {settings: {loss.mask: 'bce + {a}*mse'}, space: {a: "
        "{low: 0.1, high: 10, log: true}}}\n"
    )
    made = load_study(path)
    assert (
        made.name == "my_study"
        and made.seeds == (0, 1)
        and made.tune.grid == {"train.lr": [1e-3, 1e-4]}
    )
    (tmp_path / "study.yaml").write_text(dump_study(made))
    assert load_study(tmp_path) == made


def test_grid_zip_list_and_exclusions():
    arms = [
        "bce",
        {"grid": {"loss.mask": ["dice", "mse"], "train": {"batch_size": [2, 4]}}},
        {"zip": {"train.batch_size": [2, 16], "train.lr": [1e-4, 8e-4]}},
        {"label": "mine", "loss": {"mask": "huber(delta=0.3)"}},
    ]
    assert labels(arms=arms, exclude=[{"loss.mask": "dice", "train.batch_size": 2}]) == [
        "bce",
        "dice, batch_size=4",
        "mse, batch_size=2",
        "mse, batch_size=4",
        "batch_size=2, lr=0.0001",
        "batch_size=16, lr=0.0008",
        "mine",
    ]


def test_labels_are_canonical_and_folders_are_safe():
    arms = ["0.5 * mse+1*bce", "bce + 0.5*mse(region = 'image')", "bce"]
    made = arms_of(study(arms=arms))
    assert [arm.label for arm in made] == ["0.5*mse + bce", "bce + 0.5*mse(region='image')", "bce"]
    assert [arm.slug for arm in made] == ["0.5xmse+bce", "bce+0.5xmse-region=image", "bce"]
    assert (
        change_label({"assign.name": "max_iou( positive=0.6 )", "train.lr_steps": [3, 4]})
        == "max_iou(positive=0.6), lr_steps=[3, 4]"
    )
    long = [
        f"bce + {i}*focal(alpha=0.25, gamma=2) + {i}*tversky(alpha=0.3, beta=0.7) + lovasz"
        for i in (2, 3)
    ]
    slugs = [arm.slug for arm in arms_of(study(arms=["bce", *long]))]
    assert len(set(slugs)) == 3 and max(map(len, slugs)) <= 60
    alike = ["bce", {"label": "a'b", "loss.mask": "mse"}, {"label": "AB", "loss.mask": "dice"}]
    assert len({arm.slug.lower() for arm in arms_of(study(arms=alike))}) == 3


def test_runs_are_named_by_arm_seed_and_hash_and_arms_advance_together():
    made = study(seeds=[4, 7], added_seeds=[9])
    runs = runs_of(made, arms_of(made))
    assert [(run.arm.label, run.seed) for run in runs] == [
        (a, s) for s in (4, 7, 9) for a in ("bce", "dice")
    ]
    assert all(
        run.folder.as_posix() == f"s/{run.arm.slug}/seed{run.seed}-{hash8(run.config)}"
        for run in runs
    )
    assert len({run.folder for run in runs}) == 6 and runs[0].name.startswith("bce/seed4-")
    assert [run.folder for run in runs_of(made, arms_of(made))] == [run.folder for run in runs]


def test_a_study_goes_on_with_another_tracker(tmp_path):
    """It changes no weights: the run is the same, in the same folder, and stays done."""
    (run, *_), (other, *_) = (
        runs_of(made, arms_of(made))
        for made in (study(), study(settings={"train.trackers": ["mlflow"]}))
    )
    assert other.config.train.trackers == ("mlflow",) and other.folder == run.folder
    folder = tmp_path / run.folder
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_yaml(run.config))
    assert progress._same_config(folder, other.config)
    with pytest.raises(ConfigError, match="resolve to the same config"):
        arms_of(study(arms=["bce", {"loss.mask": "bce", "train.trackers": ["wandb"]}]))


def test_only_the_axis_differs_between_arms():
    found = configs(study(settings={"train.batch_size": 4}))
    assert config_differences(found["bce"], found["dice"]) == {"loss.mask": ("bce", "dice")}
    assert (
        found["bce"].train.iterations,
        found["bce"].train.batch_size,
        found["bce"].train.on_nonfinite,
    ) == (400, 4, "skip")
    assert (
        configs(study(settings={"train.on_nonfinite": "stop"}))["bce"].train.on_nonfinite == "stop"
    )


def test_arms_that_are_not_paired_share_the_start_alone():
    copies = dict(
        arms=["survey_huber(delta=1)", "survey_huber(delta=2)", "survey_huber(delta=3)"],
        baseline="survey_huber(delta=1)",
        allow_copies=True,
        seeds=[4, 7],
        init_from={"iterations": 50},
    )
    paired, apart = study(**copies), study(**copies, paired=False)
    runs = {made.paired: runs_of(made, arms_of(made)) for made in (paired, apart)}
    assert [run.config.train.seed for run in runs[True]] == [4, 4, 4, 7, 7, 7]
    assert [run.config.train.seed for run in runs[False]] == [4, 1004, 2004, 7, 1007, 2007]
    assert [run.seed for run in runs[False]] == [4, 4, 4, 7, 7, 7] and all(
        f"/seed{run.seed}-" in f"/{run.name}" for run in runs[False]
    )
    assert {run.config.train.init_from for run in runs[True]} == {
        run.config.train.init_from for run in runs[False]
    }
    assert len({run.config.train.init_from for run in runs[False]}) == 1
    assert init_run(apart, 4) == init_run(paired, 7)
    equal = [
        describe_study(made, arms_of(made), runs[made.paired], Path("runs"))
        for made in (paired, apart)
    ]
    assert (
        "order of the images, augmentation" in equal[0]
        and "nothing but the start (runs/s/_init/" in equal[1]
    )
    assert "one loss in two arms" in check_losses(apart, arms_of(apart))[0], (
        "their seeds do not hide that they are one loss"
    )
    with pytest.raises(ConfigError, match="resolve to the same config"):
        arms_of(study(arms=["bce", {"label": "again", "loss.mask": "bce"}], paired=False))
    with pytest.raises(
        ConfigError, match="seeds: with paired: false they must be below 1000, .* got 1000"
    ):
        study(seeds=[0, 1000], paired=False)


def test_equal_images_and_equal_iterations():
    arms = {"grid": {"train.batch_size": [2, 8, 16]}}
    steps = {"train.lr_steps": [100, 300], "train.warmup_iterations": 40}
    for equal, expected in (
        ("iterations", [(400, (100, 300))] * 3),
        ("images", [(1600, (400, 1200)), (400, (100, 300)), (200, (50, 150))]),
    ):
        found = configs(
            study(arms=arms, baseline="batch_size=8", equal=equal, settings=steps)
        ).values()
        assert [(c.train.iterations, c.train.lr_steps) for c in found] == expected
        assert {c.train.warmup_iterations for c in found} == {40}
        assert [c.train.lr for c in found] == [1e-3] * 3


def test_learning_rate_rules():
    arms = {"grid": {"train.batch_size": [2, 8, 32]}}
    for rule, factors in (("constant", (1, 1, 1)), ("linear", (0.25, 1, 4)), ("sqrt", (0.5, 1, 2))):
        found = configs(study(arms=arms, baseline="batch_size=8", lr_rule=rule)).values()
        assert [c.train.lr for c in found] == pytest.approx([1e-3 * f for f in factors])
    own = study(arms=["bce", {"train.batch_size": 16, "train.lr": 5e-4}], lr_rule="linear")
    assert configs(own)["batch_size=16, lr=0.0005"].train.lr == 5e-4, (
        "a rate of the arm itself stays"
    )


def test_autoscaling_bases_follow_the_rules_of_the_study_alone():
    arms = {"grid": {"train.batch_size": [8, 16]}}
    found = configs(study(base="yolact_base", arms=arms, baseline="batch_size=8"))[
        "batch_size=16"
    ].train
    assert (found.lr, found.iterations, found.autoscale) == (1e-3, 400, False)
    at_16 = configs(study(base="yolact_base", settings={"train.batch_size": 16}))["bce"].train
    assert at_16.lr == load_config("yolact_base", ["train.batch_size=16"]).train.lr == 2e-3, (
        "as train.py would"
    )


def test_a_shared_start_is_a_run_of_its_own_that_all_arms_name():
    made = study(
        init_from={"iterations": 50, "settings": {"loss.mask_weight": 0}},
        settings={"train.batch_size": 4},
    )
    first = init_run(made, 0)
    assert (
        first.config.train.iterations,
        first.config.loss.mask_weight,
        first.config.train.batch_size,
    ) == (50, 0, 4)
    here, there = (runs_of(made, arms_of(made), root=root) for root in ("runs", "elsewhere"))
    assert {run.config.train.init_from for run in there} == {
        f"elsewhere/{first.folder}/weights/last.pth"
    }
    assert [run.folder for run in here] == [run.folder for run in there], (
        "the hash does not depend on where the runs are"
    )
    assert init_run(study(init_from="weights.pth"), 0) is None
    assert configs(study(init_from="weights.pth"))["dice"].train.init_from == "weights.pth"


def test_a_start_for_each_seed_is_shared_by_the_arms():
    init = {"iterations": 50, "per_seed": True, "settings": {"loss.mask_weight": 0}}
    arms = ["bce", "dice", {"loss.mask": "mse", "train.init_from": "mine.pth"}]
    content = dict(init_from=init, arms=arms, seeds=[4, 7], added_seeds=[9], paired=False)
    made = study(**content, tune={"grid": {"train.lr": [1e-3, 1e-4]}, "seeds": [30]})
    starts = {seed: init_run(made, seed) for seed in (4, 7, 9, 30)}
    assert {
        seed: (start.seed, start.config.train.seed, start.config.train.iterations)
        for seed, start in starts.items()
    } == {seed: (seed, seed, 50) for seed in starts}
    assert config_differences(starts[4].config, starts[9].config) == {"train.seed": (4, 9)}
    paths = {seed: f"else/where/{run.folder}/weights/last.pth" for seed, run in starts.items()}
    runs = runs_of(made, arms_of(made), root="else/where")
    assert [run.config.train.init_from for run in runs if run.arm.number < 2] == [
        paths[seed] for seed in (4, 4, 7, 7, 9, 9)
    ]
    assert {run.config.train.init_from for run in runs if run.arm.number == 2} == {"mine.pth"}
    assert [run.folder for run in runs] == [run.folder for run in runs_of(made, arms_of(made))]
    trials = trials_of(made, arms_of(made)[:2], "else/where")
    assert {trial.run.config.train.init_from for trial in trials} == {paths[30]}
    shared = study(**content | {"init_from": {**init, "per_seed": False}})
    assert init_run(shared, 9) == init_run(shared, 4) == init_run(made, 0)
    assert read_study(read_yaml(dump_study(made))) == made
    text = describe_study(made, arms_of(made), runs, Path("runs"))
    assert "the start (one for each seed, runs/s/_init/seed<k>-*, trained first)" in text


def test_tuned_settings_apply_to_their_arm():
    made = study(tune={"grid": {"train.lr": [1e-3, 1e-4]}})
    runs = runs_of(made, arms_of(made), chosen={"dice": {"train.lr": 1e-4}})
    assert {run.arm.label: run.config.train.lr for run in runs} == {"bce": 1e-3, "dice": 1e-4}


REFUSED = [
    (dict(margn=1), "study: unknown key margn; did you mean margin"),
    (dict(margin=0), "margin=0: must be > 0"),
    (dict(margin=-0.5), "margin=-0.5: must be > 0"),
    (dict(looks=[3, 2]), r"looks must ascend, got \[3, 2\]"),
    (dict(looks=[2, 2, 3]), "looks must ascend"),
    (dict(looks=[2, 5]), r"the last of looks is the number of seeds, 3, got \[2, 5\]"),
    (dict(arms=[]), "arms: lists nothing to compare"),
    (
        dict(arms=["bce", {"loss.masks": "dice"}]),
        "arm 2: unknown key loss.masks; did you mean loss.mask",
    ),
    (
        dict(arms=[{"grid": {"los.mask": ["bce"]}}]),
        "arm 1: grid: unknown key los.mask; did you mean loss.mask",
    ),
    (dict(arms=[{"grid": {"loss.mask": "bce"}}]), "loss.mask needs a list of values, got bce"),
    (
        dict(arms=[{"zip": {"train.batch_size": [1, 2], "train.lr": [1e-3]}}]),
        "lists of a zip must have one length",
    ),
    (
        dict(arms=[{"label": "x", "grid": {"loss.mask": ["bce"]}}]),
        "label: 'x' would name every arm",
    ),
    (dict(arms=["bce", {"train.seed": 3}]), "arm 2: train.seed is decided by seeds:"),
    (dict(settings={"train.iterations": 3}), "settings: train.iterations is decided by budget:"),
    (dict(settings={"train.patience": 3}), "train.patience is decided by budget:, one length"),
    (dict(settings={"train.epochs": 3}), "settings: train.epochs is decided by budget:"),
    (dict(settings={"train.autoscale": True}), "train.autoscale is decided by lr_rule: and equal:"),
    (dict(seeds=0), "needs at least one seed"),
    (dict(seeds=[1, 1]), "1 is listed more than once"),
    (dict(added_seeds=[2]), "2 is listed more than once"),
    (dict(primary="mask_map"), "none of mask_ap, .*did you mean mask_ap"),
    (dict(equal="epochs"), "equal=epochs: must be one of iterations, images"),
    (dict(lr_rule="liner"), "did you mean linear"),
    (dict(budget=0), "budget=0: must be > 0"),
    (dict(tune={"grid": {"train.lr": [1]}, "seeds": [2]}), "tune.seeds: 2 is a reported seed too"),
    (
        dict(arms=["bce", {"loss.mask": "dice", "tune": {"train.lr": [1]}}]),
        "an arm has a tune: grid, but the study has no tune:",
    ),
    (
        dict(search={"settings": {"loss.mask": "bce + {a}*mse"}, "space": {"b": [1, 2]}}),
        "search.space: has no range for a",
    ),
    (
        dict(
            search={
                "settings": {"loss.mask": "bce + {a}*mse"},
                "space": {"a": {"low": 2, "high": 1}},
            }
        ),
        "needs low < high",
    ),
    (dict(name="a/b"), "must be usable as a folder name"),
    (dict(margin=True), "margin=True: must be a number, not true or false"),
    (dict(looks=[True, 3]), "looks: must be a number, not true or false"),
    (dict(seeds=True), "seeds=True: must be a number"),
    (dict(seeds="5"), "study: seeds=5: must be a number of seeds, or a list of seeds"),
    (dict(exclude=[{}]), "exclude 1: names no setting, so it would leave out every arm"),
    (dict(arms=[{"settings": 3}]), "arm 1: settings: must be a mapping of settings, got 3"),
    (dict(tune=3), "study: tune=3: must be {grid: "),
    (dict(tune={"grid": {}}), "tune.grid: needs settings to try"),
    (dict(tune={"grid": {"train.lr": [1, 2, 1]}}), "tune.grid: train.lr lists 1 twice"),
    (
        dict(tune={"grid": {"train.lr": [1]}, "seeds": [0]}),
        "study: tune.seeds: 0 is a reported seed too",
    ),
    (
        dict(init_from=3),
        "study: init_from=3: must be {iterations: 500, .*, or a checkpoint's path$",
    ),
    (dict(init_from={"iterations": 0}), "study: init_from.iterations=0: must be > 0$"),
    (
        dict(init_from={"iterations": 5, "per_seeds": True}),
        "study: unknown key init_from.per_seeds; did you mean per_seed",
    ),
    (
        dict(init_from={"iterations": 5, "per_seed": 1}),
        "study: init_from.per_seed=1: must be true or false",
    ),
    (
        dict(init_from={"iterations": 5, "per_seed": True, "seed": 3}),
        "study: init_from: seed: 3 would be of one start, and per_seed makes one for each seed",
    ),
    (
        dict(search={"settings": {"loss.mask": "bce + {a}*mse"}, "space": {}}),
        "search.space: needs what is searched",
    ),
    (
        dict(search={"settings": {"loss.mask": "bce + {a}*mse"}, "space": {"a": 3}}),
        "study: search.space: a needs a range, .* got 3$",
    ),
    (
        dict(search={"settings": {"loss.mask": "bce + {a}*mse"}, "space": {"a": {"low": 1}}}),
        "study: search.space.a.high: is missing",
    ),
    (
        dict(
            search={
                "settings": {"loss.mask": "bce + {a}*mse"},
                "space": {"a": {"low": 1, "high": 2, "lg": 1}},
            }
        ),
        "did you mean log",
    ),
]


@pytest.mark.parametrize("changes,message", REFUSED)
def test_what_is_wrong_in_a_file_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        study(**changes)


def test_a_missing_key_is_explained():
    with pytest.raises(ConfigError, match="budget: is missing: iterations of every run"):
        read_study({key: value for key, value in BASE.items() if key != "budget"})


EXPANSIONS_REFUSED = [
    (dict(baseline="bse"), "baseline: no arm is called 'bse'; did you mean bce"),
    (dict(arms=["bce", "dice", " bce"]), "two arms are called 'bce'"),
    (
        dict(arms=["bce", {"label": "again", "loss.mask": "bce"}]),
        "the arms 'bce' and 'again' resolve to the same config",
    ),
    (
        dict(arms=["bce", "mse + dice", "dice + mse"]),
        "'mse . dice' and 'dice . mse' resolve to the same config",
    ),
    (dict(exclude=[{"loss.mask": "mse"}]), "exclude: no arm has loss.mask=mse"),
    (
        dict(arms=[{"grid": {"loss.mask": ["bce"]}}], exclude=[{"loss.mask": "bce"}]),
        "s: exclude: leaves no arm",
    ),
    (dict(arms=["bce", {"train.lr": -1}]), "s: lr=-1: train.lr=-1: must be > 0"),
    (dict(arms=["bce", {"loss.mask": "bce +"}]), "loss.mask=bce .: cannot read"),
    (dict(base="quickstar"), "did you mean quickstart"),
    (
        dict(
            tune={"grid": {"train.lr": [1e-3, 1e-4]}},
            arms=["bce", {"loss.mask": "dice", "tune": {"train.lr": [1e-3]}}],
        ),
        "every arm needs the same number of tuning trials, got bce: 2, dice: 1",
    ),
    (
        dict(tune={"grid": {"train.lr": [1e-3, 1e-4]}}, arms=["bce", {"train.lr": 0.1}]),
        "train.lr is tuned, so it cannot be what",
    ),
    (dict(settings={"data.val_truth": False}), "has no ground truth to measure AP on"),
    (
        dict(base="yolact_base", settings={"dataset": "coco2017_testdev"}),
        "s: coco2017_testdev has no ground truth",
    ),
]


@pytest.mark.parametrize("changes,message", EXPANSIONS_REFUSED)
def test_what_makes_no_sense_together_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        arms_of(study(**changes))


def test_one_loss_in_two_forms_is_refused_unless_meant():
    copies = ["bce", "survey_huber(delta=1)", "survey_huber(delta=2)"]
    made = study(arms=copies)
    with pytest.raises(
        ConfigError,
        match=r"the arms survey_huber\(delta=1\) and survey_huber\(delta=2\) are one loss.*"
        r"allow_copies: true",
    ):
        check_losses(made, arms_of(made))
    allowed = study(arms=copies, allow_copies=True)
    assert (
        "one loss in two arms, as allow_copies says" in check_losses(allowed, arms_of(allowed))[0]
    )
    plain = ["bce", "focal(alpha=None, gamma=0)"]  # equal, but with shares of covered cells
    with pytest.raises(ConfigError, match="are one loss"):
        binary = study(arms=plain, settings={"loss.mask_target": "binary"})
        check_losses(binary, arms_of(binary))
    soft = study(arms=plain, settings={"loss.mask_target": "coverage"})
    (note,) = check_losses(soft, arms_of(soft))
    assert note.endswith("except at targets between 0 and 1")
    scaled = study(arms=["bce", "2*bce"])
    with pytest.raises(ConfigError, match="bce and 2.bce are one loss"):
        check_losses(scaled, arms_of(scaled))
    apart = study(
        arms=[
            "bce",
            {"loss.mask": "2*bce", "train.batch_size": 2},
            {"loss.mask": "bce", "loss.mask_weight": 3},
        ]
    )
    assert check_losses(apart, arms_of(apart)) == [], (
        "another batch size, another weight: that is what the study is about"
    )


@pytest.mark.parametrize(
    "arms",
    [
        ["bce", "focal", "focal(gamma=2)"],
        ["bce", {"assign.name": "max_iou"}, {"assign.name": "max_iou(positive=0.5, negative=0.4)"}],
        [
            "bce",
            {"assign.name": "max_iou(positive=0.6, negative=0.3)"},
            {"assign.name": "max_iou(negative=0.3, positive=0.6)"},
        ],
    ],
    ids=["loss", "assigner", "order"],
)
def test_defaults_written_out_make_no_other_arm(arms):
    made = study(arms=arms, allow_copies=True)
    with pytest.raises(ConfigError, match="resolve to the same config: remove one of them"):
        check_losses(made, arms_of(made))


def test_unknown_losses_are_named_before_anything_runs():
    made = study(arms=["bce", "dise"])
    with pytest.raises(ConfigError, match="dise.*did you mean dice"):
        check_losses(made, arms_of(made))


@pytest.mark.parametrize(
    "text,message",
    [
        ("base: [", "study.yaml: line 1"),
        ("- a", "expected the keys of a study"),
        ("a: 1\na: 2", "twice"),
    ],
)
def test_unreadable_files_are_named(tmp_path, text, message):
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_study(tmp_path)
    with pytest.raises(
        ConfigError, match="study file .* does not exist: check the path; those that come along"
    ):
        load_study(tmp_path / "none.yaml")


def test_yaml_and_code_agree_on_numbers():
    made = read_study({**BASE, **read_yaml("arms: [bce, {train.lr: 1e-4}]")})
    assert configs(made)["lr=0.0001"].train.lr == 1e-4


def test_the_tune_split_is_cut_by_image_id_alone(tmp_path):
    made = read_study({**BASE, "tune": {"grid": {"train.lr": [1e-3, 1e-4]}, "share": 0.3}})
    source = tmp_path / "train.json"
    images = [{"id": n, "file_name": f"{n}.png", "width": 9, "height": 9} for n in range(200)]
    annotations = [
        {"id": n, "image_id": n % 200, "category_id": 1, "bbox": [0, 0, 5, 5], "area": 12}
        | {"segmentation": [[0, 0, 5, 0, 5, 5]], "iscrowd": 0}
        for n in range(300)
    ]
    source.write_text(
        json.dumps(
            {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
        )
    )
    config = config_of(made, arms_of(made)[0], 0)
    config = config.model_copy(
        update={
            "data": config.data.model_copy(update={"root": "", "train_annotations": str(source)})
        }
    )
    write_splits(made, [config], tmp_path, made.tune, TUNE_FOLDER)
    rest, held = (
        json.loads(path.read_text())
        for path in tune_split(made, config, tmp_path, 0.3, TUNE_FOLDER)
    )
    ids = [{image["id"] for image in part["images"]} for part in (rest, held)]
    assert not ids[0] & ids[1] and ids[0] | ids[1] == set(range(200)) and 40 < len(ids[1]) < 80
    assert all(
        {a["image_id"] for a in part["annotations"]} == part_ids
        for part, part_ids in zip((rest, held), ids, strict=True)
    )
    assert ids[1] == {n for n in range(200) if is_held_out(n, 0.3)} and is_held_out(
        3, 0.3
    ) == is_held_out(3, 0.3)
    assert {n for n in range(200) if is_held_out(n, 0.1)} < ids[1], (
        "a smaller share is part of a larger one"
    )
    tried = on_split(made, config, tmp_path, 0.3, TUNE_FOLDER).data
    assert (
        tried.val_annotations.endswith("tune.json") and tried.val_images == config.data.train_images
    ), "never the reported images"
    with pytest.raises(ConfigError, match="leaves no annotated image in the tune split"):
        write_splits(
            made, [config], tmp_path, made.tune.model_copy(update={"share": 1e-9}), TUNE_FOLDER
        )


def test_every_arm_has_its_trials_and_ties_go_to_the_first():
    made = study(
        tune={"grid": {"train.lr": [1e-3, 1e-4], "loss.mask_weight": [3, 6]}, "seeds": [77, 78]}
    )
    trials = trials_of(made, arms_of(made))
    assert len(trials) == 16 and {trial.run.seed for trial in trials} == {77, 78}
    values = {trial.run.folder: None for trial in trials}
    assert best_settings(trials, values) == {
        arm: {"train.lr": 1e-3, "loss.mask_weight": 3} for arm in ("bce", "dice")
    }
    best = {"train.lr": 1e-4, "loss.mask_weight": 3}
    values = {
        trial.run.folder: 2.0 if trial.settings == best and trial.run.arm.label == "dice" else 1.0
        for trial in trials
    }
    assert best_settings(trials, values)["dice"] == best
    own = study(
        tune={"grid": {"train.lr": [1e-3, 1e-4]}},
        arms=["bce", {"loss.mask": "dice", "tune": {"train.lr": [1, 2]}}],
    )
    assert {
        t.settings["train.lr"] for t in trials_of(own, arms_of(own)) if t.run.arm.label == "dice"
    } == {1, 2}


def test_a_search_fills_placeholders_and_settings():
    made = study(
        search={
            "settings": {"loss.mask": "bce + {a}*huber(delta={d})"},
            "space": {
                "a": {"low": 0.1, "high": 10, "log": True},
                "d": [0.3, 0.5],
                "train.lr": {"low": 1e-4, "high": 1e-2},
            },
        }
    )
    found = search_run(made, {"a": 0.123456, "d": 0.3, "train.lr": 0.00123456})
    assert found.settings == {"loss.mask": "bce + 0.1235*huber(delta=0.3)", "train.lr": 0.001235}
    assert found.run.config.train.lr == 0.001235 and found.run.config.data.val_annotations.endswith(
        "tune.json"
    )


def test_arms_with_a_base_of_their_own_keep_its_rate():
    """A rate of an autoscaling base belongs to batch 8."""
    arms = ["bce", {"base": "survey/bce_mse"}, {"base": "yolact_small_cigarettes"}]
    made = study(base="yolact_plus_base_cigarettes", arms=arms, equal="images", lr_rule="linear")
    found = {
        label: (c.train.lr, c.train.iterations, c.train.batch_size)
        for label, c in configs(made).items()
    }
    assert found == {
        "bce": (1e-4, 400, 8),
        "survey/bce_mse": (2e-4, 200, 16),
        "yolact_small_cigarettes": (1e-3, 400, 8),
    }
    assert configs(made)["survey/bce_mse"].loss.mask == load_config("survey/bce_mse").loss.mask


SHIPPED = sorted((Path(__file__).parents[3] / "configs" / "sweeps").glob("*.yaml"))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda path: path.stem)
def test_shipped_studies_hold(file):
    made = load_study(file)
    arms = arms_of(made)
    assert made.name == file.stem and made.description and len(arms) >= 2
    check_losses(made, arms)
    assert len({run.folder for run in runs_of(made, arms)}) == len(arms) * len(made.seeds)
    table = (
        (Path(__file__).parents[3] / "docs" / "reference" / "sweeps.md")
        .read_text()
        .partition("## Studies that come along")[2]
    )
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in table.splitlines()
        if line.startswith("| `")
    ]
    names, runs = next(
        (re.findall(r"`(\w+)`", row[0]), re.findall(r"\d+", row[2]))
        for row in rows
        if f"`{file.stem}`" in row[0]
    )
    counts = dict(zip(names, runs * len(names) if len(runs) == 1 else runs, strict=len(runs) > 1))
    assert counts[file.stem] == str(len(arms) * len(made.seeds))


def test_the_replay_trains_what_the_presets_do():
    made = load_study(SHIPPED[[path.stem for path in SHIPPED].index("survey_replay")])
    for label, config in configs(made).items():
        preset = load_config(label, check_names=False)
        assert set(config_differences(preset, config)) <= {"train.autoscale", "train.on_nonfinite"}


@pytest.mark.parametrize("name", ["hybrid_losses", "hybrid_losses_coco"])
def test_the_hybrids_are_those_of_table_3(name):
    labels_ = {
        arm.label
        for arm in arms_of(load_study(SHIPPED[[path.stem for path in SHIPPED].index(name)]))
    }
    pairs = (("mse", "bce"), ("mse", "huber"), ("huber", "bce"))
    assert labels_ == {"bce"} | {f"{a}*{x} + {y}" for a in ("0.5", "2", "3") for x, y in pairs}


def test_settings_travel_as_values():
    """Numbers keep every digit, words that are numbers are read once, and expressions stay text."""
    third = 1 / 3
    words = {"train.lr": "1e-3", "train.lr_steps": "[30, 40]"}
    made = study(settings={**words, "loss.mask_weight": third, "train.ema_decay": 0})
    for arm in arms_of(made):
        config = config_of(made, arm, 0)
        assert config.loss.mask_weight == third and config.train.lr == 0.001
        assert config.loss.mask == arm.label and config.train.lr_steps == (30, 40)
    with pytest.raises(ConfigError, match="s: train.lr=fast: must be a number"):
        arms_of(study(settings={"train.lr": "fast"}))


@pytest.mark.parametrize("paired", [True, False])
def test_an_arm_is_resolved_once_for_all_of_its_seeds(paired, monkeypatch):
    made = study(paired=paired, seeds=[4, 2, 7])
    arms = arms_of(made)
    loaded = []
    real = arms_module.load_config
    monkeypatch.setattr(
        arms_module, "load_config", lambda *a, **k: loaded.append(1) or real(*a, **k)
    )
    runs = runs_of(made, arms)
    assert len(loaded) == 2 * len(arms), "the base, and the arm"
    for run in runs:
        assert run.config == config_of(made, run.arm, run.seed)
    assert len({run.config.train.seed for run in runs}) == (3 if paired else 6)


HUNDRED = [*range(1, 101)]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"seeds": 10**9}, "seeds=1000000000: 1000 seeds are the most"),
        ({"seeds": [*range(1001)]}, "seeds: must hold at most 1000 values"),
        (
            {
                "arms": {
                    "grid": {k: HUNDRED for k in ("train.lr", "loss.mask_weight", "eval.top_k")}
                }
            },
            "arms: makes 1000000 arms, and 1000 are the most",
        ),
        ({"arms": {"zip": {"train.lr": [*range(1001)]}}}, "train.lr has 1001 values; 1000 are the"),
        (
            {"arms": {"grid": {"train.lr": HUNDRED}}, "seeds": 500},
            "100 of them and 500 seeds make 50000 runs",
        ),
        (
            {"tune": {"grid": {"train.lr": HUNDRED, "loss.mask_weight": [*range(1, 102)]}}},
            "makes more than 10000 trials",
        ),
        ({"budget": 10**30}, "must be <= 1e+12"),
        ({"margin": float("inf")}, "must be a finite number"),
        ({"search": {"space": {"train.lr": {"low": 0, "high": float("inf")}}}}, "finite number"),
    ],
)
def test_no_number_of_a_study_is_without_bounds(changes, why):
    with pytest.raises(ConfigError, match=re.escape(why)):
        study(**changes)


@pytest.mark.parametrize("key", ["train.precision", "train.channels_last", "eval.precision"])
def test_arms_state_their_precision(key):
    study = read_study({**BASE, "settings": {key: "auto"}})
    with pytest.raises(ConfigError, match=f"{key}=auto may come to another value"):
        runs_of(study, arms_of(study))


def test_a_base_whose_runs_may_end_early_is_refused(monkeypatch):
    hasty = {**CONFIGS[BASE["base"]], "name": "hasty", "train.patience": 3}
    monkeypatch.setitem(CONFIGS, "hasty", hasty)
    study = read_study({**BASE, "base": "hasty"})
    with pytest.raises(ConfigError, match="train.patience=3 of the base ends runs early"):
        runs_of(study, arms_of(study))
