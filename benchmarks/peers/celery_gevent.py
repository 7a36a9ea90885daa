"""Celery with the gevent pool, late acks, and none of its events, gossip and heartbeats."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

from celery import Celery  # noqa: E402
from kombu import Exchange, Queue  # noqa: E402

from benchmarks.meter import Job, Meter, work_of  # noqa: E402

job = Job.of_environment()
work = work_of(job, Meter(job.total))
app = Celery("bench", broker=job.url)
queue = Queue(job.queues[0], Exchange(job.exchange, "topic", no_declare=True), no_declare=True)
app.conf.update(
    task_queues=[queue],
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=max(1, job.prefetch // job.concurrency),
    worker_hijack_root_logger=False,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
)


@app.task(name="bench.handle")
def handle(body):
    work(body)


app.Worker(
    pool="gevent",
    concurrency=job.concurrency,
    without_gossip=True,
    without_mingle=True,
    without_heartbeat=True,
    loglevel="ERROR",
    quiet=True,
).start()
