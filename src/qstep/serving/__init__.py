"""A scorer as a small HTTP server, with the schema of vLLM's `/pooling`."""
