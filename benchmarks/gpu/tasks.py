"""Multiple choice and continuations, by the code of `tasks` and `generate`: seconds, and the same answers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.steps import Skipped
from benchmarks.gpu.toys import SIZES, computing_in
from models.backbone import create_llama, save_backbone
from models.positions import longest_text
from pipeline.workflow.layout import RUN_RECORD
from train.data.tokens import open_tokenizer
from train.runs.generate import write
from train.runs.load import load_run, measuring_device
from train.runs.options import Generate
from train.tasks.accuracy import NO_LIMIT, load_tasks, make_requests, normalise
from train.tasks.loglikelihood import score
from train.tasks.options import Tasks

QUESTIONS, SHOTS = 24, 5
PROMPTS = ("Le salarié peut", "Pour demander un passeport, vous devez", "The Python interpreter is")
# Of a log-likelihood in nats, in fp32; of the answers in bf16, whose rounding decides between equals.
LOGP_FP32, ANSWERS_BF16 = 1e-3, 0.9


def tasks(job: dict[str, Any]) -> dict[str, Any]:
    """A model's answers and continuations on the CPU in fp32, on the device in fp32, and as the device computes.

    The model is random, or the `backbone` of the job with its run `run`. In fp32 all must be equal.
    """
    ways = {
        "CPU, fp32": ("cpu", torch.float32),
        "device, fp32": (job["device"], torch.float32),
        "device, bf16": (job["device"], torch.bfloat16),
    }
    with TemporaryDirectory() as folder:
        backbone = job.get("backbone") or make_backbone(Path(folder, "backbone"), "tiny" if job["toy"] else "135M")
        task = write_task(Path(folder, "numbers.yaml"), 8 if job["toy"] else QUESTIONS)
        found = {}
        for name, (device, dtype) in ways.items():
            with computing_in(dtype):
                found[name] = answer(backbone, job.get("run"), task, device, 8 if job["toy"] else 40)
    first, *others = found.values()
    same = [compare(one, first) for one in others]
    ok = same[0]["answers"] == 1 and same[0]["texts"] == 1 and same[0]["logp"] < LOGP_FP32
    result: dict[str, Any] = {"ok": ok and same[1]["answers"] >= ANSWERS_BF16}
    for name, one in found.items():
        result[name] = {key: one[key] for key in ("questions_s", "texts_s", "accuracy")}
    return result | {f"{name}, as on the CPU": one for name, one in zip(list(found)[1:], same, strict=True)}


def real_tasks(job: dict[str, Any]) -> dict[str, Any]:
    """tasks() of the real model and its run `name`. Raises Skipped where that is not trained yet."""
    from benchmarks.gpu import real

    run = real.results(job).run(job["name"]) if Path(job["folder"]).exists() else ""
    if not Path(run, RUN_RECORD).exists():
        raise Skipped(f"no run {job['name']} yet; let the step `real {job['name']}` end first")
    return tasks(job | {"backbone": str(real.trained_from(job)), "run": run})


def answer(backbone: str, run: str | None, task: str, device: str, tokens: int) -> dict[str, Any]:
    """The picks of all questions by each normalisation, the log-likelihoods, the continuations, and seconds."""
    tokenizer, model = open_tokenizer(backbone), load_run(backbone, run, measuring_device(device))
    asked, _ = load_tasks(Tasks(tasks=[task]), "")
    requests = make_requests(asked, tokenizer, longest_text(model.config) or NO_LIMIT)
    scores: dict[int, list[float]] = {}

    def ask() -> None:
        for batch in score(model, requests):
            scores.update(batch)

    (one,) = asked.values()
    questions_s = timed(ask, device)
    picks = [
        [int(np.argmax(x)) for x in normalise(question.answers, requests[number], scores[number], scores[without])]
        for question, (number, without) in zip(one.questions, one.numbers, strict=True)
    ]
    options, texts = Generate(tokens=tokens), []

    def go_on() -> None:
        texts[:] = [write(model, tokenizer, prompt, options) for prompt in PROMPTS]

    texts_s = timed(go_on, device)
    right = [pick[0] == question.gold for pick, question in zip(picks, one.questions, strict=True)]
    return {
        "questions_s": questions_s,
        "texts_s": texts_s,
        "accuracy": sum(right) / len(right),
        "picks": np.array(picks),
        "logp": np.concatenate([scores[number] for number in range(len(requests))]),
        "texts": texts,
    }


def timed(compute: Callable[[], None], device: str) -> float:
    """Seconds; on a GPU those of the second time. What is computed is on the CPU in the end."""
    if device != "cpu":
        compute()
    started = time.perf_counter()
    compute()
    return time.perf_counter() - started


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    """The shares of equal answers and of equal texts, and the largest difference of a log-likelihood."""
    return {
        "answers": float((ours["picks"] == theirs["picks"]).mean()),
        "texts": float(np.mean([a == b for a, b in zip(ours["texts"], theirs["texts"], strict=True)])),
        "logp": float(np.abs(ours["logp"] - theirs["logp"]).max()),
    }


def write_task(path: Path, questions: int) -> str:
    """A task of questions about numbers, which need nothing fetched, behind shots of the same kind."""
    rows = [
        {"n": str(n), "options": f"{n + 1} {n - 1} {10 * n} {n + 11}", "key": "0"}
        for n in range(12, 12 + questions)
    ]
    task = {
        "prompt": "Question: Which number comes after {{ n }}?\nAnswer:",
        "unconditional": "Answer:",
        "metric": "raw",
        "shots": SHOTS,
        "fields": {"n": "n", "choices": "options.split(' ')", "answer": "key | int"},
        "languages": {"en": {"sources": [{"rows": rows}], "shot_sources": [{"rows": rows[-SHOTS:]}]}},
    }
    path.write_text(json.dumps(task), encoding="utf-8")
    return str(path)


def make_backbone(folder: Path, sizes: str) -> str:
    """A random model, and a tokenizer with a token for each byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(["<end>", *letters])}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
    encoder = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")  # noqa: S106
    save_backbone(create_llama(**SIZES[sizes], row_tokens=2048), encoder, folder)
    return str(folder)
