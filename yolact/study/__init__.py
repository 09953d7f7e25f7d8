"""Studies: what to compare, how to train it, which arm is better, and the report.

    from yolact import study

    handle = study.load("configs/sweeps/quick_study.yaml")
    handle.train(jobs=2)
    for comparison in handle.compare():
        print(comparison.sentence)
    handle.report("report")

Importing this package loads nothing: a name is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yolact.study.handle import StudyHandle, load

__all__ = ["StudyHandle", "load"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from yolact.study import handle

    return getattr(handle, name)


def __dir__() -> list[str]:
    return list(__all__)
