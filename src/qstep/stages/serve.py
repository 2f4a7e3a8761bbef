"""`qstep serve`: serves a trained scorer over HTTP."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Literal

from qstep.extras import missing
from qstep.runs.progress import console
from qstep.scoring.options import LocalScorerOptions, ScoringOptions
from qstep.serving.options import ServerOptions


@dataclass(kw_only=True)
class ServeConfig(ServerOptions, LocalScorerOptions, ScoringOptions):
    """Serves a trained scorer over HTTP, with the schema of vLLM's `/pooling`, until SIGTERM.

    `qstep score --endpoint http://127.0.0.1:8100` is one client. The server has no passwords. By default it accepts
    connections only from this machine. It needs the extra `serve`: run `pip install -e '.[serve]'` in a clone of the
    repository.

    Args:
        over_long: `refuse` answers 400 to an input longer than the scorer's `max_length`; `window` reads a response in
            windows over its steps if it is given as `prompt` and `steps`. Token ids are refused in both cases.
    """

    over_long: Literal["refuse", "window"] = "refuse"


def serve(config: ServeConfig) -> None:
    """Runs the server until SIGTERM.

    Raises:
        ValueError: the server's packages are missing, or the scorer has no step contract.
        OSError: the address is in use, or requests were cut off at the end.
    """
    try:
        from qstep.serving.app import Service
        from qstep.serving.server import listen, run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "qstep":
            raise
        raise missing("qstep serve", str(error.name), "serve") from None
    from qstep.scoring import StepScorer
    from qstep.scoring.formats import ContractFormat

    with listen(config.host, config.port) as listening:
        fingerprint, scorer = config.scorer_fingerprint(), config.check_steps(config.load_scorer(), config.scorer)
        if not isinstance(scorer, StepScorer) or not isinstance(scorer.format, ContractFormat):
            raise ValueError(
                f"--scorer {config.scorer} has no step contract, unlike scorers of `qstep train`. Run `qstep export` "
                "on it, and serve the result"
            )
        if config.over_long == "window":
            scorer.use_windows()
        if scorer.max_length > config.queue_tokens:
            raise ValueError(
                f"--queue_tokens is {config.queue_tokens}, and a response may have {scorer.max_length} tokens, the "
                f"scorer's max_length. Give --queue_tokens {scorer.max_length} or more"
            )
        name = config.served_model_name or config.scorer
        service = Service(scorer, config, name=name, batch_tokens=config.score_tokens, fingerprint=fingerprint)
        host, port = listening.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

        def ready() -> None:
            console.print(f"serving {name} at {url}", soft_wrap=True, markup=False)
            if not ipaddress.ip_address(host).is_loopback:
                console.print("Warning: everybody who can reach this address can use it. There are no passwords.")

        run(service, listening, ready)
