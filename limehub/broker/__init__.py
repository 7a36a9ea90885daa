"""The embedded AMQP 0-9-1 broker: the other end of the wire, for machines without RabbitMQ.

    bytes -> session.stream -> connection -> channel -> commands -> state (pure) -> storage (SQLite)

`state` knows neither sockets nor time; `session` is the wire; `storage` is one file; `node` holds
them together and `serving` runs them. Nothing here knows limehub's client side.
"""
