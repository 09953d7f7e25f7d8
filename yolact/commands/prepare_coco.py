"""Put COCO 2017 where the config "coco2017" looks for it, and verify it.

Download from https://cocodataset.org/#download (about 19 GB):
    2017 Train images (train2017.zip), 2017 Val images (val2017.zip), 2017 Train/Val annotations
    (annotations_trainval2017.zip)
and run

    python scripts/prepare_coco.py --archives DOWNLOADS      unpacks the three into data/coco, then
        verifies
    python scripts/prepare_coco.py                           verifies data/coco

The annotations are licensed CC BY 4.0; the images belong to their Flickr authors.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from data.prepare.coco import prepare_coco
from yolact.cli import Arguments, run


def _prepare(args: argparse.Namespace) -> int:
    for line in prepare_coco(args.root, args.archives, any_size=args.any_size):
        print(line)
    print("complete; python scripts/check_data.py coco2017 looks into every image")
    return 0


def program(argv: Sequence[str] | None = None) -> int:
    """Runs the program on the words of the command line; its exit code."""
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--archives",
        type=Path,
        help="folder of the three downloaded zip files; without it, only verify",
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("data/coco"),
        help="where the set goes (default data/coco)",
    )
    parser.add_argument(
        "--any_size",
        action="store_true",
        help="accept a subset: do not compare counts with the published ones",
    )
    parser.add_argument(
        "--traceback", action="store_true", help="show the whole traceback of an error"
    )
    return run(_prepare, parser.parse_args(argv))
