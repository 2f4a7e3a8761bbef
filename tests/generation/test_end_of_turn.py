"""Engines stop where the chat template ends a turn."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from byte_tokenizer import byte_tokenizer
from fake_server import serving
from qstep.calls import Server
from qstep.data import write_jsonl
from qstep.data.chat import ending, say_ending
from qstep.data.chat_settings import with_chat
from qstep.generation import HFEngine, HTTPEngine, Request, SamplingSettings
from qstep.models import ModelOptions, merge_adapter
from qstep.models.inference import load_for_sampling
from qstep.objectives import METHODS
from qstep.tasks import miniature
from qstep.trainers import trainer_class
from tiny_policies import word_tokenizer

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def test_a_response_ends_where_the_template_ends_a_turn(base: Path) -> None:
    """The conversation ends with `#` and a text with <eos>, so the engine stops at both."""
    model, tokenizer = load_for_sampling(str(base), device="cpu", dtype="float32")
    tokenizer.chat_template = TEMPLATE
    plain = HFEngine(model, tokenizer)
    ended = HFEngine(model, with_chat(tokenizer, None, "#"))
    end = tokenizer.convert_tokens_to_ids("#")
    assert end not in plain.eos_ids and {*ended.eos_ids} == {*plain.eos_ids, end}
    request = Request("a", [0, 1], range(64))
    [(_, responses)] = ended.sample([request], SamplingSettings(max_new_tokens=40))
    stopped = [response for response in responses if response.token_ids[-1] == end]
    assert stopped and {response.finish_reason for response in stopped} == {"stop"}
    assert all(end not in response.token_ids[:-1] and "#" not in response.text for response in responses)


def test_a_server_is_asked_to_stop_there() -> None:
    tokenizer = miniature.tokenizer()
    tokenizer.chat_template = TEMPLATE
    end = tokenizer.convert_tokens_to_ids("#")
    with serving() as server:
        for made in (tokenizer, with_chat(tokenizer, None, "#")):
            engine = HTTPEngine(Server(server.endpoint), "served", made)
            list(engine.sample([Request("a", [5, 12, 7, 13, 15], range(2))], SamplingSettings(max_new_tokens=9)))
    assert [body.get("stop_token_ids") for body in server.bodies] == [None, [end]]


def test_a_server_of_texts_is_asked_to_stop_there() -> None:
    tokenizer = miniature.tokenizer()
    tokenizer.chat_template = TEMPLATE
    with serving() as server:
        for made in (tokenizer, with_chat(tokenizer, None, "#")):
            engine = HTTPEngine(Server(server.endpoint), "served", made, prompts_as="text")
            assert engine._body(Request("a", [5], [0]), [0], SamplingSettings(max_new_tokens=9)).get("stop") == (
                None if made is tokenizer else ["#"]
            )


def test_vllm_is_asked_to_stop_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request that is built, and a response that ends so. vLLM itself has an environment of its own."""
    for name in ("vllm", "vllm.platforms", "vllm.sampling_params"):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    sys.modules["vllm"].SamplingParams = SimpleNamespace
    sys.modules["vllm"].TokensPrompt = dict
    monkeypatch.delitem(sys.modules, "qstep.generation.vllm", raising=False)
    from qstep.generation.vllm import VLLMEngine

    tokenizer = miniature.tokenizer()
    tokenizer.chat_template = TEMPLATE
    end = tokenizer.convert_tokens_to_ids("#")
    for made, expected in ((tokenizer, None), (with_chat(tokenizer, None, "#"), [end])):
        added: list[tuple[str, Any, Any]] = []
        drawn = [7, 13, end] if expected else [7, 13, tokenizer.eos_token_id]

        def step(added: Any = added, drawn: Any = drawn) -> list[Any]:
            output = {"token_ids": drawn, "finish_reason": "stop", "stop_reason": None}
            output["logprobs"] = [{token: SimpleNamespace(logprob=-1.0)} for token in drawn]
            return [SimpleNamespace(request_id=name, outputs=[SimpleNamespace(**output)]) for name, *_ in added]

        engine = SimpleNamespace(
            model_config=SimpleNamespace(max_model_len=64),
            renderer=SimpleNamespace(render_cmpl=lambda prompts: prompts),
            add_request=lambda *given, added=added: added.append(given),
            abort_request=lambda names: None,
            step=step,
        )
        sampled = VLLMEngine(SimpleNamespace(llm_engine=engine), made).sample(
            [Request("a", [5, 12], range(2))], SamplingSettings(max_new_tokens=9)
        )
        [(_, responses)] = sampled
        assert [params.stop_token_ids for _, _, params in added] == [expected] * 2
        assert [prompt for _, prompt, _ in added] == [{"prompt_token_ids": [5, 12]}] * 2
        assert {(r.text, r.finish_reason) for r in responses} == {(tokenizer.decode([7, 13]), "stop")}
    sys.modules.pop("qstep.generation.vllm")


WRITES = "{% for m in messages %}{{ m.role }}: {{ m.content }}END{% endfor %}"


