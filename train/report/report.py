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
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pipeline.common.config import to_data
from pipeline.common.files import atomic, read_json, write_text
from pipeline.common.shown import data_without_secrets, without_secrets
from pipeline.common.yaml_file import load_yaml
from pipeline.corpus.order import as_they_ran
from pipeline.plan import compare_with_real
from pipeline.workflow.layout import BACKBONE, SOURCE, Layout
from train.report.colours import THEMES
from train.report.options import Report
from train.runs.origin import backbone_record, public_origin
from train.runs.record import SettlingRecord
from train.runs.results import read_evaluation, read_speed, read_task_scores

if TYPE_CHECKING:
    from train.report.figures import Figure
    from train.report.points import Point, Points


def write_report(
    options: Report,
    folder: str,
    runs: list[str],
    quality: list[str],
    tasks: list[str],
    forgetting: str,
    learning: str,
    new: str | None,
    config_files: list[str],
    domains: list[str],
    control: str | None = None,
) -> None:
    """Write into a result folder the page, Figure 1 as `figure1.png` and the table as `results.md`.

    runs: their names, in the order to show them. quality: languages with a classifier. tasks: those that were
    asked. learning: the domain that measures the runs whose new domain is `new`; another one measures itself.
    domains: as DOMAIN=LANGUAGE, those whose tokens are counted.
    control: the run that trained on the replay alone; it is in the table, and not among those that learned.
    What is no stage of the workflow is shown if it is there: the paper's tables, and a prediction (`pipeline
    plan`) beside what was real. Raises StageError where a file of a stage is missing or damaged.
    """
    import vl_convert

    from train.report import charts, results
    from train.report.control import against_control, settling
    from train.report.corpus_points import reason_rows
    from train.report.figures import corpus_figures, curve_name, model_figures
    from train.report.markdown import markdown_results
    from train.report.over_tokens import over_tokens
    from train.report.settings import axes, load_result, paired_domains, settings_of
    from train.report.summary import comparisons, summary
    from train.report.tasks import tasks_table
    from train.report.tokens import about_tokens, bytes_per_token, read_domains, token_counts

    out = Layout(folder)
    models = [load_result(out, name) for name in runs]
    base = read_evaluation(out.evaluation(BACKBONE))
    corpus = read_json(out.stats)
    # Statistics of an older version name the quality filter where it was off.
    corpus |= {"ledgers": as_they_ran(corpus["ledgers"], scored=bool(quality))}
    classifiers = [read_json(out.quality_report(language)) for language in quality]
    training = backbone_record(out.backbone)
    settled = training if isinstance(training, SettlingRecord) else None
    source = read_evaluation(out.evaluation(SOURCE)) if settled else None
    asked = [*([SOURCE] if source else []), BACKBONE, *runs] if tasks else []
    scores = tasks_table({name: read_task_scores(out.task_scores(name)) for name in asked}, models)
    languages = axes([model for model in models if model.name != control], learning, new or learning)
    bpb = paired_domains(base, models, [forgetting, *(axis.learning for axis in languages)], source)
    table = results.results_table(base, models, languages, forgetting, bpb, source, control)
    *sentences, about_intervals = summary(languages, forgetting, bpb, base)
    sentences += against_control(control, languages, forgetting, bpb) if control else []
    sentences += [settling(public_origin(out.backbone)["name"], settled.tokens, bpb)] if settled else []
    sentences.append(about_intervals)
    curves_said = over_tokens(languages, forgetting)
    learned = [axis.learning for axis in languages]
    language_of = read_domains(domains)
    counts = token_counts(out, language_of)
    tokens_said = about_tokens(counts, forgetting, learned)
    compared = [comparisons(axis, forgetting, bpb, control) for axis in languages]
    seeds = results.spreads(languages, bpb)
    settings = [settings_of(axis.runs) for axis in languages]
    times = stage_times(out, {ledger["stage"] for ledger in corpus["ledgers"]}, {SOURCE, BACKBONE, *runs})
    # Results of a GPU that was lent come without.
    speeds = [read_speed(path) for name in runs if Path(path := out.speed(name)).exists()]
    figures = {
        **model_figures(models, out.backbone, languages, forgetting, bpb, speeds, language_of, control),
        **corpus_figures(corpus, classifiers, times),
    }
    write_page(
        out.report,
        {
            "title": options.title,
            "summary": sentences,
            "forgetting": forgetting,
            "languages": languages,
            "learned": learned,
            "curves": {domain: curve_name(domain, bpb) for domain in bpb},
            "curves_said": curves_said,
            "table": table,
            "control": control,
            "controlled": [row for row in table if row.control],
            "compared": [(axis.learning, rows) for axis, rows in zip(languages, compared, strict=True) if rows],
            "compared_data": data_link([row for rows in compared for row in results.flat_comparisons(rows)]),
            "seeds": seeds,
            "rates": any(len(own) > len({each.family for each in own}) for own in settings),
            "table_data": data_link(results.flat_table(table)),
            "domains": list(dict.fromkeys([forgetting, *(axis.learning for axis in languages), *base.domains])),
            "methods": list(dict.fromkeys(model.record.method for model in models)),
            "tasks": scores,
            "tasks_data": data_link(scores.flat),
            "paper": results.paper_tables(out),
            "corpus": corpus,
            "tokens": counts,
            "bytes_per_token": bytes_per_token(counts),
            "tokens_said": tokens_said,
            "quality": classifiers,
            "reasons": reason_rows(corpus["ledgers"]),
            "devices": list(dict.fromkeys(model.record.device.replace("cpu", "the CPU") for model in models)),
            "generations": results.generations(base, models, source),
            "runs": models,
            "training": training,
            "settled": settled is not None,
            "configs": {path: config_text(path) for path in config_files},
            "times": times,
            "themes": THEMES,
            "plan": compare_with_real(read_json(out.plan), folder) if Path(out.plan).exists() else [],
            "versions": versions(),
            "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        },
        figures,
    )
    png = vl_convert.vegalite_to_png(charts.for_print(figures["trade_off"].chart), scale=2)
    with atomic(out.figure) as part:
        part.write_bytes(png)
    said = [*sentences[:-1], *curves_said, *tokens_said, sentences[-1]]
    write_text(
        out.results,
        markdown_results(said, table, [rows for rows in compared if rows], seeds, scores, forgetting, counts),
    )


def write_page(output: str, content: dict[str, Any], figures: dict[str, Figure]) -> None:
    """Render the template with `content` and the figures (train/report/figures.py).

    The page runs its own two scripts and no other: their hashes are in its Content-Security-Policy.
    """
    import jinja2
    import vl_convert

    from train.report import words

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    named = (
        words.amount,
        words.counted,
        words.ends,
        words.is_noise,
        words.share,
        words.signed,
        words.took,
        words.a_token,
        words.plain,
        words.plain_ends,
        to_data,
    )
    environment.filters |= {function.__name__: function for function in named}
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


def config_text(path: str) -> str:
    """A config as it was written; where it has secrets, what it says without them, as JSON.

    A text may hide them from those who look for addresses: by escapes, or by a line that goes on in the next.
    """
    text, data = Path(path).read_text(encoding="utf-8"), load_yaml(path)
    known = data_without_secrets(data)
    if known == data and without_secrets(text) == text:
        return text
    return json.dumps(known, ensure_ascii=False, indent=1)


def data_link(rows: Points) -> str:
    """A `data:` URI of the rows as CSV, with a column for each key of any row.

    >>> data_link([{"a": 1}, {"a": 2, "b": "x"}])
    'data:text/csv;charset=utf-8,a,b%0A1,%0A2,x%0A'
    """
    file = io.StringIO()
    writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return "data:text/csv;charset=utf-8," + quote(file.getvalue(), safe=",;:/ ").replace(" ", "%20")


# The stage of the corpus that a rule is of, where it may be off; and the rules that have a job for each model.
OPTIONAL = {"filter": "filter", "decontaminate_index": "filter", "quality_train": "quality"}
OPTIONAL |= dict.fromkeys(("near_hash", "near_reduce", "near_apply"), "near")
OF_MODELS = ("extend", "evaluate", "tasks", "export")


def stage_times(out: Layout, stages: set[str] | None = None, models: set[str] | None = None) -> Points:
    """Wall seconds, jobs and peak memory in MiB of each rule, from Snakemake's benchmark files.

    stages, models: without those of other stages of the corpus and of other models, which an earlier config had.
    """
    found: dict[str, Point] = {}
    for path in out.files(out.benchmark("**/*")):
        name = path.relative_to(out.benchmarks).parts[0].removesuffix(".tsv")
        if stages is not None and OPTIONAL.get(name, name) not in stages and name in OPTIONAL:
            continue
        if models is not None and name in OF_MODELS and path.stem not in models:
            continue
        total = found.setdefault(name, {"stage": name, "jobs": 0, "seconds": 0.0, "memory": 0.0})
        with path.open(encoding="utf-8") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                total["jobs"] += 1
                total["seconds"] += float(row["s"])
                total["memory"] = max(total["memory"], float(row["max_rss"]) if row["max_rss"] != "-" else 0.0)
    return sorted(found.values(), key=lambda stage: -stage["seconds"])


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
