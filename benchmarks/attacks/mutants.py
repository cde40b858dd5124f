"""`python -m benchmarks.attacks.mutants`: files with damage done to them on purpose, read as others' files are.

Each mutant is one change of a sound file: bytes, a value of its JSON, or the text inside one of its gzip members.
They are read in one process until it dies, which counts as a crash; the next process goes on behind that mutant.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import importlib
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.attacks.run import ROOT, command, environment
from benchmarks.report import write

# Of each kind: its area, which has the functions _make_KIND(folder) and _read_KIND(folder), and the files that are
# changed, as a pattern.
KINDS = {
    "warc": ("archives", "*.warc.gz"),
    "shard": ("corpus", "**/*.arrow"),
    "safetensors": ("models", "**/*.safetensors"),
    "tokenizer": ("models", "**/tokenizer.json"),
    "recipe": ("recipes", "recipe/**/*"),
    "index": ("network", "**/*.parquet"),
}
SECONDS, MEMORY = 60, 16 * 2**30
VALUES = (None, True, -1, 0, 10**12, 2**63, 1e400, "", "\0", "\ud800", "no", "../../victim/x", "/victim",
          "x" * 10**6, [], {}, [[[[]]]], "\x1b[2J", "<script>", "__label__good")  # fmt: skip
NUMBERS = (b"-1", b"0", b"1e3", b"4294967296", b"9223372036854775808", b"1" * 400)


# Changes ------------------------------------------------------------------------------------------


def mutate(data: bytes, rng: random.Random) -> bytes:
    """The content of a file with one change to it: half of the time one that keeps its outer form."""
    if rng.random() < 0.5:
        if data.startswith(b"\x1f\x8b"):
            return b"".join(gzip.compress(part, 1, mtime=0) for part in _mutate_one(_members(data), rng))
        with contextlib.suppress(ValueError):
            return json.dumps(_with_value(json.loads(data), rng)).encode("utf-8", "surrogatepass")
        size = int.from_bytes(data[:8], "little")  # the header of safetensors
        with contextlib.suppress(ValueError, MemoryError, OverflowError):
            header = json.dumps(_with_value(json.loads(data[8 : 8 + size]), rng)).encode("utf-8", "surrogatepass")
            return len(header).to_bytes(8, "little") + header + data[8 + size :]
    return _bytes(data, rng)


def _members(data: bytes) -> list[bytes]:
    """The unpacked content of each gzip member."""
    starts = [match.start() for match in re.finditer(b"\x1f\x8b\x08\x00\x00\x00\x00\x00", data)]
    parts = (data[first:last] for first, last in zip(starts, [*starts[1:], None], strict=True))
    return [gzip.decompress(part) for part in parts]


def _mutate_one(parts: list[bytes], rng: random.Random) -> list[bytes]:
    place = rng.randrange(len(parts))
    return [*parts[:place], _bytes(parts[place], rng), *parts[place + 1 :]]


def _bytes(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    # Half of the time where the headers are.
    start = rng.randrange(min(len(data), 2000) if rng.random() < 0.5 else len(data))
    size = rng.randint(1, 300)
    kind = rng.randrange(8)
    if kind == 0:
        changed[start] ^= 1 << rng.randrange(8)
    elif kind == 1:
        changed[start : start + size] = rng.randbytes(size)
    elif kind == 2:
        changed[start : start + 8] = rng.choice([b"\0", b"\xff"]) * 8
    elif kind == 3:
        del changed[start : start + size]
    elif kind == 4:
        del changed[start:]
    elif kind == 5:
        changed[start:start] = rng.randbytes(size) * rng.choice([1, 100])
    elif kind == 6:
        changed[start:start] = changed[start : start + 10 * size]
    elif numbers := list(re.finditer(rb"\d+", data)):
        match = rng.choice(numbers)
        changed[match.start() : match.end()] = rng.choice(NUMBERS)
    return bytes(changed)


def _with_value(data: Any, rng: random.Random) -> Any:
    """JSON data with one of VALUES at a random place."""
    if isinstance(data, dict) and data and rng.random() < 0.9:
        key = rng.choice(list(data))
        if rng.random() < 0.1:
            return {rng.choice(["", "../x", "no"]) if name == key else name: value for name, value in data.items()}
        return data | {key: _with_value(data[key], rng)}
    if isinstance(data, list) and data and rng.random() < 0.9:
        place = rng.randrange(len(data))
        return [*data[:place], _with_value(data[place], rng), *data[place + 1 :]]
    return rng.choice(VALUES)


# Reading ------------------------------------------------------------------------------------------


def read_from(kind: str, first: int, count: int) -> Iterator[dict[str, Any]]:
    """What came of the mutants from number `first` on, in this process and an empty folder."""
    area, pattern = KINDS[kind]
    module = importlib.import_module(f"benchmarks.attacks.{area}")
    sound, home = Path("sound").resolve(), Path("home/of/mutant").resolve()
    sound.mkdir()
    getattr(module, f"_make_{kind}")(sound)
    for number in range(first, count):
        rng = random.Random(f"{kind} {number}")
        shutil.rmtree("home", ignore_errors=True)
        home.parent.mkdir(parents=True)
        shutil.copytree(sound, home)
        target = rng.choice(sorted(path for path in home.glob(pattern) if path.is_file()))
        target.write_bytes(mutate(target.read_bytes(), rng))
        before = _outside()
        begin = time.perf_counter()
        os.chdir(home)
        try:
            outcome = getattr(module, f"_read_{kind}")(home)
        except Exception as error:
            outcome = f"raised {type(error).__name__}: {error}"[:200]
        os.chdir(home.parents[2])
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        yield {
            "number": number,
            "outcome": outcome,
            "outside": _outside() != before,
            "seconds": time.perf_counter() - begin,
            "peak_mb": max(usage.ru_maxrss for usage in usages) // 1024,
        }


def _outside() -> set[str]:
    """The files that are not in the folder of the mutant."""
    return {str(path) for path in Path().rglob("*") if Path("home/of/mutant") not in (path, *path.parents)}


def read_all(kind: str, count: int, checkout: Path) -> list[dict[str, Any]]:
    """What came of `count` mutants; a process that dies or hangs of one is followed by another."""
    results: list[dict[str, Any]] = []
    while len(results) < count:
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as errors:
            arguments = ("--read", kind, str(len(results)), "--count", str(count))
            with subprocess.Popen(
                command("benchmarks.attacks.mutants", *arguments),
                cwd=folder,
                env=environment(checkout),
                stdout=subprocess.PIPE,
                stderr=errors,
            ) as process:
                watch = [sys.executable, "-c", _WATCH, str(process.pid), str(Path(folder).resolve()), str(SECONDS)]
                with subprocess.Popen(watch) as watcher:
                    assert process.stdout is not None
                    for line in process.stdout:
                        if line.startswith(b'{"number"'):
                            results.append(json.loads(line))
                            Path(folder, "alive").touch()
                    status = process.wait()
                    watcher.kill()
            if status and len(results) < count:
                errors.seek(0)
                last = (errors.read().strip() or "no message").splitlines()[-1][:100]
                results.append({"number": len(results), "outcome": f"crashed ({status}): {last}", "outside": False,
                                "seconds": None, "peak_mb": 0})  # fmt: skip
    return results


# Ends a process that has told of no mutant for so many seconds.
_WATCH = """
import os, signal, sys, time
pid, folder, seconds = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
alive, begin = os.path.join(folder, "alive"), time.time()
while True:
    time.sleep(1)
    last = os.path.getmtime(alive) if os.path.exists(alive) else begin
    if time.time() - last > seconds:
        os.kill(pid, signal.SIGKILL)
        break
