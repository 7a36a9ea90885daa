"""What `make` runs: set-up, the private broker, the run itself. Standard library only."""
