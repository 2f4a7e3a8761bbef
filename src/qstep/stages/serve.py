"""`qstep serve`: a trained scorer as an HTTP server."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from qstep.extras import missing
from qstep.runs.progress import console
from qstep.scoring.options import LocalScorerOptions, ScoringOptions
from qstep.serving.options import ServerOptions


@dataclass(kw_only=True)
class ServeConfig(ServerOptions, LocalScorerOptions, ScoringOptions):
    """Serves a trained scorer over HTTP, with the schema of vLLM's `/pooling`, until SIGTERM.

    `qstep score --endpoint http://127.0.0.1:8100` is one client. There are no passwords: it listens to this machine
    alone unless told otherwise. Needs the extra `serve`: `pip install -e '.[serve]'` in a clone of the repository.
    """


def serve(config: ServeConfig) -> None:
    """Runs the server until it is told to stop.

    Raises:
        ValueError: the server's packages are missing, or the scorer is none that `qstep train` made.
        OSError: the address is taken, or requests were cut off at the end.
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
                f"--scorer {config.scorer} has no step contract, as what `qstep train` made has: `qstep export` it"
            )
        if scorer.max_length > config.queue_tokens:
            raise ValueError(
                f"--queue_tokens is {config.queue_tokens}, which a response of the scorer's max_length of "
                f"{scorer.max_length} tokens does not fit in"
            )
        name = config.served_model_name or config.scorer
        service = Service(scorer, config, name=name, batch_tokens=config.score_tokens, fingerprint=fingerprint)
        host, port = listening.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

        def ready() -> None:
            console.print(f"serving {name} at {url}", soft_wrap=True, markup=False)
            if not ipaddress.ip_address(host).is_loopback:
                console.print("It is open to everybody who reaches this address: there are no passwords.")

        run(service, listening, ready)
