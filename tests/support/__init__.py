"""What tests stand on: a private broker, a fault proxy, `limehub` as a process, waiting."""
