"""The report: one self-contained HTML page that shows what was made, what was lost, and what it is worth.

Everything comes from the files of the stages. Crawled text is hostile: the template escapes all of it, and
the page makes no request of its own.
"""

from __future__ import annotations

import csv
import importlib.metadata
import json
import platform
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
    """Write the page, and beside it Figure 1 as `figure1.png` and the table as `results.md`."""
    import jinja2
    import vl_convert

    from train import charts, results

    found = [
        results.load_run_results(run, evaluation) for run, evaluation in zip(runs, evaluations[1:], strict=True)
    ]
    base = read_json(evaluations[0])
    corpus = read_json(stats)
    table = results.results_table(base, found, forgetting, learning)
    figure = charts.trade_off(results.trade_off_points(found, forgetting, learning), forgetting, learning)
    specs = {
        "trade_off": figure,
        "funnel": charts.funnel(results.funnel_points(corpus["ledgers"]), [x["stage"] for x in corpus["ledgers"]]),
        "languages": charts.languages(results.language_points(corpus)),
        "learning": charts.curves(results.evaluation_points(found, learning), "bpb", f"{learning}, bits per byte"),
        "forgetting": charts.curves(
            results.evaluation_points(found, forgetting), "bpb", f"{forgetting}, bits per byte"
        ),
        "loss": charts.curves(results.loss_points(found), "loss", "training loss, nats per token"),
    }
    if gate := results.gate_points(found):
        specs["gates"] = charts.gates(gate)
    if pretraining := results.pretraining_points(backbone):
        specs["pretraining"] = charts.pretraining(pretraining)
    if quality:
        specs["precision_recall"] = charts.precision_recall(results.quality_points(quality))
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
        summary=results.summary(table, forgetting, learning),
        forgetting=forgetting,
        learning=learning,
        table=table,
        others=[name for name in base["domains"] if name not in (forgetting, learning)],
        # "</" would end the script element that holds the data, whatever JSON says.
        specs={name: json.dumps(chart.to_dict()).replace("<", "\\u003c") for name, chart in specs.items()},
        vega=vega.replace("</script", "<\\/script"),
        corpus=corpus,
        quality=[read_json(path) for path in quality],
        generations=results.generations(base, found),
        runs=found,
        training=pretrained_here(backbone),
        config=Path(config_file).read_text(encoding="utf-8") if config_file else "",
        times=times,
        versions=versions(),
        machine=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    )
    png = vl_convert.vegalite_to_png(charts.for_print(figure), scale=2)
    with atomic(Path(output).with_name("figure1.png")) as part:
        part.write_bytes(png)
    write_text(Path(output).with_name("results.md"), results.markdown_table(table))
    write_text(output, page)


def pretrained_here(backbone: str) -> dict[str, Any] | None:
    """What pretraining wrote down, or None for a backbone from elsewhere."""
    path = Path(backbone) / "training.json"
    return read_json(path) if path.exists() else None


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
