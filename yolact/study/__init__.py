"""Which arm of a study is better: AP on resampled images, intervals, verdicts. docs/statistics.md
has the formulas."""

from yolact.study.comparison import Comparison, compare_arms, compare_study
from yolact.study.plan import power
from yolact.study.runs import Run, load_arm, load_results, load_run
from yolact.study.study_runs import StudyRuns, load_runs
from yolact.study.table import sentence

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
