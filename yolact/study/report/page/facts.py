"""The words of the page around its figures: warnings, how the study was made, what its arms change,
what was left out, what verdicts mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from yolact.study.arms import config_differences
from yolact.study.folder.reading import starts_of
from yolact.study.report.data import RUNS_ALONE, Report
from yolact.study.report.spread import spread_of
from yolact.study.statistics.collapse import about_collapses
from yolact.study.statistics.comparison import unstable_baseline
from yolact.study.statistics.inference import VARIANCE_RULE
from yolact.study.statistics.verdict import BETTER, EQUIVALENT, IDENTICAL, NONE, UNDECIDED, WORSE

SHOWN_SETTINGS = (
    "model.backbone",
    "model.max_size",
    "data.name",
    "train.batch_size",
    "train.lr",
    "train.precision",
    "train.ema_decay",
)
MEANING = {
    BETTER: "the difference is above 0 at the 5 % level, after paying for the number of arms; “(< "
    "margin)”: but surely small",
    WORSE: "the difference is below 0 at the 5 % level, after paying for the number of arms",
    EQUIVALENT: "the difference is surely smaller than the margin, whichever its sign",
    UNDECIDED: "none of these: there may be a difference or none, more seeds or images are needed",
    IDENTICAL: "the runs are the same, which says nothing about the losses",
    NONE: "fewer than three seeds that the baseline has too",
}


@dataclass(frozen=True)
class Warned:
    """what: in bold; more: the rest of the sentence."""

    what: str
    more: str


def warnings(report: Report) -> list[Warned]:
    """What a reader must know before any number."""
    found = [
        Warned(
            f"The runs are of different {kind}",
            f", and were put together on request: {what}. Every verdict is exploratory.",
        )
        for kind, what in report.mixed.items()
    ]
    if report.study.amended:
        changed = ", ".join(report.study.amended)
        found.append(
            Warned(
                "The study was changed after it began",
                f" ({changed}), so its verdicts are exploratory.",
            )
        )
    unstable = unstable_baseline(report.baseline, report.base.runs.values())
    if unstable:
        found.append(Warned(unstable, ": every difference is to these."))
    found += [Warned(sentence, ".") for sentence in about_collapses(spread_of(report))]
    missing = sum(map(len, report.unfinished.values()))
    if missing:
        total = missing + len(report.runs)
        found.append(
            Warned(
                f"{missing} of {total} planned runs {'is' if missing == 1 else 'are'} not finished",
                " and left out, see the end of Method.",
            )
        )
    return found


def facts_of(report: Report) -> dict[str, str]:
    """How the study was made. Of results files, only what they were scored on."""
    study, first = report.study, report.runs[0][2]
    scored = f"{first.images} images, digest {first.truth_digest[:16]}"
    asked = f"margin {study.margin:g}"
    shared = {
        "baseline": report.baseline,
        "metric": f"{report.metric}, {asked}",
        "variance rule": VARIANCE_RULE,
    }
    if not report.trained:
        return {**shared, "set": scored}
    starts = [start for _, _, run in report.runs for start in starts_of(run.env)]
    seeds = ", ".join(map(str, study.seeds)) + (
        f"; added later: {', '.join(map(str, study.added_seeds))}" if study.added_seeds else ""
    )

    def values(*keys: str) -> str:
        found = []
        for start in starts:
            value: Any = start
            for key in keys:
                value = value.get(key) if isinstance(value, dict) else None
            found.append(str(value or "not recorded"))
        return ", ".join(dict.fromkeys(found))

    config = first.config.model_dump()
    shown = ", ".join(
        f"{key}={config[key.split('.')[0]][key.split('.')[1]]}"
        for key in SHOWN_SETTINGS
        if key.split(".")[1] in config[key.split(".")[0]]
    )
    code = (
        f"digest {values('code')}, torch {values('versions', 'torch')}, torchvision "
        f"{values('versions', 'torchvision')}; commit {values('commit')}"
    )
    if report.origin == RUNS_ALONE:
        return {
            **shared,
            "validation set": f"{first.config.data.name}: {scored}",
            "config of the baseline": f"{first.config.name} ({shown})",
            "code": code,
            "device": values("device"),
        }
    return {
        "arms": str(len(report.arms)),
        "seeds": seeds,
        "baseline": report.baseline,
        "length": f"{study.budget} iterations, equal {study.equal}",
        "metric": f"{report.metric} of the weights after the last iteration, {asked}, looked at "
        f"{study.looked_at}",
        "variance rule": VARIANCE_RULE,
        "validation set": f"{first.config.data.name}: {scored}",
        "base config": f"{study.base} ({shown})",
        "code": code,
        "device": values("device"),
    }


def arm_settings(report: Report) -> list[dict[str, Any]]:
    """What each arm changes against the baseline; nothing of results files."""
    if not report.trained:
        return []
    rows: list[dict[str, Any]] = []
    for number, arm in enumerate(report.arms):
        changed = {
            key: new
            for key, (_, new) in config_differences(report.base.config, arm.config).items()
            if key != "train.seed"
        }
        words = ", ".join(f"{key}={value}" for key, value in changed.items()) or (
            "the baseline" if arm is report.base else "nothing"
        )
        rows.append({"number": number, "label": arm.label, "words": words})
    return rows


def left_out(report: Report) -> list[str]:
    """Runs that are not in it, with the reason."""
    lines = [
        f"{label}, seed {seed}: {why}"
        for label, found in report.unfinished.items()
        for seed, why in sorted(found.items())
    ]
    return lines + [f"{path.parent.name}/{path.name}: {why}" for path, why in report.strays.items()]


def meanings(report: Report) -> dict[str, str]:
    """What the verdicts that it gives mean."""
    used = {arm.comparison.verdict for arm in report.arms if arm.comparison is not None}
    return {name: words for name, words in MEANING.items() if name in used}
