"""The only home of pika: connection, channels, deliveries, topology, moves, publisher.

No pika name and no pika exception leaves this package.
"""
