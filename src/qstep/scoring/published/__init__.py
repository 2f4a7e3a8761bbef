"""Published process reward models, a file a format: its template, where each step is read, and what is read there."""
