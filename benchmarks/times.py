"""What each job of a shipped config took, for the time left that the workflow shows before anything was measured.

    python -m benchmarks.times --config configs/demo.yaml --results results/demo

writes configs/times/demo.tsv from the results of a whole run: a line a job, its name and its core-seconds. The
first line has a mark of the config, since another config takes other times; tests/test_configs.py tells.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.common.config import read
from pipeline.common.files import write_text
from pipeline.common.yaml_file import load_yaml
from pipeline.workflow.benchmark_files import core_seconds, read_rows
from pipeline.workflow.layout import Layout
from pipeline.workflow.time_left import TIMES, config_mark
from train.config import Config


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.times", description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="the config, a whole one")
    parser.add_argument("--results", required=True, help="the output folder of a run of it")
    arguments = parser.parse_args()
    data, out = load_yaml(arguments.config), Layout(arguments.results)
    runs = {"source", "backbone", *read(Config, data, arguments.config).extend.runs}
    lines = [f"# job, core-seconds; config {config_mark(data)}"]
    for path in sorted(Path(out.benchmarks).rglob("*.tsv")):
        job = path.relative_to(out.benchmarks).with_suffix("").as_posix()
        # The results may have other configs' runs as well.
        if job.partition("/")[0] not in ("extend", "evaluate", "tasks", "export") or path.stem in runs:
            lines.append(f"{job}\t{core_seconds(read_rows(path)[-1]):.1f}")
    write_text(TIMES / Path(arguments.config).with_suffix(".tsv").name, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
