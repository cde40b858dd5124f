"""What a corpus will cost, before anybody pays: core-hours, time, disk and transfer, from what a run has measured.

The rates come from the `benchmark:` files of an earlier run, or of a calibration: the same workflow on a few of
the WARCs. Each stage's work is taken to be in proportion to the archives' bytes, beyond the start of each job.
"""

from __future__ import annotations

import glob
import math
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pipeline.common.config import ConfigError, option, read
from pipeline.common.engine import Engine
from pipeline.common.errors import StageError
from pipeline.common.files import read_json, write_json
from pipeline.common.yaml_file import load_yaml
from pipeline.corpus.options import Filter, Near, Quality
from pipeline.crawl.commoncrawl import RECORDS, archives
from pipeline.crawl.manifest import batches
from pipeline.crawl.options import Crawl, Sample
from pipeline.network.urls import is_url
from pipeline.workflow.benchmark_files import core_seconds, number, read_rows
from pipeline.workflow.fingerprint import ROOT
from pipeline.workflow.freed import archive_bytes, read_freed, written
from pipeline.workflow.layout import Layout

DOCUMENTS = ("near_apply", "filter", "dedup_apply")  # who writes what quality_train reads: the last that runs
ONCE = ("dedup_reduce", "near_reduce", "quality_train", "card")
START_SECONDS = 1.0  # of a job, most of it imports: docs/benchmarks/scale.md
READ_RATE = 100e6  # bytes/s of documents that quality_train reads, twice
ASSUMPTIONS = (
    f"each job takes {START_SECONDS:g} s to start; beyond that, work and files grow with the archives",
    "stages follow each other; their jobs fill the cores in turns of equal length",
    "core-seconds of a job: its CPU time, or its wall time where that was not measured; disks are fast enough",
    "duplicates grow with a crawl, so that files after dedup are at most what is said here",
    "dedup_reduce and near_reduce are one job each; quality_train reads everything twice, but trains on "
    "max_examples at most",
)
LEFT_OUT = {
    "index": "NOT in the plan: crawl.index; `python -m pipeline index-plan` prints its records, bytes and time",
    "texts": "NOT in the plan: crawl.texts",
    "sample": "NOT in the plan: crawl.sample",
}


