"""Convert the nuclei of the 2018 Data Science Bowl to COCO format, where the configs *_nuclei look
for them.

Download stage1_train.zip of BBBC038 from https://bbbc.broadinstitute.org/BBBC038 (CC0; 670 images),
and run

    python scripts/prepare_nuclei.py --source stage1_train.zip      unpacks, converts into
        data/nuclei, verifies
    python scripts/prepare_nuclei.py                                verifies data/nuclei

The source has one folder an image: ID/images/ID.png and ID/masks/*.png, one mask a nucleus.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from data.prepare.nuclei import prepare_nuclei
from yolact.cli import Arguments, run


def _prepare(args: argparse.Namespace) -> int:
    for line in prepare_nuclei(args.root, args.source, val_share=args.val_share, seed=args.seed):
        print(line)
    print("complete; python scripts/check_data.py nuclei looks into every image")
    return 0


def program(argv: Sequence[str] | None = None) -> int:
    """Runs the program on the words of the command line; its exit code."""
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--source",
        type=Path,
        help="stage1_train.zip, or its unpacked folder; without it, only verify",
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("data/nuclei"),
        help="where the set goes (default data/nuclei)",
    )
    parser.add_argument(
        "--val_share",
        type=float,
        default=0.2,
        help="share of the images for validation (default 0.2)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the split")
    parser.add_argument(
        "--traceback", action="store_true", help="show the whole traceback of an error"
    )
    return run(_prepare, parser.parse_args(argv))
