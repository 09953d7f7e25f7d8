"""What the command lines share: flags as YOLACT takes them, key=value overrides, errors in one
line. Imports no torch."""

from __future__ import annotations

import argparse
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from layers.names import did_you_mean

_TRUE, _FALSE = ("yes", "true", "t", "y", "1", "on"), ("no", "false", "f", "n", "0", "off")
_OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=")
_SETTING = re.compile(r"([a-z_]+\.[a-z_]+|dataset|name)=")


def boolean(text: str) -> bool:
    if text.lower() in _TRUE + _FALSE:
        return text.lower() in _TRUE
    raise argparse.ArgumentTypeError(f"{text!r} is not true or false")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser with key=value overrides anywhere, switches that also take =True and
    =False, and did-you-mean."""

    def __init__(self, **options):
        super().__init__(
            prog=Path(sys.argv[0]).name,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **options,
        )
        self._implied: dict[str, str] = {}
        self.add_argument(
            "overrides",
            nargs="*",
            metavar="key=value",
            help="any setting of the config, such as train.lr=1e-4",
        )
        self.switch("--traceback", help="show where an error came from")

    def switch(self, *flags: str, default: bool | None = False, **options) -> None:
        """A flag that alone means true; --flag=False and --flag False also work."""
        self.add_argument(*flags, type=boolean, default=default, metavar="[=BOOL]", **options)
        self._implied.update(dict.fromkeys(flags, "true"))

    def optional_value(self, *flags: str, implied: str, **options) -> None:
        """A flag whose value may be left out, and is `implied` then."""
        self.add_argument(*flags, **options)
        self._implied.update(dict.fromkeys(flags, implied))

    def parse(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        arguments = self.parse_intermixed_args(
            self._with_values(list(sys.argv[1:] if argv is None else argv))
        )
        for action in self._actions:  # a flag of several words takes the overrides behind it along
            words = getattr(arguments, action.dest, None)
            if action.nargs == "+" and words:
                setattr(
                    arguments, action.dest, [word for word in words if not _SETTING.match(word)]
                )
                arguments.overrides = [*arguments.overrides, *filter(_SETTING.match, words)]
        for text in arguments.overrides:
            if not _OVERRIDE.match(text):
                self.error(f"{text!r} is neither a flag nor key=value")
        return arguments

    def _with_values(self, argv: list[str]) -> list[str]:
        """Every flag of self._implied joined with its value, so that it cannot swallow an override
        that follows it."""
        joined: list[str] = []
        waiting = list(argv)
        while waiting:
            token = waiting.pop(0)
            if token not in self._implied:
                joined.append(token)
                continue
            following = waiting[0] if waiting else "-"
            if self._implied[token] == "true":
                takes = following.lower() in _TRUE + _FALSE
            else:
                takes = not following.startswith("-") and not _OVERRIDE.match(following)
            joined.append(f"{token}={waiting.pop(0) if takes else self._implied[token]}")
        return joined

    def error(self, message: str):
        unknown = (
            [word for word in message.split() if word.startswith("--")]
            if message.startswith("unrecognized")
            else []
        )
        known = [flag for action in self._actions for flag in action.option_strings]
        hints = [did_you_mean(flag.split("=")[0], known) for flag in unknown]
        print(f"error: {message}{''.join(hints)} (--help lists the flags)", file=sys.stderr)
        raise SystemExit(2)


def run(main: Callable[[argparse.Namespace], int | None], arguments: argparse.Namespace) -> int:
    """The exit code of main(arguments): a user's mistake (ValueError, OSError) is one line on
    stderr and 2."""
    try:
        return main(arguments) or 0
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        if arguments.traceback:
            traceback.print_exc()
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2


def one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        text = (
            f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
        )
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


def note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)
