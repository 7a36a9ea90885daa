"""Dramatiq with gevent: a Worker in this process, without middleware; it acks after the actor."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import os  # noqa: E402
import time  # noqa: E402

from benchmarks.meter import Job, Meter, work_of  # noqa: E402

job = Job.of_environment()
os.environ["dramatiq_queue_prefetch"] = str(job.prefetch)  # noqa: SIM112 - its own spelling

import dramatiq  # noqa: E402
from dramatiq.brokers.rabbitmq import RabbitmqBroker  # noqa: E402
from dramatiq.worker import Worker  # noqa: E402

work = work_of(job, Meter(job.total))
broker = RabbitmqBroker(url=job.url, middleware=[])
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=job.queues[0], actor_name="bench.handle")
def handle(body):
    work(body)


Worker(broker, worker_threads=job.concurrency, queues={job.queues[0]}).start()
while True:
    time.sleep(60)
