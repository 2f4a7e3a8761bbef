"""Sampling by vLLM in this process.

Every response is a separate request to vLLM, with its own seed. Requests are added while vLLM decodes, so that its
batch stays full.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm import LLM, SamplingParams, TokensPrompt
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind

from qstep.data import decode_text
from qstep.data.chat import end_of_turn
from qstep.generation.engine import Request, SamplingSettings, check_length
from qstep.generation.options import check_vllm_options
from qstep.models.loading import ADAPTER_CONFIG
from qstep.types import Dtype, Ending, Response

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class VLLMEngine:
    """Samples by vLLM.

    The seed of a response is computed from (seed, key, sample). vLLM's kernels round differently in other batches, so a
    draw near the boundary between two tokens may still differ. `logps` are log-probabilities under the sampling
    distribution (vLLM's processed ones). For greedy responses they are those at temperature 1, as in `HFEngine`.

    Args:
        llm: a vLLM made with `logprobs_mode="processed_logprobs"`.
        tokenizer: the model's tokenizer.
        max_rows: maximum number of responses decoded together. As many more wait in the queue.
    """

    def __init__(self, llm: LLM, tokenizer: PreTrainedTokenizerBase, *, max_rows: int = 1024) -> None:
        self.llm = llm
        self.tokenizer = tokenizer
        self.max_rows = max_rows

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        tokenizer: PreTrainedTokenizerBase,
        *,
        dtype: Dtype = "auto",
        revision: str | None = None,
        max_rows: int = 1024,
        options: Mapping[str, Any] | None = None,
    ) -> VLLMEngine:
        """The engine of a folder or Hub id. `options` are further arguments of `vllm.LLM`.

        Raises:
            ValueError: the folder is an adapter, or qstep itself sets one of the options.
        """
        if (Path(model_name_or_path) / ADAPTER_CONFIG).exists():
            raise ValueError(
                f"{model_name_or_path} is an adapter. Merge it with `qstep merge`, and give the merged folder"
            )
        check_vllm_options("vllm_options", options or {})
        # vLLM resets a request's random numbers after each chunk of its prompt. It cannot do so on a CPU, and crashes.
        whole_prompts = {"enable_chunked_prefill": False} if current_platform.is_cpu() else {}
        llm = LLM(
            model_name_or_path,
            revision=revision,
            tokenizer_revision=revision,
            dtype=dtype,
            max_num_seqs=max_rows,
            logprobs_mode="processed_logprobs",
            **whole_prompts | {**(options or {})},
        )
        return cls(llm, tokenizer, max_rows=max_rows)

    def decode(self, token_ids: list[int]) -> str:
        """The text of a response's tokens, without the end-of-sequence token."""
        return decode_text(self.tokenizer, token_ids)

    @property
    def positions(self) -> int:
        """The maximum number of tokens of a prompt and its response."""
        return self.llm.llm_engine.model_config.max_model_len

    def sample(
        self, requests: Iterable[Request], settings: SamplingSettings
    ) -> Iterator[tuple[Request, list[Response]]]:
        """Yields every request once with its responses, in the order of completion; see `Engine.sample`.

        Raises:
            ValueError: a request's prompt and `max_new_tokens` exceed vLLM's `max_model_len`.
        """
        engine = self.llm.llm_engine
        rows: dict[str, tuple[Request, int]] = {}
        made: dict[int, dict[int, Response]] = {}
        source, names = iter(requests), count()
        exhausted = False
        try:
            while rows or not exhausted:
                while not exhausted and len(rows) < 2 * self.max_rows:
                    if (request := next(source, None)) is None:
                        exhausted = True
                        break
                    check_length(request, settings, self.positions)
                    made[id(request)] = {}
                    for sample in request.samples:
                        name = str(next(names))
                        rows[name] = (request, sample)
                        (prompt,) = engine.renderer.render_cmpl([TokensPrompt(prompt_token_ids=request.prompt_ids)])
                        engine.add_request(
                            name, prompt, _parameters(request, sample, settings, end_of_turn(self.tokenizer))
                        )
                for output in engine.step() if rows else []:
                    request, sample = rows.pop(output.request_id)
                    responses = made[id(request)]
                    responses[sample] = self._response(sample, output.outputs[0])
                    if len(responses) == len(request.samples):
                        del made[id(request)]
                        yield request, [responses[sample] for sample in request.samples]
        finally:
            engine.abort_request([*rows])

    def _response(self, sample: int, output: Any) -> Response:
        ids = list(output.token_ids)
        if output.finish_reason not in ("stop", "length"):
            raise RuntimeError(f"vLLM ended a response by {output.finish_reason!r}")
        logps = [at[token].logprob for token, at in zip(ids, output.logprobs, strict=True)]
        reason: Ending = "step" if isinstance(output.stop_reason, str) else output.finish_reason
        return Response(sample, self.decode(ids[:-1] if reason == "stop" else ids), ids, logps, reason)


def _parameters(request: Request, sample: int, settings: SamplingSettings, end: int | None) -> SamplingParams:
    name = repr((settings.seed, request.key, sample)).encode()
    return SamplingParams(
        max_tokens=request.limit(settings),
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little") >> 1,
        logprobs=0,  # only the drawn token's
        stop=settings.stop,
        stop_token_ids=None if end is None else [end],
        include_stop_str_in_output=True,
        detokenize=settings.stop is not None,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
