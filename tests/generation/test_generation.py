"""The in-process engine against the model it samples from, and against `generate` of transformers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from scipy.stats import chi2
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from byte_tokenizer import byte_tokenizer
from qstep.generation import HFEngine, Request, SamplingSettings
from qstep.generation.drawing import choose
from qstep.generation.hf import _Job, _Row
from qstep.generation.states import next_states
from qstep.types import Response
from tiny_policies import END, EOS, PROMPTS, VOCABULARY, requests, sizes, tiny_llama, word_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer()


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen2-sliding", "qwen3"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    torch.manual_seed(0)
    if request.param == "llama":
        return LlamaForCausalLM(LlamaConfig(**sizes(num_key_value_heads=4))).eval()
    if request.param == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**sizes(num_key_value_heads=2), head_dim=16)).eval()
    window = dict(use_sliding_window=True, sliding_window=6, max_window_layers=1)
    config = Qwen2Config(**sizes(num_key_value_heads=2), **(window if "sliding" in request.param else {}))
    return Qwen2ForCausalLM(config).eval()


@pytest.fixture(scope="module")
def llama() -> PreTrainedModel:
    return tiny_llama()


def _sampled(engine: HFEngine, requests: list[Request], settings: SamplingSettings) -> dict[str, list[Response]]:
    results = [(request.key, responses) for request, responses in engine.sample(requests, settings)]
    assert sorted(key for key, _ in results) == sorted(request.key for request in requests)
    return dict(results)


def _assert_same(left: Response, right: Response) -> None:
    assert (left.sample, left.text, left.token_ids, left.finish_reason) == (
        right.sample,
        right.text,
        right.token_ids,
        right.finish_reason,
    )
    assert left.logps == pytest.approx(right.logps, abs=1e-4)


@torch.no_grad()
def _teacher_forced(
    model: PreTrainedModel, prompt: list[int], response: list[int], temperature: float, top_p: float
) -> list[float]:
    """Log-probs of a response from one unpadded pass without a cache, the nucleus found token by token."""
    logits = model(torch.tensor([prompt + response]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    logps = []
    for row, token in zip((logits / temperature).softmax(-1).double().tolist(), response, strict=True):
        kept, mass = set(), 0.0
        for index in sorted(range(len(row)), key=lambda index: -row[index]):
            if mass >= top_p:
                break
            kept.add(index)
            mass += row[index]
        assert token in kept
        logps.append(math.log(row[token] / mass))
    return logps


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.3, 0.8)])
def test_logps_are_those_of_the_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, temperature: float, top_p: float
) -> None:
    """Left padding, the repeated cache, dropped rows and the nucleus change no log-prob by more than 1e-4."""
    settings = SamplingSettings(20, temperature, top_p, seed=3)
    results = _sampled(HFEngine(model, tokenizer), requests(), settings)
    lengths = set()
    for key, prompt in zip(results, [PROMPTS[int(key[1:])] for key in results], strict=True):
        for response in results[key]:
            expected = _teacher_forced(model, prompt, response.token_ids, temperature, top_p)
            assert response.logps == pytest.approx(expected, abs=1e-4)
            lengths.add(len(response.token_ids))
    assert len(lengths) > 3, "rows of different lengths, so that some are dropped while others go on"


def test_greedy_is_generate(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Same tokens as `generate`, one unpadded prompt at a time; log-probs are those at temperature 1."""
    settings = SamplingSettings(24, temperature=0)
    results = _sampled(HFEngine(model, tokenizer), requests([0]), settings)
    for index, prompt in enumerate(PROMPTS):
        ids = torch.tensor([prompt])
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24, pad_token_id=0
        )
        (response,) = results[f"p{index}"]
        assert response.token_ids == output[0, len(prompt) :].tolist()
        assert response.logps == pytest.approx(_teacher_forced(model, prompt, response.token_ids, 1.0, 1.0), abs=1e-4)


