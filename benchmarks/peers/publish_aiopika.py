"""aio-pika on uvloop: coroutines side by side, each waits for its own confirm."""

from __future__ import annotations

import asyncio

import aio_pika
import uvloop

from benchmarks.meter import Job, Meter
from benchmarks.peers.event import BODY, HEADERS

job = Job.of_environment()
meter = Meter(job.total)


async def publish(exchange, count):
    for _ in range(count):
        message = aio_pika.Message(
            BODY,
            content_type="application/json",
            content_encoding="utf-8",
            delivery_mode=2,
            headers=dict(HEADERS),
        )
        await exchange.publish(message, job.keys[0], mandatory=True)
        meter.hit()


async def main():
    connection = await aio_pika.connect(job.url)
    channel = await connection.channel(publisher_confirms=True)
    exchange = await channel.get_exchange(job.exchange, ensure=False)
    meter.start()
    share = job.messages // job.concurrency
    await asyncio.gather(*(publish(exchange, share) for _ in range(job.concurrency)))


uvloop.run(main())
