"""Compare a device with the CPU: yolact check-device [cpu|cuda|mps|xpu]

Runs a small model, each assigner, NMS, the losses and a training step in float32 on both, and
prints the largest differences. Exit code 1 where one is beyond what rounding may make.
"""

from __future__ import annotations

from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence

from yolact import cli


def main(arguments: Namespace) -> int:
    from yolact.engine.device_check import as_table, check_device
    from yolact.engine.distributed import pick_device

    device = pick_device(arguments.device)
    rows = check_device(device)
    print(as_table(rows))
    wrong = [row.name for row in rows if not row.ok]
    if wrong:
        cli.say(f"{device} does not compute what the CPU does: {', '.join(wrong)}", error=True)
    else:
        cli.say(f"{device} computes what the CPU does")
    return 1 if wrong else 0


def program(argv: Sequence[str] | None = None) -> int:
    """Runs the program on the words of the command line; its exit code."""
    parser = cli.Arguments(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument(
        "device",
        nargs="?",
        help="cpu, cuda, cuda:N, xpu or mps (default: the first that is there of cuda, xpu, mps)",
    )
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    return cli.run(main, parser.parse_args(argv))
