"""Identification of a process by its number and host, for files that it leaves if it is killed."""

from __future__ import annotations

import os
import socket
from typing import NamedTuple, Self

__all__ = ["ProcessId"]


class ProcessId(NamedTuple):
    """A process of this or another machine.

    Attributes
    ----------
    number
        Process id.
    host
        Name of the machine.
    """

    number: int
    host: str

    @classmethod
    def own(cls) -> Self:
        """Return the identification of this process."""
        return cls(os.getpid(), socket.gethostname())

    def has_ended(self) -> bool:
        """Return whether the process is known to have ended. Nothing is known of processes of other machines."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.number, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            # It is another user's.
            return False
        return False
