"""What a machine without a network needs, in parts that are small enough to be carried there, with checksums.

python -m benchmarks.gpu pack --output parts real/SmolLM2.gguf real/rows
python -m benchmarks.gpu unpack --output real parts/*
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import tarfile
from pathlib import Path

PART_BYTES = 60 * 2**20


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("what", choices=("pack", "unpack"))
    parser.add_argument("paths", nargs="+", help="files and folders to pack, or the parts, in any order")
    parser.add_argument("--output", required=True, help="folder of the parts, or where to unpack")
    arguments = parser.parse_args(argv)
    Path(arguments.output).mkdir(parents=True, exist_ok=True)
    (pack if arguments.what == "pack" else unpack)(arguments.paths, Path(arguments.output))
    return 0


def pack(paths: list[str], output: Path) -> None:
    """One tar.gz of all paths, by their last names, cut into part-00, part-01, …, and their sums in parts.json."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as tar:
        for path in paths:
            tar.add(path, arcname=Path(path).name)
    data = whole.getvalue()
    pieces = [data[first : first + PART_BYTES] for first in range(0, len(data), PART_BYTES)]
    sums = {}
    for number, piece in enumerate(pieces):
        (output / f"part-{number:02d}").write_bytes(piece)
        sums[f"part-{number:02d}"] = hashlib.sha256(piece).hexdigest()
    (output / "parts.json").write_text(json.dumps(sums, indent=1))
    print(f"{len(data) / 1e6:.1f} MB in {len(pieces)} parts in {output}")


def unpack(paths: list[str], output: Path) -> None:
    """Join the parts that parts.json, one of the paths, names. SystemExit where one is missing or damaged."""
    files = {Path(path).name: Path(path) for path in paths}
    if "parts.json" not in files:
        raise SystemExit("unpack: give parts.json too")
    sums = json.loads(files["parts.json"].read_text())
    data = b""
    for name in sorted(sums):
        if name not in files:
            raise SystemExit(f"unpack: {name} is missing; carry it too")
        piece = files[name].read_bytes()
        if hashlib.sha256(piece).hexdigest() != sums[name]:
            raise SystemExit(f"unpack: {files[name]} is damaged; carry it again")
        data += piece
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.extractall(output, filter="data")
    print(f"{len(data) / 1e6:.1f} MB unpacked into {output}")
