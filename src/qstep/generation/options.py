"""The options of what draws responses: a model in this process, vLLM, or a server; here or over a cluster."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from qstep.data import refuse_unread
from qstep.runs.cluster import Work, map_blocks
from qstep.runs.options import CallOptions, DeviceOptions, Options
from qstep.types import Row

if TYPE_CHECKING:
    from qstep.generation import Engine, SamplingSettings

_OF_HTTP = ("engine_url", "engine_model", "engine_input", "engine_logprobs", "concurrency")


@dataclass(kw_only=True)
class SamplingOptions(Options):
    """How responses are drawn.

    Args:
        max_new_tokens: length limit of a whole response, counted from its prompt.
        temperature: 0 is greedy.
        top_p: nucleus.
        seed: of the sampling; each response has its own stream, whatever the batch.
    """

    max_new_tokens: int = 512
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    def sampling(self) -> "SamplingSettings":
        """The same for an engine."""
        from qstep.generation import SamplingSettings

        return SamplingSettings(self.max_new_tokens, self.temperature, self.top_p, self.seed)


@dataclass(kw_only=True)
class EngineOptions(DeviceOptions, CallOptions):
    """What draws responses.

    Args:
        engine: hf computes the model in this process, vllm does so by vLLM, http asks an OpenAI-compatible server (its
            key, where it wants one, is read from the environment variable OPENAI_API_KEY).
        max_rows: responses decoded at once (hf, vllm).
        max_tokens: positions held in the cache at once; lower it when memory runs out (hf).
        model_revision: of a Hub id: branch, tag or commit.
        vllm_options: further arguments of vllm.LLM, such as `--vllm_options.tensor_parallel_size 2`.
        engine_url: address of the server, such as http://127.0.0.1:8000 (http). `model_name_or_path` is then the model
            that it serves, and gives the tokenizer and the fingerprint; its weights are not read.
        engine_model: the model's name on the server; that of `model_name_or_path` by default (http).
        engine_input: how prompts are sent: tokens as vLLM, SGLang and llama.cpp take them, which also asks for token
            ids and log-probs; text as OpenAI takes them (http).
        engine_logprobs: what log-probs the server gives: raw, before temperature and top_p, or processed (http).
        concurrency: requests under way at once (http).
        executor: ray has the engines of several processes at work, through Ray Data: on the cluster that the
            environment variable RAY_ADDRESS names, else on this machine.
        workers: how many of them (ray).
        worker_gpus: GPUs of each (ray).
    """

    engine: Literal["hf", "vllm", "http"] = "hf"
    max_rows: int = 1024
    max_tokens: int = 131_072
    model_revision: str | None = None
    vllm_options: dict[str, Any] | None = None
    engine_url: str | None = None
    engine_model: str | None = None
    engine_input: Literal["tokens", "text"] = "tokens"
    engine_logprobs: Literal["raw", "processed"] = "raw"
    concurrency: int = 32
    executor: Literal["local", "ray"] = "local"
    workers: int = 2
    worker_gpus: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.executor != "ray":
            refuse_unread(self, ["workers", "worker_gpus"], "--executor ray")
        elif self.engine == "http":
            raise ValueError("--executor ray spreads engines over machines; a server is one: raise --concurrency")
        if self.engine != "http":
            refuse_unread(self, _OF_HTTP, "--engine http")
        if self.engine != "vllm":
            refuse_unread(self, ["vllm_options"], "--engine vllm")
        if self.engine != "hf":
            refuse_unread(self, ["max_tokens"], "--engine hf")
        if self.engine == "http":
            refuse_unread(self, ["max_rows"], "--engine hf or vllm")
            if self.engine_input == "text" and self.engine_logprobs == "processed":
                raise ValueError("--engine_logprobs is 'processed', and --engine_input text asks for no log-probs")
            if self.engine_url is None:
                raise ValueError("--engine http needs --engine_url, an address such as http://127.0.0.1:8000")
            from qstep.calls import checked_url

            checked_url(self.engine_url, "--engine_url")

    def readers(self) -> dict[str, set[str]]:
        read = {"hf": {"device", "dtype"}, "vllm": {"dtype"}, "http": set()}
        return {**super().readers(), "--engine hf": read[self.engine]}

    def load_engine(self, model_name_or_path: str) -> "Engine":
        """The engine of a model."""
        from qstep.models.inference import load_for_sampling, load_text_tokenizer

        if self.engine == "http":
            assert self.engine_url is not None, "checked above"
            from qstep.generation import HTTPEngine

            return HTTPEngine(
                self._server(self.engine_url, "OPENAI_API_KEY"),
                self.engine_model or model_name_or_path,
                load_text_tokenizer(model_name_or_path, self.model_revision),
                prompts_as=self.engine_input,
                logprobs=self.engine_logprobs,
                concurrency=self.concurrency,
            )
        if self.engine == "vllm":
            return _vllm_engine().load(
                model_name_or_path,
                load_text_tokenizer(model_name_or_path, self.model_revision),
                dtype=self.dtype,
                revision=self.model_revision,
                max_rows=self.max_rows,
                options=self.vllm_options,
            )
        from qstep.generation import HFEngine

        model, tokenizer = load_for_sampling(
            model_name_or_path, device=self.device, dtype=self.dtype, revision=self.model_revision
        )
        return HFEngine(model, tokenizer, max_rows=self.max_rows, max_tokens=self.max_tokens)

    def spread(self, make: Callable[[], Work], blocks: Iterable[list[Row]]) -> Iterator[list[Row]]:
        """What workers of the cluster make of blocks; see `qstep.runs.cluster.map_blocks`."""
        return map_blocks(make, blocks, workers=self.workers, gpus=self.worker_gpus)


def _vllm_engine() -> Any:
    """The class; ValueError, with the remedy, where vLLM is not installed."""
    try:
        from qstep.generation import VLLMEngine
    except ModuleNotFoundError as error:
        raise ValueError(
            f"--engine vllm needs {error.name}, which is not installed: an environment with vLLM, see docs/engines.md"
        ) from None
    return VLLMEngine
