"""Files of plain text as people have them: .txt, JSON lines, Parquet, Arrow, and folders of them.

A folder may be one that `datasets.save_to_disk` wrote. Then its state.json says which files belong to it: others
beside them hold the same rows again.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from pipeline.common.config import bad_path
from pipeline.common.errors import StageError
from pipeline.common.files import inside, read_json
from pipeline.crawl.manifest import MOST_BATCHES, existing, expand
from pipeline.network.urls import is_url, url_problem

PLAIN = ".txt"
TABLES = (".parquet", ".arrow")
TEXT_KINDS = (PLAIN, ".jsonl", ".json", ".ndjson", *TABLES)
PACKED = (".gz", ".zst")  # of all but tables
STATE = "state.json"
# Beside the rows of a dataset, and no rows.
ABOUT_DATASETS = (STATE, "dataset_info.json", "dataset_infos.json", "dataset_dict.json")
SAVE_AGAIN = "save the dataset again"
# Files of one document that a job reads: a small job takes longer to start than to read a few.
DOCUMENTS_PER_JOB = 1000


class TextFiles(NamedTuple):
    """Paths or URLs in order, a message for each wrong pattern, and the paths of files of no known kind."""

    files: list[str]
    problems: list[str]
    left_out: list[str]


def kind_of(name: str) -> str | None:
    """Which of TEXT_KINDS a file is by its name, whatever its case; None: no such kind.

    >>> kind_of("Un livre.TXT.gz"), kind_of("rows.parquet"), kind_of("rows.parquet.gz"), kind_of("a.jsonl.md")
    ('.txt', '.parquet', None, None)
    """
    path = PurePath(name.lower())
    packed = path.suffix in PACKED
    kind = PurePath(path.stem).suffix if packed else path.suffix
    return kind if kind in TEXT_KINDS and not (packed and kind in TABLES) else None


def text_files(patterns: Sequence[str]) -> TextFiles:
    """The files of an entry of `crawl.texts`: each pattern is a file, a folder, a glob of these, or a URL.

    Of a folder these are all files of a known kind in it and its folders, but for hidden ones, by name.
    """
    found = TextFiles([], [], [])
    for pattern in patterns:
        if is_url(pattern):
            if problem := url_problem(pattern) or unknown(pattern):
                found.problems.append(f"{pattern}: {problem}")
            found.files.append(pattern)
            continue
        here = TextFiles([], [], [])
        if not pattern:
            here.problems.append("an empty path; name a file or folder")
        matches = sorted(map(str, expand(pattern))) if pattern else []
        there = set(existing(matches))
        for path in matches:
            if path in there:
                (here.files if kind_of(path) else here.left_out).append(path)
            elif Path(path).is_dir():
                _add_folder(Path(path), here)
        if not here.files and not here.problems:
            here.problems.append(_nothing(pattern, here.left_out))
        wrong = (problem for file in here.files if (problem := bad_path(file)))
        found.problems.extend([*here.problems, *list(wrong)[:1]])
        found.files.extend(here.files)
        found.left_out.extend(here.left_out)
    if twice := next((name for name, count in Counter(found.files).items() if count > 1), None):
        found.problems.append(f"{twice} is named twice; its texts would count twice")
    return found


def root(pattern: str) -> str:
    """The folder from which the files of a pattern are named: itself, or the nearest one above it."""
    path = Path(pattern)
    return str(next(folder for folder in (path, *path.parents, Path()) if folder.is_dir()))


def files_per_job(files: Sequence[str], per_job: int | None) -> int | None:
    """How many files of an entry a job reads, where each is one document; else `per_job`.

    >>> files_per_job(["a.txt", "b.txt"], 2), files_per_job(["a.txt", "b.jsonl"], 2)
    (1000, 2)
    """
    if all(kind_of(file) == PLAIN for file in files):
        return max(DOCUMENTS_PER_JOB, -(-len(files) // MOST_BATCHES))
    return per_job


def unknown(name: str) -> str | None:
    """Why a file cannot be read as text, by its name, or None."""
    if kind_of(name):
        return None
    known = (
        f"not a known kind of file; known are {', '.join(TEXT_KINDS)}, all but the last two also as .gz or .zst"
    )
    archive = {".warc", ".arc", ".wet"}.intersection(PurePath(name.lower()).suffixes)
    return f"{known}; archives go under crawl.warcs" if archive else known


def _nothing(pattern: str, left_out: list[str]) -> str:
    """What is wrong with a pattern that gives no text."""
    if left_out == [pattern]:
        return f"{pattern}: {unknown(pattern)}"
    if left_out:
        return f"{pattern}: {len(left_out)} files, such as {left_out[0]}: {unknown(left_out[0])}"
    if Path(pattern).is_dir():
        return f"{pattern}: an empty folder; put texts into it ({', '.join(TEXT_KINDS)})"
    return f"no file matches {pattern}; paths are relative to {Path.cwd()}"


def _add_folder(top: Path, found: TextFiles) -> None:
    """Add the files in a folder, and in all folders in it, to what was found."""
    for folder, names in _folders(top, found.problems):
        try:
            rows = _dataset(folder) if STATE in names else None
        except StageError as error:
            found.problems.append(str(error))
            continue
        for name in names:
            if name not in ABOUT_DATASETS:
                is_text = kind_of(name) if rows is None else name in rows
                (found.files if is_text else found.left_out).append(str(folder / name))


def _folders(top: Path, problems: list[str]) -> Iterator[tuple[Path, list[str]]]:
    """A folder and all folders in it, each with the names of its files; what is hidden is not there."""
    pending = [str(top)]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(folder) as entries:
                here = sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
        except OSError as error:
            problems.append(f"{folder}: {error.strerror}; make it readable, or name other folders")
            continue
        yield Path(folder), [entry.name for entry in here if entry.is_file()]
        # No links: they may lead in a circle.
        pending += [entry.path for entry in reversed(here) if entry.is_dir(follow_symlinks=False)]


def _dataset(folder: Path) -> set[str] | None:
    """The names of the files of a dataset that `save_to_disk` wrote; None: its state.json is something else's.

    Raises StageError where one is missing or lies elsewhere, and where the list is damaged.
    """
    state = read_json(inside(folder, STATE), SAVE_AGAIN)
    listed = state.get("_data_files") if isinstance(state, dict) else None
    if not isinstance(listed, list):
        return None
    names = set()
    for entry in listed:
        name = entry.get("filename") if isinstance(entry, dict) else None
        path = inside(folder, name)
        if path.parent != folder or not path.is_file() or kind_of(path.name) not in TABLES:
            raise StageError(f"{folder}: its {STATE} names {name!r:.200}, which is not there; {SAVE_AGAIN}")
        names.add(path.name)
    return names
