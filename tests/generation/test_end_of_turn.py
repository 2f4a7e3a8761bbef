"""Engines stop where the chat template ends a turn."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from byte_tokenizer import byte_tokenizer
from fake_server import serving
from qstep.calls import Server
from qstep.data import write_jsonl
from qstep.data.chat import with_chat
from qstep.generation import HFEngine, HTTPEngine, Request, SamplingSettings
from qstep.models.inference import load_for_sampling
from qstep.objectives import METHODS
from qstep.tasks import miniature
from qstep.trainers import trainer_class

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
