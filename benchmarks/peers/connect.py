"""How pika's users connect, plain or with TLS."""

from __future__ import annotations

import ssl

import pika

from benchmarks.meter import Job

__all__ = ["parameters"]


def parameters(job: Job) -> pika.URLParameters:
    """Return pika's parameters for the job's broker."""
    found = pika.URLParameters(job.url)
    if job.ca_file:
        context = ssl.create_default_context(cafile=job.ca_file)
        found.ssl_options = pika.SSLOptions(context, found.host)
    return found
