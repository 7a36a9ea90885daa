"""pika, GeventConnection, a greenlet for each message: what lets handlers block on stock pika."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

from gevent.pool import Group  # noqa: E402
from pika.adapters.gevent_connection import GeventConnection  # noqa: E402

from benchmarks.meter import Job, Meter, work_of  # noqa: E402
from benchmarks.peers.connect import parameters  # noqa: E402

job = Job.of_environment()
work = work_of(job, Meter(job.total))
pool = Group()


def on_open(connection):
    connection.channel(on_open_callback=on_channel)


def on_channel(channel):
    def handle(tag, body):
        work(body)
        channel.basic_ack(tag)

    def on_message(_channel, method, _properties, body):
        pool.spawn(handle, method.delivery_tag, body)

    def start(_frame):
        channel.basic_consume(job.queues[0], on_message)

    channel.basic_qos(prefetch_count=job.prefetch, callback=start)


GeventConnection(parameters(job), on_open_callback=on_open).ioloop.start()