@pytest.mark.parametrize("limits", [{"max_rows": 1}, {"max_rows": 4}, {"max_rows": 7}, {"max_tokens": 100}])
def test_rows_do_not_depend_on_the_batch(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, limits: dict[str, int]
) -> None:
    settings = SamplingSettings(20, seed=5)
    whole = _sampled(HFEngine(model, tokenizer), requests(), settings)
    cut = _sampled(HFEngine(model, tokenizer, **limits), requests(), settings)
    for key, responses in whole.items():
        for left, right in zip(responses, cut[key], strict=True):
            _assert_same(left, right)


def test_a_subset_of_samples_is_drawn_alike(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Samples 4 and 1 alone, asked in that order, are samples 4 and 1 of all six."""
    settings = SamplingSettings(20, seed=5)
    engine = HFEngine(llama, tokenizer)
    whole = _sampled(engine, requests(), settings)
    for key, responses in _sampled(engine, requests([4, 1]), settings).items():
        assert [response.sample for response in responses] == [4, 1]
        _assert_same(responses[0], whole[key][4])
        _assert_same(responses[1], whole[key][1])


def test_a_longer_limit_continues_the_same_response(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    engine = HFEngine(llama, tokenizer)
    short = _sampled(engine, requests(), SamplingSettings(5))
    for key, responses in _sampled(engine, requests(), SamplingSettings(30)).items():
        for long, cut in zip(responses, short[key], strict=True):
            assert long.token_ids[:5] == cut.token_ids


def test_a_request_may_lower_the_limit(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """A limit of 3 for one request cuts its responses after three tokens, in one batch with the others; a limit
    above the settings' changes nothing."""
    engine = HFEngine(llama, tokenizer)
    settings = SamplingSettings(20, temperature=2.0)
    whole = _sampled(engine, requests(), settings)
    limits = [3, None, 50, None, None]
    mixed = [Request(f"p{i}", PROMPTS[i], range(6), limit) for i, limit in enumerate(limits)]
    results = _sampled(engine, mixed, settings)
    for index, limit in enumerate(limits):
        for cut, full in zip(results[f"p{index}"], whole[f"p{index}"], strict=True):
            if limit == 3:
                assert cut.token_ids == full.token_ids[:3]
                assert cut.logps == pytest.approx(full.logps[:3], abs=1e-4)
                ended = cut.token_ids[-1] in (EOS, END)
                assert cut.finish_reason == ("stop" if ended else "length")
            else:
                _assert_same(cut, full)
    assert {r.finish_reason for r in whole["p0"]} >= {"stop"} and any(len(r.token_ids) > 3 for r in whole["p0"])


def test_seed_key_and_sample_each_change_the_draw(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    engine = HFEngine(llama, tokenizer)

    def draw(key: str, sample: int, seed: int) -> list[int]:
        request = Request(key, PROMPTS[1], [sample])
        ((_, (response,)),) = engine.sample([request], SamplingSettings(30, temperature=3.0, seed=seed))
        return response.token_ids

    drawn = [draw("a", 0, 0), draw("b", 0, 0), draw("a", 1, 0), draw("a", 0, 1)]
    assert len({tuple(ids) for ids in drawn}) == 4
    assert draw("a", 0, 0) == drawn[0]


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.7)])
def test_first_tokens_follow_the_distribution(
    llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, temperature: float, top_p: float
) -> None:
    """Pearson's chi-square of 4,000 first tokens against the softmax, at the 0.1 % level.

    Tokens expected fewer than five times are pooled. Outside the nucleus the count must be zero.
    """
    n = 4000
    request = Request("p", PROMPTS[4], range(n))
    engine = HFEngine(llama, tokenizer)
    ((_, responses),) = engine.sample([request], SamplingSettings(1, temperature, top_p))
    counts = torch.bincount(torch.tensor([r.token_ids[0] for r in responses]), minlength=len(VOCABULARY))
    with torch.no_grad():
        probs = (llama(torch.tensor([PROMPTS[4]])).logits[0, -1] / temperature).softmax(-1).double()
    ordered, order = probs.sort(descending=True)
    inside = order[ordered.cumsum(0) - ordered < top_p]
    assert counts.sum() == counts[inside].sum() == n
    expected = n * probs[inside] / probs[inside].sum()
    common = expected >= 5
    observed = [*counts[inside][common].tolist(), int(counts[inside][~common].sum())]
    wanted = [*expected[common].tolist(), float(expected[~common].sum())]
    statistic = sum((o - e) ** 2 / e for o, e in zip(observed, wanted, strict=True) if e > 0)
    assert statistic < chi2.ppf(0.999, df=len(observed) - 1)


