"""What a handler does at its worst."""

from __future__ import annotations

import ctypes
import signal

__all__ = ["hold"]


def hold(seconds: float) -> None:
    """Keep the interpreter busy: one C call that keeps its lock, and that no signal ends early."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
