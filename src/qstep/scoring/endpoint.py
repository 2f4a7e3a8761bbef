"""A scorer on a server, vLLM's or `qstep serve`: rows become token ids here, and their Qs come from `/pooling`."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
from transformers import AutoConfig, PreTrainedTokenizerBase

from qstep.calls import EndpointError, Server
from qstep.data import tokenizer_fingerprint
from qstep.models import StepContract
from qstep.models.loading import load_tokenizer
from qstep.scoring.formats import ContractFormat
from qstep.scoring.scorer import Scored
from qstep.scoring.step_scorer import GroupScorer, Pending
from qstep.words import counted

_MOST_TOKENS, _MOST_SEQUENCES = 65_536, 1024
"""The limits of one request. It is about half a megabyte; `qstep serve` takes a megabyte by default."""


@dataclass(frozen=True)
class ServedModel:
    """What a server says about its model. vLLM gives only the name and the length.

    `qstep serve` also gives the step contract, the tokenizer's fingerprint, that of the weights, and their dtype.
    """

    name: str
    max_length: int | None
    contract: Mapping[str, Any] | None = None
    tokenizer: str | None = None
    fingerprint: str | None = None
    dtype: str | None = None


class EndpointScorer(GroupScorer):
    """A scorer whose contract and tokenizer are read here, while a server holds the weights and computes the Qs.

    A reply may have a row for each separator token (vLLM's STEP pooling, `qstep serve`), or one for each token.

    Args:
        server: where the scorer is served.
        model: the name under which it serves the scorer.
        in_flight: the number of requests sent at the same time.
    """

    def __init__(
        self,
        contract: StepContract,
        tokenizer: PreTrainedTokenizerBase,
        server: Server,
        model: str,
        *,
        in_flight: int = 4,
    ) -> None:
        super().__init__(ContractFormat(tokenizer, contract))
        self._separator = contract.separator_token_id
        self.server, self.model, self.in_flight = server, model, in_flight

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.objective}, {self.model!r} at {self.server.url})"

    @classmethod
    def load(cls, path: str | Path, server: Server, *, fingerprint: str | None = None) -> EndpointScorer:
        """A scorer at a server. Only `config.json` and the tokenizer of the checkpoint are read here.

        `fingerprint` names the weights that the server should have.

        Raises:
            ValueError: the checkpoint has no step contract. Or the server has another contract, another tokenizer,
                other weights, or a smaller limit of tokens. (vLLM reports only the last.)
            EndpointError: the server does not report what it serves.
        """
        tokenizer = load_tokenizer(path)
        contract = StepContract.of(AutoConfig.from_pretrained(path), tokenizer)
        served = served_model(server, str(path))
        where = f"{server.url} serves {served.name!r}"
        if served.contract is not None and StepContract.read(served.contract) != contract:
            raise ValueError(f"{where} with another step contract than {path} has: {dict(served.contract)}")
        if served.tokenizer is not None and served.tokenizer != tokenizer_fingerprint(tokenizer):
            raise ValueError(f"{where} with another tokenizer than that of {path}")
        if fingerprint is not None and served.fingerprint is not None and served.fingerprint != fingerprint:
            raise ValueError(f"{where} with other weights than those in {path}")
        if served.max_length is not None and served.max_length < contract.max_length:
            raise ValueError(
                f"{where} for {served.max_length} tokens at most, and the scorer's max_length is "
                f"{contract.max_length}: start the server for as many (vLLM: --max-model-len {contract.max_length})"
            )
        return cls(contract, tokenizer, server, served.name)

    def _score_batches(self, batches: Iterator[Pending]) -> Iterator[list[Scored]]:
        """Sends batches ahead, so that `in_flight` of them are at the server at the same time."""
        waiting: deque[tuple[Pending, Future[list[list[float]]]]] = deque()

        def next_one() -> list[Scored]:
            batch, answer = waiting.popleft()
            return batch.scored(answer.result())

        with self.server.connected() as (portal, client):
            for batch in batches:
                waiting.append((batch, portal.start_task_soon(self._ask, client, batch)))
                if len(waiting) == self.in_flight:
                    yield next_one()
            while waiting:
                yield next_one()

    async def _ask(self, client: httpx2.AsyncClient, batch: Pending) -> list[list[float]]:
        """The Qs of each sequence. A sequence without a step has none and is not sent."""
        places = [([*prompt, *ids], [len(prompt) + end for end in ends]) for prompt, ids, ends in batch.sequences()]
        answers: list[Any] = []
        for sequences in _requests([ids for ids, ends in places if ends]):
            body = {"model": self.model, "input": sequences, "task": "token_classify", "use_activation": False}
            name, longest = f"a request of {counted(len(sequences), 'sequence')}", 2**16 + 64 * sum(map(len, sequences))
            rows = partial(self._rows, sequences=sequences)
            answers += await self.server.call(client, "/pooling", body, rows, name=name, most_bytes=longest)
        found = iter(answers)
        return [self._q_values(next(found), ids, ends) if ends else [] for ids, ends in places]

    def _rows(self, reply: dict[str, Any], sequences: Sequence[Sequence[int]]) -> list[Any]:
        """The part of the reply that belongs to each sequence."""
        data = reply.get("data")
        if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
            raise self._unlike("a list `data` of objects", reply)
        if len(data) != len(sequences) or any(item.get("index", i) != i for i, item in enumerate(data)):
            indices = [item.get("index") for item in data]
            raise self._unlike(f"{counted(len(sequences), 'entry', 'entries')} of `data`, in order", indices)
        return [item.get("data") for item in data]

    def _q_values(self, rows: Any, ids: Sequence[int], ends: Sequence[int]) -> list[float]:
        """The Qs at the ends of a sequence's steps, from rows that are given for each separator or for each token."""
        separators = [i for i, token in enumerate(ids) if token == self._separator]
        if not isinstance(rows, list) or len(rows) not in (len(separators), len(ids)):
            raise self._unlike(
                f"{counted(len(separators), 'row')} (a row per separator token, vLLM's STEP pooling with step_tag_id "
                f"{self._separator}) or {len(ids)} (a row per token)",
                counted(len(rows), "row") if isinstance(rows, list) else rows,
            )
        row_at = dict(zip(separators if len(rows) == len(separators) else range(len(ids)), rows, strict=True))
        return [self._q_value(row_at[end]) for end in ends]

    def _q_value(self, row: Any) -> float:
        match row:
            case [int() | float() as q] | (int() | float() as q) if not isinstance(q, bool) and _is_finite(q):
                return float(q)
        raise self._unlike("one finite number for a step", row)

    def _unlike(self, expected: str, found: Any) -> EndpointError:
        return EndpointError(f"{self.server.url}/pooling: expected {expected}, got {self.server.shown(repr(found))}")


def _is_finite(q: float) -> bool:
    try:
        return math.isfinite(q)
    except OverflowError:  # a whole number beyond all floats
        return False


def _requests(sequences: list[list[int]]) -> Iterator[list[list[int]]]:
    """Divides the sequences into requests of a size that servers take. Each sequence repeats its prompt."""
    request: list[list[int]] = []
    tokens = 0
    for ids in sequences:
        if request and (tokens + len(ids) > _MOST_TOKENS or len(request) == _MOST_SEQUENCES):
            yield request
            request, tokens = [], 0
        request.append(ids)
        tokens += len(ids)
    if request:
        yield request


def served_model(server: Server, path: str) -> ServedModel:
    """What a server says about its model. If it serves several, it is the one that is named as the checkpoint's path.

    Raises EndpointError if the server does not answer, or serves several models under other names.
    """

    def read(reply: dict[str, Any]) -> list[dict[str, Any]]:
        models = reply.get("data")
        if isinstance(models, list) and all(isinstance(m, dict) and isinstance(m.get("id"), str) for m in models):
            return models
        raise EndpointError(f"{server.url}: expected a list `data` of models, got {server.shown(repr(reply))}")

    with server.connected() as (portal, client):
        asked = partial(server.call, name="the list of models", most_bytes=2**20)
        models = portal.call(asked, client, "/v1/models", None, read)
    named = [model for model in models if path in (model["id"], model.get("root"))] if len(models) != 1 else models
    if len(named) != 1:
        names = server.shown(str([model["id"] for model in models]))
        raise EndpointError(f"{server.url} serves {names}, and which of them is {path} is unknown")
    [model] = named
    longest, said = model.get("max_model_len"), model.get("qstep")
    words = said if isinstance(said, dict) else {}
    if not isinstance(words.get("contract", {}), dict):
        found = server.shown(repr(words["contract"]))
        raise EndpointError(f"{server.url}: expected an object as the scorer's contract, got {found}")
    return ServedModel(
        model["id"],
        longest if isinstance(longest, int) else None,
        **{name: words.get(name) for name in ("contract", "tokenizer", "fingerprint", "dtype")},
    )
