"""Models for other runtimes: what is exported, how it is written, and how closely it agrees."""
