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
from qstep.generation.engine import Request, SamplingSettings, check_length
from qstep.generation.options import check_vllm_options
from qstep.models.loading import ADAPTER_CONFIG
from qstep.types import Dtype, Ending, Response

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class VLLMEngine:
    """Samples by vLLM.

    A response's seed follows from (seed, key, sample). vLLM's kernels round differently for other batches, so a draw
    near the boundary of two tokens can still go either way. `logps` are under the distribution drawn from (vLLM's
    processed log-probabilities); greedy ones at temperature 1, as those of `HFEngine`.

    Args:
        llm: a vLLM made with `logprobs_mode="processed_logprobs"`.
        tokenizer: the model's.
        max_rows: maximum number of responses decoded together; as many more wait in its queue.
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
        """An engine of a folder or Hub id. `options` are further arguments of `vllm.LLM`.

        Raises:
            ValueError: the folder holds an adapter, or an option is one that qstep sets.
        """
        if (Path(model_name_or_path) / ADAPTER_CONFIG).exists():
            raise ValueError(
                f"{model_name_or_path} holds an adapter: `qstep merge` it into its base, and give what that writes"
            )
        check_vllm_options("vllm_options", options or {})
        # After a part of a prompt, vLLM winds the request's random numbers back, which a CPU's cannot be: it would die.
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
        """Yields every request once with its responses, as they come; see `Engine.sample`.

        Raises:
            ValueError: prompt plus `max_new_tokens` of a request is longer than vLLM's `max_model_len`.
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
                        engine.add_request(name, prompt, _parameters(request, sample, settings))
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


def _parameters(request: Request, sample: int, settings: SamplingSettings) -> SamplingParams:
    name = repr((settings.seed, request.key, sample)).encode()
    return SamplingParams(
        max_tokens=request.limit(settings),
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little") >> 1,
        logprobs=0,  # only that of the drawn token
        stop=settings.stop,
        include_stop_str_in_output=True,
        detokenize=settings.stop is not None,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
