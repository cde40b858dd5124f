"""The report: one self-contained HTML page that shows what was made, what was lost, and what it is worth.

Everything comes from the files of the stages. Crawled text is hostile: the template escapes all of it, and
the page makes no request of its own.
"""

from __future__ import annotations

import csv
import importlib.metadata
import json
import platform
from collections import defaultdict
from pathlib import Path
from typing import Any

from pipeline.files import atomic, read_json, write_text
from train.options import Report


def write_report(
    options: Report,
    stats: str,
    quality: list[str],
    backbone: str,
    runs: list[str],
    evaluations: list[str],
    forgetting: str,
    learning: str,
    config_file: str | None,
    benchmarks: str | None,
    output: str,
) -> None:
    """Write the page, and Figure 1 beside it as `figure1.png`."""
    import jinja2
    import vl_convert

    from train import charts

    found = [load_run_results(run, evaluation) for run, evaluation in zip(runs, evaluations[1:], strict=True)]
    base = read_json(evaluations[0])
    corpus = read_json(stats)
    table = results_table(base, found, forgetting, learning)
    figure = charts.trade_off(trade_off_points(found, forgetting, learning), forgetting, learning)
    specs = {
        "trade_off": figure,
        "funnel": charts.funnel(funnel_points(corpus["ledgers"]), [x["stage"] for x in corpus["ledgers"]]),
        "languages": charts.languages(language_points(corpus)),
        "learning": charts.curves(evaluation_points(found, learning), "bpb", f"{learning}, bits per byte"),
        "forgetting": charts.curves(evaluation_points(found, forgetting), "bpb", f"{forgetting}, bits per byte"),
        "loss": charts.curves(loss_points(found), "loss", "training loss, nats per token"),
    }
    if gate := gate_points(found):
        specs["gates"] = charts.gates(gate)
    if pretraining := pretraining_points(backbone):
        specs["pretraining"] = charts.pretraining(pretraining)
    if quality:
        specs["precision_recall"] = charts.precision_recall(quality_points(quality))
    times = stage_times(benchmarks)
    if times:
        specs["durations"] = charts.durations(times)
    vega: str = vl_convert.javascript_bundle()  # type: ignore[call-arg]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        title=options.title,
        summary=summary(table, forgetting, learning),
        forgetting=forgetting,
        learning=learning,
        table=table,
        others=[name for name in base["domains"] if name not in (forgetting, learning)],
        # "</" would end the script element that holds the data, whatever JSON says.
        specs={name: json.dumps(chart.to_dict()).replace("<", "\\u003c") for name, chart in specs.items()},
        vega=vega.replace("</script", "<\\/script"),
        corpus=corpus,
        quality=[read_json(path) for path in quality],
        generations=generations(base, found),
        runs=found,
        training=read_json(Path(backbone) / "training.json")
        if (Path(backbone) / "training.json").exists()
        else None,
        config=Path(config_file).read_text(encoding="utf-8") if config_file else "",
        times=times,
        versions=versions(),
        machine=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    )
    png = vl_convert.vegalite_to_png(charts.for_print(figure), scale=2)
    with atomic(Path(output).with_name("figure1.png")) as part:
        part.write_bytes(png)
    write_text(output, page)


# What the charts and tables show ------------------------------------------------------------------


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


def summary(table: list[dict[str, Any]], forgetting: str, learning: str) -> str:
    """The result in two sentences, for each neutral run against the others."""
    by_method = {row["run"]["method"]: row for row in table[1:]}
    neutral = by_method.get("neutral")
    if not neutral:
        return ""
    text = (
        f"Neutral residues change {forgetting} by {neutral['change'][forgetting]:+.3f} bits per byte "
        f"and {learning} by {neutral['change'][learning]:+.3f}."
    )
    for method in ("finetune", "adapter"):
        other = by_method.get(method)
        if other and other["change"][learning] < 0:
            share = neutral["change"][learning] / other["change"][learning]
            text += (
                f" They keep {share:.0%} of what {method} learns"
                f" ({method}: {other['change'][forgetting]:+.3f} and {other['change'][learning]:+.3f})."
            )
    return text


def trade_off_points(runs: list[dict[str, Any]], forgetting: str, learning: str) -> list[dict[str, Any]]:
    """Every evaluation during training of every run, all on the same rows; step 0 is the backbone."""
    points = []
    for run in runs:
        evaluated = [line for line in run["metrics"] if "evaluation" in line]
        for line in evaluated:
            points.append(
                _named(run)
                | {
                    "rate": run["run"]["options"]["learning_rate"],
                    "step": line["step"],
                    "forgetting": line["evaluation"][forgetting]["bpb"],
                    "learning": line["evaluation"][learning]["bpb"],
                    "final": line is evaluated[-1],
                }
            )
    backbone = {"model": "backbone", "method": "backbone", "rate": 0, "final": True}
    return [points[0] | backbone, *points]


def _named(run: dict[str, Any]) -> dict[str, Any]:
    return {"model": run["name"], "method": run["run"]["method"]}


def evaluation_points(runs: list[dict[str, Any]], domain: str) -> list[dict[str, Any]]:
    return [
        _named(run) | {"step": line["step"], "bpb": line["evaluation"][domain]["bpb"]}
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
        points += [_named(run) | {"step": x["step"], "loss": x["loss"]} for x in lines[::every]]
    return points


def gate_points(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"model": run["name"], "step": line["step"], "tokens": f"{kind} tokens", "gate": line[f"gate_{kind}"]}
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
    reports = [read_json(path) for path in paths]
    return [
        {"language": report["language"], **point}
        for report in reports
        for point in report["curve"]
        if point["recall"]
    ]


def generations(base: dict[str, Any], runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each prompt, what each model wrote."""
    found: dict[str, list[dict[str, str]]] = defaultdict(list)
    for name, evaluation in [("backbone", base), *((r["name"], r["evaluation"]) for r in runs)]:
        for text in evaluation["generations"]:
            found[text["prompt"]].append({"model": name, "text": text["continuation"]})
    return [{"prompt": prompt, "texts": texts} for prompt, texts in found.items()]


def stage_times(benchmarks: str | None) -> list[dict[str, Any]]:
    """Wall seconds, jobs and peak memory of each rule, from Snakemake's benchmark files."""
    if not benchmarks or not Path(benchmarks).is_dir():
        return []
    stages: dict[str, dict[str, Any]] = {}
    for path in sorted(Path(benchmarks).rglob("*.tsv")):
        name = path.relative_to(benchmarks).parts[0].removesuffix(".tsv")
        total = stages.setdefault(name, {"stage": name, "jobs": 0, "seconds": 0.0, "memory": 0.0})
        with path.open(encoding="utf-8") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                total["jobs"] += 1
                total["seconds"] += float(row["s"])
                total["memory"] = max(total["memory"], float(row["max_rss"]) if row["max_rss"] != "-" else 0.0)
    return sorted(stages.values(), key=lambda stage: -stage["seconds"])


def versions() -> dict[str, str]:
    names = (
        "neutral-residues",
        "torch",
        "transformers",
        "peft",
        "fastwarc",
        "resiliparse",
        "fasttext-community",
        "pyarrow",
        "dask",
        "snakemake",
    )
    return {name: importlib.metadata.version(name) for name in names}
