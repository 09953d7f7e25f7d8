"""The end of a process that cannot answer signals. Python answers them between two bytecodes, and a
call into a library may never come back: a collective whose other process is stopped, a device that
hangs."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

LOOK = 1.0  # seconds between two looks
IDLE = 40.0  # seconds that a process which was asked to stop may do nothing
WORK = 0.5  # seconds of a processor that are no idling
AT_ONCE = 5.0  # seconds that it has after the second request


class LastResort:
    """While a with block of the main thread lasts, ends the process that was asked to stop by a
    signal and does nothing for IDLE seconds, or was asked twice and goes on for AT_ONCE. Says so
    where one that was not asked does nothing for IDLE seconds.

    advice      how the message at the end goes on
    one_request seconds in which SIGTERMs are one
    idle_note   what is said of a process that does nothing, or ''
    """

    def __init__(
        self,
        signals: tuple[signal.Signals, ...],
        one_request: float,
        idle_note: Callable[[], str],
    ) -> None:
        self.signals, self.one_request, self.idle_note = signals, one_request, idle_note
        self.advice = ""
        self._reader: socket.socket | None = None

    def __enter__(self) -> LastResort:
        if threading.current_thread() is threading.main_thread():
            self._reader, self._writer = socket.socketpair()
            self._writer.setblocking(False)
            self._before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
            threading.Thread(target=self._run, args=(self._reader,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._reader is not None:
            signal.set_wakeup_fd(self._before)
            self._writer.close()  # which ends the thread
            self._reader = None

    def _run(self, reader: socket.socket) -> None:
        first, second, idle, used = 0.0, 0.0, 0.0, time.process_time()
        signum = 0
        reader.settimeout(LOOK)
        with reader:
            while True:
                try:
                    arrived = reader.recv(1)
                    if not arrived:
                        return
                except TimeoutError:
                    arrived = b""
                now = time.monotonic()
                if arrived and arrived[0] in self.signals:
                    late = now - first >= self.one_request or arrived[0] != signal.SIGTERM
                    if signum and late:
                        second = second or now
                    elif not signum:
                        signum, first = arrived[0], now
                        idle, used = 0.0, time.process_time()
                elif not arrived:
                    idle += LOOK
                    if time.process_time() - used >= WORK:
                        idle, used = 0.0, time.process_time()
                    if signum and (idle >= IDLE or (second and now - second >= AT_ONCE)):
                        self._end(signum)
                    if IDLE <= idle < IDLE + LOOK:
                        self._tell(self.idle_note())

    def _tell(self, text: str) -> None:
        if text:
            print(f"{text} (for {IDLE:.0f} s)", file=sys.stderr, flush=True)

    def _end(self, signum: int) -> None:
        print(
            f"{signal.Signals(signum).name}: this process is held by a call that does not come "
            f"back, so it ends without saving{self.advice}",
            file=sys.stderr,
            flush=True,
        )
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(128 + signum)
