"""Which arm of a study is better: AP on resampled images, intervals, verdicts. docs/statistics.md has the formulas."""
