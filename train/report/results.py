"""The results of a workflow as plain rows: what the report's tables and charts, and results.md, show."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from pipeline.common.files import read_json
from train.report.points import named

# What the plots and data of the paper's targets may add to the page, before a third more as base64.
PAPER_BYTES = 1_500_000


def load_run_results(run: str, evaluation: str) -> dict[str, Any]:
    """A run's own record, its metrics and its evaluation, under its name."""
    folder = Path(run).parent
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {"name": folder.name, "run": read_json(run), "metrics": lines, "evaluation": read_json(evaluation)}


def results_table(
    base: dict[str, Any], runs: list[dict[str, Any]], forgetting: str, learning: str
) -> list[dict[str, Any]]:
    """A row a model: bits per byte, and the change against the backbone."""
    rows = []
    for name, evaluation, run in [
        ("backbone", base, None),
        *((r["name"], r["evaluation"], r["run"]) for r in runs),
    ]:
        bpb = {domain: measure["bpb"] for domain, measure in evaluation["domains"].items()}
        change = {domain: value - base["domains"][domain]["bpb"] for domain, value in bpb.items()}
        nats = {domain: measure["nats_per_token"] for domain, measure in evaluation["domains"].items()}
        rows.append({"name": name, "bpb": bpb, "change": change, "nats": nats, "run": run})
    for domain in (forgetting, learning):
        best = min(rows[1:], key=lambda row: row["bpb"][domain])
        best.setdefault("best", set()).add(domain)
    return rows


def flat_table(table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results as plain rows, for CSV."""
    names = ("method", "extra_parameters", "true_fraction", "alpha", "tokens", "seconds", "peak_memory_mib")
    rows = []
    for row in table:
        flat: dict[str, Any] = {"model": row["name"]}
        for domain, bpb in row["bpb"].items():
            flat |= {f"{domain} bpb": bpb, f"{domain} change": row["change"][domain]}
            flat[f"{domain} nats per token"] = row["nats"][domain]
        if run := row["run"]:
            flat |= {name: run.get(name) for name in names}
            flat |= {name: run["options"][name] for name in ("learning_rate", "seed")}
        rows.append(flat)
    return rows


def signed(value: float) -> str:
    """A change with its sign; what rounds to nothing is +0.000."""
    return f"{round(value, 3) + 0.0:+.3f}"


def markdown_table(table: list[dict[str, Any]]) -> str:
    """The results as a Markdown table: bits per byte, and the change against the backbone in brackets."""
    domains = list(table[0]["bpb"])
    lines = [
        "| model | " + " | ".join(domains) + " | rate | trained weights | training, s | peak MiB |",
        "|---|" + "---:|" * (len(domains) + 4),
    ]
    for row in table:
        cells = [
            f"{row['bpb'][d]:.3f}" + (f" ({signed(row['change'][d])})" if row["run"] else "") for d in domains
        ]
        if run := row["run"]:
            weights = run["extra_parameters"] or run["backbone_parameters"]
            cells += [f"{run['options']['learning_rate']:g}", f"{weights:,}"]
            cells += [f"{run['seconds']:.0f}", f"{run['peak_memory_mib']:,}"]
        else:
            cells += [""] * 4
        lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def tasks_table(folder: str | None, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Accuracies on multiple-choice tasks, where {model}.json of them are in `folder`.

    `tasks`: their names; `rows`: a model each, with its method and its headline accuracies, a task each or None;
    `flat`: all accuracies as plain rows; `skipped`: why a task was left out.
    """
    models = {"backbone": None} | {run["name"]: run["run"]["method"] for run in runs}
    paths = {model: Path(folder or "", f"{model}.json") for model in models}
    found = {model: read_json(path) for model, path in paths.items() if folder and path.exists()}
    tasks = list(dict.fromkeys(task for measured in found.values() for task in measured["tasks"]))
    return {
        "tasks": tasks,
        "rows": [
            {
                "model": model,
                "method": models[model],
                "cells": [_headline(measured["tasks"].get(t)) for t in tasks],
            }
            for model, measured in found.items()
        ],
        "flat": [
            {"model": model, "task": task, "count": entry["count"], "metric": metric, "accuracy": accuracy}
            | {"stderr": entry["stderr"][metric], "headline": metric == entry["metric"]}
            for model, measured in found.items()
            for task, entry in measured["tasks"].items()
            for metric, accuracy in entry["accuracy"].items()
        ],
        "skipped": {task: why for measured in found.values() for task, why in measured["skipped"].items()},
    }


def _headline(task: dict[str, Any] | None) -> dict[str, Any] | None:
    """Accuracy and standard error under the task's own metric."""
    if task is None:
        return None
    own = {name: task[name][task["metric"]] for name in ("accuracy", "stderr")}
    return own | {"metric": task["metric"], "count": task["count"]}


def paper_tables(folder: str | None) -> list[dict[str, str]]:
    """The paper's tables and figures, if their targets were made: `title`, `html` of the Markdown, and
    as `data:` URIs `image` and `csv`.

    Files are left out beyond PAPER_BYTES in all, so that the page stays small.
    """
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "link", "autolink"])
    found, room = [], PAPER_BYTES
    for path in sorted(Path(folder).glob("*.md")) if folder else []:
        title, _, text = path.read_text(encoding="utf-8").partition("\n")
        entry = {"name": path.stem, "title": title.lstrip("# "), "html": markdown.render(text)}
        for name, suffix, kind in (("image", ".png", "image/png"), ("csv", ".csv", "text/csv")):
            file = path.with_suffix(suffix)
            if file.exists() and file.stat().st_size <= room:
                room -= file.stat().st_size
                entry[name] = f"data:{kind};base64," + base64.b64encode(file.read_bytes()).decode()
        found.append(entry)
    return found


