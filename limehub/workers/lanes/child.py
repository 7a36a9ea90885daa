"""`python -m limehub.workers.lanes.child GROUP`: a child of the process lane. Nothing is patched.

Its descriptors: 3 is the socket to its parent, 4 the memory file for stacks.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import resource
import signal
import socket

__all__ = ["SOCKET", "STACKS", "main"]

SOCKET = 3
STACKS = 4
FIRST_FOREIGN = 5

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve the parent until it ends or says so."""
    _die_with_parent()
    os.closerange(FIRST_FOREIGN, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    for descriptor in (SOCKET, STACKS):
        os.set_inheritable(descriptor, False)
    _leave_signals_to_the_parent()
    # These write from C, also while one call holds the GIL, and when memory is a ruin.
    faulthandler.register(signal.SIGUSR1, file=STACKS, all_threads=False)
    faulthandler.enable(file=STACKS, all_threads=False)
    connection = socket.socket(fileno=SOCKET)
    connection.setblocking(True)
    from limehub.workers.lanes.far_side import FarSide

    FarSide(connection).live()


def _die_with_parent() -> None:
    """Let the kernel kill it with its parent; where that is not Linux the end of the socket does.

    The socket alone would not do: a C call that holds the GIL lets no thread see its end.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _leave_signals_to_the_parent() -> None:
    """Whoever stops the server signals all its processes; its children end after its handlers.

    Not SIG_IGN: what the handlers start themselves would inherit that.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: None)


if __name__ == "__main__":
    main()
