"""No contestant: the time that importing patched gevent and pika takes, and nothing else.

Run as a file, so that not even this package is imported.
"""

from gevent import monkey

monkey.patch_all()

import os  # noqa: E402
import time  # noqa: E402

import pika  # noqa: E402
from pika.adapters.gevent_connection import GeventConnection  # noqa: E402

assert pika and GeventConnection
now = time.monotonic()
os.write(
    1,
    b'{"count": 1, "began": %f, "ended": %f, "cpu": 0, "broker_cpu": 0, "rss_mb": 0,'
    b' "latencies_ms": []}\n' % (now, now),
)
