"""Options that several commands share, each written once; a command's config inherits those it takes."""

import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from qstep.data import check_separator, refuse_unread, splitter_version
from qstep.types import Dtype

if TYPE_CHECKING:
    from qstep.calls import Server

NO_EFFECT = (
    *("output", "max_rows", "max_tokens", "score_tokens", "device"),
    *("engine_url", "concurrency", "request_timeout_s", "retries"),
    *("executor", "workers", "worker_gpus"),
    *("rows_at_once", "problems_at_once"),
)
"""Options that cannot change a stage's rows."""


_LEAST = {
    **dict.fromkeys(("num_problems", "max_problems", "max_per_problem", "num_samples", "rollouts", "draws"), 1),
    "rollout_budget": 1,
    **dict.fromkeys(("rows_at_once", "max_rows", "max_tokens", "score_tokens"), 1),
    **dict.fromkeys(("max_new_tokens", "textbook_rows", "concurrency", "request_timeout_s", "workers"), 1),
    **dict.fromkeys(("width", "expand", "lookahead_steps", "max_steps", "token_budget", "problems_at_once"), 1),
    "max_length": 1,
    **dict.fromkeys(("max_body_bytes", "queue_tokens", "max_connections", "client_s", "drain_s"), 1),
    **dict.fromkeys(("offset", "temperature", "deadline_s", "retries", "worker_gpus"), 0),
    **dict.fromkeys(("max_contradictions", "max_shared_problems"), 0),
}


@dataclass(kw_only=True)
class Options:
    """What every command's options are checked for as soon as they are given.

    Raises ValueError, naming the option, for a count that is too small or a step separator that cannot be meant.
    """

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name, None)
            if value is not None and not value >= least:
                raise ValueError(f"--{name} is {value}; it must be at least {least}")
        separator = getattr(self, "step_separator", None)
        if separator is not None:
            check_separator("step_separator", separator)


def settings_of(config: Any, *ignored: str, **inputs: Any) -> dict[str, Any]:
    """The settings that determine a stage's rows: its config without what cannot change them, and its inputs; a user's
    splitter with the content of its file."""
    settings = {name: value for name, value in asdict(config).items() if name not in ignored} | inputs
    if settings.get("step_separator"):
        settings["step_separator"] = splitter_version(settings["step_separator"])
    return settings


@dataclass(kw_only=True)
class DeviceOptions(Options):
    """Where a model is computed.

    Args:
        device: cpu, cuda, or auto.
        dtype: of the weights.
    """

    device: str = "auto"
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        readers = self.readers()
        refuse_unread(self, sorted({"device", "dtype"}.difference(*readers.values())), " or ".join(readers))

    def readers(self) -> dict[str, set[str]]:
        """Which of `device` and `dtype` are read, by what reads them, or would."""
        return {}


@dataclass(kw_only=True)
class CallOptions(Options):
    """How a server is asked.

    Args:
        request_timeout_s: seconds that one call to a server may take, waiting in its queue included (--engine http,
            --endpoint).
        retries: calls in a row that bring nothing, after the first, before the job stops, with what is done on disk
            (--engine http, --endpoint).
    """

    request_timeout_s: float = 600.0
    retries: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        engine, endpoint = getattr(self, "engine", None), getattr(self, "endpoint", None)
        if engine != "http" and endpoint is None:
            ways = [*(["--engine http"] if engine else []), *(["--endpoint"] if hasattr(self, "endpoint") else [])]
            refuse_unread(self, ["request_timeout_s", "retries"], " or ".join(ways))

    def _server(self, url: str, key: str) -> "Server":
        """A server whose key, where it wants one, is in this environment variable."""
        from qstep.calls import Server

        return Server(url, os.environ.get(key) or None, self.request_timeout_s, self.retries)
