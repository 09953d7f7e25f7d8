"""The page of a running study on this machine alone: a server on the loopback address. It refuses
requests by every other name (a page elsewhere could reach it by one), and closes on Ctrl-C or
SIGTERM."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType
from typing import Any

from yolact.cli import note, one_line, say
from yolact.study.report.live.watch import Watched, watch

LOOPBACK = "127.0.0.1"
PATIENCE = 10  # seconds for a request to arrive; a page over a slow line takes longer


class LiveServer(ThreadingHTTPServer):
    """port: 0 = a free one. ValueError for one that is taken, or that is none."""

    daemon_threads = True

    def __init__(self, watched: Watched, port: int = 0) -> None:
        self.watched = watched
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or "ports are 1 to 65535"
            raise ValueError(
                f"--port={port}: {why}: choose another, or leave it out for a free one"
            ) from None

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.server_port}/"

    @property
    def names(self) -> set[str]:
        """What a request may call this server."""
        ports = [f":{self.server_port}", *[""] * (self.server_port == 80)]
        return {f"{name}{port}" for name in (LOOPBACK, "localhost") for port in ports}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A line; nothing where the browser has left."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, ConnectionError):
            note(f"a request: {one_line(error)}")


class _Handler(BaseHTTPRequestHandler):
    server: LiveServer
    timeout = PATIENCE

    def do_GET(self) -> None:
        try:
            self._tell(self.server.watched)
        except ConnectionError:
            raise
        except Exception as error:  # a study that is written to may be half there
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", f"{one_line(error)}\n")

    def _tell(self, watched: Watched) -> None:
        if self.headers.get("Host", "") not in self.server.names:
            self._answer(HTTPStatus.FORBIDDEN, "text/plain", f"ask for {self.server.url}\n")
        elif self.path == "/":
            self._answer(HTTPStatus.OK, "text/html", watched.html or watched.first_page())
        elif self.path == "/progress":
            news = {"version": watched.version, "html": str(watched.live_html())}
            self._answer(HTTPStatus.OK, "application/json", json.dumps(news))
        elif self.path == "/favicon.ico":
            self._answer(HTTPStatus.NO_CONTENT, "image/x-icon", "")
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", "there is / and /progress\n")

    def _answer(self, status: HTTPStatus, kind: str, text: str) -> None:
        content = text.encode("utf-8")
        self.connection.settimeout(None)  # a page of 10 MB may take minutes
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *words: object) -> None:
        """Nothing: the terminal is for what the study says."""


def serve(watched: Watched, port: int = 0) -> int:
    """Serves until Ctrl-C or SIGTERM; the exit code. Call it in the main thread."""
    stop = threading.Event()
    with LiveServer(watched, port) as server, _until_told(stop):
        answers = threading.Thread(target=server.serve_forever, daemon=True)
        answers.start()
        try:
            say(f"{server.url} (on this machine alone; Ctrl-C ends it)")
            watch(watched, stop)
        except KeyboardInterrupt:  # a file that was being written is taken away on the way here
            pass
        finally:
            server.shutdown()
            answers.join()
    say("closed")
    return 0


@contextmanager
def _until_told(stop: threading.Event) -> Iterator[None]:
    """Ctrl-C and SIGTERM set `stop` inside, and interrupt what the main thread does."""

    def told(number: int, frame: FrameType | None) -> None:
        stop.set()
        raise KeyboardInterrupt

    before = {one: signal.signal(one, told) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
