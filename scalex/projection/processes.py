"""A projection by several processes: each makes every n-th block, and the first one has them all."""

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
    """While this lasts, the processes of a trainer are connected. The first one starts the others if no launcher has.

    All leave it together: some launchers stop the processes that go on for long after another has ended.

    Yields
    ------
    ProcessGroup or None
        What `gather_in_order` needs; None if the trainer has one process.

    Raises
    ------
    ValueError
        If the trainer's strategy starts processes in another way than Lightning's DDP.
    ConnectionError
        If another process has stopped.
    """
    if trainer.world_size == 1:
        yield None
        return
    launcher = trainer.strategy.launcher
    if not isinstance(launcher, _SubprocessScriptLauncher):
        raise ValueError(  # noqa: TRY004 -- what is wrong is a setting
            f"{type(trainer.strategy).__name__} does not run the command again in each process, which a projection needs: use trainer=ddp."
        )
    environment = os.environ.copy()
    try:
        launcher.launch(trainer.strategy.setup_environment, trainer=trainer)
        # Blocks are in the processor's memory, and the first process may write for long before it takes the next.
        group = distributed.new_group(backend="gloo", timeout=timedelta(seconds=TIMEOUT))
        yield group
        distributed.barrier(group)
    except RuntimeError as error:
        # gloo has no type of its own for it.
        if "gloo" not in str(error):
            raise
        raise ConnectionError(
            f"Another of the {trainer.world_size} processes that project together has stopped: its message is above, if it had one. "
            "Project again, into a new folder."
        ) from error
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
        # What Lightning has told the others would hold for the next trainer as well.
        os.environ.clear()
        os.environ.update(environment)


def gather_in_order(items: Iterable[Item], n_items: int, group: distributed.ProcessGroup | None) -> Iterator[Item]:
    """All items in order, in the first process; the others send it theirs and get none.

    Parameters
    ----------
    items
        Those of this process: of n processes, process r makes items r, r + n, r + 2 n, ...
    n_items
        How many there are in all.
    group
        As `connect` yields it.
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
