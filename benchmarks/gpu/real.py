"""A real run: the runs of a config's `extend`, each trained on a GPU, and what came of it on held-out text.

A job has `folder`, which `unpack` made; `work`, where weights, checkpoints and evaluations lie between calls;
`tokens` of each run; `device`; `toy`; and for a run its `name`. What a call had ended, the next one finds and does
not do again, and a training that was killed goes on from its checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.parts import TOKENIZER_FILES, sha256
from benchmarks.gpu.plan import (
    EVALUATIONS,
    FACTORS,
    PLAN,
    SETTLE_TOKENS,
    STEP_TOKENS,
    TRIED_TOKENS,
    Plan,
    changes,
    read_plan,
)
from benchmarks.gpu.questions import QUESTIONS, read_questions, write_questions
from benchmarks.gpu.steps import Skipped
from benchmarks.gpu.tasks import write_task
from benchmarks.gpu.toys import SIZES, random_rows
from models.backbone import (
    convert_gguf,
    create_llama,
    load_backbone,
    save_backbone,
    unique_parameters,
)
from pipeline.common.config import to_data
from pipeline.common.errors import StageError
from pipeline.common.files import atomic_folder, write_json
from pipeline.workflow.layout import BACKBONE, RUN_RECORD, Layout
from train.data.rows import open_rows
from train.evaluation.evaluate import evaluate
from train.evaluation.options import Evaluate
from train.report.tasks import language_of, mean_accuracy
from train.runs.options import Extend, Run, Settle, new_domain, old_domains
from train.runs.origin import backbone_record
from train.runs.record import read_metrics, read_run
from train.runs.results import read_evaluation, read_task_scores
from train.tasks.accuracy import measure_asked
from train.tasks.options import Tasks
from train.trainer.mixture import old_rate, old_rows_before
from train.trainer.stages import extend
from train.trainer.stages import settle as settle_backbone

Job = dict[str, Any]
# What is kept of the results of the runs, and of what all runs begin from.
RESULTS = ("evaluate/*.json", "runs/*/run.json", "runs/*/metrics.jsonl", "tasks/*.json")
SHARED_RESULTS = ("evaluate/*.json", "rates/*.json", "backbone/origin.json", "backbone/training.json")
SHARED_RESULTS += ("backbone/config.json", "backbone/metrics.jsonl")
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
    settle=Settle(learning_rate=1e-4, threads=1, domain="settle"),
    held_out=["old", "new"],
    tune="new",
    prompts=["7"],
    asks=True,
)


def known_plan(folder: str) -> Plan:
    """The plan of a folder; of one that is not there, that of a rehearsal."""
    return read_plan(folder) if Path(folder).exists() else TOY


# The steps -----------------------------------------------------------------------------------------


def source(job: Job) -> dict[str, Any]:
    """The backbone as it came, made ready for the other steps."""
    if job["toy"]:
        if not known_plan(job["folder"]).files:  # whatever is packed has some
            make_toy(Path(job["folder"]))
        shutil.rmtree(home(job), ignore_errors=True)  # of the code as it was
    return {"parameters": unique_parameters(load_backbone(str(source_backbone(job))))}


def settle(job: Job) -> dict[str, Any]:
    """All weights of the backbone trained on the plan's domain for that; measured before and after.

    A quantised instruct model gains by any plain text, which would pass for learning.
    """
    plan, source, backbone = read_plan(job["folder"]), source_backbone(job), settled_backbone(job)
    if plan.settle is None:
        raise StageError(f"{job['folder']}: not settled; give its config backbone.settle, and pack it again")
    before = measured(job, source, None, home(job) / "evaluate/source.json")
    if not backbone.exists():
        how = options_for(job, SETTLE_TOKENS, plan.settle.domain)
        how = {name: value for name, value in how.items() if hasattr(plan.settle, name)}
        options = dataclasses.replace(plan.settle, flat_below=0.0, **how)
        rows, validation = rows_file(job, plan.settle.domain), held_out(job, plan.held_out)
        settle_backbone(options, str(source), rows, validation, str(backbone))
    after = measured(job, backbone, None, home(job) / "evaluate/backbone.json")
    return {"before": before, "after": after, "training": training(backbone)}


def rates(job: Job) -> dict[str, Any]:
    """Short trainings of a run at several learning rates: bits per byte of the domain that chooses among them.

    They begin from the backbone as it came: settling, which goes on beside them, changes little of what is new.
    """
    plan, name = read_plan(job["folder"]), job["name"]
    run, tune = plan.extend.runs[name], str(plan.tune)
    new, found = new_domain(plan.extend, name), {}
    for factor in FACTORS:
        rate, output = factor * run.learning_rate, home(job) / f"rates/{name}-{factor:g}"
        options = dataclasses.replace(run, learning_rate=rate)
        how = options_for(job, TRIED_TOKENS, new, evaluations=1)
        train(job, options, how, old_domains(plan.extend, name), new, [tune], source_backbone(job), output)
        found[f"{rate:g}"] = training(output)["curve"][-1][tune]
    best = FACTORS[int(np.argmin(list(found.values())))]
    write_json(home(job) / f"rates/{run.method}.json", {"factor": best, "rates": found, "domain": tune})
    return {"rates": found, "domain": tune, "factor": best}


def extend_and_evaluate(job: Job) -> dict[str, Any]:
    """One of the runs, its speed, and its measures beside those of the backbone that it began from."""
    plan, name = read_plan(job["folder"]), job["name"]
    backbone = trained_from(job)
    before, out = measured(job, backbone, None, home(job) / "evaluate/backbone.json"), results(job)
    options = at_best_rate(job, plan.extend.runs[name])
    if options.base:
        options = dataclasses.replace(options, base=out.run(options.base))
    olds, new, run = old_domains(plan.extend, name), new_domain(plan.extend, name), Path(out.run(name))
    how = options_for(job, job["tokens"], new)
    train(job, options, how, olds, new, plan.held_out, backbone, run)
    after = measured(job, backbone, run, Path(out.evaluation(name)))
    return after | {"backbone": before, "training": training(run) | {"changed": how, "epochs": epochs(job, name)}}


def ask(job: Job) -> dict[str, Any]:
    """The accuracies of one of the runs, or of the backbone, on the questions that were packed."""
    name, out = job["name"], results(job)
    run = None if name == BACKBONE else out.run(name)
    if run and not Path(run, RUN_RECORD).exists():
        raise Skipped(f"no run {name} yet; let the step `real {name}` end first")
    output = out.task_scores(name)
    if not Path(output).exists():
        asked, skipped = read_questions(Path(job["folder"], QUESTIONS))
        measure_asked(Tasks(device=job["device"]), asked, skipped, str(trained_from(job)), run, output)
    scores = read_task_scores(output)
    languages = dict.fromkeys(map(language_of, scores.tasks))
    means = {f"mean {language}": mean_accuracy(scores, language) for language in languages}
    means |= {task: (one.headline, one.stderr[one.metric]) for task, one in scores.tasks.items()}
    return {name: [x for x in found if x is not None] for name, found in means.items() if found}


def at_best_rate(job: Job, run: Run) -> Run:
    """The run at the rate that the tries of its method found best; at its own where there were none."""
    path = home(job) / f"rates/{run.method}.json"
    factor = json.loads(path.read_text())["factor"] if path.exists() else 1.0
    return dataclasses.replace(run, learning_rate=factor * run.learning_rate)


def train(
    job: Job,
    options: Run,
    changed: dict[str, Any],
    olds: list[str],
    new: str,
    watched: list[str],
    backbone: Path,
    output: Path,
) -> None:
    """Train a run with some options changed, unless it is there."""
    if not output.exists():
        old_files = [rows_file(job, name) for name in olds]
        changed_options = dataclasses.replace(options, **changed)
        extend(changed_options, str(backbone), old_files, rows_file(job, new), held_out(job, watched), str(output))


def options_for(job: Job, tokens: float, new: str, evaluations: int = EVALUATIONS) -> dict[str, Any]:
    """What the GPU, or a rehearsal, changes of a run's options."""
    step_tokens = STEP_TOKENS
    if job["toy"]:
        tokens, step_tokens = TOY_STEPS * TOY_STEP_TOKENS, TOY_STEP_TOKENS
    return changes(tokens, open_rows(rows_file(job, new)).row_tokens, job["device"], step_tokens, evaluations)


