"""An early pytest plugin (`-p tests.patched`): patching comes before any other import.

A conftest would be too late: pytest and its plugins have imported ssl and threading by then.
"""

import os

import gevent
from gevent import monkey

monkey.patch_all()

if "PYTEST_XDIST_WORKER" in os.environ:
    # A worker waits for what a native thread brings. Had gevent's hub nothing else to wait for, it
    # would take that for a deadlock.
    gevent.get_hub().loop.timer(60.0, 60.0).start(lambda: None)
