"""pika, BlockingConnection: publish, wait for the confirm, publish the next."""

from __future__ import annotations

import pika

from benchmarks.meter import Job, Meter
from benchmarks.peers.connect import parameters
from benchmarks.peers.event import BODY, HEADERS

job = Job.of_environment()
meter = Meter(job.total)
channel = pika.BlockingConnection(parameters(job)).channel()
channel.confirm_delivery()
meter.start()
for _ in range(job.messages):
    properties = pika.BasicProperties(
        content_type="application/json",
        content_encoding="utf-8",
        delivery_mode=2,
        headers=dict(HEADERS),
    )
    channel.basic_publish(job.exchange, job.keys[0], BODY, properties, mandatory=True)
    meter.hit()
