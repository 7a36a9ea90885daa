"""An early pytest plugin (`-p tests.patched`): patching comes before any other import.

A conftest would be too late: pytest and its plugins have imported ssl and threading by then.
"""

from gevent import monkey

monkey.patch_all()
