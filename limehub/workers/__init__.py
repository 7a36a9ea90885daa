"""Worker groups: a greenlet pool, one connection and the queues that it consumes."""
