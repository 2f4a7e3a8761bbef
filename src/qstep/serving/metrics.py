"""The metrics of a server, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """The counters of one server."""

    def __init__(self, tokens_waiting: Callable[[], float]) -> None:
        self._registry = own = CollectorRegistry()
        self.requests = Counter("qstep_requests", "Requests by route and status.", ("route", "status"), registry=own)
        self.seconds = Histogram("qstep_request_seconds", "From the headers to the answer of /pooling.", registry=own)
        self.disconnects = Counter("qstep_disconnects", "Clients that left before their answer.", registry=own)
        self.sequences = Counter("qstep_sequences", "Sequences computed.", registry=own)
        self.tokens = Counter("qstep_tokens", "Tokens of the sequences computed.", registry=own)
        self.forward = Histogram("qstep_forward_seconds", "Of a forward pass.", registry=own)
        sizes = [4**k for k in range(3, 10)]
        self.batch = Histogram("qstep_forward_tokens", "Tokens of a forward pass.", buckets=sizes, registry=own)
        Gauge("qstep_queue_tokens", "Tokens that wait for the model.", registry=own).set_function(tokens_waiting)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)
