"""Which is better, and is that certain? python scripts/compare.py A B [C ...]

  python scripts/compare.py runs/bce/1 runs/dice/1                      two runs (one seed each: an
      interval, no verdict)
  python scripts/compare.py runs/study/bce runs/study/dice              two arms, folders that hold
      the runs of several seeds
  python scripts/compare.py runs/study                                  a whole study, as its
      study.yaml says
  python scripts/compare.py a.json b.json --gt instances_val2017.json   two COCO results files

The first is the baseline: differences are what the others have more. docs/reference/statistics.md
says what a verdict means.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

from yolact import cli

Arms = Mapping[str, Mapping[int, object]]


def parser() -> cli.Parser:
    flags = cli.Parser(usage="%(prog)s A B [C ...] [flags]", description=__doc__)
    flags.add_argument(
        "--what",
        nargs="+",
        metavar="PATH",
        help="what to compare; may also be given without the flag, first",
    )
    flags.add_argument("--gt", type=Path, help="annotation file of COCO results")
    flags.add_argument(
        "--metric",
        help="the one metric that the verdict is about (default: mask_ap, or box_ap of boxes "
        "alone)",
    )
    flags.add_argument(
        "--margin",
        type=float,
        help="difference in AP points below which arms count as equivalent (default 0.5)",
    )
    flags.switch(
        "--mixed",
        help="of a study: compare runs of different data, code, evaluation or length all the "
        "same, and say so",
    )
    flags.switch(
        "--boundary",
        help="also boundary AP, by faster-coco-eval; takes the mask_detections.json of runs",
    )
    return flags


def main(arguments: Namespace) -> int:
    from yolact.study.statistics import compare_arms

    paths = [Path(path) for path in arguments.what or ()]
    if arguments.overrides:
        raise ValueError(f"{arguments.overrides[0]}: there is no config to change here")
    if len(paths) == 1 and (paths[0] / "study.yaml").is_file():
        if arguments.metric or arguments.margin:
            raise ValueError(
                "a study fixes its metric and margin before it begins: to look at others, name "
                "its arms' folders instead"
            )
        records, arms = compare_whole_study(paths[0], mixed=arguments.mixed)
    else:
        if len(paths) < 2:
            raise ValueError(
                "name two or more runs, arms or results files; the first is the baseline"
            )
        arms = load(paths, arguments.gt)
        _check(arms)
        baseline = next(iter(arms))
        metric = arguments.metric or _default_metric(arms)
        margin = {} if arguments.margin is None else {"margin": arguments.margin}
        records = compare_arms(arms, baseline, primary=metric, **margin)
    show(records, arms)
    if arguments.boundary:
        show_boundary(arms, arguments.gt)
    return 0


def compare_whole_study(folder: Path, *, mixed: bool) -> tuple[list, Arms]:
    """(records, arms) as the study's file says. ValueError without a baseline to compare with, and
    for a mixture unless `mixed`."""
    from yolact.study.statistics import compare_study, load_runs
    from yolact.study.statistics.conditions import check_study, trained

    study = load_runs(folder)
    if len(study.arms) < 2:
        raise ValueError(
            f"{folder}: the study has one arm, {study.baseline}: there is nothing to compare it "
            "with"
        )
    if not study.arms[study.baseline]:
        waiting = study.unfinished[study.baseline]
        raise ValueError(
            f"{study.baseline}, the baseline, has no finished run (seed "
            f"{', '.join(map(str, waiting))}: {next(iter(waiting.values()))}), so there is nothing "
            "to compare the other arms with"
        )
    runs = {
        label: {seed: trained(run) for seed, run in found.items()}
        for label, found in study.arms.items()
    }
    unequal = check_study(study, runs, mixed=mixed)
    _check(study.arms)
    for kind, what in unequal.items():
        cli.note(f"--mixed: different {kind}: {what}")
    for label, seeds in study.unfinished.items():
        for seed, why in seeds.items():
            cli.note(f"left out: {label}, seed {seed}: {why}")
    for place, why in study.strays.items():
        cli.note(f"left out: {place}: {why}")
    return compare_study(study, unequal), study.arms


def load(paths: list[Path], gt: Path | None) -> Arms:
    """{name: {seed: run}} in the order given. Single runs of different seeds are compared as they
    are, as seed 0."""
    from yolact.study.statistics import load_arm, load_results, load_run

    arms, single = {}, {}
    for path, name in zip(paths, short_names(paths)):
        if not path.exists():
            raise ValueError(
                f"{path} does not exist: name a run's folder, a folder of runs, a records file or "
                "a COCO results file"
            )
        if path.suffix == ".json":
            if gt is None:
                raise ValueError(f"{path}: results need their ground truth: --gt=ANNOTATIONS.json")
            arms[name] = {0: load_results(path, gt)}
        elif path.is_file() or (path / "results").is_dir() or (path / "weights").is_dir():
            run = load_run(path)
            arms[name] = {run.seed: run}
            single[name] = run.seed
        elif (path / "study.yaml").is_file():
            raise ValueError(f"{path} is a whole study: name it alone, or the folders of its arms")
        else:
            arms[name] = load_arm(path)
    if all(len(runs) == 1 for runs in arms.values()):
        if len(set(single.values())) > 1:
            cli.note(
                "the runs are of different seeds: "
                f"{', '.join(f'{name} {seed}' for name, seed in single.items())}"
            )
        return {name: {0: next(iter(runs.values()))} for name, runs in arms.items()}
    return arms


def short_names(paths: list[Path]) -> list[str]:
    """The paths by as many of their last parts as tell them apart."""
    parts = [path.resolve().parts for path in paths]
    if len(set(parts)) < len(parts):
        raise ValueError(
            f"{next(path for path, p in zip(paths, parts) if parts.count(p) > 1)} is named twice"
        )
    depth = next(
        n for n in range(1, 1 + max(map(len, parts))) if len({p[-n:] for p in parts}) == len(parts)
    )
    return ["/".join(p[-depth:]) for p in parts]


def show(records: list, arms: Arms) -> None:
    from yolact.study.statistics.table import (
        main_table,
        others_table,
        quality_table,
        reliability_table,
        sentence,
        unstable_baseline,
    )

    first = records[0]
    run = next(iter(arms[first.baseline].values()))
    print(
        f"{first.metric} in AP points on {run.images} images; differences to {first.baseline}; "
        f"margin {first.margin:g}\n"
    )
    print(main_table(records, arms), end="\n\n")
    for record in records:
        print(sentence(record))
    unstable = unstable_baseline(first.baseline, arms[first.baseline].values())
    if unstable:
        print(unstable)
    print(f"\nother metrics: difference and 95 % interval, no verdicts\n{others_table(records)}")
    print(
        "\nerrors at the best score threshold (oLRP, lower is better), and scores against "
        f"IoU\n{quality_table(arms)}"
    )
    if all("mask_ap" in run.resampled.point for runs in arms.values() for run in runs.values()):
        print(f"\nmean mask IoU of detections by score\n{reliability_table(arms)}")
    if run.resampled.dropped > 0:
        print(
            f"\n{100 * run.resampled.dropped:.1f} % of the classes drop out of a resample on "
            "average, having no ground truth in it"
        )


def show_boundary(arms: Arms, gt: Path | None) -> None:
    from yolact.study.statistics.boundary import available
    from yolact.study.statistics.table import boundary_table

    if not available():
        cli.note(
            "--boundary: faster-coco-eval is not installed, so boundary AP is left out (pip "
            'install -e ".[boundary]")'
        )
        return
    print(f"\nboundary AP (means over seeds)\n{boundary_table(arms, gt)}")


def _check(arms: Arms) -> None:
    from yolact.study.statistics.finished import check_comparable

    runs = {
        f"{label}{f', seed {seed}' if len(found) > 1 else ''}": run
        for label, found in arms.items()
        for seed, run in found.items()
    }
    if not runs:
        raise ValueError("no run is finished yet: there is nothing to compare")
    for note in check_comparable(runs):
        cli.note(note)


def _default_metric(arms: Arms) -> str:
    points = [run.resampled.point for runs in arms.values() for run in runs.values()]
    return next(
        (name for name in ("mask_ap", "box_ap") if all(name in point for point in points)),
        "mask_ap",
    )


def read_arguments(argv: list[str] | None = None) -> Namespace:
    """The command line, with what to compare as its first plain words."""
    words = list(sys.argv[1:] if argv is None else argv)
    plain = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
    return parser().parse(["--what", *words] if plain else words)


def program() -> int:
    """Runs the program on the words of the command line; its exit code."""
    return cli.run(main, read_arguments())
