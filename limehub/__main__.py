"""`python -m limehub` and the console script: patch first, then everything else."""

from __future__ import annotations

import gc
import sys

__all__ = ["main"]

COLLECT_EVERY = 10_000
"""New objects between two looks for garbage: Python's 700 costs a tenth of the start."""


def main() -> None:
    """Run the command line and end the process with its exit code.

    The only monkey.patch_all() of limehub, before anything that could hold on to a blocking socket.
    """
    gc.set_threshold(COLLECT_EVERY)
    _name_who_crashes()
    ssl_came_first = "ssl" in sys.modules
    from gevent import monkey

    if ssl_came_first:
        _warn_of_early_ssl()
    monkey.patch_all()
    _leave_ctrl_c_to_the_command()
    from limehub.cli import leave, run

    leave(run())


def _name_who_crashes() -> None:
    """A segfault of a plugin's C code leaves the stack on standard error."""
    import faulthandler

    if sys.stderr is not None:
        faulthandler.enable(all_threads=False)


def _leave_ctrl_c_to_the_command() -> None:
    """Python would raise it in whichever greenlet runs, such as a connection's, and end that."""
    import signal
    from types import FrameType

    import gevent

    main, loop = gevent.getcurrent(), gevent.get_hub().loop

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        if gevent.getcurrent() is main:
            raise KeyboardInterrupt
        loop.run_callback_threadsafe(main.throw, KeyboardInterrupt)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)


def _warn_of_early_ssl() -> None:
    import warnings

    from gevent.monkey import MonkeyPatchWarning

    warnings.filterwarnings("ignore", category=MonkeyPatchWarning)  # says the same, less clearly
    print(  # noqa: T201 - logging is not set up yet
        "limehub: warning: something imported ssl before limehub could patch it (a .pth file or "
        "sitecustomize?); TLS connections of plugins may block the whole server",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
