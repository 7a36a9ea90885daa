"""The wire: AMQP 0-9-1 as a server speaks it, on sockets that the hub watches."""