def epochs(job: Job, name: str) -> dict[str, float]:
    """How often a run reads its rows."""
    plan = read_plan(job["folder"])
    record = read_run(results(job).run(name))
    new = new_domain(plan.extend, name)
    rows = record.tokens // open_rows(rows_file(job, new)).row_tokens
    old = old_rows_before(rows, old_rate(record.options))
    old_count = sum(len(open_rows(rows_file(job, domain))) for domain in old_domains(plan.extend, name))
    return {"new": (rows - old) / len(open_rows(rows_file(job, new))), "old": old / old_count}


# Where things lie ----------------------------------------------------------------------------------


def home(job: Job) -> Path:
    """The folder of all that comes of this plan."""
    return Path(job["work"]) / sha256(Path(job["folder"], PLAN))[:12]


def results(job: Job) -> Layout:
    """Where runs and their evaluations lie, as in a workflow's results; runs of other tokens lie elsewhere."""
    return Layout(home(job) / f"{job['tokens'] / 1e6:g}M")


def trained_from(job: Job) -> Path:
    """The backbone of all runs: as it came, or settled. Raises StageError before it is."""
    backbone = settled_backbone(job) if read_plan(job["folder"]).settle else source_backbone(job)
    if not backbone.exists():
        raise StageError(f"{backbone}: not there; let the step `settle` end first")
    return backbone


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


