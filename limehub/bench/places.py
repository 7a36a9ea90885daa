"""What a benchmark makes on the broker, all of it by names that nobody else has."""

from __future__ import annotations

from uuid import uuid4

from attrs import evolve, frozen

from limehub.amqp.connection import BrokerConnection
from limehub.amqp.temporary import delete_exchange, delete_queue
from limehub.amqp.topology import bind_all, declare_queue, ensure_exchange, handler_queue_spec
from limehub.config import BrokerUrl, Config, EventHandler, Web

__all__ = ["LATENCY", "THROUGHPUT", "Places"]

THROUGHPUT, LATENCY = "throughput", "latency"
"""The two handlers, and the last part of their queues' names."""


@frozen(kw_only=True)
class Places:
    """The names of one benchmark: *app* is package, application and prefix of all of them."""

    app: str

    @classmethod
    def unique(cls) -> Places:
        """Return names that no other benchmark has."""
        return cls(app=f"limehub-bench-{uuid4().hex[:12]}")

    @property
    def exchange(self) -> str:
        """The exchange."""
        return f"lime.{self.app}"

    @property
    def queues(self) -> tuple[str, ...]:
        """All queues: those of the two handlers and their dead letter queue."""
        return self.queue(THROUGHPUT), self.queue(LATENCY), self.queue("dlq")

    def queue(self, name: str) -> str:
        """Return the queue of a handler."""
        return f"lime.event_handler.{self.app}.{name}"

    def key(self, name: str) -> str:
        """Return the routing key of a handler."""
        return f"core.limeobject.{name}.update.v1"

    def config(self, config: Config, url: BrokerUrl, prefetch: int) -> Config:
        """Return *config* for a server that runs only the benchmark, at *url*."""
        events, handling = config.events, config.event_handler
        return Config(
            applications=(self.app,),
            events=evolve(
                events,
                connection_string=url.with_password(),
                exchange=None,
                routing_key_template="{routing_key}",
            ),
            event_handler=EventHandler(
                prefetch_count=prefetch,
                queue_type=handling.queue_type,
                guard=handling.guard,
                max_stall=handling.max_stall,
                shutdown_grace=5.0,
            ),
            web=Web(bind="none"),
            log=config.log,
        )

    def make(self, connection: BrokerConnection, queue_type: str) -> None:
        """Make the exchange and the handlers' queues, bound."""
        ensure_exchange(connection, self.exchange)
        for name in (THROUGHPUT, LATENCY):
            declare_queue(connection, handler_queue_spec(self.queue(name), queue_type=queue_type))
        bind_all(
            connection,
            [(self.queue(name), self.exchange, self.key(name)) for name in (THROUGHPUT, LATENCY)],
        )

    def remove(self, connection: BrokerConnection) -> None:
        """Delete all of it, with what is still inside; what is not there is no error."""
        for queue in self.queues:
            delete_queue(connection, queue)
        delete_exchange(connection, self.exchange)
