"""A real run: French added to SmolLM2-135M by each method, and what came of it on held-out text.

The folder holds a backbone (a .gguf file, and tokenizer/, since the one made of a .gguf file is another with each
version of transformers) and rows/{domain}/{train,validation}.arrow. The backbone is settled on plain English
first: an instruct model in four bits gains by any plain text, which would pass for learning.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.toys import SIZES, random_rows
from models.backbone import convert_gguf, create_llama, load_backbone, load_tokenizer, save_backbone
from pipeline.common.files import read_json
from train.evaluation.evaluate import evaluate
from train.evaluation.options import Evaluate
from train.runs.load import load_run
from train.runs.options import Run
from train.trainer.stages import extend

STEP_ROWS, SETTLE_TOKENS = 32, 5e6
# The rates of the first real run on a CPU, in 200 steps of 2,048 tokens; not tuned here.
RUNS: dict[str, dict[str, Any]] = {
    "neutral": {"method": "neutral", "learning_rate": 2e-3, "alpha": 30.0},
    "finetune": {"method": "finetune", "learning_rate": 2e-4},
    "adapter": {"method": "adapter", "learning_rate": 1e-3},
    "lora": {"method": "lora", "learning_rate": 1e-3},
    "neutral, alpha 100": {"method": "neutral", "learning_rate": 2e-3, "alpha": 100.0},
}
PROMPTS = ["Le salarié peut", "Pour demander un passeport, vous devez", "The Python interpreter is"]


def runs(folder: str) -> list[str]:
    return list(RUNS)


def settles(folder: str) -> bool:
    return True


def settle(job: dict[str, Any]) -> dict[str, Any]:
    """The backbone, made of the GGUF file, then finetuned on plain English; measured before and after."""
    given, work = Path(job["folder"]), Path(job["work"])
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    if job["toy"]:
        toy_inputs(given)
    if (given / "backbone").exists():
        backbone = str(given / "backbone")
    else:
        backbone = str(work / "instruct")
        convert_gguf(str(next(given.glob("*.gguf"))), str(work / "gguf"))
        # Versions of transformers write tokenizer.json differently; the rows were made with the given one.
        save_backbone(load_backbone(str(work / "gguf")), load_tokenizer(str(given / "tokenizer")), backbone)
    tokens = min(SETTLE_TOKENS, job["tokens"])
    run = options(job, tokens, {"method": "finetune", "learning_rate": 1e-4}, old_rate=0.0)
    rows = str(given / "rows/en-settle/train.arrow")
    extend(run, backbone, [rows], rows, validation(given), str(work / "settle"))
    model = load_run(backbone, str(work / "settle"), torch.device("cpu"))
    save_backbone(model.bfloat16(), load_tokenizer(backbone), work / "backbone")
    measures = {
        name: measured(job, path, None) for name, path in (("before", backbone), ("after", work / "backbone"))
    }
    return measures | {"training": training(work / "settle")}


def extend_and_evaluate(job: dict[str, Any]) -> dict[str, Any]:
    """A run of the trainer from the settled backbone, its speed, and its measures."""
    given, work = Path(job["folder"]), Path(job["work"])
    rows = [str(given / f"rows/{name}/train.arrow") for name in ("en-replay", "fr")]
    run, backbone = work / job["name"], str(work / "backbone")
    extend(
        options(job, job["tokens"], RUNS[job["name"]]), backbone, rows[:1], rows[1], validation(given), str(run)
    )
    return measured(job, backbone, run) | {"training": training(run)}


def options(job: dict[str, Any], tokens: float, method: dict[str, Any], **changes: Any) -> Run:
    rows = 4 if job["toy"] else STEP_ROWS
    length = row_tokens(job)
    steps = max(2, round(tokens / (rows * length)))
    common: dict[str, Any] = {
        "steps": steps,
        "batch_rows": rows,
        "micro_batch_rows": rows,
        "evaluate_every": max(1, steps // 4),
        "evaluate_rows": 64,
        "checkpoint_every": 10 * steps,
        "compile": not job["toy"],
        "device": job["device"],
    }
    return Run(**(common | method | changes))


def row_tokens(job: dict[str, Any]) -> int:
    return 64 if job["toy"] else 1024


def validation(given: Path) -> list[str]:
    return [f"{path.parent.name}={path}" for path in sorted(given.glob("rows/*/validation.arrow"))]


def measured(job: dict[str, Any], backbone: str | Path, run: Path | None) -> dict[str, Any]:
    """Bits per byte of each held-out set, and for a run KL and agreement against the backbone; texts."""
    output = Path(job["work"]) / "evaluation.json"
    given = validation(Path(job["folder"]))
    asked = Evaluate(prompts=[] if job["toy"] else PROMPTS, device=job["device"])
    evaluate(asked, str(backbone), str(run) if run else None, given, str(output), None)
    evaluation = read_json(output)
    kept = {
        "bpb": {name: one["bpb"] for name, one in evaluation["domains"].items()},
        "texts": evaluation["generations"],
    }
    for key in ("kl", "agreement"):
        kept[key] = {name: one[key] for name, one in evaluation["change"].items()}
    return kept


def training(run: Path) -> dict[str, Any]:
    about = read_json(run / "run.json")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    last = steps[-max(1, len(steps) // 4) :]
    keys = ("tokens", "seconds", "peak_memory_mib", "extra_parameters", "true_fraction", "width", "device")
    return {
        **{key: about[key] for key in keys},
        "learning_rate": about["options"]["learning_rate"],
        "tokens_per_s": sorted(line["tokens_per_s"] for line in steps)[len(steps) // 2],
        "loss": sum(line["loss"] for line in last) / len(last),
        "curve": [
            {"step": line["step"], **{name: round(one["bpb"], 4) for name, one in line["evaluation"].items()}}
            for line in lines
            if "evaluation" in line
        ],
        "gates": [
            {key: round(line[key], 4) for key in ("step", "gate_old", "gate_new", "l1_ratio") if key in line}
            for line in steps
            if "gate_new" in line
        ][:: max(1, len(steps) // 100)],
    }


def toy_inputs(given: Path) -> None:
    """A random backbone and random rows, in the places of the real ones."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from train.data.tokens import tokenizer_digest

    size = SIZES["tiny"]
    words = Tokenizer(models.WordLevel({str(i): i for i in range(size["vocabulary"])}, unk_token="0"))  # noqa: S106
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="0")  # noqa: S106
    save_backbone(create_llama(**size, row_tokens=64), tokenizer, given / "backbone")
    digest = tokenizer_digest(given / "backbone")
    for number, name in enumerate(("en-settle", "en-replay", "fr")):
        for split in ("train", "validation"):
            random_rows(64, 64, size["vocabulary"], number, given / f"rows/{name}/{split}.arrow", digest)
