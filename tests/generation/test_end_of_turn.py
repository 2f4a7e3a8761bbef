"""Engines stop where the chat template ends a turn."""

from __future__ import annotations

from pathlib import Path

from fake_server import serving
from qstep.calls import Server
from qstep.data.chat import with_chat
from qstep.generation import HFEngine, HTTPEngine, Request, SamplingSettings
from qstep.models.inference import load_for_sampling
from qstep.tasks import miniature

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
