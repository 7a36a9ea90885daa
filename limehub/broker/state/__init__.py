"""What the broker knows: exchanges, queues, channels. No sockets, threads, or time of its own."""
