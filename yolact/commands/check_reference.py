"""Compare this project with the numbers that the published implementations produced, and print a
table.

    python scripts/check_reference.py PATH [--only TEXT]

PATH is a folder laid out like tests/reference/yolact (a full copy holds more cases than the reduced
one kept there). Exit code 0 when every case agrees, 1 when one does not, 2 when PATH holds no case.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from yolact.cli import Arguments
from yolact.testing.reference_cases import all_cases, not_offered


def program(argv: Sequence[str] | None = None) -> int:
    """Runs the program on the words of the command line; its exit code."""
    parser = Arguments(description=__doc__.split("\n")[0])
    parser.add_argument("path", type=Path, help="folder of reference numbers")
    parser.add_argument(
        "--only", default="", help="run only the cases whose name contains this text"
    )
    args = parser.parse_args(argv)

    root = args.path / "yolact" if (args.path / "yolact").is_dir() else args.path
    cases = [case for case in all_cases(root) if args.only in case.name] if root.is_dir() else []
    if not cases:
        print(
            f"error: {root} holds no reference "
            f"case{f' named like {args.only!r}' if args.only else ''}: give a folder with net/, "
            "loss/, ops/, ... as in tests/reference/yolact",
            file=sys.stderr,
        )
        return 2

    width = max(len(case.name) for case in cases)
    print(f"{'case':<{width}}  {'error':>10}  {'tolerance':>10}  result")
    failed, start = 0, time.perf_counter()
    for case in cases:
        error = case.run()
        agrees = error <= case.tolerance  # False for NaN too
        failed += not agrees
        print(
            f"{case.name:<{width}}  {error:>10.3g}  {case.tolerance:>10.3g}  "
            f"{'agrees' if agrees else 'DIFFERS'}",
            flush=True,
        )
    print(
        f"\n{len(cases) - failed} of {len(cases)} cases agree ({time.perf_counter() - start:.0f} s)"
    )
    for name, reason in sorted(not_offered().items()):
        print(f"not compared: {name}: {reason}")
    return 1 if failed else 0