@pytest.mark.parametrize(
    ("written", "special", "added", "found"),
    [
        ("<end>\n", ["<end>"], [], "<end>"),
        ("<end>\n", [], ["<end>"], "<end>"),
        ("<x><end>", ["<end>"], ["<x>"], "<end>"),
        ("\n###\n", [], [], None),
        ("", [], [], None),
        ("<eos>", [], [], "<eos>"),
    ],
)
def test_the_token_that_ends_a_turn_need_not_be_special(
    written: str, special: list[str], added: list[str], found: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the template writes plain text, no token is taken from it, and one sentence says so."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": special})
    tokenizer.add_tokens(added)
    tokenizer.chat_template = WRITES.replace("END", written)
    with caplog.at_level("WARNING"):
        say_ending(tokenizer)
    said = [record.getMessage() for record in caplog.records]
    ends = ending(tokenizer, [{"role": "user", "content": "q"}])
    assert tokenizer.convert_ids_to_tokens(ends) == (found or "<eos>")
    if found is None:
        assert len(said) == 1 and said[0].startswith("no token was found with which the chat template ends a turn")
    else:
        assert len(said) == (found != "<eos>")


def test_a_token_in_brackets_ends_a_turn_though_it_is_not_added() -> None:
    """The tokenizer has it as a word of its vocabulary."""
    tokenizer = word_tokenizer()
    assert "<end>" not in tokenizer.added_tokens_encoder
    tokenizer.chat_template = WRITES.replace("END", " <end>\n")
    assert ending(tokenizer, [{"role": "user", "content": "q"}]) == tokenizer.get_vocab()["<end>"]


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("with_ids", [True, False])
def test_special_marks_survive_a_server(kept: bool, with_ids: bool) -> None:
    """Its text has the special tokens or lacks them. With token ids, the response has its marks and its ids."""
    tokenizer = miniature.tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<think>", "</think>", "<other>"]})
    ids = [*tokenizer.encode("<think>7+8=5</think><other>5"), tokenizer.eos_token_id]
    text = tokenizer.decode(ids[:-1], skip_special_tokens=not kept)
    choice = {"text": text, "finish_reason": "stop", **({"token_ids": ids} if with_ids else {})}
    engine = HTTPEngine(Server("http://127.0.0.1:1"), "served", tokenizer)
    settings = SamplingSettings(max_new_tokens=20)
    assert engine._body(Request("a", [5], [0]), [0], settings)["skip_special_tokens"] is False
    response = engine._response(choice, 0, 20, settings)
    assert response is not None and response.token_ids == (ids if with_ids else None)
    assert response.text == ("<think>7+8=5</think>5" if kept or with_ids else "7+8=55")


@pytest.mark.parametrize("method", ["rs", "dqo"])
def test_a_trained_model_stops_there_in_other_programs(tmp_path: Path, method: str) -> None:
    """Its generation config has the end of a turn, if it was trained on conversations."""
    tokenizer = with_chat(byte_tokenizer(), None, "!")
    end, eos = tokenizer.convert_tokens_to_ids("!"), tokenizer.eos_token_id
    sizes = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=260)
    for prompt, ends in (("1+2=", [eos]), ([{"role": "user", "content": "1+2="}], sorted([eos, end]))):
        rows = [{"prompt": prompt, "completion": text, "label": right} for text, right in (("3", True), ("4", False))]
        write_jsonl(tmp_path / "rows.jsonl", rows)
        config = METHODS[method].config(output_dir=str(tmp_path / "out"), max_steps=1, report_to="none", use_cpu=True)
        model = LlamaForCausalLM(LlamaConfig(**sizes, eos_token_id=eos, bos_token_id=None, initializer_range=0.4))
        trainer = trainer_class(METHODS[method])(model, config, tmp_path / "rows.jsonl", processing_class=tokenizer)
        trainer.save_model()
        saved = GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id
        assert (saved if isinstance(saved, list) else [saved]) == ends


@pytest.mark.parametrize("method", ["rs", "dqo"])
def test_an_adapter_and_its_merge_stop_there_too(tmp_path: Path, method: str) -> None:
    tokenizer = with_chat(byte_tokenizer(), None, "!")
    ends = sorted([tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("!")])
    sizes = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=260)
    LlamaForCausalLM(LlamaConfig(**sizes, eos_token_id=tokenizer.eos_token_id)).save_pretrained(tmp_path / "base")
    prompt = [{"role": "user", "content": "1+2="}]
    write_jsonl(
        tmp_path / "rows.jsonl",
        [{"prompt": prompt, "completion": text, "label": text == "3"} for text in ("3", "4")],
    )
    config = METHODS[method].config(output_dir=str(tmp_path / "out"), max_steps=1, report_to="none", use_cpu=True)
    options = ModelOptions(model_name_or_path=str(tmp_path / "base"), use_peft=True, lora_r=2)
    trainer_class(METHODS[method])(options, config, tmp_path / "rows.jsonl", processing_class=tokenizer).save_model()
    merge_adapter(tmp_path / "out", tmp_path / "merged")
    loaded, _ = load_for_sampling(str(tmp_path / "out"), device="cpu", dtype="float32")
    saved = [GenerationConfig.from_pretrained(tmp_path / name) for name in ("out", "merged")]
    assert [config.eos_token_id for config in (*saved, loaded.generation_config)] == [ends] * 3
