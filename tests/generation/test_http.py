"""The engine of a server, against one that fails in every way: every row there once, and told what is wrong."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from fake_server import EOS, MODEL, TOKENIZER, Body, FakeServer, answer, hostile, serving
from qstep.calls import EndpointError, Server
from qstep.cli import main
from qstep.data import encode_prompt, read_rows
from qstep.generation import HTTPEngine, Request, SamplingSettings
from qstep.generation.options import EngineOptions, HFOptions, HTTPOptions, VLLMOptions
from qstep.stages.annotate import AnnotateConfig
from qstep.stages.commands import COMMANDS
from qstep.stages.sample import SampleConfig, sample
from qstep.tasks import miniature

PROMPTS = int(os.environ.get("QSTEP_PROMPTS", "100"))
PROMPT = [5, 12, 7, 13, 15]  # 5*7=
ONE_TIMEOUT_S = 1.0


def engine(server: FakeServer, **changed: Any) -> HTTPEngine:
    options = {"timeout_s": ONE_TIMEOUT_S, "backoff_s": 0.01, "concurrency": 8} | changed
    asked = {name: options.pop(name) for name in ("api_key", "timeout_s", "retries", "backoff_s") if name in options}
    return HTTPEngine(Server(server.endpoint, **asked), MODEL, TOKENIZER, **options)


def settings(**changed: Any) -> SamplingSettings:
    return SamplingSettings(**{"max_new_tokens": 64, **changed})


def drawn(server: FakeServer, request: Request, sampling: SamplingSettings | None = None, **changed: Any) -> list[Any]:
    ((_, responses),) = engine(server, **changed).sample([request], sampling or settings())
    return responses


def test_a_response_is_what_the_server_drew() -> None:
    with serving() as server:
        responses = drawn(server, Request("p", PROMPT, [3, 0, 2, *range(7, 16)]))
    (body,) = server.bodies
    assert [response.sample for response in responses] == [3, 0, 2, *range(7, 16)]
    expected = [answer(PROMPT, body["seed"], index) for index in range(12)]
    assert [(r.text, r.token_ids, r.finish_reason) for r in responses] == expected
    assert {reason for _, _, reason in expected} == {"stop", "length"}
    assert all(r.logps == [-0.25] * len(r.token_ids) for r in responses)


def test_a_response_ends_at_a_text() -> None:
    wanted = settings(stop="\n")
    with serving() as server:
        responses = drawn(server, Request("p", [5, 12, 7, 10, 3, 13, 15], range(8)), wanted)
        with pytest.raises(ValueError, match="Remove --engine_input text"):
            drawn(server, Request("p", PROMPT, [0]), wanted, prompts_as="text")
    (body,) = server.bodies
    assert body["stop"] == ["\n"] and body["include_stop_str_in_output"] is True
    assert "step" in {r.finish_reason for r in responses}
    for r in responses:
        assert (r.finish_reason == "step") == r.text.endswith("\n"), "what ended by itself, or was cut off, has none"
        assert TOKENIZER.decode(r.token_ids) == r.text and len(r.logps) == len(r.token_ids)


@pytest.mark.parametrize("said", ["stop_reason", "matched_stop", None])
def test_a_server_may_leave_out_the_text_that_a_response_ends_at(said: str | None) -> None:
    """OpenAI's servers do. A search would take each first step for a complete response."""

    def trimmed(body: Body, number: int) -> tuple[int, bytes]:
        texts = {"#35": EOS, "5*7=35": "\n"}
        made = [{"text": text, "finish_reason": "stop", **({said: end} if said else {})} for text, end in texts.items()]
        return 200, json.dumps({"choices": made}).encode()

    with serving(trimmed) as server:
        if said is None:
            with pytest.raises(EndpointError, match="does not say whether a response ended"):
                drawn(server, Request("p", PROMPT, [0, 1]), settings(stop="\n"))
            return
        found = drawn(server, Request("p", PROMPT, [0, 1]), settings(stop="\n"))
    assert [(r.text, r.finish_reason) for r in found] == [("#35", "stop"), ("5*7=35\n", "step")]


