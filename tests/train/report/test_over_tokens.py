"""After how many tokens a method passes another, and from how many on it forgets, in made-up curves."""

from dataclasses import replace
from typing import Any

import pytest
from helpers import evaluation, run_record, scored_documents

from pipeline.common.config import to_data
from pipeline.common.errors import StageError
from train.report.over_tokens import over_tokens
from train.report.settings import Axis, RunResult

# Of fr and en at steps 0, 10, 20 and so on.
CURVES = {
    "finetune": ([3.0, 2.5, 2.2, 2.0, 1.9], [2.0, 2.1, 2.2, 2.3, 2.4]),
    "lora": ([3.0, 2.6, 2.5, 2.45, 2.4], [2.0, 2.0002, 2.1, 2.2, 2.3]),
    "adapter": ([3.0, 2.75, 2.6, 2.4, 2.2], [2.0, 2.1, 1.9, 2.1, 2.2]),
    "neutral": ([3.0, 2.8, 2.4, 2.3, 2.2004], [2.0, 2.1, 2.1, 2.1, 2.0003]),
}


def run(method: str, documents: int, shift: float = 0.0, **options: Any) -> RunResult:
    lines = []
    for number, (fr, en) in enumerate(zip(*CURVES[method], strict=True)):
        measures = {}
        for domain, bpb in (("fr", fr + (shift if number else 0)), ("en", en)):
            measures[domain] = {"bpb": bpb, "nats_per_token": 1.0}
            if documents:
                known = scored_documents(bpb, documents, f"{method}, {number}")
                measures[domain]["documents"] = to_data(known)
        lines += [{"step": 10 * number, "evaluation": measures}, {"step": 10 * number + 1, "loss": 1.0}]
    record = replace(run_record(method, steps=40, **options), tokens=400_000)
    return RunResult(method, record, lines, evaluation(method, fr=2.0, en=2.0))


def told(documents: int = 60, methods: tuple[str, ...] = tuple(CURVES)) -> list[str]:
    return over_tokens([Axis("fr", [run(method, documents) for method in methods])], "en")


def test_who_passes_whom_and_who_forgets_from_where_on() -> None:
    learning, forgetting, about = told()
    assert learning == (
        "In learning fr, neutral residues do not pass finetune within these 400,000 tokens; they pass lora after "
        "200,000 tokens; they are as good as adapter after these 400,000 tokens, within the noise."
    )
    assert forgetting == (
        "en is forgotten by finetune from the first measurement on, after 100,000 tokens; by lora after 200,000 "
        "tokens; by adapter after 300,000 tokens; not by neutral within these 400,000 tokens."
    )
    assert "95% interval" in about and "older version" not in about


def test_without_intervals_every_difference_counts_and_it_says_so() -> None:
    learning, forgetting, about = told(documents=0)
    assert "do not pass finetune or adapter within" in learning
    assert "by finetune, lora and neutral from the first measurement on" in forgetting
    assert "older version, every difference counts" in about


def test_the_mean_over_seeds_is_compared_where_all_were_measured() -> None:
    lora, neutral = run("lora", 60), run("neutral", 60)
    worse = replace(run("neutral", 60, shift=0.3, seed=1), name="worse")
    (learning, *_) = over_tokens([Axis("fr", [neutral, worse, lora])], "en")
    assert "pass lora after 400,000 tokens" in learning  # by half of 0.3 less than alone
    del worse.metrics[8]  # the last evaluation
    (learning, *_) = over_tokens([Axis("fr", [neutral, worse, lora])], "en")
    assert "are as good as lora after these 300,000 tokens, within the noise" in learning


def test_what_there_is_nothing_to_say_of() -> None:
    assert told(methods=("lora",))[0].startswith("en is forgotten by lora after")
    bare = replace(run("neutral", 60), metrics=[{"step": 1, "loss": 2.0}])
    assert over_tokens([Axis("fr", [bare])], "en") == over_tokens([], "en") == []
    damaged = run("lora", 60)
    damaged.metrics[0]["evaluation"]["en"]["documents"]["nats"] = "?"
    with pytest.raises(StageError, match=r"metrics.jsonl of lora: en: documents\.nats: .*; do the training again"):
        over_tokens([Axis("fr", [damaged])], "en")
