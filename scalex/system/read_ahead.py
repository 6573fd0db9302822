"""Reading while what was read before is in use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["read_ahead"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(items: Iterable[Item], read: Callable[[Item], Result], *, threads: int = 1) -> Iterator[tuple[Item, Result]]:
    """Each item with what `read` makes of it, in order; the next ones are read in threads meanwhile.

    One result more than there are threads is in memory at a time. What `read` raises is raised where its result is due.

    Parameters
    ----------
    items
        What to read; drawn as far ahead as there are threads.
    read
        Reads one.
    threads
        How many are read at once.
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