def test_the_inverse_of_the_cumulative_distribution() -> None:
    """p = (.5, 0, .25, .25): u in [0, .5) draws 0, [.5, .75) draws 2, [.75, 1) draws 3; token 1 never comes.

    With top_p = .6 the nucleus is {0, 2} (the earlier of the equals), of mass .75: 0 below u = 2/3, then 2.
    """
    inverse = torch.tensor([[0.5, 0.0, 0.25, 0.25]]).log()
    u = torch.tensor([0.0, 0.4999, 0.5, 0.7499, 0.75, 1 - 2**-53], dtype=torch.float64)
    tokens, logps = choose(inverse, torch.zeros(6, dtype=torch.long), u, SamplingSettings(1))
    assert tokens.tolist() == [0, 0, 2, 2, 3, 3]
    assert logps.exp().tolist() == pytest.approx([0.5, 0.5, 0.25, 0.25, 0.25, 0.25])
    u = torch.tensor([0.0, 0.6666, 0.6667, 1 - 2**-53], dtype=torch.float64)
    tokens, logps = choose(inverse, torch.zeros(4, dtype=torch.long), u, SamplingSettings(1, top_p=0.6))
    assert tokens.tolist() == [0, 0, 2, 2]
    assert logps.exp().tolist() == pytest.approx([2 / 3, 2 / 3, 1 / 3, 1 / 3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_token_without_probability_is_drawn(dtype: torch.dtype) -> None:
    """Half the tokens at minus infinity, the first and the last among them, under extreme uniforms."""
    torch.manual_seed(0)
    logits = torch.randn(64, 1000).to(dtype)
    logits[:, ::2] = -torch.inf
    logits[:, -1] = -torch.inf
    for u in (0.0, 2**-53, 0.5, 1 - 2**-53):
        tokens, logps = choose(logits, torch.arange(64), torch.full((64,), u, dtype=torch.float64), SamplingSettings(1))
        assert torch.isfinite(logits.gather(1, tokens[:, None])).all()
        assert torch.isfinite(logps).all()


def test_rows_that_draw_alike_go_on_as_one_state() -> None:
    """States 0, 1, 2; state 1's rows part ways, state 2 has lost its rows: (0, 5), (1, 3), (1, 7) go on."""
    rows, tokens = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([5, 5, 7, 3, 7])
    source, token, state = next_states(rows, tokens, 3)
    assert source is not None and source.tolist() == [0, 1, 1]
    assert token.tolist() == [5, 3, 7] and state.tolist() == [0, 0, 2, 1, 2]


@pytest.mark.parametrize(("going", "copied"), [(16, False), (15, False), (14, True)])
def test_the_cache_stays_while_few_states_have_lost_their_rows(going: int, copied: bool) -> None:
    """Nothing splits, so only the share of dead states (an eighth of 16) has the cache copied."""
    used, states = torch.arange(going), 16
    source, token, state = next_states(used, used + 1, states)
    if copied:
        assert source is not None and source.tolist() == state.tolist() == used.tolist()
    else:
        assert source is None and len(token) == states
        assert token[state].tolist() == (used + 1).tolist()


def test_equal_sequences_are_computed_once(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """At a low temperature most of 64 samples agree: the model sees a position of each distinct prefix, no more."""
    seen = 0

    def count(module: torch.nn.Module, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        nonlocal seen
        seen += kwargs["input_ids"].numel()

    engine = HFEngine(llama, tokenizer)
    hook = llama.register_forward_pre_hook(count, with_kwargs=True)
    try:
        requests = [Request("a", PROMPTS[0], range(64)), Request("b", PROMPTS[0], range(64))]
        results = _sampled(engine, requests, SamplingSettings(12, temperature=0.3))
    finally:
        hook.remove()
    responses = [response.token_ids for responses in results.values() for response in responses]
    prefixes = {tuple(ids[:length]) for ids in responses for length in range(1, len(ids))}
    assert len(responses) == 128 and 1 < len(set(map(tuple, responses))) < 64
    assert len(prefixes) <= seen - len(PROMPTS[0]) <= 1.3 * len(prefixes)  # ended states stay for a while


def test_padded_prompts_have_the_logits_of_single_ones(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = HFEngine(model, tokenizer)
    rows = [_Row(_Job(Request(str(i), prompt, [0])), 0) for i, prompt in enumerate(PROMPTS)]
    with torch.inference_mode():
        _, logits, pads, states, width = engine._prefill(rows)
        assert states.tolist() == [0, 1, 2, 3, 4]
        assert width == 7 and pads.tolist() == [4, 0, 3, 6, 2]
        for row, prompt in zip(logits, PROMPTS, strict=True):
            assert torch.allclose(row, model(torch.tensor([prompt])).logits[0, -1], atol=1e-5)


def test_beginnings_of_another_prompt_are_not_computed_again(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Prompts that nest, as the prefixes of a response do, have the logits of each alone and the same responses."""
    long = [5, 9, 4, 7, 3, 8, 6, 5, 4]
    prompts = [long[:3], long, [9, 4], long[:6], [9, 4, 4, 7], long[:1], [4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4]]
    engine = HFEngine(model, tokenizer)
    rows = [_Row(_Job(Request(str(i), prompt, [0])), 0) for i, prompt in enumerate(prompts)]
    seen: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    with torch.inference_mode():
        _, logits, pads, _, width = engine._prefill(rows)
        hook.remove()
        assert width == 11 and pads.tolist() == [8, 2, 9, 5, 7, 10, 0]
        assert seen[0] == 3, "the longest of each nest"
        for row, prompt in zip(logits, prompts, strict=True):
            assert torch.allclose(row, model(torch.tensor([prompt])).logits[0, -1], atol=1e-5)
    together = [Request(f"p{i}", prompt, range(3)) for i, prompt in enumerate(prompts)]
    whole = _sampled(HFEngine(model, tokenizer), together, SamplingSettings(20, seed=5))
    alone = _sampled(HFEngine(model, tokenizer, max_rows=3), together, SamplingSettings(20, seed=5))
    for key, responses in whole.items():
        for left, right in zip(responses, alone[key], strict=True):
            _assert_same(left, right)


def test_the_end_of_sequence_is_in_the_tokens_and_not_in_the_text(
    llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Either end token stops; the text is the words before it; a response at the limit has none."""
    results = _sampled(HFEngine(llama, tokenizer), requests(range(40)), SamplingSettings(12, temperature=2.0))
    last = set()
    for response in (response for responses in results.values() for response in responses):
        ids = response.token_ids
        assert len(ids) == len(response.logps) <= 12
        body = ids[:-1] if response.finish_reason == "stop" else ids
        assert not {EOS, END} & set(body)
        assert response.text.replace(" ", "") == "".join(VOCABULARY[token] for token in body if token != 0)
        if response.finish_reason == "stop":
            last.add(ids[-1])
        else:
            assert len(ids) == 12
    assert last == {EOS, END}


def test_requests_are_read_lazily(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Of an endless stream, 8 rows a batch: the first results come when four batches' worth has been read."""
    read = 0

    def stream() -> Iterator[Request]:
        nonlocal read
        while True:
            read += 1
            yield Request(f"p{read}", PROMPTS[read % len(PROMPTS)], range(4))

    results = HFEngine(llama, tokenizer, max_rows=8).sample(stream(), SamplingSettings(4))
    seen = [next(results)[0].key for _ in range(50)]
    assert len(set(seen)) == 50
    assert read <= 50 + 2 * 4 * 8 / 4


def test_train_mode_is_restored_module_by_module(tokenizer: PreTrainedTokenizerFast) -> None:
    """Dropout is off while sampling; afterwards what trained trains again, and what was frozen does not."""
    torch.manual_seed(1)
    dropping = LlamaForCausalLM(LlamaConfig(**sizes(num_key_value_heads=4, attention_dropout=0.9))).train()
    dropping.model.layers[0].eval()
    before = [module.training for module in dropping.modules()]
    ((_, responses),) = HFEngine(dropping, tokenizer).sample([Request("p", PROMPTS[0], range(3))], SamplingSettings(8))
    assert [module.training for module in dropping.modules()] == before
    dropping.eval()
    for response in responses:
        expected = _teacher_forced(dropping, PROMPTS[0], response.token_ids, 1.0, 1.0)
        assert response.logps == pytest.approx(expected, abs=1e-4)


def test_bfloat16(tokenizer: PreTrainedTokenizerFast) -> None:
    """Log-probs agree with a teacher-forced pass in bfloat16 to its precision (three digits)."""
    torch.manual_seed(1)
    half = LlamaForCausalLM(LlamaConfig(**sizes())).to(torch.bfloat16).eval()
    for request, responses in HFEngine(half, tokenizer).sample(requests(), SamplingSettings(10)):
        for response in responses:
            with torch.no_grad():
                ids = torch.tensor([request.prompt_ids + response.token_ids])
                logits = half(ids).logits[0, len(request.prompt_ids) - 1 : -1].float()
            expected = logits.log_softmax(-1)[range(len(response.token_ids)), response.token_ids]
            assert response.logps == pytest.approx(expected.tolist(), abs=0.15)


def test_a_text_to_stop_at_ends_a_response_with_the_token_that_completes_it(
    llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Each response is the beginning of the one without a stop, up to the first token by which its text holds it; it
    ends by itself, or at its limit, where that comes first. A limit that falls on that token takes nothing from it."""
    engine = HFEngine(llama, tokenizer)
    whole = _sampled(engine, requests(), SamplingSettings(20, temperature=2.0))
    endings = set()
    for stop in ("c", "k f", " "):
        for limit in (20, 4):
            stopped = _sampled(engine, requests(), SamplingSettings(limit, temperature=2.0, stop=stop))
            for key, responses in stopped.items():
                for response, full in zip(responses, whole[key], strict=True):
                    ids = full.token_ids
                    written = len(ids) - (full.finish_reason == "stop")
                    held = (n for n in range(1, written + 1) if stop in engine.decode(ids[:n]))
                    end = next(held, math.inf)
                    expected = "step" if end <= min(limit, len(ids)) else full.finish_reason
                    length = int(min(end, limit, len(ids)))
                    if expected == "stop" and length < len(ids):
                        expected = "length"
                    assert response.token_ids == ids[:length] and response.finish_reason == expected
                    assert response.logps == pytest.approx(full.logps[:length], abs=1e-4)
                    assert response.text == engine.decode(ids[: length - 1] if expected == "stop" else ids[:length])
                    endings.add((stop, expected))
    assert {("c", "step"), ("k f", "step"), (" ", "step"), ("c", "stop"), ("c", "length")} <= endings


def test_which_tokens_may_complete_a_stop(llama: PreTrainedModel) -> None:
    """Of a byte-level tokenizer: the last byte of each separator may, whatever its text alone; letters may not."""
    words = byte_tokenizer()
    engine = HFEngine(llama, words)
    for stop in ("\n\n", "ки\n", "ки", " \u2028", "。", ". "):
        last = words.encode("x" + stop)[-1]
        assert engine._may_complete(stop, last)
        assert not any(engine._may_complete(stop, token) for token in words.encode("xyz7")[1:])
