"""Reading in background threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["read_ahead"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(items: Iterable[Item], read: Callable[[Item], Result], *, threads: int = 1) -> Iterator[tuple[Item, Result]]:
    """Yield each item with the result of `read`, in order, while threads read the next items.

    At most `threads` + 1 results are in memory. An exception in `read` is raised when its result is due.

    Parameters
    ----------
    items
        Arguments of `read`. At most `threads` items are taken ahead of the one yielded.
    read
        Function that reads one item.
    threads
        Number of items read at the same time.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="read-ahead") as pool:
        waiting: deque[tuple[Item, Future[Result]]] = deque()
        for item in items:
            waiting.append((item, pool.submit(read, item)))
            if len(waiting) > threads:
                due, result = waiting.popleft()
                yield due, result.result()
        while waiting:
            due, result = waiting.popleft()
            yield due, result.result()
