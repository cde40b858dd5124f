"""The card of a model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import COSTS, evaluation

from models.adapter import SavedExtension
from pipeline.common.errors import StageError
from train.evaluation.intervals import Estimate
from train.runs.export import Extended
from train.runs.results import Evaluation, write_result
from train.sharing.card import Card, Corpus, Measured, model_card, read_measures

KNOWN = {"name": "some/tiny", "source": "some/tiny", "revision": "a" * 40}
TRAINING = {
    "options": {"method": "neutral", "learning_rate": 1e-2, "steps": 5, "old_rate": 0.25, "seed": 7},
    "tokens": 1234,
    "true_fraction": 0.5,
    "versions": {"torch": "2.0"},
}


def extended(named: dict[str, Any] = KNOWN, **how: Any) -> Extended:
    about = {"languages": {"old": ["en"], "new": "fr"}, "training": TRAINING}
    return Extended(
        "runs/x", "nowhere", named, [SavedExtension({"method": "neutral", "gate": "elu"} | how, {}, about)]
    )


NATIVE = Card(extended(), "its class is known", has_code=False, measures=[], repo="me/tiny-fr")


def front_of(text: str) -> dict[str, Any]:
    return yaml.safe_load(text.removeprefix("---\n").partition("\n---\n")[0])


def html_of(text: str) -> str:
    body = text.removeprefix("---\n").partition("\n---\n")[2]
    return pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True}).enable("table").render(body)


def test_names_in_the_card_are_text(tmp_path: Path) -> None:
    name = "x`\n<script>y</script>\n[link](javascript:z) | \u2028--- \x00"
    about = {
        "languages": {"old": ["no", name], "new": "fr"},
        "training": {"options": {"old_rate": 0.5, "new": name}},
    }
    one = SavedExtension({"method": "neutral", "gate": "elu", "width": 4}, {}, about)
    value = Estimate(1.0, 0.9, 1.1)
    card = Card(
        Extended(name, name[:-1], {"name": name, "source": name, "revision": name}, [one]),
        name,
        has_code=False,
        measures=[Measured(name, 12, value, value, value, value)],
        corpora=[Corpus([(name, name, 1, 2)], name)],
        license=name,
    )
    (tmp_path / "x`y-Q8_0.gguf").touch()
    line = "x` <script>y</script> [link](javascript:z) |  ---"
    for one in (card, dataclasses.replace(card, why=None)):
        text = model_card(one, tmp_path)
        front = front_of(text)
        assert front["language"] == ["no", line, "fr"] and front["base_model"] == line
        assert front["license"] == line
        html = html_of(text)
        assert "<script" not in html and "<a " not in html
        assert html.count("<h1>") == 1 and html.count("<h2>") == 5
        assert html.count("<tr>") == 6 and html.count("<td") == 6 + 5 + 10
        assert html.count("&lt;script&gt;y&lt;/script&gt;") >= 9


def test_a_card_says_how_the_model_was_made(tmp_path: Path) -> None:
    corpus = Corpus([("fr", "train", 4321, 5_000_000)], "odc-by")
    card = dataclasses.replace(NATIVE, corpora=[corpus], license="mit")
    text = model_card(card, tmp_path)
    front = front_of(text)
    assert (front["license"], front["language"], front["base_model"]) == ("mit", ["en", "fr"], "some/tiny")
    assert (front["library_name"], front["base_model_relation"]) == ("transformers", "finetune")
    assert "| 1 | neutral | elu | 50.0% | en | fr | 0.01 | 5 | 1,234 |" in text
    assert "read 1,234 tokens, 25% of old text (en), replayed so that it stays, the rest of new text (fr)." in text
    assert "| fr | train | 4,321 | 5.0 | odc-by |" in text
    assert "`old_rate: 0.25`, `seed: 7`; all else as by default. Trained with `torch: 2.0`." in text
    unknown = dataclasses.replace(card, extended=extended(KNOWN | {"revision": None, "source": None}))
    assert "base_model" not in model_card(unknown, tmp_path)


@pytest.mark.parametrize(
    ("costs", "said"),
    [
        (COSTS, "10 s · 20 ms CPU a token"),
        (COSTS | {"cpu_seconds": None}, "10 s"),
        (COSTS | {"device": "NVIDIA H100", "ranks": 2}, "10 s · 20 ms GPU a token"),
        (COSTS | {"seconds": "<b>"}, ""),
        ({}, ""),
    ],
)
def test_the_time_of_a_training_is_said_where_it_is_known(
    tmp_path: Path, costs: dict[str, Any], said: str
) -> None:
    one = NATIVE.extended.added[0]
    about = {**one.about, "training": {"tokens": 1000, "options": {}} | costs}
    own = dataclasses.replace(NATIVE.extended, added=[dataclasses.replace(one, about=about)])
    text = model_card(dataclasses.replace(NATIVE, extended=own), tmp_path)
    assert f"| 1,000 | {said} |" in text


@pytest.mark.parametrize(
    ("change", "files", "said"),
    [
        ({}, [], ["from_pretrained('me/x')", "`vllm serve me/x`", "`transformers serve me/x`", "here is none"]),
        (
            {},
            ["a-Q4_0.gguf", "a-Q8_0.gguf"],
            ["`llama-server -hf me/x:Q8_0`", "`ollama run hf.co/me/x:Q8_0`", "`a-Q4_0.gguf` (0.0 MB)"],
        ),
        ({}, ["a-F16.gguf"], ["`llama-server -hf me/x:F16`"]),
        (
            {"repo": None},
            ["a-Q8_0.gguf", "Modelfile"],
            [
                "from_pretrained('my model')",
                "`vllm serve 'my model'`",
                "`llama-server -m 'my model/a-Q8_0.gguf'`",
                "`ollama create tiny-x -f 'my model/Modelfile' && ollama run tiny-x`",
            ],
        ),
        (
            {"has_code": True},
            [],
            ["trust_remote_code=True)", "`transformers serve --trust-remote-code me/x`", "Ollama do not run it"],
        ),
        (
            {"why": None},
            [],
            [
                "AutoPeftModelForCausalLM.from_pretrained('me/x'",
                f"`vllm serve some/tiny --revision {'a' * 40} --enable-lora --max-lora-rank 256",
                "--lora-modules x=me/x`",
            ],
        ),
    ],
)
def test_how_it_is_run_in_four_tools(
    tmp_path: Path, change: dict[str, Any], files: list[str], said: list[str]
) -> None:
    folder = tmp_path / "my model"
    folder.mkdir()
    for name in files:
        (folder / name).touch()
    card = dataclasses.replace(NATIVE, **{"repo": "me/x", "extended": extended(width=144)} | change)
    text = model_card(card, folder).replace(', dtype="auto"', "")
    assert not [part for part in said if part not in text]
    assert str(tmp_path) not in text


# What it measures ---------------------------------------------------------------------------------


def written(tmp_path: Path, *evaluations: Evaluation) -> list[str]:
    paths = [str(tmp_path / f"{number}.json") for number in range(len(evaluations))]
    for path, one in zip(paths, evaluations, strict=True):
        write_result(path, one)
    return paths


def test_the_interval_of_a_change_is_that_of_pairs(tmp_path: Path) -> None:
    before, after = (evaluation(run, documents=200, en=bpb) for run, bpb in ((None, 1.0), ("run", 1.05)))
    (one,) = read_measures(written(tmp_path, before, after))
    assert (one.domain, one.documents) == ("en", 200)
    assert (one.before.value, one.after.value) == (1.0, 1.05) and one.change.value == pytest.approx(0.05)
    # Documents differ by 0.3 and models on one document by 0.01: the pairs' interval is far narrower.
    widths = [each.high - each.low for each in (one.before, one.after, one.change)]
    assert widths[2] < 0.1 * min(widths[:2])
    assert one.change.low < 0.05 < one.change.high
    text = model_card(dataclasses.replace(NATIVE, measures=[one]), tmp_path)
    assert f"| en | 200 | 1.000 ({one.before.low:.3f} to {one.before.high:.3f}) | 1.050 (" in text
    assert "| +0.0500 (+" in text or "| +0.050 (+" in text
    assert "| 0.5 |" in text  # the KL divergence, of documents that are not known


def test_what_is_not_known_has_no_interval(tmp_path: Path) -> None:
    (one,) = read_measures(written(tmp_path, evaluation(None, fr=2.0), evaluation("run", fr=1.5)))
    assert one.change == Estimate(-0.5, None, None)
    text = model_card(dataclasses.replace(NATIVE, measures=[one]), tmp_path)
    assert "| fr |  | 2.000 | 1.500 | -0.500 | 0.5 |" in text and "not known how sure" in text


def test_evaluations_in_another_order_are_refused(tmp_path: Path) -> None:
    backbone, run = written(tmp_path, evaluation(None, fr=2.0), evaluation("run", fr=1.5))
    for wrong in ([run, backbone], [backbone], [backbone, backbone], [run, run], [backbone, run, run]):
        with pytest.raises(StageError, match="--evaluations: expected two, the backbone's and the run's, found"):
            read_measures(wrong)
    assert not read_measures([])
