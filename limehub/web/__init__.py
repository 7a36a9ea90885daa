"""What the server shows over HTTP: JSON API, probes, and the health listener beside them."""
