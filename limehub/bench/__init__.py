"""`limehub bench`: how fast limehub is on a person's own broker, with queues of its own."""
