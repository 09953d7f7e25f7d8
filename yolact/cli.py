"""What the command lines share: flags as YOLACT takes them, key=value overrides, errors in one
line. Imports no torch."""

from __future__ import annotations

import argparse
import io
import re
import shlex
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from layers.names import did_you_mean
from layers.problems import DataWarning, printable

UNFORESEEN = 70  # exit code, EX_SOFTWARE of sysexits.h
_TRUE, _FALSE = ("yes", "true", "t", "y", "1", "on"), ("no", "false", "f", "n", "0", "off")
_OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=")
DEVICE_HELP = "cpu, cuda, cuda:N, xpu or mps (default: the first there is of cuda, xpu, mps)"
SETTING = re.compile(r"([a-z_]+\.[a-z_]+|dataset|name)=")


def boolean(text: str) -> bool:
    if text.lower() in _TRUE + _FALSE:
        return text.lower() in _TRUE
    raise argparse.ArgumentTypeError(f"{text!r} is not true or false")


class Arguments(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, with did-you-mean for flags."""

    def error(self, message: str) -> NoReturn:
        unknown = (
            [word for word in message.split() if word.startswith("--")]
            if message.startswith("unrecognized")
            else []
        )
        known = [flag for action in self._actions for flag in action.option_strings]
        hints = [did_you_mean(flag.split("=")[0], known) for flag in unknown]
        told = printable(f"{message}{''.join(hints)}")
        print(f"error: {told} (--help lists the flags)", file=sys.stderr)
        raise SystemExit(2)


class Parser(Arguments):
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
                setattr(arguments, action.dest, [word for word in words if not SETTING.match(word)])
                arguments.overrides = [*arguments.overrides, *filter(SETTING.match, words)]
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


def run(main: Callable[[argparse.Namespace], int | None], arguments: argparse.Namespace) -> int:
    """The exit code of main(arguments).

    A user's mistake (ValueError, OSError) is one line on stderr and 2. What nobody foresaw is one
    line and UNFORESEEN, with the traceback in a file that the line names. A DataWarning is a line.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an ASCII terminal gets escapes, not an error
            stream.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", DataWarning)
            warnings.showwarning = _told_once(warnings.showwarning)
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
    except Exception as error:
        if arguments.traceback:
            traceback.print_exc()
        print(f"error: {_unforeseen(error)}", file=sys.stderr)
        return UNFORESEEN


def _told_once(show: Callable[..., None]) -> Callable[..., None]:
    """warnings.showwarning that prints a DataWarning as one line, each text once."""
    told: set[str] = set()

    def showwarning(message: Warning | str, category: type[Warning], *where, **options) -> None:
        text = str(message)
        if not issubclass(category, DataWarning):
            show(message, category, *where, **options)
        elif text not in told:
            told.add(text)
            print(f"warning: {printable(text)}", file=sys.stderr)

    return showwarning


def _unforeseen(error: Exception) -> str:
    """A line on an error that is no user's mistake; its traceback goes to a file."""
    what = f"unforeseen, {type(error).__name__}: {one_line(error)}"
    try:
        with tempfile.NamedTemporaryFile(
            "w",
            prefix="yolact-error-",
            suffix=".log",
            delete=False,
            encoding="utf-8",
            errors="backslashreplace",
        ) as log:
            print(shlex.join(sys.argv), file=log)
            traceback.print_exc(file=log)
    except OSError:
        traceback.print_exc()
        return what
    return f"{what} (the traceback is in {log.name})"


def one_line(error: BaseException) -> str:
    """An error's message, as a terminal may get it."""
    if isinstance(error, OSError) and error.strerror:
        text = (
            f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
        )
    else:
        text = str(error) or type(error).__name__
    return printable(" ".join(text.split()))


def note(text: str) -> None:
    say(f"note: {text}", error=True)


def say(text: object, *, error: bool = False) -> None:
    """Prints one line in which names and values of files may stand, as a terminal may get it."""
    print(printable(str(text)), file=sys.stderr if error else sys.stdout, flush=True)
