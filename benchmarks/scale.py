"""What a larger crawl costs: the plan of the workflow at 1,000, 10,000 and 90,000 WARCs, and each stage of the
corpus on 1, 4 and 16 times the same number of pages.

    python -m benchmarks.scale --output docs/benchmarks/scale

The plan is Snakemake's dry-run of everything on empty files. The stages run on real pages in 23 languages, all of
which are kept, each stage in a process of its own on one core. Beside the table is a plot, both axes logarithmic.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from benchmarks.crawl import CRAWLS
from benchmarks.report import write
from pipeline.common.files import read_json
from pipeline.corpus.options import RULE_GROUPS
from pipeline.crawl.options import Sample
from pipeline.crawl.sample import choose, fetch_language_model, write_crawl

MANIFESTS = (1_000, 10_000, 90_000)
TIMES = (1, 4, 16)
LANGUAGES = [
    *("en", "fr", "de", "cs", "da", "el", "es", "et", "eu", "fi", "hi", "hu", "it", "ja", "ko", "nl", "pl", "pt"),
    *("ru", "sv", "tr", "vi", "zh"),
]
LAUNCH = """
import json, resource, subprocess, sys, time
started = time.perf_counter()
status = subprocess.run(sys.argv[1:], stdout=sys.stderr).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
wall = time.perf_counter() - started
print(json.dumps({"wall s": wall, "CPU s": used.ru_utime + used.ru_stime, "peak MiB": used.ru_maxrss / 1024}))
sys.exit(status)
"""


def measured(command: list[str]) -> dict[str, float]:
    """Wall and CPU seconds and peak memory of a command and the processes that it waits for.

    Growth is by CPU time: other work on the machine changes wall time more. It is started by a small process,
    since a child's peak counts from its parent's size.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH, *command], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)[:200]} failed:\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def plans(folder: Path) -> Iterator[dict[str, Any]]:
    for count in MANIFESTS:
        for number in range(count):
            path = folder / f"{count}/segment-{number // 900:03d}/{number:05d}.warc.gz"
            if number % 900 == 0:
                path.parent.mkdir(parents=True)
            path.touch()
        config = yaml.safe_load(Path("configs/test.yaml").read_text())
        config |= {"output": str(folder / f"out-{count}"), "crawl": {"warcs": [f"{folder}/{count}/**/*.warc.gz"]}}
        file = folder / f"{count}.yaml"
        file.write_text(yaml.safe_dump(config))
        command = [sys.executable, "-m", "snakemake", "-n", "--quiet", "all", "--nolock"]
        yield {"what": "dry-run", "size": count, "of": "WARCs"} | measured([*command, "--configfile", str(file)])


def stages(folder: Path) -> Iterator[dict[str, Any]]:
    records = []
    for source, count in CRAWLS["mixed"].items():
        records += choose(source, Sample(pages_per_source=count))
    warcs = [str(folder / f"{number:02d}.warc.gz") for number in range(max(TIMES))]
    write_crawl(records, 0, warcs)
    model = str(folder / "lid.176.ftz")
    fetch_language_model(model, "downloads")
    for times in TIMES:
        yield from corpus(folder / f"{times}", warcs[:times], model)


def corpus(out: Path, warcs: list[str], model: str) -> Iterator[dict[str, Any]]:
    """Every stage between WARCs and shards, but for the classifier, whose examples are of a fixed number."""
    book = ["--ledger", f"{out}/ledger.json"]
    documents, near = f"{out}/documents.arrow", ["--no-enabled", "--permutations", "128"]
    filtered, kept = f"{out}/filtered.arrow", f"{out}/near.arrow"
    commands = {
        "extract": ["--warcs", *warcs, "--language-id", model, "--output", f"{out}/pages.json",
                    "--languages", *LANGUAGES, *book],
        "dedup-hash": ["--pages", f"{out}/pages.json", "--output", f"{out}/hashes/0.arrow"],
        "dedup-reduce": ["--hashes", f"{out}/hashes/0.arrow", "--output", f"{out}/duplicates",
                         "--index", f"{out}/index.arrow"],
        "dedup-apply": ["--pages", f"{out}/pages.json", "--duplicates", f"{out}/duplicates/0.arrow",
                        "--output", documents, *book],
        "filter": ["--documents", documents, "--output", filtered, "--rules", *RULE_GROUPS, *book],
        "near-hash": ["--documents", documents, "--output", f"{out}/near.npy", *near],
        "near-reduce": ["--signatures", f"{out}/near.npy", "--documents", documents,
                        "--output", f"{out}/duplicates.npy", "--clusters", f"{out}/clusters.jsonl", *near],
        "near-apply": ["--documents", documents, "--duplicates", f"{out}/duplicates.npy", "--position", "0",
                       "--output", kept, *book, *near],
        "shards": ["--documents", kept, "--languages", *LANGUAGES, "--name", "00000",
                   "--output", f"{out}/corpus", *book],
    }  # fmt: skip
    for stage, arguments in commands.items():
        found = measured([sys.executable, "-m", "pipeline", stage, *arguments])
        if stage == "extract":
            pages = read_json(f"{out}/ledger.json")["in"]["documents"]
        yield {"what": stage, "size": pages, "of": "pages"} | found


def with_growth(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of each measurement in order of size, with what each WARC or page cost beyond the size before."""
    names = list(dict.fromkeys(row["what"] for row in rows))
    ordered = sorted(rows, key=lambda row: (names.index(row["what"]), row["size"]))
    for before, row in itertools.pairwise([None, *ordered]):
        row["CPU ms each, beyond the size before"] = (
            1000 * (row["CPU s"] - before["CPU s"]) / (row["size"] - before["size"])
            if before is not None and before["what"] == row["what"]
            else None
        )
    return ordered


def plot(rows: list[dict[str, Any]], output: str) -> None:
    import altair as alt
    import vl_convert

    def axis(name: str, title: str) -> Any:
        return {"field": name, "type": "quantitative", "scale": alt.Scale(type="log"), "title": title}

    points = [{"what": r["what"], "size": r["size"], "seconds": r["CPU s"]} for r in rows]
    chart = (
        alt.Chart(alt.Data(values=points), width=520, height=380)
        .mark_line(point=True)
        .encode(
            x=alt.X(**axis("size", "WARCs (dry-run) or pages (stages)")),
            y=alt.Y(**axis("seconds", "CPU seconds, start included")),
            color=alt.Color("what:N", title=None, sort=None),
        )
    )
    Path(f"{output}.svg").write_text(vl_convert.vegalite_to_svg(json.dumps(chart.to_dict())), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="path of the table and the plot, without their endings")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rows = with_growth([*plans(Path(name, "plans")), *stages(Path(name))])
    notes = [
        "Where the last column does not grow, the cost is in proportion to the size; a start takes 0.3 to 4 s.",
        "Pages: all of the archive, of which each later stage has those that are left.",
    ]
    write(arguments.output, "What a larger crawl costs, on one core", rows, notes)
    plot(rows, arguments.output)


if __name__ == "__main__":
    main()
