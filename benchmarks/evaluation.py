"""`python -m benchmarks.evaluation`: multiple choice beside lm-evaluation-harness, in one run.

The same questions of the same model on the same device: largest difference of a log-likelihood, accuracies, time.
The harness gets them as a task of its own over a local file, its prompts rendered here, since its own tasks need
the hub. Each side loads the model by itself before the clock starts. First `pip install 'lm_eval>=0.4.9,<0.5'`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.report import measure, write
from models import backbone
from models.backbone import load_backbone, load_tokenizer
from train.tasks.accuracy import Asked, load_tasks, make_requests
from train.tasks.accuracy import measure as accuracies
from train.tasks.loglikelihood import score
from train.tasks.options import Tasks
from train.tasks.task import Question

# For each request of a question, behind its context or the unconditional prompt.
Likelihoods = list[list[list[float]]]
TASK = {
    "output_type": "multiple_choice",
    "dataset_path": "json",
    "test_split": "test",
    "doc_to_text": "{{context}}",
    "doc_to_choice": "{{answers}}",
    "doc_to_target": "gold",
    "target_delimiter": "",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}


def harness(name: str, asked: Asked, model: Any, batch_size: int) -> tuple[Likelihoods, float, dict[str, float]]:
    """Log-likelihoods and accuracy (raw) as lm-evaluation-harness has them, and the seconds it takes."""
    from lm_eval import evaluator
    from lm_eval.tasks import TaskManager

    kinds = [f"{name.replace('/', '_')}_{kind}" for kind in ("conditional", "unconditional")]
    with tempfile.TemporaryDirectory() as folder:
        tasks = []
        for kind in kinds:
            path = Path(folder, f"{kind}.jsonl")
            path.write_text("".join(json.dumps(_row(question, kind)) + "\n" for question in asked.questions))
            files = {"data_files": {"test": str(path)}, "cache_dir": folder}
            tasks.append(TASK | {"task": kind, "dataset_kwargs": files})
        spent: dict[str, float] = {}
        likelihood = type(model).loglikelihood

        def timed(requests: Any, **more: Any) -> Any:
            found, seconds = measure(lambda: likelihood(model, requests, **more))
            spent.update({name: spent.get(name, 0.0) + value for name, value in seconds.items()})
            return found

        model.loglikelihood = timed
        # What it tells of the machine takes longer than the questions, and is not wanted.
        with mock.patch.object(evaluator, "add_env_info"):
            results = evaluator.simple_evaluate(
                model,
                tasks=tasks,
                task_manager=TaskManager(include_defaults=False),
                batch_size=batch_size,
                log_samples=True,
                bootstrap_iters=0,
            )
    both = [_likelihoods(results["samples"][kind]) for kind in kinds]
    pairs = [list(pair) for pair in zip(*both, strict=True)]
    return pairs, results["results"][kinds[0]]["acc,none"], spent


def _row(question: Question, kind: str) -> dict[str, Any]:
    context = question.unconditional if kind.endswith("unconditional") else question.shots + question.prompt
    return {"context": context, "answers": question.answers, "gold": question.gold}


def _likelihoods(samples: list[dict[str, Any]]) -> list[list[float]]:
    ordered = sorted(samples, key=lambda sample: sample["doc_id"])
    return [[float(response[0]) for response in sample["filtered_resps"]] for sample in ordered]


def ours(asked: dict[str, Asked], model: Any, tokenizer: Any) -> tuple[list[Any], dict[int, list[float]]]:
    requests = make_requests(asked, tokenizer, model.config.max_position_embeddings)
    scores: dict[int, list[float]] = {}
    for found in score(model, requests):
        scores |= found
    return requests, scores


def compare(options: Tasks, folder: str, batch_size: int, downloads: str) -> Iterator[dict[str, Any]]:
    """A row a task, as it is done: accuracies and seconds of both, and how far log-likelihoods differ at most."""
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(options.threads)
    tokenizer = load_tokenizer(folder)
    asked, skipped = load_tasks(options, downloads)
    for name, why in skipped.items():
        logging.warning("%s is left out: %s", name, why)
    model = load_backbone(folder, dtype=torch.float32)
    peer = HFLM(
        pretrained=load_backbone(folder, dtype=torch.float32, attention="sdpa"),
        tokenizer=tokenizer,
        batch_size=batch_size,
    )
    for name, one in asked.items():
        # Ours would compute in bf16 where the CPU can; the harness computes in what the weights are.
        with mock.patch.object(backbone, "compute_dtype", lambda device: torch.float32):
            (requests, scores), own = measure(lambda one=one, name=name: ours({name: one}, model, tokenizer))
        likelihoods, accuracy, seconds = harness(name, one, peer, batch_size)
        result = accuracies(one, requests, scores)
        both = [
            (np.array(scores[number]), np.array(values))
            for pair, theirs in zip(one.numbers, likelihoods, strict=True)
            for number, values in zip(pair, theirs, strict=True)
        ]
        yield {
            "task": name,
            "questions": len(one.questions),
            "requests": sum(len(values) for _, values in both),
            "largest difference of a log-likelihood, nats": max(float(abs(a - b).max()) for a, b in both),
            "accuracy (raw), ours": _plain_mean(one, scores),
            "accuracy (raw), lm_eval": accuracy,
            "headline": result["metric"],
            "headline, ours": result["headline"],
            "headline, lm_eval": _headline(one, likelihoods, requests, result["metric"]),
            "ours, s": own["wall_s"],
            "lm_eval, s": seconds["wall_s"],
            "ours, CPU s": own["cpu_s"],
            "lm_eval, CPU s": seconds["cpu_s"],
            "times as fast": seconds["wall_s"] / own["wall_s"],
        }


def _plain_mean(asked: Asked, scores: dict[int, list[float]]) -> float:
    right = [int(np.argmax(scores[n])) == q.gold for q, (n, _) in zip(asked.questions, asked.numbers, strict=True)]
    return float(np.mean(right))


def _headline(asked: Asked, likelihoods: Likelihoods, requests: list[Any], metric: str) -> float:
    """The headline from the harness's log-likelihoods, with our normalisation: OLMES's is none of its own."""
    scores = {
        number: values
        for pair, theirs in zip(asked.numbers, likelihoods, strict=True)
        for number, values in zip(pair, theirs, strict=True)
    }
    return float(accuracies(asked, requests, scores)["accuracy"][metric])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", required=True, help="folder of the model")
    parser.add_argument("--tasks", nargs="+", default=["arc_challenge", "commonsenseqa", "hellaswag"])
    parser.add_argument("--languages", nargs="+", default=["en", "fr"])
    parser.add_argument("--limit", type=int, default=40, help="questions of a task")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--batch-size", type=int, default=8, help="of lm-evaluation-harness")
    parser.add_argument("--downloads", default="downloads")
    parser.add_argument("--output", default="docs/benchmarks/evaluation")
    given = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    options = Tasks(
        tasks=given.tasks,
        tasks_languages=given.languages,
        tasks_limit=given.limit,
        threads=given.threads,
        device="cpu",
    )
    rows = []
    for row in compare(options, given.backbone, given.batch_size, given.downloads):
        rows.append(row)
        own, peers = (sum(row[key] for row in rows) for key in ("ours, s", "lm_eval, s"))
        notes = [
            f"All requests: {own:.0f} s beside {peers:.0f} s, {peers / own:.1f} times as fast.",
            "Both in fp32 in one run. Timed are tokenising and scoring, of the harness its method "
            f"`loglikelihood` alone, with batches of {given.batch_size}; loading model and tasks is not.",
            "Accuracies of questions and not of groups. The headline of lm_eval is from its log-likelihoods, with "
            "OLMES's normalisation.",
        ]
        title = f"Multiple choice beside lm-evaluation-harness, {Path(given.backbone).name}"
        write(given.output, title, rows, notes)


if __name__ == "__main__":
    main()
