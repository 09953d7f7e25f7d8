"""Which arm of a study is better: AP on resampled images, intervals, verdicts.
docs/reference/statistics.md has the formulas."""

from yolact.study.statistics.comparison import Comparison
from yolact.study.statistics.family import compare_arms, compare_study
from yolact.study.statistics.finished import FinishedRun, load_arm, load_results, load_run
from yolact.study.statistics.power import plan_power
from yolact.study.statistics.study_runs import StudyRuns, load_runs

__all__ = [
    "Comparison",
    "FinishedRun",
    "StudyRuns",
    "compare_arms",
    "compare_study",
    "load_arm",
    "load_results",
    "load_run",
    "load_runs",
    "plan_power",
]