def test_a_call_says_all_that_the_distribution_follows_from() -> None:
    with serving() as server:
        drawn(server, Request("p", PROMPT, [0, 1], max_new_tokens=9), settings(temperature=0.5, top_p=0.9))
        drawn(server, Request("p", PROMPT, [0, 1]), settings(temperature=0))
    sampled, greedy = server.bodies
    assert {**sampled, "seed": 0} == {
        **{"model": MODEL, "prompt": PROMPT, "n": 2, "max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "seed": 0},
        **{"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "return_token_ids": True},
    }
    assert greedy["n"] == 1 and greedy["logprobs"] == 1


def test_greedy_responses_are_equal() -> None:
    with serving() as server:
        one, other = drawn(server, Request("p", PROMPT, [0, 1]), settings(temperature=0))
    assert (one.sample, other.sample) == (0, 1) and one.token_ids == other.token_ids


def test_the_seed_is_that_of_seed_key_and_samples() -> None:
    requests = [Request("p", PROMPT, [0]), Request("p", PROMPT, [1]), Request("q", PROMPT, [0])]
    with serving(lambda body, number: "500" if number in (0, 2, 4) else None) as server:
        for request in requests:
            drawn(server, request)
        drawn(server, requests[0])
        drawn(server, requests[0], settings(seed=1))
    seeds = [body["seed"] for body in server.bodies]
    assert seeds[0:6:2] == seeds[1:6:2] and seeds[6] == seeds[0]  # again, the same
    assert len({*seeds}) == 4 and all(0 <= seed < 2**31 for seed in seeds)


@pytest.mark.parametrize(
    ("sampling", "options", "given"),
    [
        ({}, {}, True),
        ({"temperature": 0, "top_p": 0.5}, {}, True),
        ({"temperature": 0.7}, {}, False),
        ({"top_p": 0.9}, {}, False),
        ({"temperature": 0.7, "top_p": 0.9}, {"logprobs": "processed"}, True),
    ],
)
def test_logps_are_given_where_they_are_of_the_distribution_drawn_from(
    sampling: dict[str, Any], options: dict[str, Any], given: bool
) -> None:
    with serving() as server:
        (response,) = drawn(server, Request("p", PROMPT, [0]), settings(**sampling), **options)
    assert response.token_ids is not None
    assert (response.logps is not None) is given


@pytest.mark.parametrize(
    ("fault", "ids", "logps"),
    [
        ("no ids", False, False),
        ("ids of another", False, False),
        ("no logprobs", True, False),
        ("wrong logprobs", True, False),
        ("more", True, True),
        ("twice", True, True),
        (None, True, True),
    ],
)
def test_ids_and_logps_are_taken_where_they_are_those_of_the_text(fault: str | None, ids: bool, logps: bool) -> None:
    with serving(lambda body, number: fault) as server:
        responses = drawn(server, Request("p", PROMPT, [0, 1, 2]))
    assert len(server.bodies) == 1
    for index, response in enumerate(responses):
        text, tokens, reason = answer(PROMPT, server.bodies[0]["seed"], index)
        assert (response.text, response.finish_reason) == (text, reason)
        assert response.token_ids == (tokens if ids else None)
        assert (response.logps is not None) is logps


def test_ids_without_the_end_of_their_sequence_are_not_taken() -> None:
    choice = {"text": "5*7", "finish_reason": "stop", "token_ids": [5, 12, 7]}
    for stop_reason, ids in (None, None), (7, [5, 12, 7]):
        reply = {"choices": [{**choice, "text": "5*" if ids else "5*7", "stop_reason": stop_reason}]}
        with serving(lambda body, number, reply=reply: (200, json.dumps(reply).encode())) as server:
            (response,) = drawn(server, Request("p", PROMPT, [0]))
        assert response.token_ids == ids


def test_text_is_sent_where_the_server_takes_no_ids() -> None:
    """OpenAI refuses fields that it does not know; a beginning-of-sequence token the server adds is not sent."""
    reply = json.dumps({"choices": [{"text": "35", "finish_reason": "stop", "index": 0}]}).encode()
    with serving(lambda body, number: (200, reply)) as server:
        (response,) = drawn(server, Request("p", PROMPT, [0]), prompts_as="text")
    assert {**server.bodies[0], "seed": 0} == {
        **{"model": MODEL, "prompt": "5*7=\n", "n": 1, "max_tokens": 64, "temperature": 1.0, "top_p": 1.0, "seed": 0},
    }
    assert (response.text, response.token_ids, response.logps) == ("35", None, None)


def test_the_missing_choices_alone_are_asked_for_again() -> None:
    with serving(lambda body, number: "fewer" if number == 0 else None) as server:
        responses = drawn(server, Request("p", PROMPT, range(4)))
    first, second = server.bodies
    assert (first["n"], second["n"]) == (4, 1) and first["seed"] != second["seed"]
    assert [r.text for r in responses[1:]] == [answer(PROMPT, first["seed"], index)[0] for index in (1, 2, 3)]
    assert responses[0].text == answer(PROMPT, second["seed"], 0)[0]


def test_a_filtered_choice_is_drawn_again_with_another_seed() -> None:
    """With the same seed the server would draw and filter the same text, after each resumption too."""
    filtered = json.dumps({"choices": [{"index": 0, "text": "", "finish_reason": "content_filter"}]}).encode()
    with serving(lambda body, number: (200, filtered) if number < 2 else None) as server:
        (response,) = drawn(server, Request("p", PROMPT, [0]))
    assert len({body["seed"] for body in server.bodies}) == 3 and response.text
    says = "request 'p': 3 draws with different seeds were filtered or aborted"
    with serving(lambda body, number: (200, filtered)) as server, pytest.raises(EndpointError, match=says):
        drawn(server, Request("p", PROMPT, [0]), retries=2)


def test_retry_after_is_waited_for() -> None:
    with serving(lambda body, number: "429 later" if number == 0 else None) as server:
        start = time.monotonic()
        drawn(server, Request("p", PROMPT, [0]))
    assert len(server.bodies) == 2 and time.monotonic() - start >= 1


def test_a_hung_call_is_given_up_at_its_timeout() -> None:
    for fault in ("hang", "drip"):
        with serving(lambda body, number, fault=fault: fault if number == 0 else None, hang_s=30) as server:
            start = time.monotonic()
            drawn(server, Request("p", PROMPT, [0]), timeout_s=0.5)
            assert len(server.bodies) == 2 and time.monotonic() - start < 10


@pytest.mark.parametrize("fault", ["500", "429", "half-close", "reset", "empty", "no choices", "no JSON", "cut JSON"])
def test_a_request_that_fails_always_is_named_and_the_others_are_there(fault: str) -> None:
    bad = [6, 12, 7, 13, 15]
    requests = [Request(f"p{i}", PROMPT, [0]) for i in range(6)] + [Request("bad one", bad, [0])]
    came = []
    with serving(lambda body, number: fault if body["prompt"] == bad else None) as server:
        with pytest.raises(
            EndpointError, match=r"request 'bad one': no usable answer .* after 3 tries: .* Finished rows"
        ):
            # The others are answered while the bad one waits for its next try.
            for request, _ in engine(server, retries=2, backoff_s=0.3).sample(requests, settings()):
                came.append(request.key)
        assert sum(body["prompt"] == bad for body in server.bodies) == 3
    assert sorted(came) == [f"p{i}" for i in range(6)]


def test_a_refusal_stops_with_the_servers_words_and_without_the_key() -> None:
    said = json.dumps({"error": {"message": "key sk-secret has no\x1b[31m quota. " + "x" * 1000}}).encode()
    with serving(lambda body, number: (401, said)) as server:
        with pytest.raises(
            EndpointError, match=r"request 'p': .* refused it: HTTP 401: key \*\*\* has no\[31m quota\. x+"
        ):
            drawn(server, Request("p", PROMPT, [0]), api_key="sk-secret")
        try:
            drawn(server, Request("p", PROMPT, [0]), api_key="sk-secret")
        except EndpointError as error:
            assert len(str(error).partition("HTTP 401: ")[2]) == 300 and "secret" not in str(error)
    assert len(server.bodies) == 2
    assert all(headers["Authorization"] == "Bearer sk-secret" for headers in server.headers)


def test_a_server_that_is_not_there_is_told_at_once() -> None:
    with serving() as server:
        gone = engine(server)
    with pytest.raises(EndpointError, match=r"Cannot connect to .*v1/completions .* Start the server, or correct"):
        list(gone.sample([Request("p", PROMPT, [0])], settings()))


def test_requests_are_read_as_they_are_needed() -> None:
    read = 0

    def requests() -> Iterator[Request]:
        nonlocal read
        for i in range(60):
            read += 1
            yield Request(str(i), PROMPT, [0])

    with serving() as server:
        for done, _ in enumerate(engine(server, concurrency=4).sample(requests(), settings())):
            assert read <= done + 4


def test_what_is_left_in_the_middle_is_cancelled() -> None:
    with serving(lambda body, number: "hang" if number else None, hang_s=30) as server:
        start = time.monotonic()
        responses = engine(server, timeout_s=60).sample((Request(str(i), PROMPT, [0]) for i in range(99)), settings())
        next(responses)
        responses.close()  # type: ignore[attr-defined]
        assert time.monotonic() - start < 10


def arguments(server: FakeServer, model: Path, output: Path, problems: int = PROMPTS) -> list[str]:
    options = {
        **{"model_name_or_path": model, "output": output, "num_problems": problems, "num_samples": 4},
        **{"engine": "http", "engine_url": server.endpoint, "engine_model": MODEL, "max_new_tokens": 64},
        **{"request_timeout_s": ONE_TIMEOUT_S, "retries": 40, "concurrency": 32},
    }
    return ["sample", *(f"--{name}={value}" for name, value in options.items())]


def check_rows(output: Path, problems: int = PROMPTS) -> None:
    """Every row once, each of what the server said of its prompt; what was cut off is flagged."""
    prompts = {problem.id: problem.prompt for problem in miniature.problems("train", problems)}
    rows = list(read_rows(output))
    assert {row["id"] for row in rows} == {f"{id_}#{sample}" for id_ in prompts for sample in range(4)}
    assert len(rows) == 4 * problems
    lengths = 0
    for row in rows:
        whole = miniature.solution(prompts[row["problem_id"]])
        if row["finish_reason"] == "length":
            lengths += 1
            assert whole.startswith(row["completion"][:-1]) and len(row["completion"]) < len(whole)
        else:
            assert row["completion"][:-1] == whole[:-1]
        if "completion_ids" in row:
            assert TOKENIZER.decode(row["completion_ids"], skip_special_tokens=True) == row["completion"]
            assert (row["completion_ids"][-1] == EOS) is (row["finish_reason"] == "stop")
        if "logps_behavior" in row:
            assert len(row["logps_behavior"]) == len(row["completion_ids"])
    assert problems // 4 < lengths < 2 * problems


@pytest.mark.timeout(1200)
def test_a_hostile_server_costs_no_row(base: Path, tmp_path: Path) -> None:
    """T11: half of the calls fail, each in one of 20 ways; QSTEP_PROMPTS=1000 asks for 4,000 rows."""
    output = tmp_path / "rows.jsonl"
    with serving(hostile(seed=0), hang_s=2 * ONE_TIMEOUT_S) as server:
        assert main(arguments(server, base, output)) == 0
    assert len(server.bodies) > 1.3 * PROMPTS
    check_rows(output)


@pytest.mark.timeout(1200)
def test_a_killed_client_goes_on_and_doubles_nothing(base: Path, tmp_path: Path) -> None:
    """SIGKILL with some rows on disk, twice, then to the end."""
    output = tmp_path / "rows.jsonl"
    rng = random.Random(0)
    with serving(hostile(seed=1, share=0.3), hang_s=2 * ONE_TIMEOUT_S) as server:
        command = [sys.executable, "-m", "qstep.cli", *arguments(server, base, output)]
        for kill in range(2):
            child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            least = kill * 2 * PROMPTS + rng.randrange(4, PROMPTS)  # of 4 * PROMPTS rows
            while child.poll() is None and (not output.exists() or output.read_bytes().count(b"\n") < least):
                time.sleep(0.005)
            child.send_signal(signal.SIGKILL)
            assert child.wait() == -signal.SIGKILL
            assert least <= output.read_bytes().count(b"\n") < 4 * PROMPTS
        assert main(arguments(server, base, output)) == 0
    check_rows(output)


def test_the_key_is_in_no_file(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with serving() as server:
        assert main(arguments(server, base, tmp_path / "rows.jsonl", problems=2)) == 0
        evaluate = ["evaluate", *arguments(server, base, tmp_path / "unused", problems=2)[1:]]
        evaluate = [option for option in evaluate if not option.startswith("--output")]
        assert main([*evaluate, f"--output_dir={tmp_path / 'evaluated'}"]) == 0
    with serving(lambda body, number: (403, b"sk-secret may not")) as server:
        assert main(arguments(server, base, tmp_path / "refused.jsonl", problems=2)) == 1
    assert server.headers[0]["Authorization"] == "Bearer sk-secret"
    written = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert len(written) >= 8 and not any(b"sk-secret" in content for content in written)
    said = capsys.readouterr()
    assert "*** may not" in said.err and "sk-secret" not in said.out + said.err


def test_rows_of_another_served_model_are_not_mixed_and_the_address_may_change(base: Path, tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    options: dict[str, Any] = {"num_problems": 2, "num_samples": 1, "max_new_tokens": 64, "engine": "http"}

    def run(server: FakeServer, model: str) -> Path:
        named = {"engine_url": server.endpoint, "engine_model": model}
        return sample(SampleConfig(model_name_or_path=str(base), output=output, **options, **named))

    with serving() as first, serving() as second:
        run(first, MODEL)
        run(second, MODEL)
        assert not second.bodies
        with pytest.raises(ValueError, match="engine_model"):
            run(second, "another")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--engine_url=http://h", "--engine_url is 'http://h', but it has no effect without --engine http"),
        ("--engine=vllm --retries=3", "--retries is 3, but it has no effect without --engine http"),
        ("--vllm_options.max_model_len=9", "--vllm_options is .*without --engine vllm"),
        ("--engine=vllm --vllm_options.dtype=half", "--vllm_options.dtype cannot be set, because qstep sets it"),
        ("--engine=vllm --max_tokens=9", "--max_tokens is 9, but it has no effect without --engine hf"),
        ("--engine=vllm --device=cpu", "--device is 'cpu', but it has no effect without --engine hf"),
        ("--engine=http --engine_url=http://h --max_rows=9", "--max_rows is 9, but it has no effect without"),
        ("--engine=http --engine_url=http://h --dtype=bfloat16", "--dtype is 'bfloat16', but it has no effect"),
        ("--engine=http", "--engine http needs --engine_url"),
        ("--engine=http --engine_url=127.0.0.1:8000", "--engine_url is '127.0.0.1:8000'; give an address such as"),
        ("--engine=http --engine_url=http://h:99999", "--engine_url is .*; give an address such as"),
        ("--engine=http --engine_url=http://me:pw@h", "--engine_url contains a user, a query or a fragment"),
        ("--engine=http --engine_url=http://h --concurrency=0", "--concurrency is 0; it must be at least 1"),
        ("--workers=4", "--workers is 4, but it has no effect without --executor ray"),
        (
            "--engine=http --engine_url=http://h --executor=ray",
            "--executor is 'ray', but it has no effect without --engine hf or vllm",
        ),
        (
            "--engine=http --engine_url=http://h --engine_input=text --engine_logprobs=processed",
            "without --engine_input tokens",
        ),
    ],
)
def test_options_that_cannot_be_meant_are_refused(
    options: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["sample", "--model_name_or_path=m", f"--output={tmp_path / 'rows.jsonl'}", *options.split()]
    assert main(given) == 1
    said = capsys.readouterr().err
    assert re.search(words, said), said
    assert "pw" not in said


@pytest.mark.parametrize(
    ("options", "package", "remedy"), [("--engine=vllm", "vllm", "docs/engines.md"), ("--executor=ray", "ray", "[ray]")]
)
def test_what_is_not_installed_is_named_with_its_remedy(
    options: str, package: str, remedy: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if find_spec(package):
        pytest.skip(f"{package} is installed")
    output = tmp_path / "rows.jsonl"
    given = ["sample", f"--model_name_or_path={base}", f"--output={output}", "--num_problems=1", options]
    assert main(given) == 1
    said = capsys.readouterr().err
    assert re.search(f"needs (the package )?{package}", said) and remedy in said
    assert not output.exists()


def test_the_chosen_engine_has_its_own_options_only() -> None:
    given: dict[str, Any] = {
        "vllm": {"vllm_options": {"seed": 1}},
        "http": {"engine_url": "http://h", "concurrency": 2},
    }
    for engine, kind, of_others in (
        ("hf", HFOptions, {"vllm_options", "engine_url"}),
        ("vllm", VLLMOptions, {"max_tokens", "engine_url"}),
        ("http", HTTPOptions, {"max_tokens", "max_rows", "device"}),
    ):
        chosen = EngineOptions(engine=engine, **given.get(engine, {})).chosen()
        assert type(chosen) is kind
        assert not of_others & vars(chosen).keys()
        assert vars(chosen).items() >= given.get(engine, {}).items()


def test_a_cluster_labels_by_rollouts_alone() -> None:
    with pytest.raises(ValueError, match="--executor is 'ray', but it has no effect without --method monte_carlo"):
        AnnotateConfig(input=Path("in.jsonl"), output=Path("out.jsonl"), executor="ray")


def test_the_commands_of_the_page_parse() -> None:
    page = Path(__file__).parents[2] / "docs" / "engines.md"
    commands = re.findall(r"^qstep (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(commands) >= 3
    for command in commands:
        name, *options = command.split()
        COMMANDS[name].parse(options)


def test_steps_are_labelled_by_a_server(base: Path, tmp_path: Path) -> None:
    """Rollouts of a server without faults: each step of a right response leads to the right end in some."""
    graded, labels = tmp_path / "graded.jsonl", tmp_path / "labels.jsonl"
    with serving(lambda body, number: (200, json.dumps({"choices": rest(body)}).encode())) as server:
        rows = tmp_path / "rows.jsonl"
        assert main(arguments(server, base, rows, problems=3)) == 0
        assert main(["grade", f"--input={rows}", f"--output={graded}"]) == 0
        given = ["annotate", f"--input={graded}", f"--output={labels}", "--method=monte_carlo", "--rollouts=2"]
        given += [f"--model_name_or_path={base}", "--engine=http", f"--engine_url={server.endpoint}"]
        assert main([*given, f"--engine_model={MODEL}", "--max_new_tokens=64"]) == 0
    labelled = list(read_rows(labels))
    assert len(labelled) == 12
    for row in labelled:
        assert row["labels"][:-1] == [1.0] * (len(row["labels"]) - 1)
        assert row["trials"][:-1] == [2] * (len(row["labels"]) - 1)


def rest(body: Body) -> list[dict[str, Any]]:
    """What is left of the solution of a prompt with some of its steps; the first sample of a problem is wrong."""
    prompt, _, begun = TOKENIZER.decode(body["prompt"], skip_special_tokens=True).partition("\n")
    text = miniature.solution(prompt + "\n")[len(begun) :]
    ids = [*TOKENIZER.encode(text, add_special_tokens=False), EOS]
    made = [{"index": i, "text": text, "finish_reason": "stop", "token_ids": ids} for i in range(body["n"])]
    if not begun:
        made[0] |= {"text": text[:-1] + str((int(text[-1]) + 1) % 10), "token_ids": None}
    return made


def test_prompts_reach_the_server_as_this_tokenizer_reads_them(base: Path, tmp_path: Path) -> None:
    with serving() as server:
        assert main(arguments(server, base, tmp_path / "rows.jsonl", problems=3)) == 0
    expected = [encode_prompt(TOKENIZER, problem.prompt) for problem in miniature.problems("train", 3)]
    assert sorted(body["prompt"] for body in server.bodies) == sorted(expected)
