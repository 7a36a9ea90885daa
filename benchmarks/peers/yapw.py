"""yapw's AsyncConsumer with its own thread pool; bodies are left undecoded."""

from __future__ import annotations

from yapw.clients import AsyncConsumer
from yapw.methods import ack

from benchmarks.meter import Job, Meter, work_of

job = Job.of_environment()
work = work_of(job, Meter(job.total))


def handle(state, channel, method, _properties, body):
    work(body)
    ack(state, channel, method.delivery_tag)


AsyncConsumer(
    on_message_callback=handle,
    queue=job.queues[0],
    routing_keys=[job.keys[0]],
    routing_key_template="{routing_key}",
    decode=lambda body, _content_type: body,
    url=job.url,
    exchange=job.exchange,
    exchange_type="topic",
    prefetch_count=job.prefetch,
).start()
