"""pika, GeventConnection: the handler runs inline in the hub, so it may not block.

One connection a queue, all in one process.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

from pika.adapters.gevent_connection import GeventConnection  # noqa: E402

from benchmarks.meter import Job, Meter, work_of  # noqa: E402
from benchmarks.peers.connect import parameters  # noqa: E402

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


def connect(queue):
    def on_open(connection):
        consume(connection, queue)

    return GeventConnection(parameters(job), on_open_callback=on_open)


connections = [connect(queue) for queue in job.queues]
connections[0].ioloop.start()