@dataclass(frozen=True)
class Measured:
    """A stage of an earlier run: its jobs, their core-seconds, the peak MiB of one, the bytes that it wrote."""

    jobs: int
    seconds: float
    memory: float
    written: int = 0
    examples: int = 0  # of quality_train


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What of a config decides the cost of the corpus."""

    output: str = option("results", "folder of all that the workflow makes", path=True)
    engine: Engine = option(Engine(), "where the batch stages run")
    sample: Sample = option(Sample(), "the sample crawl")
    crawl: Crawl = option(Crawl(), "the archives to read")
    filter: Filter = option(Filter(), "heuristic filters and decontamination")
    near: Near = option(Near(), "near-duplicates")
    quality: Quality = option(Quality(), "quality classifiers")


SECTIONS = {field.name for field in fields(Corpus)}


def plan(configfile: str, measured: str | None, calibrate: int, warc_bytes: int, cores: int, output: str) -> None:
    """Print the prediction as a table in Markdown, with what it assumes, and write it as JSON.

    Raises ConfigError where the config is wrong, StageError where nothing was measured.
    """
    data = load_yaml(configfile)
    training = training_cost(data, configfile)
    config = read(Corpus, {key: data[key] for key in SECTIONS & data.keys()}, configfile)
    crawl, out = config.crawl, Layout(config.output)
    entries = archives(crawl) if crawl.given else [out.samples(config.sample.files)]
    left_out = [LEFT_OUT[name] for name in LEFT_OUT if crawl.given and getattr(crawl, name)]
    entries = [part for part in entries if not part[0].startswith(RECORDS)]
    if not entries:
        raise StageError(f"{configfile}: {'; '.join(left_out)}; and it has nothing else")
    if measured is None:
        measured = run_calibration(data, entries, calibrate, cores, out.calibration)
    stages = measured_stages(measured)
    known = bytes_read(measured)
    sizes = [
        Path(warc).stat().st_size if Path(warc).is_file() else warc_bytes for part in entries for warc in part
    ]
    counts = [len(part) for part in batches(entries, crawl.warcs_per_job).values()]
    workers = min(config.engine.workers, cores)
    rows = predict(stages, sum(sizes) / known, counts, workers, cores, config.quality.max_examples)
    unmeasured = sorted(set(expected(config)).difference(stages))
    notes = [*ASSUMPTIONS, f"rates of {measured}: {known / 1e9:.3g} GB of archives", *left_out]
    if any(is_url(part[0]) for part in entries):
        notes.append("NOT in the plan: the time that transfers take")
    if unmeasured:
        notes.append(f"NOT in the plan, since that run had no such stage: {', '.join(unmeasured)}")
    prediction = {"warcs": len(sizes), "bytes": sum(sizes), "cores": cores, "stages": rows, "assumptions": notes}
    write_json(output or out.plan, prediction)
    print("\n".join(table(prediction)))
    print(f"\n## Training\n\n{training}")


def training_cost(data: dict[str, Any], configfile: str) -> str:
    """What `train cost` says of a config, or why it cannot; of one without training too.

    Raises ConfigError with all that is wrong with a config that has one.
    """
    command = [sys.executable, "-m", "train", "cost", f"--configfile={configfile}"]
    cost = subprocess.run(command, capture_output=True, text=True, check=False)
    if cost.returncode == 0:
        return cost.stdout
    _, _, problem = cost.stderr.strip().rpartition("train cost: ")  # behind what libraries log
    if problem.startswith(f"{configfile}: ") and {"backbone", "extend"} <= data.keys():
        raise ConfigError(problem)
    return f"NOT in the plan: {problem or f'it ended with status {cost.returncode}'}"


def outputs_by_stage(out: Layout) -> dict[str, list[str]]:
    """What each stage writes, by the name of its rule, in the order of the stages; those after shards run once."""
    return {
        "extract": [
            out.pages("*"),
            out.page_file("*/*"),
            out.ledger(out.page_file("*/*")),
            out.page_decisions("*/*"),
            out.decisions("extract", "*"),
        ],
        "dedup_hash": [out.hashes("*"), out.dedup_reduced],
        "dedup_apply": [out.documents("*"), out.ledger(out.documents("*")), out.decisions("dedup", "*")],
        "filter": [
            out.filtered("*"),
            out.ledger(out.filtered("*")),
            out.sets,
            out.sets_report,
            out.decisions("filter", "*"),
        ],
        "near_hash": [out.signatures("*")],
        "near_apply": [out.near("*"), out.ledger(out.near("*")), out.decisions("near", "*")],
        "shards": [out.shard("*", "*", "*"), out.shards_ledger("*"), out.decisions("quality", "*")],
        "dedup_reduce": [out.duplicates("*")],
        "near_reduce": [out.near_clusters],
        "quality_train": [out.quality_model("*"), out.quality_report("*")],
        "card": [out.card],
    }


def expected(config: Corpus) -> list[str]:
    """The stages that a config has."""
    off = {
        "filter": not config.filter.active,
        **dict.fromkeys(("near_hash", "near_reduce", "near_apply"), not config.near.enabled),
        "quality_train": not config.quality.positives and not config.quality.models,
    }
    return [stage for stage in outputs_by_stage(Layout("")) if not off.get(stage)]


def measured_stages(folder: str) -> dict[str, Measured]:
    """The stages of the corpus that the run in `folder` went through. Raises StageError where there is none."""
    out = Layout(folder)
    stages, freed = {}, read_freed(out)
    for stage, patterns in outputs_by_stage(out).items():
        benchmarks = [path for job in (stage, f"{stage}/*") for path in out.files(out.benchmark(job))]
        if rows := [row for path in benchmarks for row in read_rows(path)]:
            stages[stage] = Measured(
                jobs=len(rows),
                seconds=sum(map(core_seconds, rows)),
                memory=max(number(row["max_rss"]) for row in rows),
                written=written(out, freed, patterns),
                examples=_examples(out) if stage == "quality_train" else 0,
            )
    if "extract" not in stages:
        raise StageError(f"{folder}: no benchmarks/extract/*.tsv; name the output folder of a run of the workflow")
    return stages


def _examples(out: Layout) -> int:
    reports = map(read_json, out.files(out.quality_report("*")))
    return sum(count for report in reports for key in ("examples", "held_out") for count in report[key].values())


def bytes_read(folder: str) -> int:
    """Bytes of the archives that a run has read. Raises StageError where it has read none."""
    if total := sum(archive_bytes(Layout(folder)).values()):
        return total
    raise StageError(f"{folder}: no pages/*.json, or of empty archives; name the output folder of a whole run")


def predict(
    stages: dict[str, Measured], scale: float, batch_sizes: list[int], workers: int, cores: int, max_examples: int
) -> list[dict[str, Any]]:
    """For each stage jobs, core-seconds, seconds of wall time, bytes to write and the peak MiB measured.

    `scale`: bytes of the archives over those of the run that was measured; `batch_sizes`: WARCs of each job.
    """
    rows = []
    for stage, measured in stages.items():
        jobs = measured.jobs if stage == "quality_train" else 1 if stage in ONCE else len(batch_sizes)
        threads = workers if stage in ("extract", "dedup_reduce") else 1
        if stage == "extract":
            threads = min(threads, max(batch_sizes))
        work = max(0.0, measured.seconds - START_SECONDS * measured.jobs)
        seconds = START_SECONDS * jobs + work * scale
        if stage == "quality_train":
            most = 2 * max_examples * jobs / max(1, measured.examples)
            documents = next(stages[name].written for name in DOCUMENTS if name in stages)
            seconds = jobs * (START_SECONDS + 2 * documents * scale / READ_RATE) + work * min(scale, most)
        turns = math.ceil(jobs / max(1, cores // threads))
        size = measured.written if stage in ("quality_train", "card") else measured.written * scale
        rows.append(
            {
                "stage": stage,
                "jobs": jobs,
                "core_seconds": seconds,
                "wall_seconds": turns * seconds / jobs / threads,
                "bytes": round(size),
                "memory_mib": measured.memory,
            }
        )
    return rows


def table(prediction: dict[str, Any]) -> list[str]:
    """The lines of a prediction in Markdown."""
    stages = prediction["stages"]
    total = {key: sum(row[key] for row in stages) for key in ("jobs", "core_seconds", "wall_seconds", "bytes")}
    total |= {"stage": "all", "memory_mib": max(row["memory_mib"] for row in stages)}
    return [
        f"{prediction['warcs']:,} WARCs, {prediction['bytes'] / 1e9:,.3g} GB to transfer or read; "
        f"{prediction['cores']} cores",
        "",
        "| stage | jobs | core-hours | hours | files, GB | MiB a job, measured |",
        "|---|---:|---:|---:|---:|---:|",
        *(
            f"| {row['stage']} | {row['jobs']:,} | {row['core_seconds'] / 3600:,.3g} "
            f"| {row['wall_seconds'] / 3600:,.3g} | {row['bytes'] / 1e9:,.3g} | {row['memory_mib']:,.0f} |"
            for row in [*stages, total]
        ),
        "",
        *(f"- {note}" for note in prediction["assumptions"]),
    ]


def compare_with_real(prediction: dict[str, Any], folder: str) -> list[dict[str, Any]]:
    """For the report: each stage's predicted and real core-seconds and bytes; the real ones are None where the run
    in `folder` has not come so far."""
    try:
        real = measured_stages(folder)
    except StageError:
        real = {}
    rows = []
    for row in prediction["stages"]:
        done = real.get(row["stage"])
        rows.append(
            {
                "stage": row["stage"],
                "predicted_seconds": row["core_seconds"],
                "real_seconds": done.seconds if done else None,
                "predicted_bytes": row["bytes"],
                "real_bytes": done.written if done else None,
            }
        )
    return rows


# Calibration --------------------------------------------------------------------------------------


def run_calibration(data: dict[str, Any], entries: list[list[str]], count: int, cores: int, output: str) -> str:
    """Make the corpus of a few of the WARCs in the folder `output`, which is returned; a second time does nothing.

    Raises StageError where that fails.
    """
    # JSON, in which Snakemake looks for no Python to run, as it does in YAML that says __use_yte__.
    config = Path(output, "config.json")
    config.parent.mkdir(parents=True, exist_ok=True)
    write_json(config, calibration(data, entries, count, output))
    snakemake = [sys.executable, "-m", "snakemake", f"--snakefile={ROOT}/Snakefile", f"--configfile={config}"]
    words = ["--cores", str(cores), "--nolock", "--", Layout(output).stats]
    done = subprocess.run([*snakemake, *words], stdout=sys.stderr, check=False)
    config.unlink()  # it has the signatures of signed URLs
    if done.returncode:
        raise StageError(f"the calibration in {output} failed (see above); try more WARCs, or give --measured")
    return output


def calibration(data: dict[str, Any], entries: list[list[str]], count: int, output: str) -> dict[str, Any]:
    """The config with `count` of its WARCs, evenly spread, one a job."""
    warcs = [warc for part in entries for warc in part if is_url(warc) or Path(warc).is_file()]
    if not warcs:
        raise StageError(
            "none of the WARCs is here yet, so none can be tried; give --measured, the output of an earlier run"
        )
    step = max(1.0, len(warcs) / count)
    chosen = [warcs[int(i * step)] for i in range(min(count, len(warcs)))]
    chosen = [warc if is_url(warc) else glob.escape(warc) for warc in chosen]
    return data | {"output": output, "crawl": {"warcs": chosen, "warcs_per_job": 1}}
