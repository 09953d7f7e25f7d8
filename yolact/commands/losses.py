"""List, check, compare and draw mask losses, before any training.

    python scripts/losses.py list                        every loss with its parameters and source
    python scripts/losses.py check bce                   a loss with all its switches, or an
        expression "dice + 0.5*mse", or all
    python scripts/losses.py compare survey_huber mse    are they one loss up to a constant factor?
    python scripts/losses.py plot bce dice --out losses.png

--plugins FILE.py: losses of your own, checked exactly as the built-in ones. Exit code 0: sound
(compare: different losses), 1: a check failed (compare: one loss), 2: a mistake in what was asked.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from layers.names import did_you_mean
from yolact.cli import Arguments, run

COMMANDS = ("list", "check", "compare", "plot")


def _read(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Arguments(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("command", nargs="?", help=" | ".join(COMMANDS))
    parser.add_argument("expressions", nargs="*", help="names or expressions, in quotes")
    parser.add_argument(
        "--plugins",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="files or modules that register losses",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("losses.png"), help="the picture that plot writes"
    )
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.command is None:
        print(__doc__.strip(), file=sys.stderr)
        raise SystemExit(2)
    return arguments


def _main(arguments: argparse.Namespace) -> int:
    from layers.losses.expr import ExpressionError
    from layers.losses.plugins import load_plugins

    load_plugins(arguments.plugins)
    try:
        return _command(arguments.command, arguments.expressions, arguments.out)
    except ExpressionError as error:  # its caret under the text needs three lines
        raise ValueError(
            f"{error.message} (character {error.position + 1} of {error.text!r})"
        ) from error


def _command(command: str, expressions: list[str], out: Path) -> int:
    if command not in COMMANDS:
        raise ValueError(
            f"there is no command {command!r}{did_you_mean(command, COMMANDS)}; commands: "
            f"{', '.join(COMMANDS)}"
        )
    wants = {
        "list": (0, 0, "nothing else"),
        "compare": (2, 2, "two expressions, each in quotes"),
        "check": (1, None, "names, expressions in quotes, or all"),
        "plot": (1, None, "names, or expressions in quotes"),
    }
    least, most, what = wants[command]
    if len(expressions) < least or (most is not None and len(expressions) > most):
        raise ValueError(f"{command} takes {what}; got {len(expressions)}")
    if command == "list":
        return _list()
    for text in expressions:
        _refuse_what_is_no_mask_loss(text)
    if command in ("compare", "plot"):  # check finds this, and more, and goes on
        from layers.losses.checks.contract import refuse_broken

        for text in expressions:
            refuse_broken(text)
    if command == "compare":
        return _compare(*expressions)
    if command == "plot":
        from yolact.analysis.losses.plot import plot

        print(plot(expressions, out))
        return 0
    return _check(expressions)


def _refuse_what_is_no_mask_loss(text: str) -> None:
    """ValueError for the name of a config, and of a box or class loss, which are chosen
    elsewhere."""
    from data.config import CONFIGS
    from layers.losses.box import BOX_LOSSES
    from layers.losses.classification import CLASS_LOSSES
    from layers.losses.registry import names

    name = text.strip()
    if name in CONFIGS:
        from data.resolve import load_config

        raise ValueError(
            f"{name} is a config (train.py --config {name}); its mask loss is "
            f'"{load_config(name).loss.mask}"'
        )
    for key, registry in (("loss.box", BOX_LOSSES), ("loss.classification", CLASS_LOSSES)):
        if name.partition("(")[0] in set(registry.names()) - set(names()):
            raise ValueError(
                f"{name} is a {registry.what} ({key}={name}); this program is about mask losses"
            )


def _list() -> int:
    """The mask losses as train.py --list losses shows them, and where each comes from."""
    from layers.losses.registry import MASK_LOSSES, SOFT_LEGEND

    losses = MASK_LOSSES.records()
    width = max(len(info.signature) for info in losses)
    for info in losses:
        print(f"{info.signature:{width}} {info.kind:8} {info.softness:9} {info.summary}")
        if info.source:
            print(f"{'':{width}} {'':8} {'':9} {info.source}")
    print("\n" + SOFT_LEGEND)
    return 0


def _compare(first: str, second: str) -> int:
    """1 where they are one loss, or train alike."""
    from layers.losses.checks.compare import compare_losses

    found = compare_losses(first, second, soft=True)
    print(found)
    return int(found.factor is not None and not found.except_at)


def expressions_of(asked: Iterable[str]) -> list[str]:
    """The canonical expressions to check: of a name with every switch, of `all` every name.
    ValueError for what is no expression."""
    from layers.losses.checks.contract import variants
    from layers.losses.mask import build_mask_loss
    from layers.losses.registry import names

    found = []
    for text in asked:
        for name in names() if text == "all" else [text.strip()]:
            found += variants(name) if name in names() else [name]
    return list(dict.fromkeys(build_mask_loss(text).expression for text in found))


def _check(asked: list[str]) -> int:
    """The table of the contract, of what the losses do with targets between 0 and 1, costs and
    copies. 1 if a check failed."""
    from layers.losses.checks.compare import copies
    from layers.losses.checks.contract import CHECKS
    from layers.losses.checks.report import check_expression
    from layers.losses.registry import SOFT_LEGEND
    from yolact.analysis.losses.cost import cost

    expressions, rows, lines, failed = expressions_of(asked), [], [], 0
    for expression in tqdm(expressions, desc="check", leave=False, disable=not sys.stderr.isatty()):
        found = check_expression(expression)
        lines += found.lines
        failed += not found.sound
        rows.append(
            (expression, found.verdict, found.soft, *_ratios(cost, expression), found.left_out)
        )
    heads = ("loss", "checks", "soft", "time", "memory", "does not apply")
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    for row in (heads, *rows):
        print(
            "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    print(
        f"\nchecks: {', '.join(function.__name__.replace('_', ' ') for function in CHECKS)}\nwhere "
        f"shape fails, no other check is made\n{SOFT_LEGEND}\ntime and memory: processor time of "
        "forward and backward on 64 maps of 69x69, relative to bce;\nmemory is what is kept for "
        "backward\n"
    )
    print(*lines, sep="\n", end="\n" if lines else "")
    for pair in copies(expressions, among=expressions_of(["all"]), soft=True):
        print(f"COPY   {pair}" if pair.same else f"alike  {pair}")
    print(f"{failed} of {len(rows)} fail" if failed else f"{len(rows)} checked, all sound")
    return int(failed > 0)


def _ratios(cost: Callable[[str], tuple[float, float]], expression: str) -> tuple[str, str]:
    try:
        time, memory = cost(expression)
    except Exception:  # a user's loss may raise anything; the contract has said so
        return "-", "-"
    return f"{time:.1f}x", f"{memory:.1f}x"


def program(argv: Sequence[str] | None = None) -> int:
    """Runs the program on the words of the command line; its exit code."""
    return run(_main, _read(argv))
