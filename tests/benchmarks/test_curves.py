"""The curves of a real run: the page is made of its lines, and what it says of made-up ones."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

pytest.importorskip("altair")

from benchmarks import curves
from pipeline.common.config import to_data
from train.evaluation.intervals import document_sums


def test_the_page_of_the_measured_runs_is_made_of_their_lines() -> None:
    name = ROOT / "docs/benchmarks/smollm2-fr"
    lines = [json.loads(text) for text in Path(f"{name}.jsonl").read_text().splitlines()]
    made = "\n".join(curves.page(lines, "en-brown", "fr", "smollm2-fr")) + "\n"
    assert made == Path(f"{name}.md").read_text()


def line(run: str, old: list[float], new: list[float]) -> curves.Line:
    """A run whose bits per byte over its tokens are these, on 40 documents that all change alike."""
    random = np.random.default_rng(0)
    size, noise = np.full(40, 100), random.normal(0, 0.2, 40)

    def watched(bpb: float) -> dict:
        nats = (bpb + noise) * size * np.log(2)
        documents = to_data(document_sums(nats, size, np.arange(40)))
        return {"bpb": bpb + noise.mean(), "nats_per_token": 1.0, "documents": documents}

    both = enumerate(zip(old, new, strict=True))
    points = [{"tokens": 1000 * i, "en": watched(a), "fr": watched(b)} for i, (a, b) in both]
    return {"run": run, "method": run, "card": "a card", "tried": {"0.001": 2.0}, "curve": points}


def test_it_says_who_forgets_and_who_is_passed() -> None:
    lines = [
        line("neutral", [1, 1, 1, 1], [2, 1.9, 1.5, 1.2]),
        line("lora", [1, 1, 1.1, 1.2], [2, 1.8, 1.6, 1.4]),
        line("finetune", [1, 1.2, 1.3, 1.4], [2, 1.5, 1.2, 1.0]),
    ]
    page = "\n".join(curves.page(lines, "en", "fr", "x"))
    assert "- neutral does not forget en." in page
    more = "and neutral residues learn more fr than it"
    assert f"- lora forgets en from 2,000 tokens on, {more} from 2,000 tokens on." in page
    assert f"- finetune forgets en from 1,000 tokens on, {more} at no point." in page
    row = next(row for row in page.splitlines() if row.startswith("| finetune | +0.4"))
    assert "80% (80% to 80%)" in row and "0% (0% to 0%)" in row
    assert "| neutral | 80% (80% to 80%) | 92% | 0% (0% to 0%) | 3% |" in page
    assert "| lora | 60% (60% to 60%) | 86% | 50% (50% to 50%) | 45% |" in page
