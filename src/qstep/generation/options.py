"""The options of engines, which draw responses: a model in this process, vLLM, or a server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from qstep.generation.engine import Temperature, TopP
from qstep.runs.fingerprints import model_fingerprint
from qstep.runs.options import CHANGES_NOTHING, GIVEN, AtLeast1, Check, Options, ReadIf, Seed
from qstep.runs.shared_options import CallOptions, ChatOptions, DeviceOptions, ServerUrl

if TYPE_CHECKING:
    from qstep.generation import Engine, SamplingSettings


@dataclass(kw_only=True)
class SamplingOptions(Options):
    """How responses are drawn.

    Args:
        max_new_tokens: length limit of a complete response, in tokens after its prompt.
        temperature: 0 is greedy.
        top_p: nucleus sampling; 1 keeps all tokens.
        seed: seed of sampling. The batch does not change a response.
    """

    GROUP = "sampling options"
    READ_IF = ReadIf(model_name_or_path=GIVEN)

    max_new_tokens: AtLeast1 = 512
    temperature: Temperature = 1.0
    top_p: TopP = 1.0
    seed: Annotated[Seed, ReadIf()] = 0

    def sampling(self) -> SamplingSettings:
        """These options as an engine takes them."""
        from qstep.generation import SamplingSettings

        return SamplingSettings(self.max_new_tokens, self.temperature, self.top_p, self.seed)


@dataclass(kw_only=True)
class LocalOptions(DeviceOptions, ChatOptions):
    """A model that is computed on this machine.

    Args:
        max_rows: maximum number of responses decoded at once.
    """

    GROUP = "options of --engine hf and vllm"

    max_rows: Annotated[AtLeast1, CHANGES_NOTHING, ReadIf(engine=("hf", "vllm"))] = 1024


@dataclass(kw_only=True)
class HFOptions(LocalOptions):
    """A model in this process.

    Args:
        max_tokens: maximum number of positions in the cache. Lower it if memory runs out.
    """

    GROUP = "options of --engine hf"
    READ_IF = ReadIf(engine="hf")

    max_tokens: Annotated[AtLeast1, CHANGES_NOTHING] = 131_072

    def load(self, model_name_or_path: str, revision: str | None) -> Engine:
        """The engine of a model in this process."""
        from qstep.generation import HFEngine
        from qstep.models.inference import load_for_sampling

        model, tokenizer = load_for_sampling(
            model_name_or_path, device=self.device, dtype=self.dtype, revision=revision
        )
        return HFEngine(model, self.with_chat(tokenizer), max_rows=self.max_rows, max_tokens=self.max_tokens)


_OURS = ("dtype", "logprobs_mode", "max_num_seqs", "model", "revision", "tokenizer", "trust_remote_code")
"""The arguments of vllm.LLM that qstep sets."""


def check_vllm_options(option: str, options: Mapping[str, Any]) -> None:
    """Raises ValueError for an argument of vllm.LLM that qstep sets."""
    for name in options:
        if name in _OURS:
            raise ValueError(f"--{option}.{name} cannot be set, because qstep sets it. Remove it")


@dataclass(kw_only=True)
class VLLMOptions(LocalOptions):
    """A model that vLLM computes in this process.

    Args:
        vllm_options: further arguments of vllm.LLM, such as `--vllm_options.tensor_parallel_size 2`.
    """

    GROUP = "options of --engine vllm"
    READ_IF = ReadIf(engine="vllm")

    vllm_options: Annotated[dict[str, Any] | None, Check(check_vllm_options)] = None

    def load(self, model_name_or_path: str, revision: str | None) -> Engine:
        """The engine of a model that vLLM computes. Raises ValueError if vLLM is not installed."""
        from qstep.models.inference import load_text_tokenizer

        try:
            from qstep.generation import VLLMEngine
        except ModuleNotFoundError as error:
            raise ValueError(
                f"--engine vllm needs the package {error.name}. Use an environment with vLLM (docs/engines.md)"
            ) from None
        return VLLMEngine.load(
            model_name_or_path,
            self.with_chat(load_text_tokenizer(model_name_or_path, revision)),
            dtype=self.dtype,
            revision=revision,
            max_rows=self.max_rows,
            options=self.vllm_options,
        )


@dataclass(kw_only=True)
class HTTPOptions(CallOptions, ChatOptions):
    """A model at an OpenAI-compatible server.

    Args:
        engine_url: address of the server, such as http://127.0.0.1:8000. `model_name_or_path` is then the model that it
            serves. Only its tokenizer and fingerprint are read, not its weights.
        engine_model: the model's name on the server; `model_name_or_path` by default.
        engine_input: how prompts are sent. vLLM, SGLang and llama.cpp take `tokens`; they then return token ids and
            log-probs too. OpenAI takes `text`.
        engine_logprobs: which log-probs the server returns: raw, before temperature and top_p, or processed.
        concurrency: maximum number of requests at the same time.
    """

    GROUP = "options of --engine http"
    READ_IF = ReadIf(engine="http")

    engine_url: Annotated[ServerUrl | None, CHANGES_NOTHING] = None
    engine_model: str | None = None
    engine_input: Literal["tokens", "text"] = "tokens"
    engine_logprobs: Annotated[Literal["raw", "processed"], ReadIf(engine_input="tokens")] = "raw"
    concurrency: Annotated[AtLeast1, CHANGES_NOTHING] = 32

    def load(self, model_name_or_path: str, revision: str | None) -> Engine:
        """The engine of a model at the server."""
        from qstep.generation import HTTPEngine
        from qstep.models.inference import load_text_tokenizer

        assert self.engine_url is not None, "checked when the options were given"
        return HTTPEngine(
            self._server(self.engine_url, "OPENAI_API_KEY"),
            self.engine_model or model_name_or_path,
            self.with_chat(load_text_tokenizer(model_name_or_path, revision)),
            prompts_as=self.engine_input,
            logprobs=self.engine_logprobs,
            concurrency=self.concurrency,
        )


EngineChoice = HFOptions | VLLMOptions | HTTPOptions
"""The options of one engine."""

_ENGINES: dict[str, type[EngineChoice]] = {"hf": HFOptions, "vllm": VLLMOptions, "http": HTTPOptions}


@dataclass(kw_only=True)
class EngineOptions(HFOptions, VLLMOptions, HTTPOptions):
    """The engine that draws responses. The command line has the options of all engines; `chosen` gives those of one.

    Args:
        engine: `hf` and `vllm` compute the model in this process; `http` asks an OpenAI-compatible server. A server's
            key is read from the environment variable OPENAI_API_KEY.
        model_revision: branch, tag or commit of a Hub id.
    """

    GROUP = "engine options"
    READ_IF = ReadIf(model_name_or_path=GIVEN)
    USES: ClassVar[Mapping[str, ReadIf]] = {
        "device": ReadIf(engine="hf"),
        "dtype": ReadIf(engine=("hf", "vllm")),
        "request_timeout_s": ReadIf(engine="http"),
        "retries": ReadIf(engine="http"),
        "chat_template_path": ReadIf(model_name_or_path=GIVEN),
        "chat_template_kwargs": ReadIf(model_name_or_path=GIVEN),
        "end_of_turn": ReadIf(model_name_or_path=GIVEN),
    }
    MARKS: ClassVar[Mapping[str, tuple[ReadIf, ...]]] = {
        "executor": (ReadIf(model_name_or_path=GIVEN), ReadIf(engine=("hf", "vllm")))
    }

    engine: Literal["hf", "vllm", "http"] = "hf"
    model_revision: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.engine == "http" and self.engine_url is None:
            raise ValueError("--engine http needs --engine_url, an address such as http://127.0.0.1:8000")

    def chosen(self) -> EngineChoice:
        """The options of the chosen engine."""
        kind = _ENGINES[self.engine]
        return kind(**{field.name: getattr(self, field.name) for field in fields(kind)})

    def load_engine(self, model_name_or_path: str) -> Engine:
        """The engine of a model."""
        return self.chosen().load(model_name_or_path, self.model_revision)

    def model_setting(self, model_name_or_path: str, engine: Engine | None) -> str:
        """The model as the settings record it: its fingerprint, or its name if `engine` is given instead."""
        if engine is not None:
            return model_name_or_path
        return model_fingerprint(model_name_or_path, self.model_revision)
