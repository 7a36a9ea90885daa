"""One file a peer: what its users would write. Each consumes until its meter is full."""
