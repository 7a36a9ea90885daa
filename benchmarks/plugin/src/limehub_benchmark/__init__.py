"""limehub's part in `make bench`: three small plugins."""
