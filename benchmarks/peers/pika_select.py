"""pika, SelectConnection: the handler runs inline in the I/O loop, so it may not block."""

from __future__ import annotations

import pika

from benchmarks.meter import Job, Meter, work_of
from benchmarks.peers.connect import parameters

job = Job.of_environment()
work = work_of(job, Meter(job.total))


def consume(connection, queue):
    def on_message(channel, method, _properties, body):
        work(body)
        channel.basic_ack(method.delivery_tag)

    def on_channel(channel):
        def start(_frame):
            channel.basic_consume(queue, on_message)

        channel.basic_qos(prefetch_count=job.prefetch, callback=start)

    connection.channel(on_open_callback=on_channel)


def on_open(connection):
    consume(connection, job.queues[0])


pika.SelectConnection(parameters(job), on_open_callback=on_open).ioloop.start()
