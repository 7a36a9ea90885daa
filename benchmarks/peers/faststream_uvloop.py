"""FastStream on uvloop. It decodes JSON and checks the parameter's type, as it does by default."""

from __future__ import annotations

import asyncio

import uvloop
from faststream import AckPolicy
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue

from benchmarks.meter import Job, Meter
from benchmarks.peers.asynchronous import coroutine_of

job = Job.of_environment()
work = coroutine_of(job, Meter(job.total))
broker = RabbitBroker(job.url, default_channel=Channel(prefetch_count=job.prefetch), logger=None)


@broker.subscriber(RabbitQueue(job.queues[0], declare=False), ack_policy=AckPolicy.NACK_ON_ERROR)
async def handle(body: dict):
    await work(body)


async def main():
    await broker.start()
    await asyncio.Future()


uvloop.run(main())
