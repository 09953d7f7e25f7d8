"""Damaged files by the thousand at every door.

    python -m tests.campaigns                              # 2,000 a door
    python -m tests.campaigns --door check --count 200 --seed 1

Every case follows from (door, seed, number) alone. A door must end with exit 0, 1 or 2 and one line
that says what is wrong: no traceback, no hang, no crash, and nothing that is read as something else
without a word. Prints a row of a table a door, and what was wrong above it. Exit 1 where a case
failed.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

from tests.campaigns import damage, data_files, setting_files
from tests.campaigns.data_files import Files
from tests.campaigns.runner import VERDICTS, account, campaign, judged

COUNT, LIMIT = 2_000, 60.0  # cases of a door; seconds of one
DOORS = {**data_files.DOORS, **damage.DOORS, **setting_files.DOORS}


def run_case(files: Files, door: str, seed: int, case: int) -> tuple[str, str]:
    """(verdict, message) of a case."""
    with tempfile.TemporaryDirectory(dir=files.root) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = DOORS[door](files, Path(folder), random.Random(f"{door} {seed} {case}"))
        return judged(program)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--door", nargs="+", choices=DOORS, default=[*DOORS])
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    logging.disable()
    cases = range(given.first, given.first + given.count)
    failed = False
    with tempfile.TemporaryDirectory(prefix="campaign-") as root:
        files = Files(Path(root))
        if "pictures" in given.door:
            files.train()
        print("| door | inputs | " + " | ".join(VERDICTS) + " | seconds |", flush=True)
        for door in given.door:
            begun = time.monotonic()
            run = partial(run_case, files, door, given.seed)
            counts, bad = account(campaign(run, cases, LIMIT), progress=True)
            numbers = [counts[verdict] for verdict in VERDICTS]
            row = (door, len(cases), *numbers, f"{time.monotonic() - begun:.0f}")
            print(f"| {' | '.join(map(str, row))} |", flush=True)
            failed |= bool(bad)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
