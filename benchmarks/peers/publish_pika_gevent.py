"""pika, GeventConnection: greenlets side by side, each waits for its own confirm."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

from itertools import takewhile  # noqa: E402

import gevent  # noqa: E402
import pika  # noqa: E402
from gevent.event import AsyncResult, Event  # noqa: E402
from pika.adapters.gevent_connection import GeventConnection  # noqa: E402

from benchmarks.meter import Job, Meter  # noqa: E402
from benchmarks.peers.connect import parameters  # noqa: E402
from benchmarks.peers.event import BODY, HEADERS  # noqa: E402

job = Job.of_environment()
meter = Meter(job.total)
opened = Event()
waiting: dict[int, AsyncResult] = {}
channels = []


def on_open(connection):
    connection.channel(on_open_callback=on_channel)


def on_channel(channel):
    channels.append(channel)
    channel.confirm_delivery(on_confirm, callback=lambda _frame: opened.set())


def on_confirm(frame):
    tag = frame.method.delivery_tag
    oldest_first = takewhile(lambda each: each <= tag, waiting)
    for each in list(oldest_first) if frame.method.multiple else [tag]:
        waiting.pop(each).set(frame.method.NAME == "Basic.Ack")


def publish(channel, tag):
    properties = pika.BasicProperties(
        content_type="application/json",
        content_encoding="utf-8",
        delivery_mode=2,
        headers=dict(HEADERS),
    )
    confirmed = waiting[tag] = AsyncResult()
    channel.basic_publish(job.exchange, job.keys[0], BODY, properties, mandatory=True)
    assert confirmed.get()


def work(channel, tags):
    for tag in tags:
        publish(channel, tag)
        meter.hit()


connection = GeventConnection(parameters(job), on_open_callback=on_open)
opened.wait()
numbers = iter(range(1, job.messages + 1))
meter.start()
gevent.joinall(
    [gevent.spawn(work, channels[0], numbers) for _ in range(job.concurrency)], raise_error=True
)
