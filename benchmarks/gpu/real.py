"""A real run: the runs of a config's `extend`, each trained on a GPU, and what came of it on held-out text.

A job has `folder`, which `unpack` made; `work`, where weights, checkpoints and evaluations lie between calls;
`tokens` of each run; `device`; `toy`; and for a run its `name`. What a call had ended, the next one finds and does
not do again, and a training that was killed goes on from its checkpoint.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.parts import TOKENIZER_FILES, sha256
from benchmarks.gpu.plan import PLAN, SETTLE_TOKENS, Plan, changes, read_plan
from benchmarks.gpu.toys import SIZES, random_rows
from models.backbone import convert_gguf, create_llama, load_tokenizer, save_backbone
from pipeline.common.config import to_data
from pipeline.common.errors import StageError
from pipeline.common.files import atomic_folder, write_json
from train.data.rows import open_rows
from train.evaluation.evaluate import evaluate
from train.evaluation.options import Evaluate
from train.runs.load import load_run
from train.runs.options import Extend, Run, new_domain, old_domains
from train.runs.record import read_metrics, read_run
from train.runs.results import read_evaluation
from train.trainer.mixture import old_rate, old_rows_before
from train.trainer.stages import extend

Job = dict[str, Any]
TOY_STEPS, TOY_STEP_TOKENS, TOY_ROW_TOKENS = 4, 256, 64
TOY = Plan(
    extend=Extend(
        old="old",
        new="new",
        runs={
            method: Run(method=method, learning_rate=1e-3, alpha=10.0, old_rate=0.25, threads=1)
            for method in ("neutral", "finetune", "adapter", "lora")
        },
    ),
    settle=Run(method="finetune", learning_rate=1e-4, old_rate=0.0, threads=1, new="settle"),
    held_out=["old", "new"],
    prompts=["7"],
)


def runs(folder: str) -> list[str]:
    """The names of the runs, in their order; of a folder that is not there, those of a rehearsal."""
    return list(_known_plan(folder).extend.runs)


def settles(folder: str) -> bool:
    """Whether the step `settle` comes before the runs."""
    return _known_plan(folder).settle is not None


def _known_plan(folder: str) -> Plan:
    return read_plan(folder) if Path(folder).exists() else TOY


# The steps -----------------------------------------------------------------------------------------


def settle(job: Job) -> dict[str, Any]:
    """All weights of the backbone trained on the plan's domain for that; measured before and after.

    A quantised instruct model gains by any plain text, which would pass for learning.
    """
    if job["toy"]:
        if not _known_plan(job["folder"]).files:  # whatever is packed has some
            make_toy(Path(job["folder"]))
        shutil.rmtree(home(job), ignore_errors=True)  # of the code as it was
    plan, source, run = read_plan(job["folder"]), source_backbone(job), home(job) / "settle"
    if plan.settle is None or plan.settle.new is None:
        raise StageError(f"{job['folder']}: no domain to settle on; pack it again with --settle DOMAIN")
    before = measured(job, source, None, home(job) / "source.json")
    changed = train(job, plan.settle, [plan.settle.new], plan.settle.new, SETTLE_TOKENS, source, run)
    if not settled_backbone(job).exists():
        model = load_run(str(source), str(run), torch.device("cpu"))
        with atomic_folder(settled_backbone(job)) as folder:
            save_backbone(model.bfloat16(), load_tokenizer(str(source)), folder)
            copy_tokenizer(source, folder)
    after = measured(job, settled_backbone(job), None, home(job) / "backbone.json")
    return {"before": before, "after": after, "training": training(run, changed)}


def extend_and_evaluate(job: Job) -> dict[str, Any]:
    """One of the runs, its speed, and its measures beside those of the backbone that it began from."""
    plan, name = read_plan(job["folder"]), job["name"]
    backbone = settled_backbone(job) if plan.settle else source_backbone(job)
    if not backbone.exists():
        raise StageError(f"{backbone}: not there; let the step `settle` end first")
    before = measured(job, backbone, None, home(job) / "backbone.json")
    run, options = run_folder(job, name), plan.extend.runs[name]
    if options.base:
        options = dataclasses.replace(options, base=str(run_folder(job, options.base)))
    olds, new = old_domains(plan.extend, name), new_domain(plan.extend, name)
    changed = train(job, options, olds, new, job["tokens"], backbone, run)
    after = measured(job, backbone, run, run / "evaluation.json")
    return after | {"backbone": before, "training": training(run, changed)}


def train(
    job: Job, options: Run, olds: list[str], new: str, tokens: float, backbone: Path, output: Path
) -> dict[str, Any]:
    """Train a run unless it is there; returns what the GPU changed of its options, and epochs of its rows."""
    old_files, new_file = [rows_file(job, name) for name in olds], rows_file(job, new)
    row_tokens = open_rows(new_file).row_tokens
    changed = changes(tokens, row_tokens, job["device"])
    if job["toy"]:
        changed = changes(TOY_STEPS * TOY_STEP_TOKENS, row_tokens, job["device"], TOY_STEP_TOKENS)
    options = dataclasses.replace(options, **changed)
    if not output.exists():
        validation = [f"{name}={path}" for name, path in held_out(job).items()]
        extend(options, str(backbone), old_files, new_file, validation, str(output))
    rows, old_count = options.steps * options.batch_rows, sum(len(open_rows(path)) for path in old_files)
    old = old_rows_before(rows, old_rate(options))
    epochs = {"new": (rows - old) / len(open_rows(new_file)), "old": old / old_count}
    return {"changed": changed, "epochs": epochs}


# Where things lie ----------------------------------------------------------------------------------


def home(job: Job) -> Path:
    """The folder of all that comes of this plan."""
    return Path(job["work"]) / sha256(Path(job["folder"], PLAN))[:12]


def run_folder(job: Job, name: str) -> Path:
    """A run of other tokens is another run."""
    return home(job) / f"{job['tokens'] / 1e6:g}M" / name


def settled_backbone(job: Job) -> Path:
    return home(job) / "backbone"


def source_backbone(job: Job) -> Path:
    """The backbone as it came: unpacked, or made of the .gguf file, once."""
    given, made = Path(job["folder"]), home(job) / "source"
    if "backbone.gguf" not in read_plan(given).files:
        return given / "backbone"
    if not made.exists():
        with atomic_folder(made) as folder:
            convert_gguf(str(given / "backbone.gguf"), str(folder))
            copy_tokenizer(given / "tokenizer", folder)
    return made


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Versions of transformers write tokenizer.json differently; the rows were made with the given one."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def rows_file(job: Job, domain: str) -> str:
    return str(Path(job["folder"], "rows", domain, "train.arrow"))


def held_out(job: Job) -> dict[str, str]:
    names = read_plan(job["folder"]).held_out
    return {name: str(Path(job["folder"], "rows", name, "validation.arrow")) for name in names}


# What came out -------------------------------------------------------------------------------------


def measured(job: Job, backbone: Path, run: Path | None, output: Path) -> dict[str, Any]:
    """Bits per byte of each held-out set, and for a run KL and agreement against the backbone; texts."""
    if not output.exists():
        asked = Evaluate(prompts=read_plan(job["folder"]).prompts, device=job["device"])
        named = [f"{name}={path}" for name, path in held_out(job).items()]
        evaluate(asked, str(backbone), str(run) if run else None, named, str(output), None)
    evaluation = read_evaluation(output)
    return {
        "bpb": {name: one.bpb for name, one in evaluation.domains.items()},
        "kl": {name: one.kl for name, one in evaluation.change.items()},
        "agreement": {name: one.agreement for name, one in evaluation.change.items()},
        "texts": to_data(evaluation.generations),
    }


def training(run: Path, given: dict[str, Any]) -> dict[str, Any]:
    """What a training took, its curve and its gates; `given` is what else is said of it."""
    about, lines = to_data(read_run(run)), read_metrics(run)
    steps = [line for line in lines if "loss" in line]
    last = steps[-max(1, len(steps) // 4) :]
    keys = ("tokens", "seconds", "peak_memory_mib", "extra_parameters", "true_fraction", "width", "device")
    return {
        **given,
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


# A rehearsal's inputs ------------------------------------------------------------------------------


def make_toy(folder: Path) -> None:
    """A random backbone and random rows, in the places of real ones."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from train.data.tokens import tokenizer_digest

    size = SIZES["tiny"]
    words = Tokenizer(models.WordLevel({str(i): i for i in range(size["vocabulary"])}, unk_token="0"))  # noqa: S106
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="0")  # noqa: S106
    save_backbone(create_llama(**size, row_tokens=TOY_ROW_TOKENS), tokenizer, folder / "backbone")
    digest = tokenizer_digest(folder / "backbone")
    for number, name in enumerate(TOY.trained):
        for split, count in (("train", 32), ("validation", 8)):
            path = folder / f"rows/{name}/{split}.arrow"
            random_rows(count, TOY_ROW_TOKENS, size["vocabulary"], number, path, digest)
    write_json(folder / PLAN, to_data(TOY))
