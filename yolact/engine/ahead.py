"""Work that threads do beside the forward pass: reading pictures before it and writing results
behind it, in order and within a bounded number."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

READERS = 2
AHEAD = 4  # batches that wait for the forward pass
BEHIND = 4  # results that wait to be written

T = TypeVar("T")
R = TypeVar("R")


def read_ahead(
    work: Callable[[T], R], items: Iterable[T], *, threads: int = READERS, ahead: int = AHEAD
) -> Generator[R, None, None]:
    """work(item) for each item in order, by threads that are at most `ahead` items ahead of what
    was taken. What work raises is raised in its item's place. Items are taken as late as that."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read_ahead")
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # also where the consumer stops early
        pool.shutdown(wait=True, cancel_futures=True)


class Behind:
    """Runs what it is given in one thread, in order; at most BEHIND of it waits.

    What one of them raises is raised by the next call or the end of the block, and nothing runs
    after it.

        with Behind() as behind:
            behind(write, "a.jpg", picture)
    """

    def __enter__(self) -> Behind:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="behind")
        self._waiting: deque[Future] = deque()
        self._failed = False
        return self

    def __call__(self, work: Callable[..., object], *args, **kwargs) -> None:
        while len(self._waiting) >= BEHIND or (self._waiting and self._waiting[0].done()):
            self._next()
        self._waiting.append(self._pool.submit(self._run, work, args, kwargs))

    def _run(self, work: Callable[..., object], args: tuple, kwargs: dict) -> None:
        if self._failed:
            return
        try:
            work(*args, **kwargs)
        except BaseException:
            self._failed = True
            raise

    def _next(self) -> None:
        try:
            self._waiting.popleft().result()
        except BaseException:
            self._stop()
            raise

    def _stop(self) -> None:
        for future in self._waiting:
            future.cancel()
        self._waiting.clear()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        try:
            while self._waiting and kind in (None, KeyboardInterrupt):  # keeps what was done
                self._next()
        finally:
            self._stop()
            self._pool.shutdown(wait=True)
