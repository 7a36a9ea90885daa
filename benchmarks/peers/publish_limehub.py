"""limehub.Publisher: greenlets side by side, each publish() returns after its own confirm."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import gevent  # noqa: E402

from benchmarks.meter import Job, Meter  # noqa: E402
from benchmarks.peers.event import BODY, HEADERS  # noqa: E402
from limehub import Publisher  # noqa: E402

job = Job.of_environment()
meter = Meter(job.total)
publisher = Publisher(job.url)


def publish(count):
    for _ in range(count):
        publisher.publish(job.keys[0], BODY, headers=HEADERS)
        meter.hit()


publisher.publish(job.keys[0], BODY)  # connects
meter.start()
share = job.messages // job.concurrency
gevent.joinall([gevent.spawn(publish, share) for _ in range(job.concurrency)], raise_error=True)
