"""The report: one self-contained HTML page that shows what was made, what was lost, and what it is worth.

Everything comes from the files of the stages. Crawled text is hostile: the template escapes all of it, and
the page makes no request of its own.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import io
import json
import platform
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipeline.common.files import atomic, read_json, write_text
from pipeline.plan import compare
from train.report.options import Report


def write_report(
    options: Report,
    stats: str,
    quality: list[str],
    backbone: str,
    runs: list[str],
    evaluations: list[str],
    speeds: list[str],
    forgetting: str,
    learning: str,
    config_files: list[str],
    benchmarks: str | None,
    tasks: str | None,
    paper: str | None,
    output: str,
    plan: str | None = None,
) -> None:
    """Write the page, and beside it Figure 1 as `figure1.png` and the table as `results.md`.

    evaluations: the backbone's first. speeds: of the runs, in their order, or none. tasks, paper: folders of
    results that are shown if they are there. plan: a prediction (pipeline plan), shown beside what was real.
    """
    import vl_convert

    from train.report import charts, results
    from train.report.figures import corpus_figures, model_figures

    found = [
        results.load_run_results(run, evaluation) for run, evaluation in zip(runs, evaluations[1:], strict=True)
    ]
    base = read_json(evaluations[0])
    corpus = read_json(stats)
    table = results.results_table(base, found, forgetting, learning)
    answers = results.tasks_table(tasks, found)
    times = stage_times(benchmarks)
    figures = {
        **model_figures(found, backbone, forgetting, learning, [read_json(path) for path in speeds]),
        **corpus_figures(corpus, quality, times),
    }
    write_page(
        output,
        {
            "title": options.title,
            "summary": results.summary(table, forgetting, learning),
            "forgetting": forgetting,
            "learning": learning,
            "table": table,
            "table_data": data_link(results.flat_table(table)),
            "others": [name for name in base["domains"] if name not in (forgetting, learning)],
            "methods": list(dict.fromkeys(run["run"]["method"] for run in found)),
            "tasks": answers,
            "tasks_data": data_link(answers["flat"]),
            "paper": results.paper_tables(paper),
            "corpus": corpus,
            "quality": [read_json(path) for path in quality],
            "generations": results.generations(base, found),
            "runs": found,
            "training": pretrained_here(backbone),
            "configs": {path: Path(path).read_text(encoding="utf-8") for path in config_files},
            "times": times,
            "plan": compare(read_json(plan), str(Path(output).parent)) if plan and Path(plan).exists() else [],
            "versions": versions(),
            "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        },
        figures,
    )
    png = vl_convert.vegalite_to_png(charts.for_print(figures["trade_off"].chart), scale=2)
    with atomic(Path(output).with_name("figure1.png")) as part:
        part.write_bytes(png)
    write_text(Path(output).with_name("results.md"), results.markdown_table(table))


def write_page(output: str, content: dict[str, Any], figures: dict[str, Any]) -> None:
    """Render the template with `content` and the figures (train/report/figures.py).

    The page runs its own two scripts and no other: their hashes are in its Content-Security-Policy.
    """
    import jinja2
    import vl_convert

    from train.report.results import signed

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["signed"] = signed
    vega: str = vl_convert.javascript_bundle()  # type: ignore[call-arg]
    scripts = [vega.replace("</script", "<\\/script"), (Path(__file__).parent / "report.js").read_text()]
    page = environment.get_template("report.html.j2").render(
        content,
        figures=figures,
        data={name: data_link(figure.points) for name, figure in figures.items()},
        # "</" would end the element that holds the data, whatever JSON says.
        specs=json.dumps({name: figure.chart.to_dict() for name, figure in figures.items()}).replace(
            "<", "\\u003c"
        ),
        scripts=scripts,
        hashes=[base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts],
    )
    write_text(output, page)


def data_link(rows: list[dict[str, Any]]) -> str:
    """A `data:` URI of the rows as CSV, under the union of their keys."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return "data:text/csv;charset=utf-8," + quote(file.getvalue(), safe=",;:/ ").replace(" ", "%20")


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
