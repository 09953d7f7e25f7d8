"""Put Pascal SBD, in COCO format, where the config "yolact_resnet50_pascal" looks for it, and
verify it.

Images: http://home.bharathh.info/pubs/codes/SBD/download.html (benchmark.tgz, 1.4 GB; its
dataset/img folder). Annotations: the set's own are MATLAB files. YOLACT's authors published them in
COCO format as pascal_sbd_train.json and pascal_sbd_val.json: see "Pascal SBD" in the README of
https://github.com/dbolya/yolact. Then

    python scripts/prepare_sbd.py --images benchmark.tgz --annotations FOLDER_OR_ARCHIVE

moves and unpacks into data/sbd, and verifies. Without arguments it verifies data/sbd.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from data.prepare.sbd import prepare_sbd
from yolact.cli import Arguments, run


def _prepare(args: argparse.Namespace) -> int:
    for line in prepare_sbd(args.root, args.images, args.annotations):
        print(line)
    print("complete; python scripts/check_data.py pascal_sbd looks into every image")
    return 0


def program(argv: Sequence[str] | None = None) -> int:
    """Runs the program on the words of the command line; its exit code."""
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--images",
        type=Path,
        help="benchmark.tgz, or a folder with the images; without it, only verify",
    )
    parser.add_argument(
        "--annotations", type=Path, help="folder or archive with the two JSON files"
    )
    parser.add_argument(
        "--root", type=Path, default=Path("data/sbd"), help="where the set goes (default data/sbd)"
    )
    parser.add_argument(
        "--traceback", action="store_true", help="show the whole traceback of an error"
    )
    return run(_prepare, parser.parse_args(argv))
