"""aio-pika on uvloop."""

from __future__ import annotations

import asyncio
import ssl

import aio_pika
import uvloop

from benchmarks.meter import Job, Meter
from benchmarks.peers.asynchronous import coroutine_of

job = Job.of_environment()
work = coroutine_of(job, Meter(job.total))


async def handle(message):
    await work(message.body)
    await message.ack()


async def main():
    context = ssl.create_default_context(cafile=job.ca_file) if job.ca_file else None
    connection = await aio_pika.connect_robust(job.url, ssl_context=context)
    channel = await connection.channel()
    await channel.set_qos(job.prefetch)
    queue = await channel.get_queue(job.queues[0], ensure=False)
    await queue.consume(handle)
    await asyncio.Future()


uvloop.run(main())
