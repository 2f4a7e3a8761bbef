"""Formats of published process reward models: the template, where each step is read, and what is read there."""
