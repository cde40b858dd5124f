"""Scores with shared prefixes are those of plain forward passes; accuracies, errors and resuming by hand."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from device import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import ARCHITECTURES, COMMON, logits, make, shake
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from models import backbone
from models.backbone import create_llama, load_tokenizer, save_backbone
from models.extend import extend
from train.tasks import loglikelihood
from train.tasks.accuracy import Asked, _key, kept_scores, measure, measure_tasks, normalise, spread
from train.tasks.averages import macro_average
from train.tasks.loglikelihood import (
    SPREAD,
    Request,
    beginning,
    encode_pairs,
    longest_cached,
    make_request,
    plan_passes,
    score,
)
from train.tasks.options import Tasks
from train.tasks.task import Question, Set, read_task

Pairs = list[tuple[list[int], list[int]]]


@pytest.fixture(autouse=True)
def precision(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """fp32 on every machine, or what a test asks for: bf16 differs by the order of sums in the third digit."""
    wanted = getattr(request, "param", torch.float32)
    monkeypatch.setattr(backbone, "compute_dtype", lambda device: wanted)


def requests_at_random(seed: int = 0, count: int = 14) -> list[Request]:
    """Two families, one with a prefix that is longer than the windows of the tiny models."""
    random = np.random.default_rng(seed)
    shots = random.integers(1, 50, 6)
    made = []
    for i in range(count):
        question = random.integers(1, 50, random.integers(1, 14))
        context = np.concatenate([shots[: 6 * (i % 3 > 0)], question]).astype(np.int32)
        answers = [random.integers(1, 50, random.integers(1, 6)).tolist() for _ in range(random.integers(2, 5))]
        made.append(Request((str(i % 3 > 0),), context, answers))
    return made


def plain(model: Any, request: Request) -> list[float]:
    """Each answer behind the whole context, by one forward pass without a cache, that predicts its last token."""
    found = []
    for answer in request.continuations:
        # Dynamic rope remembers the longest row until then.
        logits(model, torch.ones(1, 1, dtype=torch.int64, device=DEVICE))
        ids = [*request.context.tolist(), *answer[:-1]]
        logp_TV = logits(model, torch.tensor([ids], device=DEVICE))[0].log_softmax(-1)
        found.append(sum(logp_TV[len(request.context) - 1 + i, token].item() for i, token in enumerate(answer)))
    return found


def scored(model: Any, requests: list[Request]) -> dict[int, list[float]]:
    return {number: values for found in score(model, requests) for number, values in found.items()}


def assert_equal(found: dict[int, list[float]], expected: list[list[float]], within: float = 2e-5) -> None:
    assert sorted(found) == list(range(len(expected)))
    for number, values in enumerate(expected):
        assert found[number] == pytest.approx(values, abs=within)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_scores_are_those_of_whole_sequences(name: str) -> None:
    model, requests = make(name).to(DEVICE), requests_at_random()
    assert_equal(scored(model, requests), [plain(model, request) for request in requests])


WINDOWS = COMMON | {"head_dim": 8, "sliding_window": 4}
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [9.0] * 4}
LINEAR = {f"linear_{name}": 2 for name in ("num_key_heads", "num_value_heads")}
LINEAR |= {f"linear_{name}_head_dim": 8 for name in ("key", "value")}
# Caches and positions of other kinds than those of tiny.py, by the name of the config; and whether the cache of
# what contexts share is used. Contexts are longer than the windows, and than what rope was trained for.
OTHERS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "longrope": ("Phi3", COMMON | {"original_max_position_embeddings": 12, "rope_parameters": LONG}, True),
    "dynamic": (
        "Llama",
        COMMON
        | {
            "max_position_embeddings": 12,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
        },
        True,
    ),
    "chunks": ("Llama4", COMMON | {"head_dim": 8, "attention_chunk_size": 4, "intermediate_size_mlp": 24}, True),
    "sinks": ("GptOss", WINDOWS | {"num_local_experts": 2, "num_experts_per_tok": 1}, True),
    "recurrent": (
        "Qwen3_5",
        COMMON | LINEAR | {"head_dim": 8, "layer_types": ["linear_attention", "full_attention"]},
        False,
    ),
    "convolutions": ("Lfm2", COMMON | {"layer_types": ["conv", "full_attention"]}, False),
}


def other(kind: str) -> Any:
    import transformers

    name, sizes, _ = OTHERS[kind]
    suffix = "TextConfig" if name in ("Qwen3_5", "Llama4") else "Config"
    config = getattr(transformers, f"{name}{suffix}")(**sizes, initializer_range=0.2)
    config._attn_implementation = "eager"
    torch.manual_seed(1)
    return getattr(transformers, f"{name}ForCausalLM")(config).to(DEVICE).eval()


@pytest.mark.parametrize("kind", list(OTHERS))
def test_scores_are_those_of_whole_sequences_with_any_cache(kind: str) -> None:
    requests = requests_at_random()
    assert {request.length > 12 for request in requests} == {True, False}
    found = scored(other(kind), requests)
    # Each of another model, since dynamic rope remembers the longest row that it has seen.
    assert_equal(found, [plain(other(kind), request) for request in requests])
    with torch.inference_mode():
        assert (longest_cached(other(kind), requests) > 0) == OTHERS[kind][2]


@pytest.mark.parametrize("broken", ["batch_select_indices", "update"])
def test_a_cache_that_cannot_be_shared_is_not_used(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that forgets which row is whose, or forgets what it held."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    wrong: dict[str, Any] = {
        "batch_select_indices": (DynamicCache, lambda self, indices: None),
        "update": (DynamicLayer, lambda self, keys, values, *_, **__: (keys, values)),
    }
    model, requests = make().to(DEVICE), requests_at_random()
    with torch.inference_mode():
        assert longest_cached(model, requests) == math.inf
        monkeypatch.setattr(wrong[broken][0], broken, wrong[broken][1])
        assert longest_cached(model, requests) == 0
    assert_equal(scored(model, requests), [plain(model, request) for request in requests])


@pytest.mark.parametrize("precision", [torch.bfloat16], indirect=True)
def test_scores_in_bf16_are_those_of_fp32_but_for_rounding() -> None:
    model, requests = make().to(DEVICE), requests_at_random()
    found, expected = scored(model, requests), [plain(model, request) for request in requests]
    assert_equal(found, expected, within=0.2)
    with pytest.raises(AssertionError):
        assert_equal(found, expected)  # else fp32 was measured


@pytest.mark.parametrize("method", ["lora", "adapter", "neutral"])
def test_scores_of_an_extended_model(method: str) -> None:
    model, requests = make().to(DEVICE), requests_at_random(1)
    before = scored(model, requests)
    extend(model, method=method, fraction=0.3, gate="elu", init="low_variance", placement="before_norm", seed=0)
    shake(model)
    found = scored(model, requests)
    assert_equal(found, [plain(model, request) for request in requests])
    assert found != before


def test_neither_order_nor_batch_size_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    model, requests = make().to(DEVICE), requests_at_random(2)
    expected = scored(model, requests)
    reversed_order = scored(model, requests[::-1])
    assert_equal({len(requests) - 1 - i: x for i, x in reversed_order.items()}, [expected[i] for i in range(14)])
    for tokens, apart, batches in ((1, 4, 14), (60, 4, pytest.approx(8, abs=4)), (2**13, 2**6, 2)):
        monkeypatch.setitem(loglikelihood.BATCH_TOKENS, DEVICE.type, tokens)
        monkeypatch.setitem(loglikelihood.SPREAD, DEVICE.type, apart)
        assert len(plan_passes(requests, 50, DEVICE.type)) == batches
        assert_equal(scored(model, requests), [expected[i] for i in range(14)])


def test_a_batch_is_limited_by_logits_and_by_how_contexts_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    alike = [Request(("a",), np.arange(1, 9, dtype=np.int32), [[1], [2]]) for _ in range(6)]
    assert [len(batch.numbers) for batch in plan_passes(alike, 50, "cpu")] == [6]
    assert plan_passes(alike, 50, "cpu")[0].shared == 7
    apart = [Request(("a",), np.ones(1 + i * SPREAD["cpu"], np.int32), [[1]]) for i in range(4)]
    assert [batch.numbers for batch in plan_passes(apart, 50, "cpu")] == [[3, 2], [1, 0]]
    monkeypatch.setitem(loglikelihood.BATCH_LOGITS, "cpu", 4 * 50)
    assert [len(batch.numbers) for batch in plan_passes(alike, 50, "cpu")] == [2, 2, 2]
    assert [batch.numbers for batch in plan_passes(apart, 50, "cpu")] == [[3], [2], [1], [0]]


def write_tokenizer(folder: Path) -> str:
    """A byte-level BPE that joins words to the space before them, and across letters and punctuation too."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=["<end>"], initial_alphabet=alphabet)
    bpe.train_from_iterator(["Q: the cat sleeps on a chair\nA: the girl looks: at it  \n\n"] * 3, trainer)
    PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<end>", eos_token="<end>").save_pretrained(folder)  # noqa: S106
    return str(folder)


