"""Which arm of a study is better: AP on resampled images, intervals, verdicts.
docs/reference/statistics.md has the formulas."""

from yolact.study.statistics.comparison import Comparison, compare_arms, compare_study
from yolact.study.statistics.finished import Run, load_arm, load_results, load_run
from yolact.study.statistics.power import power
from yolact.study.statistics.study_runs import StudyRuns, load_runs
from yolact.study.statistics.table import sentence

__all__ = [
    "Comparison",
    "Run",
    "StudyRuns",
    "compare_arms",
    "compare_study",
    "load_arm",
    "load_results",
    "load_run",
    "load_runs",
    "power",
    "sentence",
]