def held_out(job: Job, domains: list[str]) -> list[str]:
    return [f"{name}={Path(job['folder'], 'rows', name, 'validation.arrow')}" for name in domains]


# What came out -------------------------------------------------------------------------------------


def measured(job: Job, backbone: Path, run: Path | None, output: Path) -> dict[str, Any]:
    """Bits per byte of each held-out set, and for a run KL and agreement against the backbone; texts."""
    if not output.exists():
        plan = read_plan(job["folder"])
        asked = Evaluate(prompts=plan.prompts, device=job["device"])
        named = held_out(job, plan.held_out)
        evaluate(asked, str(backbone), str(run) if run else None, named, str(output), None)
    evaluation = read_evaluation(output)
    return {
        "bpb": {name: one.bpb for name, one in evaluation.domains.items()},
        "kl": {name: one.kl for name, one in evaluation.change.items()},
        "agreement": {name: one.agreement for name, one in evaluation.change.items()},
        "texts": to_data(evaluation.generations),
    }


def training(run: Path) -> dict[str, Any]:
    """What a training took, its curve and its gates."""
    about = to_data(backbone_record(str(run)) or read_run(run))
    lines = read_metrics(run)
    steps = [line for line in lines if "loss" in line]
    last = steps[-max(1, len(steps) // 4) :]
    keys = ("tokens", "seconds", "peak_memory_mib", "extra_parameters", "true_fraction", "width", "device")
    keys = tuple(key for key in keys if key in about)
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


def keep_results(job: Job, output: Path) -> None:
    """What came out, without weights, as a .tar.gz of a workflow's results: `python -m train report` reads it.

    Of a run that was killed there are its metrics up to its last checkpoint: benchmarks/curves.py reads those.
    """
    with tarfile.open(output, "w:gz") as tar:
        for root, patterns in ((Path(results(job).root), RESULTS), (home(job), SHARED_RESULTS)):
            for path in sorted(path for pattern in patterns for path in root.glob(pattern)):
                tar.add(path, arcname=str(path.relative_to(root)))
        tar.add(Path(job["folder"], PLAN), arcname=PLAN)


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
    write_questions(Tasks(tasks=[write_task(folder / "numbers.yaml", 8)]), "", folder / QUESTIONS)
    write_json(folder / PLAN, to_data(TOY))
