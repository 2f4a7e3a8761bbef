"""Sampling from a server that speaks OpenAI's completions protocol: vLLM, SGLang, llama.cpp, a hosted service.

A request is one call for all its samples. Every answer is checked. A call without a usable answer is repeated. If an
answer has too few choices, another call requests the missing ones.

See OpenAI's API reference (`/v1/completions`), and vLLM's OpenAI-compatible server for its additions: prompts as token
ids, `return_token_ids`, `top_k`, `min_p`, `repetition_penalty`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import httpx2

from qstep.calls import EndpointError, Server, Unusable
from qstep.data import beginning, decode_text
from qstep.data.chat import end_of_turn, marks_as_text
from qstep.generation.engine import Request, SamplingSettings
from qstep.types import Ending, Response

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_Answer = tuple[Request, list[Response]]


class HTTPEngine:
    """Samples from a server, with up to `concurrency` requests at the same time.

    The seed of a call is computed from (seed, key, samples). If the server honours seeds, a repeated call draws the
    same responses, and another sample index draws another response.

    A response has `token_ids` if the server returns them, they decode to the choice's text, and they end as `Response`
    says. Otherwise it has only the server's text.

    A response has `logps` if it has `token_ids` and the server's log-probabilities belong to the sampling distribution.
    Raw ones, which vLLM returns by default, do so for greedy sampling and at temperature 1 with top_p 1. Processed ones
    always do.

    Args:
        server: the server.
        model: the model's name at the server.
        tokenizer: the model's tokenizer.
        prompts_as: `tokens` sends token ids, and requests token ids and log-probabilities. `text` sends only what
            OpenAI accepts. Sampling parameters other than temperature and top_p are then the server's defaults.
        logprobs: which log-probabilities the server returns, `raw` or `processed` (vLLM's `--logprobs-mode`).
        concurrency: maximum number of requests at the same time.
    """

    def __init__(
        self,
        server: Server,
        model: str,
        tokenizer: PreTrainedTokenizerBase,
        *,
        prompts_as: Literal["tokens", "text"] = "tokens",
        logprobs: Literal["raw", "processed"] = "raw",
        concurrency: int = 32,
    ) -> None:
        self.server = server
        self.model = model
        self.tokenizer = tokenizer
        self.prompts_as = prompts_as
        self.logprobs = logprobs
        self.concurrency = concurrency

    def __repr__(self) -> str:
        return f"HTTPEngine({self.model!r} at {self.server.url})"

    def decode(self, token_ids: list[int]) -> str:
        """The text of a response's tokens, without the end-of-sequence token."""
        return decode_text(self.tokenizer, token_ids)

    def sample(self, requests: Iterable[Request], settings: SamplingSettings) -> Iterator[_Answer]:
        """Yields every request once with its responses, in the order of completion; see `Engine.sample`.

        Raises:
            EndpointError: all tries of a request failed, the server refused it, or it was never reached. Also if
                `settings.stop` is given and the server does not say what ended a response. Other requests that are
                complete are yielded before.
            ValueError: `settings.stop` is given, and prompts are sent as text.
        """
        if settings.stop is not None and self.prompts_as == "text":
            raise ValueError(
                "A server can stop at a step's end only if prompts are sent as token ids. Remove --engine_input text"
            )
        with self.server.connected() as (portal, client):
            pending: set[Future[_Answer]] = set()
            for request in requests:
                pending.add(portal.start_task_soon(self._answer, client, request, settings))
                if len(pending) >= self.concurrency:
                    pending = yield from _finished(pending)
            while pending:
                pending = yield from _finished(pending)

    async def _answer(self, client: httpx2.AsyncClient, request: Request, settings: SamplingSettings) -> _Answer:
        """Calls the server until all responses of a request are complete."""
        made: dict[int, Response] = {}
        blocked = 0  # calls whose choices were all filtered or aborted
        while missing := [sample for sample in request.samples if sample not in made]:
            body = self._body(request, missing, settings, blocked)
            usable = partial(self._usable, request, missing, settings)
            longest = 2**16 + len(missing) * (16 * len(request.prompt_ids) + 2**10 * request.limit(settings))
            found = await self.server.call(
                client, "/v1/completions", body, usable, name=f"request {request.key!r}", most_bytes=longest
            )
            made |= found
            blocked += not found
            if blocked > self.server.retries:
                raise EndpointError(
                    f"request {request.key!r}: {blocked} draws with different seeds were filtered or aborted by the "
                    "server (finish_reason is neither stop nor length). Leave the problem out, or ask another server"
                )
        return request, [made[sample] for sample in request.samples]

    def _usable(
        self, request: Request, samples: list[int], settings: SamplingSettings, reply: dict[str, Any]
    ) -> dict[int, Response]:
        """The responses to these samples that the answer has; none if the server filtered or aborted all.

        Raises Unusable if it has no choices.
        """
        choices = reply["choices"] if isinstance(reply.get("choices"), list) else []
        came: dict[int, Response] = {}
        greedy = settings.temperature == 0
        for position, choice in enumerate(choices):
            index = choice.get("index", position) if isinstance(choice, dict) else None
            if isinstance(index, int) and 0 <= index < len(samples) and samples[index] not in came:
                for sample in samples if greedy else [samples[index]]:
                    if (response := self._response(choice, sample, request.limit(settings), settings)) is not None:
                        came[sample] = response
        endings = [choice.get("finish_reason") for choice in choices if isinstance(choice, dict)]
        if not came and all(ending in (None, "stop", "length") for ending in endings):
            raise Unusable("an answer without a usable choice")
        return came

    def _body(
        self, request: Request, samples: list[int], settings: SamplingSettings, blocked: int = 0
    ) -> dict[str, Any]:
        name = repr((settings.seed, request.key, samples, *[blocked] * bool(blocked))).encode()
        seed = int.from_bytes(hashlib.blake2b(name, digest_size=4).digest(), "little") >> 1
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": request.prompt_ids if self.prompts_as == "tokens" else self._text(request.prompt_ids),
            "n": len(samples) if settings.temperature else 1,  # greedy responses are equal, and vLLM refuses n > 1
            "max_tokens": request.limit(settings),
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "seed": seed,
        }
        if self.prompts_as == "tokens":
            # By default vLLM takes these from the model's generation config, and llama.cpp has its own values.
            body |= {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "return_token_ids": True}
            if self._gives_logps(settings):
                body["logprobs"] = 1
            if (end := end_of_turn(self.tokenizer)) is not None:
                body["stop_token_ids"] = [end]
            if settings.stop is not None:
                body |= {"stop": [settings.stop], "include_stop_str_in_output": True, "no_stop_trim": True}
            if self._marked:
                body["skip_special_tokens"] = False
        elif (end := end_of_turn(self.tokenizer)) is not None:
            body["stop"] = [self.tokenizer.convert_ids_to_tokens(end)]
        return body

    @property
    def _marked(self) -> bool:
        """Whether marks around thinking are special tokens, so that servers leave them out of texts by default."""
        return marks_as_text(self.tokenizer) is not self.tokenizer

    def _without_special(self, text: str) -> str:
        """The text of a server that was asked to leave special tokens in, without those that are not marks."""
        for token in marks_as_text(self.tokenizer).added_tokens_decoder.values():
            text = text.replace(token.content, "") if token.special else text
        return text

    def _text(self, prompt_ids: list[int]) -> str:
        """The text of these tokens, without the beginning-of-sequence token if the server adds it again."""
        added = beginning(self.tokenizer)
        prompt_ids = prompt_ids[len(added) :] if prompt_ids[: len(added)] == added else prompt_ids
        return str(self.tokenizer.decode(prompt_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _ends(self, choice: dict[str, Any]) -> tuple[int | None, ...]:
        """The tokens that may have ended a choice."""
        return self.tokenizer.eos_token_id, end_of_turn(self.tokenizer), choice.get("stop_reason")

    def _gives_logps(self, settings: SamplingSettings) -> bool:
        as_drawn = settings.temperature == 0 or (settings.temperature == 1 and settings.top_p == 1)
        return as_drawn or self.logprobs == "processed"

    def _with_stop(self, choice: dict[str, Any], text: str, stop: str) -> tuple[str, Ending]:
        """The text with the stop string that a server left out, and whether that or the text's own end was reached.

        Servers report "stop" for both. vLLM says which it was in `stop_reason`, SGLang in `matched_stop`.
        """
        if stop in text:
            return text, "step"
        reached = [choice[name] for name in ("stop_reason", "matched_stop") if name in choice]
        if stop in reached:
            return text + stop, "step"
        ids = choice.get("token_ids")
        ended = isinstance(ids, list) and bool(ids) and ids[-1] in self._ends(choice)
        if not (reached or ended):
            raise EndpointError(
                f"{self.server.url} does not say whether a response ended or reached the end of a step: it left out "
                "the stop string, and gave no stop_reason, matched_stop or token_ids. A search needs another server "
                "(vLLM, SGLang) or engine"
            )
        return text, "stop"

    def _response(self, choice: dict[str, Any], sample: int, limit: int, settings: SamplingSettings) -> Response | None:
        """A choice as a response; None if it is not usable."""
        text, said = choice.get("text"), choice.get("finish_reason")
        if not isinstance(text, str) or said not in ("stop", "length"):
            return None
        text = self._without_special(text) if self._marked else text
        reason: Ending = "stop" if said == "stop" else "length"
        if reason == "stop" and settings.stop is not None:
            text, reason = self._with_stop(choice, text, settings.stop)
        ids = choice.get("token_ids")
        if not isinstance(ids, list) or not 0 < len(ids) <= limit or not all(map(_is_id, ids)):
            return Response(sample, text, None, None, reason)
        if reason == "stop" and ids[-1] not in self._ends(choice):
            return Response(sample, text, None, None, reason)
        read = self.decode(ids[:-1] if reason == "stop" else ids)
        # A server may leave the marks out of its text all the same.
        readings = {read, str(self.tokenizer.decode(ids, skip_special_tokens=True))} if self._marked else {read}
        letters = {_letters(one) for one in readings}
        if reason == "step":  # a token may reach past it
            letters = {one[: len(_letters(text))] for one in letters}
        if _letters(text) not in letters:
            return Response(sample, text, None, None, reason)
        logps = _logps(choice.get("logprobs"), len(ids)) if self._gives_logps(settings) else None
        return Response(sample, read, ids, logps, reason)


def _finished(pending: set[Future[_Answer]]) -> Generator[_Answer, None, set[Future[_Answer]]]:
    """Waits until an answer is complete. Yields all complete ones, then raises the first error. Returns the others."""
    done, under_way = wait(pending, return_when=FIRST_COMPLETED)
    failed = None
    for future in done:
        if error := future.exception():
            failed = failed or error
        else:
            yield future.result()
    if failed:
        raise failed
    return under_way


def _is_id(token: Any) -> bool:
    return type(token) is int and 0 <= token < 2**31


def _letters(text: str) -> str:
    """A text without white space and split characters, which incremental decoding may write differently."""
    return "".join(text.replace("\N{REPLACEMENT CHARACTER}", "").split())


def _logps(logprobs: Any, count: int) -> list[float] | None:
    """A choice's log-probabilities; None unless there is one for each token."""
    values = logprobs.get("token_logprobs") if isinstance(logprobs, dict) else None
    if not isinstance(values, list) or len(values) != count:
        return None
    return values if all(isinstance(value, float | int) and value <= 0 for value in values) else None
