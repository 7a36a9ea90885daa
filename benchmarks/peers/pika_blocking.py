"""pika, BlockingConnection: what most people write."""

from __future__ import annotations

import pika

from benchmarks.meter import Job, Meter, work_of
from benchmarks.peers.connect import parameters

job = Job.of_environment()
work = work_of(job, Meter(job.total))


def on_message(channel, method, _properties, body):
    work(body)
    channel.basic_ack(method.delivery_tag)


channel = pika.BlockingConnection(parameters(job)).channel()
channel.basic_qos(prefetch_count=job.prefetch)
channel.basic_consume(job.queues[0], on_message)
channel.start_consuming()
