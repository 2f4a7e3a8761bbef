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
"""Of one request: half a megabyte of digits, where `qstep serve` takes a megabyte unless it is told otherwise."""


@dataclass(frozen=True)
class ServedModel:
    """What a server says of its model. vLLM gives the name and the length alone.

    `contract` and `tokenizer` are those of `qstep serve`, `fingerprint` names its weights by their content.
    """

    name: str
    max_length: int | None
    contract: Mapping[str, Any] | None = None
    tokenizer: str | None = None
    fingerprint: str | None = None
    dtype: str | None = None


class EndpointScorer(GroupScorer):
    """A checkpoint's contract and tokenizer, read here, and its Qs from a server that holds the weights.

    Takes a reply with a row per separator token (vLLM's STEP pooling, `qstep serve`), and one with a row per token.

    Args:
        server: who is asked.
        model: the name under which it serves the scorer.
        in_flight: requests at once.
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
        """The scorer of a checkpoint, of which `config.json` and the tokenizer are read, at a server.

        `fingerprint` names the weights that the server should have.

        Raises:
            ValueError: the checkpoint has no step contract, or the server says that it serves another one, another
                tokenizer or other weights, or fewer tokens at once. (vLLM says nothing but the last.)
            EndpointError: the server does not say what it serves.
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
        """Sends `in_flight` batches ahead of the one that is waited for."""
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
        """The Qs of each sequence. One without a step has none, and is not sent."""
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
        """What the reply holds of each sequence."""
        data = reply.get("data")
        if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
            raise self._unlike("a list `data` of objects", reply)
        if len(data) != len(sequences) or any(item.get("index", i) != i for i, item in enumerate(data)):
            indices = [item.get("index") for item in data]
            raise self._unlike(f"{counted(len(sequences), 'entry', 'entries')} of `data`, in order", indices)
        return [item.get("data") for item in data]

    def _q_values(self, rows: Any, ids: Sequence[int], ends: Sequence[int]) -> list[float]:
        """The Qs at a sequence's step ends, of a row for each of its separators, or one for each of its tokens."""
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
            case [int() | float() as q] | (int() | float() as q) if not isinstance(q, bool) and math.isfinite(q):
                return float(q)
        raise self._unlike("one finite number for a step", row)

    def _unlike(self, expected: str, found: Any) -> EndpointError:
        return EndpointError(f"{self.server.url}/pooling: expected {expected}, got {self.server.shown(repr(found))}")


def _requests(sequences: list[list[int]]) -> Iterator[list[list[int]]]:
    """The sequences, parted into requests of a size that servers take: each repeats the prompt that rows here share."""
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
    """What a server says of the model that it serves; of several, of the one named as the checkpoint's path.

    Raises EndpointError where it does not answer, or serves several under other names.
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
    return ServedModel(
        model["id"],
        longest if isinstance(longest, int) else None,
        **{name: words.get(name) for name in ("contract", "tokenizer", "fingerprint", "dtype")},
    )