# Tokens ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(write_tokenizer(tmp_path_factory.mktemp("tokenizer") / "byte-level"))


TEXTS = st.text(st.characters(codec="utf-8") | st.sampled_from(" \n:QAthe"), max_size=20)


@given(context=TEXTS, answer=TEXTS.filter(bool))
@settings(max_examples=100, deadline=None)
def test_context_and_continuation_are_the_whole_cut_once(tokenizer: Any, context: str, answer: str) -> None:
    """No byte is lost or scored twice, and white space before an answer is scored with it."""
    [(before, after)] = encode_pairs(tokenizer, [(context, answer)])
    assert after
    assert before == (tokenizer(context.rstrip())["input_ids"] or [tokenizer.bos_token_id])
    whole = tokenizer(context + answer)["input_ids"]
    if before == whole[: len(before)] or not context.rstrip():
        assert [*before, *after] == whole if context.rstrip() else after == whole
        assert tokenizer.decode(after) == context[len(context.rstrip()) :] + answer
    else:  # a token across the boundary: what lies behind as many tokens as the context has, as the harness
        assert after == whole[len(before) :] or after == tokenizer(answer)["input_ids"]


def characters(begins: bool) -> Any:
    """A tokenizer of characters that puts its beginning token before every text, as Llama 2's, or does not."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<s>": 1, "</s>": 2} | {chr(i): i for i in range(32, 127)}))
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    single = "<s> $A" if begins else "$A"
    words.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>")  # noqa: S106


def test_only_models_that_know_a_beginning_token_get_one(tokenizer: Any) -> None:
    with_one = characters(begins=True)
    assert beginning(with_one) == [1]
    assert encode_pairs(with_one, [("ab ", "c"), ("", "c")]) == [([1, 97, 98], [32, 99]), ([1], [99])]
    without = characters(begins=False)
    assert beginning(without) == beginning(tokenizer) == []
    assert encode_pairs(without, [("ab", " c"), ("", "c")]) == [([97, 98], [32, 99]), ([1], [99])]


def test_the_name_of_a_special_token_in_a_question_is_text() -> None:
    tokenizer = characters(begins=True)
    [(context, answer)] = encode_pairs(tokenizer, [("a</s>", "<s>b")])
    assert context == [1, *b"a</s>"] and answer == list(b"<s>b")


@pytest.mark.parametrize("lead", [1, 2])
def test_what_is_too_long_keeps_the_token_that_begins_every_text(lead: int) -> None:
    context, answers = list(range(10)), [[1, 2], [3, 4, 5]]
    pairs: Pairs = [(context, answer) for answer in answers]
    for room in range(3, 14):
        kept = make_request(("a",), pairs, room, lead).context.tolist()
        assert len(kept) == min(10, room - 2) and kept == sorted(set(kept))
        assert kept[:lead] == context[: min(lead, len(kept))]
        assert len(kept) <= lead or kept[-1] == 9


def test_what_is_too_long_loses_its_beginning() -> None:
    context, answers = list(range(10)), [[1, 2], [3, 4, 5]]
    pairs: Pairs = [(context, answer) for answer in answers]
    assert make_request(("a",), pairs, 12).context.tolist() == context
    assert not make_request(("a",), pairs, 12).truncated
    cut = make_request(("a",), pairs, 8)
    assert (cut.context.tolist(), cut.continuations, cut.truncated) == ([4, 5, 6, 7, 8, 9], answers, True)
    assert cut.family != ("a",)
    hopeless = make_request(("a",), pairs, 2)
    assert (hopeless.context.tolist(), hopeless.continuations) == ([9], [[1, 2], [4, 5]])


# Accuracies -----------------------------------------------------------------------------------------


def test_each_normalisation_by_hand() -> None:
    answers = (" a", " éé", " abcdef")
    request = Request(("a",), np.ones(1, np.int32), [[1], [2, 3], [4, 5, 6, 7]])
    raw, char, byte, token, pmi = normalise(answers, request, [-2.0, -3.0, -7.0], [-1.0, -1.5, -6.5])
    assert raw.tolist() == [-2.0, -3.0, -7.0]
    assert char.tolist() == [-1.0, -1.0, -1.0]
    assert byte.tolist() == [-1.0, -3 / 5, -1.0]
    assert token.tolist() == [-2.0, -1.5, -1.75]
    assert pmi.tolist() == [-1.0, -1.5, -0.5]


def test_macro_average_and_its_error_by_hand() -> None:
    groups = [np.array([[1.0], [0.0], [1.0], [0.0]]), np.array([[1.0], [1.0]])]
    mean, error = macro_average(groups)
    assert mean.tolist() == [0.75]  # the mean over all six is 2/3
    # Sample variances 1/3 and 0.
    assert error.tolist() == pytest.approx([math.sqrt((1 / 3) / 4 + 0 / 2) / 2])
    one = np.array([[1.0], [0.0], [0.0]])
    assert macro_average([one])[1].tolist() == pytest.approx([math.sqrt((1 / 3) * (2 / 3) / 2)])
    # The third group's variance is that of all: (1 + 0 + 0) / (3 + 1 + 0).
    error = macro_average([*groups, np.array([[0.0]])])[1]
    assert error.tolist() == pytest.approx([math.sqrt(1 / 3 / 4 + 1 / 4) / 3])
    # No group has two questions: the sample variance of 1, 0 and 0.
    mean, error = macro_average([np.array([[x]]) for x in (1.0, 0.0, 0.0)])
    assert (mean.tolist(), error.tolist()) == (pytest.approx([1 / 3]), pytest.approx([math.sqrt(1 / 3 / 3)]))
    assert math.isnan(macro_average([np.array([[1.0]])])[1][0])


def test_groups_are_averaged_and_named() -> None:
    task = read_task("mmlu")
    questions = [Question("", "?", (" a", " b"), 0, "A:", group) for group in ("x", "x", "x", "y")]
    asked = Asked(task, Set(questions, "somewhere", 1), questions, [(2 * i, 2 * i + 1) for i in range(4)])
    requests = [Request(("a",), np.ones(1, np.int32), [[1], [2]])] * 8
    right, wrong = [-1.0, -2.0], [-2.0, -1.0]
    conditional = [right, wrong, right, right]
    scores = {2 * i: x for i, x in enumerate(conditional)} | {2 * i + 1: [-1.0, -1.0] for i in range(4)}
    found = measure(asked, requests, scores)
    assert found.accuracy == dict.fromkeys(("raw", "char", "byte", "token", "pmi"), pytest.approx(5 / 6))
    assert found.headline == found.accuracy["char"]
    assert found.correct == {"x": "101", "y": "1"}
    assert (found.count, found.shots, found.metric, found.fewer_shots) == (4, 5, "char", 1)
    assert found.groups is not None
    assert {name: group.count for name, group in found.groups.items()} == {"x": 3, "y": 1}
    assert found.groups["y"].stderr["raw"] is None
    assert found.groups["x"].accuracy["raw"] == pytest.approx(2 / 3)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=40), st.integers(1, 50))
def test_a_limit_spreads_over_groups_and_in_each(groups: list[str], limit: int) -> None:
    questions = [Question("", str(i), (" yes", " no"), 0, "", group) for i, group in enumerate(groups)]
    chosen = spread(questions, limit)
    assert len(chosen) == min(limit, len(groups))
    places = [int(question.prompt) for question in chosen]
    assert places == sorted(set(places))
    counts = {group: sum(question.group == group for question in chosen) for group in groups}
    short = [count for group, count in counts.items() if count < groups.count(group)]
    assert all(count <= least + 1 for least in short for count in counts.values())
    if len(counts) == 1:
        assert places == [i * len(groups) // len(chosen) for i in range(len(chosen))]


# The stage ------------------------------------------------------------------------------------------

QUIZ = """
prompt: "Q: {{ question }}\\nA:"
unconditional: "A:"
metric: pmi
shots: 1
fields: {question: q, choices: c, answer: a}
languages:
  en:
    sources: [{path: SET}]
    shot_sources: [{rows: [{q: "what?", right: that}], fields: {choices: "[right]", answer: "0"}}]
  fr:
    sources: [{path: none.jsonl}]
    shot_sources: [{path: none.jsonl}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny backbone and a task of 40 questions."""
    folder = tmp_path_factory.mktemp("quiz")
    tokenizer = load_tokenizer(write_tokenizer(folder / "tokenizer"))
    model = create_llama(
        hidden_size=16, layers=2, heads=2, ffn_size=24, vocabulary=len(tokenizer), row_tokens=64, seed=3
    )
    save_backbone(model, tokenizer, folder / "backbone")
    words = ["the", "cat", "sleeps", "on", "a", "chair", "while", "girl", "looks", "at", "big", "house"]
    rows = [
        {"q": " ".join(words[: 1 + i % 11]), "c": [words[i % 11], words[i % 5], "no"], "a": 0} for i in range(40)
    ]
    (folder / "set.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "quiz.yaml").write_text(QUIZ.replace("SET", str(folder / "set.jsonl")))
    return folder


def ask(folder: Path, output: Path, **options: Any) -> dict[str, Any]:
    how = Tasks(tasks=[str(folder / "quiz.yaml")], device=DEVICE.type, threads=1, **options)
    measure_tasks(how, str(folder / "backbone"), None, str(folder), str(output))
    return dict(json.loads(output.read_text()))


def test_the_stage_measures_and_says_what_is_missing(folder: Path, tmp_path: Path) -> None:
    found = ask(folder, tmp_path / "a.json")
    assert found["model"] == "backbone"
    quiz = found["tasks"]["quiz/en"]
    assert (quiz["count"], quiz["shots"], quiz["truncated"]) == (40, 1, 0)
    assert quiz["headline"] == quiz["accuracy"]["pmi"]
    p = quiz["accuracy"]["raw"]
    assert quiz["stderr"]["raw"] == pytest.approx(math.sqrt(p * (1 - p) / 39))
    assert found["skipped"] == {"quiz/fr": "none.jsonl: no such file; put it there"}
    assert ask(folder, tmp_path / "b.json", tasks_limit=7)["tasks"]["quiz/en"]["count"] == 7
    assert ask(folder, tmp_path / "c.json", tasks_languages=["fr"])["tasks"] == {}


def test_labels_of_language_models_are_iso_codes() -> None:
    pytest.importorskip("langcodes")
    assert Tasks(tasks_languages=["bre_Latn", "eng_Latn"]).asked_in(["en", "fr", "br"]) == ["en", "br"]


def test_a_killed_stage_goes_on_to_the_same_bytes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(loglikelihood.BATCH_TOKENS, DEVICE.type, 200)
    ask(folder, tmp_path / "whole.json")
    real, computed = loglikelihood._score_batch, []

    def dies(*arguments: Any) -> Any:
        if len(computed) == 5:
            raise KeyboardInterrupt
        computed.append(1)
        return real(*arguments)

    monkeypatch.setattr(loglikelihood, "_score_batch", dies)
    with pytest.raises(KeyboardInterrupt):
        ask(folder, tmp_path / "killed.json")
    kept = tmp_path / "killed.json.scores.jsonl"
    assert len(kept.read_text().splitlines()) == 6
    kept.write_bytes(kept.read_bytes()[:-5])  # the last line was cut off
    again: list[int] = []
    monkeypatch.setattr(loglikelihood, "_score_batch", lambda *x: again.append(1) or real(*x))
    ask(folder, tmp_path / "killed.json")
    batches = len(plan_of(folder))
    assert len(again) == batches - 4
    assert (tmp_path / "killed.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert not kept.exists()


def plan_of(folder: Path) -> list[loglikelihood.Pass]:
    from train.tasks.accuracy import load_tasks, make_requests

    asked, _ = load_tasks(Tasks(tasks=[str(folder / "quiz.yaml")]), str(folder))
    tokenizer = load_tokenizer(str(folder / "backbone"))
    return plan_passes(make_requests(asked, tokenizer, 64), len(tokenizer), DEVICE.type)


def test_scores_of_another_model_are_not_taken(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), kept_scores(str(tmp_path / "s"), "one") as (_, keep):
        keep({3: [1.0]})
        raise RuntimeError
    with pytest.raises(RuntimeError), kept_scores(str(tmp_path / "s"), "one") as (scores, _):
        assert scores == {3: [1.0]}
        raise RuntimeError
    with kept_scores(str(tmp_path / "s"), "two") as (scores, _):
        assert scores == {}
    models, thresholds = (make(), make(seed=2)), (0.0, 0.1)
    keys = {_key(model, Tasks(gate_threshold=x), []) for model in models for x in thresholds}
    assert len(keys) == 4


def test_the_harness_finds_the_same(folder: Path) -> None:
    """Log-likelihoods and accuracies of lm-evaluation-harness on the same model, where it is installed."""
    pytest.importorskip("lm_eval")
    from benchmarks.evaluation import compare

    options = Tasks(tasks=[str(folder / "quiz.yaml")], device=DEVICE.type, threads=1)
    [row] = compare(options, str(folder / "backbone"), 3, str(folder))
    assert row["requests"] == 240
    assert row["largest difference of a log-likelihood, nats"] < 1e-4
    assert row["accuracy (raw), ours"] == row["accuracy (raw), lm_eval"] > 0
    assert row["headline, ours"] == row["headline, lm_eval"]
