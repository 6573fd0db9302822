"""Projection by several processes: each of n processes makes every n-th block, and rank 0 gathers all blocks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from lightning import Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch import distributed

from scalex.system.processes import TIMEOUT

__all__ = ["connect", "gather_in_order"]

Item = TypeVar("Item")


@contextmanager
def connect(trainer: Trainer) -> Iterator[distributed.ProcessGroup | None]:
    """Connect the processes of a trainer for the duration of the context. Rank 0 starts the others if no launcher has.

    All processes leave the context together, because some launchers stop processes that run on for long after another has ended.

    Yields
    ------
    ProcessGroup or None
        The group for `gather_in_order`, or None if the trainer has one process.

    Raises
    ------
    ValueError
        If the trainer's strategy does not start processes as Lightning's DDP does.
    ConnectionError
        If another process has stopped.
    """
    if trainer.world_size == 1:
        yield None
        return
    launcher = trainer.strategy.launcher
    if not isinstance(launcher, _SubprocessScriptLauncher):
        raise ValueError(  # noqa: TRY004 -- a setting is wrong, not a type
            f"{type(trainer.strategy).__name__} does not run the command again in each process, which a projection needs: use trainer=ddp."
        )
    environment = os.environ.copy()
    try:
        launcher.launch(trainer.strategy.setup_environment, trainer=trainer)
        # Blocks are in CPU memory, hence gloo. Rank 0 may write for long before it receives the next block, hence the timeout.
        group = distributed.new_group(backend="gloo", timeout=timedelta(seconds=TIMEOUT))
        yield group
        distributed.barrier(group)
    except RuntimeError as error:
        # gloo has no exception type of its own.
        if "gloo" not in str(error):
            raise
        raise ConnectionError(
            f"Another of the {trainer.world_size} processes has stopped. Its message, if any, is above. Project again into a new folder."
        ) from error
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
        # Lightning's variables for the other processes would affect the next trainer.
        os.environ.clear()
        os.environ.update(environment)


def gather_in_order(items: Iterable[Item], n_items: int, group: distributed.ProcessGroup | None) -> Iterator[Item]:
    """Yield all items in order in rank 0. The other processes send their items to rank 0 and yield none.

    Parameters
    ----------
    items
        Items of this process. Of n processes, rank r makes the items r, r + n, r + 2 n, ...
    n_items
        Number of items of all processes.
    group
        Group that `connect` yields.
    """
    if group is None:
        yield from items
    elif group.rank() > 0:
        for item in items:
            distributed.send_object_list([item], dst=0, group=group)
    else:
        own = iter(items)
        for i in range(n_items):
            if i % group.size() == 0:
                yield next(own)
            else:
                received: list[Any] = [None]
                distributed.recv_object_list(received, src=i % group.size(), group=group)
                yield received.pop()