"""


def row(kind: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    """A line of the table."""
    kinds = Counter(result["outcome"].split()[0].rstrip(":") for result in results)
    refused, raised, crashed = (kinds.pop(name, 0) for name in ("refused", "raised", "crashed"))
    return {
        "files": kind,
        "mutants": len(results),
        "read": sum(kinds.values()),
        "refused in a line": refused,
        "Python errors": raised,
        "crashes": crashed,
        "written outside": sum(result["outside"] for result in results),
        "longest s": max(result["seconds"] or SECONDS for result in results),
        "peak MB": max(result["peak_mb"] for result in results),
    }


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.attacks.mutants", description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="mutants of each kind")
    parser.add_argument("--only", nargs="*", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--before", type=Path, default=ROOT, metavar="CHECKOUT", help="read by an earlier version")
    parser.add_argument("--output", metavar="PATH", help="write PATH.md and PATH.json")
    parser.add_argument("--read", nargs=2, metavar=("KIND", "FIRST"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        for result in read_from(arguments.read[0], int(arguments.read[1]), arguments.count):
            print(json.dumps(result), flush=True)
        return
    rows = []
    for kind in arguments.only or KINDS:
        results = read_all(kind, arguments.count, arguments.before.resolve())
        rows.append(row(kind, results))
        print(rows[-1], flush=True)
        for outcome, times in Counter(re.sub(r"\d+", "N", r["outcome"])[:110] for r in results).most_common():
            print(f"  {times:4} {outcome}", flush=True)
    if arguments.output:
        write(arguments.output, "Mutants: files with one change each, and what came of reading them", rows)


if __name__ == "__main__":
    main()
