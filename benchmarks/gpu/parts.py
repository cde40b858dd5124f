"""What a machine without a network needs for a real run, in parts that are small enough to be carried there.

python -m benchmarks.gpu pack --configfile CONFIG --output parts
python -m benchmarks.gpu unpack --output real parts/*

`pack` takes the backbone, its tokenizer and the rows from the results of the config's workflow: its rule `tokens`
makes all of them. A backbone that came as a .gguf file travels as one, a third as large. The questions of
`evaluate.tasks` are fetched for it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import math
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.common.config import ConfigError
from pipeline.common.errors import StageError

if TYPE_CHECKING:
    from benchmarks.gpu.plan import Plan
    from train.config import Config

PART_BYTES = 59 * 2**20  # the code, 4 MiB, travels beside one
SUMS, PACKED = "parts.json", ".xz"
SMALLER_PACKED = (".arrow", ".jsonl")
# What a tokenizer is, of the files in the folder of a backbone.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="make the parts from a config and its results")
    packing.add_argument("--configfile", required=True, metavar="CONFIG")
    packing.add_argument("--output", required=True, help="folder of the parts")
    packing.add_argument("--tokens", type=float, default=20e6, help="tokens of each run; no more rows are taken")
    packing.add_argument(
        "--tune", metavar="DOMAIN", help="a domain to choose the learning rates by; else none are tried"
    )
    packing.add_argument("--wheels", nargs="+", default=[], metavar="FILE", help="wheels that the machine lacks")
    unpacking = commands.add_parser("unpack", help="join the parts again")
    unpacking.add_argument("parts", nargs="+", help="the parts and parts.json, in any order")
    unpacking.add_argument("--output", required=True, help="folder to unpack into")
    arguments = vars(parser.parse_args(argv))
    run = pack if arguments.pop("command") == "pack" else unpack
    try:
        run(**arguments)
    except (ConfigError, StageError) as error:
        raise SystemExit(f"{parser.prog}: {error}") from None
    return 0


# Packing -------------------------------------------------------------------------------------------


def pack(configfile: str, output: str, tokens: float, tune: str | None, wheels: list[str]) -> None:
    """Write part-00, part-01, … and parts.json, their sums. Raises StageError where something is missing."""
    from benchmarks.gpu.plan import PLAN
    from pipeline.common.config import read_yaml, to_data
    from pipeline.common.files import write_json
    from train.config import Config

    config = read_yaml(Config, configfile)
    with tempfile.TemporaryDirectory() as scratch:
        plan, files = contents(config, configfile, tokens, tune, Path(scratch))
        plan.files.update({name: sha256(path) for name, path in files.items()})
        files |= {f"wheels/{Path(wheel).name}": Path(wheel) for wheel in wheels}
        write_json(Path(scratch, PLAN), to_data(plan))
        write_parts({PLAN: Path(scratch, PLAN), **files}, Path(output))


def contents(
    config: Config, configfile: str, tokens: float, tune: str | None, scratch: Path
) -> tuple[Plan, dict[str, Path]]:
    """The plan, and the files that it needs by their names in the parts; those made for it are in `scratch`."""
    from benchmarks.gpu.plan import Plan, by_value
    from benchmarks.gpu.questions import QUESTIONS, write_questions
    from pipeline.workflow.layout import Layout
    from train.config import eval_domains
    from train.runs.backbone import find_gguf, is_gguf

    out, source = Layout(config.output), config.backbone.source
    if tune is not None and tune not in config.domains:
        raise StageError(f"--tune: {configfile} has no domain {tune!r}; it has {', '.join(config.domains)}")
    plan = Plan(
        extend=by_value(config.extend),
        settle=config.backbone.settle,
        held_out=eval_domains(config),
        tune=tune,
        prompts=config.evaluate.prompts,
        asks=bool(config.evaluate.tasks),
    )
    backbone = Path(out.source if plan.settle else out.backbone)
    held_out = {f"rows/{name}/validation.arrow": Path(out.rows(name, "validation")) for name in plan.measured}
    trained = {name: Path(out.rows(name, "train")) for name in plan.trained}
    needed = [backbone, *held_out.values(), *trained.values()]
    if missing := [str(path) for path in needed if not path.exists()]:
        made = f"snakemake --cores all --configfile {configfile} -- {' '.join(missing)}"
        raise StageError(f"{configfile}: its results lack {missing[0]}; run `{made}`")
    if source and is_gguf(source):
        files = {"backbone.gguf": find_gguf(source, Path("downloads"), scratch)}
        found = [backbone / name for name in TOKENIZER_FILES if (backbone / name).is_file()]
        files |= {f"tokenizer/{path.name}": path for path in found}
    else:
        files = {f"backbone/{path.name}": path for path in sorted(backbone.glob("[!.]*")) if path.is_file()}
    if plan.asks:
        files[QUESTIONS] = scratch / QUESTIONS
        write_questions(config.evaluate, config.sample.downloads, files[QUESTIONS])
    for name, path in trained.items():
        cut = scratch / f"{name}.arrow"
        cut_rows(path, cut, rows_read(plan, name, tokens, path))
        files[f"rows/{name}/train.arrow"] = cut
    return plan, files | held_out


def rows_read(plan: Plan, domain: str, tokens: float, path: Path) -> int:
    """The rows that any one training reads at most of a domain, whose rows are in the file `path`."""
    from benchmarks.gpu.plan import SETTLE_TOKENS, changes
    from train.data.rows import open_rows
    from train.runs.options import Training, new_domain
    from train.trainer.mixture import old_rate, old_rows_before

    row_tokens = open_rows(str(path)).row_tokens
    most = 0
    trainings: list[tuple[Training, str, float]] = [
        (run, new_domain(plan.extend, name), tokens) for name, run in plan.extend.runs.items()
    ]
    if plan.settle:
        trainings.append((plan.settle, plan.settle.domain, SETTLE_TOKENS))
    for run, new, length in trainings:
        options = changes(length, row_tokens, "cpu")
        rows = options["steps"] * options["batch_rows"]
        old = old_rows_before(rows, old_rate(run))
        # Of a chain of runs, what was new to one is old to the next.
        most = max(most, rows - old if domain == new else old)
    return most


def cut_rows(source: Path, target: Path, count: int) -> None:
    """So many rows of a file, evenly spread over it, or all if it has fewer."""
    import numpy as np
    import pyarrow as pa

    from pipeline.common.arrow import map_table
    from pipeline.common.files import write_batches
    from train.data.packing import ROWS_PER_BATCH
    from train.data.rows import open_rows

    rows = open_rows(str(source))
    count = min(max(count, 1), len(rows))
    kept = np.unique(np.linspace(0, len(rows) - 1, count).astype(np.int64))
    about = rows.metadata | {"rows": len(kept), "tokens": len(kept) * rows.row_tokens, "cut_from": len(rows)}
    table = map_table(source).take(pa.array(kept))
    schema = table.schema.with_metadata({"rows": json.dumps(about, sort_keys=True)})
    write_batches(target, schema, table.to_batches(ROWS_PER_BATCH), compression=None)


def write_parts(files: dict[str, Path], output: Path) -> None:
    """One tar of the files, by the names given, cut into parts, and the sums of these.

    Rows and questions are packed with xz, which makes them a third as large; weights, which are no smaller for it,
    are not: it would take a minute to unpack them.
    """
    output.mkdir(parents=True, exist_ok=True)
    for old in output.glob("part-*"):
        old.unlink()
    sums = {}
    with tempfile.TemporaryFile() as whole:
        with tarfile.open(fileobj=whole, mode="w") as tar:
            for name, path in files.items():
                if path.suffix not in SMALLER_PACKED:
                    tar.add(path.resolve(), arcname=name)
                    continue
                with tempfile.NamedTemporaryFile() as packed:
                    with path.open("rb") as rows, lzma.open(packed, "wb") as file:
                        shutil.copyfileobj(rows, file)
                    packed.flush()
                    tar.add(packed.name, arcname=name + PACKED)
        size = whole.tell()
        whole.seek(0)
        for number in range(math.ceil(size / PART_BYTES)):
            part = output / f"part-{number:02d}"
            part.write_bytes(whole.read(PART_BYTES))
            sums[part.name] = sha256(part)
    (output / SUMS).write_text(json.dumps(sums, indent=1))
    print(f"{size / 1e6:.1f} MB in {output}: {', '.join(sums)} and {SUMS}; carry them")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Unpacking -----------------------------------------------------------------------------------------


def unpack(parts: list[str], output: str) -> None:
    """Join the parts that parts.json, one of them, names. Raises StageError where one is missing or damaged."""
    files = {Path(path).name: Path(path) for path in parts}
    if SUMS not in files:
        raise StageError(f"unpack: give {SUMS} too")
    sums = json.loads(files[SUMS].read_text())
    with tempfile.TemporaryFile() as whole:
        for name in sums:
            if name not in files:
                raise StageError(f"unpack: {name} is missing; carry it too")
            if sha256(files[name]) != sums[name]:
                raise StageError(f"unpack: {files[name]} is damaged; carry it again")
            whole.write(files[name].read_bytes())
        size = whole.tell()
        whole.seek(0)
        with tarfile.open(fileobj=whole) as tar:
            tar.extractall(output, filter="data")
    for packed in Path(output).rglob(f"*{PACKED}"):
        with lzma.open(packed) as file, packed.with_suffix("").open("wb") as rows:
            shutil.copyfileobj(file, rows)
        packed.unlink()
    print(f"{size / 1e6:.1f} MB unpacked into {output}")
    if wheels := sorted(map(str, Path(output, "wheels").glob("*.whl"))):
        print(f"pip install --no-index --no-deps {' '.join(wheels)}")
