"""Studies: what to compare, how to train it, which arm is better, and the report."""
