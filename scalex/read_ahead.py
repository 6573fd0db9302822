"""Reading while what was read before is in use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["read_ahead"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(items: Iterable[Item], read: Callable[[Item], Result]) -> Iterator[tuple[Item, Result]]:
    """Each item with what `read` makes of it, in order; the next one is read in a thread meanwhile.

    Two results are in memory at a time. What `read` raises is raised where its result is due.

    Parameters
    ----------
    items
        What to read; drawn one ahead.
    read
        Reads one.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as thread:
        waiting: tuple[Item, Future[Result]] | None = None
        for item in items:
            following = (item, thread.submit(read, item))
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = following
        if waiting is not None:
            yield waiting[0], waiting[1].result()