def summary(table: list[dict[str, Any]], forgetting: str, learning: str) -> str:
    """The result in two sentences: the first neutral run against the first of each other method."""
    by_method = {row["run"]["method"]: row for row in reversed(table[1:])}
    neutral = by_method.get("neutral")
    if not neutral:
        return ""
    text = (
        f"Neutral residues change {forgetting} by {signed(neutral['change'][forgetting])} bits per byte "
        f"and {learning} by {signed(neutral['change'][learning])}."
    )
    for method in ("finetune", "adapter"):
        other = by_method.get(method)
        if other and other["change"][learning] < 0:
            share = neutral["change"][learning] / other["change"][learning]
            text += (
                f" They keep {share:.0%} of what {method} learns"
                f" ({method}: {signed(other['change'][forgetting])} and {signed(other['change'][learning])})."
            )
    return text


def evaluation_points(runs: list[dict[str, Any]], domain: str) -> list[dict[str, Any]]:
    return [
        named(run) | {"step": line["step"], "bpb": line["evaluation"][domain]["bpb"]}
        for run in runs
        for line in run["metrics"]
        if "evaluation" in line
    ]


def loss_points(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The training loss at about a hundred steps of each run."""
    points = []
    for run in runs:
        lines = [line for line in run["metrics"] if "loss" in line]
        every = max(1, len(lines) // 100)
        points += [named(run) | {"step": x["step"], "loss": x["loss"]} for x in lines[::every]]
    return points


def gate_points(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        named(run) | {"step": line["step"], "tokens": f"{kind} tokens", "gate": line[f"gate_{kind}"]}
        for run in runs
        if run["run"]["method"] == "neutral"
        for line in run["metrics"]
        for kind in ("old", "new")
        if line.get(f"gate_{kind}") is not None
    ]


def pretraining_points(backbone: str) -> list[dict[str, Any]]:
    """The backbone's own validation curves, a line a domain; empty where it was not pretrained here."""
    path = Path(backbone) / "metrics.jsonl"
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        {"domain": domain, "step": line["step"], "bpb": measure["bpb"]}
        for line in lines
        for domain, measure in line.get("evaluation", {}).items()
    ]


def funnel_points(ledgers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Shares of what each stage kept and dropped: pages for extract, paragraphs for the others."""
    points = []
    for ledger in ledgers:
        unit = "paragraphs" if ledger["in"]["paragraphs"] else "documents"
        outcomes = {"kept": ledger["kept"], **ledger["dropped"], **ledger["failed"]}
        for order, (outcome, counts) in enumerate(outcomes.items()):
            if ledger["in"][unit]:
                points.append(
                    {
                        "stage": ledger["stage"],
                        "outcome": outcome.replace("_", " "),
                        "order": order,
                        "amount": counts[unit],
                        "unit": unit,
                        "share": counts[unit] / ledger["in"][unit],
                    }
                )
    return points


def language_points(corpus: dict[str, Any]) -> list[dict[str, Any]]:
    found = corpus["ledgers"][0]["languages"]
    top = sorted(found.items(), key=lambda item: (-item[1]["documents"], item[0]))[:20]
    return [
        {
            "language": code,
            "documents": c["documents"],
            "wanted": "kept" if code in corpus["languages"] else "not wanted",
        }
        for code, c in top
    ]


def quality_points(paths: list[str]) -> list[dict[str, Any]]:
    """The curve of each trained classifier, and its threshold among them; a ready-made one has no curve."""
    return [
        {"language": report["language"], "chosen": point is report["chosen"], **point}
        for report in map(read_json, paths)
        for point in (*report["curve"], report["chosen"])
        if point["recall"]
    ]


def generations(base: dict[str, Any], runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each prompt, what each model wrote."""
    found: dict[str, list[dict[str, str]]] = defaultdict(list)
    for name, evaluation in [("backbone", base), *((r["name"], r["evaluation"]) for r in runs)]:
        for text in evaluation["generations"]:
            found[text["prompt"]].append({"model": name, "text": text["continuation"]})
    return [{"prompt": prompt, "texts": texts} for prompt, texts in found.items()]
