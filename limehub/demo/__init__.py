"""A believable, seeded stream of events: for demonstrations and tests."""
