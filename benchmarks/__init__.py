"""limehub beside its peers: `make bench`; docs/benchmarks.md explains the tables."""
