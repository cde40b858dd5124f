"""How each result was made, kept with the results: they may be moved, or copied into another checkout.

Snakemake keeps a record of each output (params, code, inputs and their checksums) in the folder .snakemake of
where it runs. Without it, Snakemake takes whatever is there for up to date, whatever the config says by now; and
of files that were copied it takes for changed what happens to be newer than what was made of it. So the records,
and the date and checksum of each output, are also kept in the folder of the results, and are put back from there.
"""

from __future__ import annotations

import json
import logging
import os
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import xxhash

from pipeline.common.files import atomic
from pipeline.workflow.layout import Layout

FILE = ".records.jsonl"
METADATA = Path(".snakemake/metadata")  # a file for each output, named after its path (FilePersistence of 9.27)
NAME_LENGTH = 254
# Stands for the folder of the results inside the records, so that it may get another name.
FOLDER = "\N{SYMBOL FOR NULL}"
# Of a file larger than twice this, the checksum is of its size and both ends: a crawl has too many to read all.
END = 2**16

log = logging.getLogger(__name__)


def keep(output: str) -> dict[str, dict[str, Any]]:
    """Write the records of what lies in the folder `output` to its FILE; what else FILE has of it stays.

    Returns the lines of FILE, by the path that each output has now.
    """
    kept = _kept(output)
    own_path = re.compile(rf"(?<![\w./-]){re.escape(_inside(output))}(?=[/'\" ]|$)")
    changed = False
    fetched = Layout(output).fetched("")  # goes when it has been read; its records have the signatures of URLs
    for path, record in _snakemake_records(output):
        if path.startswith(fetched):
            continue
        written = record.stat().st_mtime_ns
        if kept.get(path, {}).get("recorded") == written or not os.path.lexists(path):
            continue
        text = own_path.sub(FOLDER, record.read_text(encoding="utf-8"))
        try:
            content = json.loads(text)
        except json.JSONDecodeError:  # being written by a run at this moment
            continue
        kept[path] = {"recorded": written, "date": _date(path), "checksum": _checksum(path), "record": content}
        changed = True
    # Snakemake counts the date of a job's benchmark file among those of its outputs.
    for times in Path(Layout(output).benchmarks).rglob("*.tsv"):
        path = str(times)
        if kept.get(path, {}).get("checksum") != _checksum(path):  # of a new job; another date alone is a copy's
            kept[path] = {"date": _date(path), "checksum": _checksum(path)}
            changed = True
    if changed:
        with atomic(f"{output}/{FILE}") as part, part.open("w", encoding="utf-8") as file:
            for path in sorted(kept):
                inside = path.removeprefix(f"{output}/")
                file.write(json.dumps({"path": inside} | kept[path], ensure_ascii=False) + "\n")
    return kept


def restore(output: str) -> None:
    """Give Snakemake the records of `output` that it lacks, and unchanged files the dates that they had.

    Keeps those first that it has: the run before may have been killed. Warns of results of which nothing is known:
    an option that changed since they were made will not be seen.
    """
    kept, known = keep(output), {path for path, _ in _snakemake_records(output)}
    # Without it Snakemake would take the folder for one of an older version.
    METADATA.with_name("incomplete").mkdir(parents=True, exist_ok=True)
    for path, entry in kept.items():
        # Of a file that was freed too: it says whether its job would run.
        if os.path.lexists(path) and _date(path) != entry["date"] and _checksum(path) == entry["checksum"]:
            os.utime(_dated(path), ns=(entry["date"], entry["date"]))
        if path not in known and "record" in entry:
            text = json.dumps(entry["record"], ensure_ascii=False).replace(FOLDER, _inside(output))
            record = METADATA / _record_name(path)
            record.parent.mkdir(parents=True, exist_ok=True)
            record.write_text(text, encoding="utf-8")
    there = {path.name for path in Path(output).glob("*")} - {"logs", "benchmarks"}
    if there and not kept and not known:
        log.warning(
            "%s: no record of how its files were made; they are taken as they are, whatever the config says. "
            "Delete them, or run with --forceall, to make them anew",
            output,
        )


def _inside(output: str) -> str:
    """The folder as it stands inside a text of JSON."""
    return json.dumps(output, ensure_ascii=False)[1:-1]


def _kept(output: str) -> dict[str, dict[str, Any]]:
    """The lines of FILE by path. A damaged FILE counts as none: results may come from anybody."""
    path, kept = Path(output, FILE), {}
    if not path.exists():
        return {}
    try:
        with path.open(encoding="utf-8") as lines:
            for entry in map(json.loads, lines):
                inside = PurePosixPath(entry.pop("path"))
                if inside.is_absolute() or ".." in inside.parts or not {"date", "checksum"} <= entry.keys():
                    raise ValueError(f"no entry of a result: {inside}")
                kept[f"{output}/{inside}"] = entry
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s: damaged (%s), and not used", path, error)
        return {}
    return kept


def _snakemake_records(output: str) -> Iterator[tuple[str, Path]]:
    """The path of each output in the folder of which Snakemake has a record, and the record's file."""
    for folder, _, names in os.walk(METADATA):
        for name in names:
            file = Path(folder, name)
            encoded = "".join(part.removeprefix("@") for part in file.relative_to(METADATA).parts)
            try:
                path = urlsafe_b64decode(encoded).decode()
            except ValueError:  # no record: a network file system puts names of its own there
                continue
            if path.startswith(f"{output}/"):
                yield path, file


def _record_name(path: str) -> Path:
    encoded = urlsafe_b64encode(path.encode()).decode()
    parts = [encoded[first : first + NAME_LENGTH] for first in range(0, len(encoded), NAME_LENGTH)]
    return Path(*(f"@{part}" for part in parts[:-1]), parts[-1])


def _dated(path: str) -> Path:
    """What has the date of an output: of a folder a file that Snakemake puts into it."""
    inside = Path(path, ".snakemake_timestamp")
    return inside if inside.exists() else Path(path)


def _date(path: str) -> int:
    return _dated(path).stat(follow_symlinks=False).st_mtime_ns


def _checksum(path: str) -> str:
    """Of a file its content; of a folder the names and sizes of its files."""
    if Path(path).is_dir():
        files = sorted(file for file in Path(path).rglob("*") if file.is_file())
        listed = "".join(f"{file.relative_to(path)} {file.stat().st_size}\n" for file in files)
        return xxhash.xxh3_128_hexdigest(listed.encode())
    size = Path(path).stat().st_size
    with Path(path).open("rb") as file:
        content = file.read(END)
        file.seek(max(END, size - END))
        content += file.read(END)
    return xxhash.xxh3_128_hexdigest(content + str(size).encode())
