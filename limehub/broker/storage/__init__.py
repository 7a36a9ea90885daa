"""What outlives the broker: one SQLite file in WAL mode, written in groups by a native thread."""
