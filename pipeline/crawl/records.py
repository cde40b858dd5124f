"""Single records of a crawl to a WARC file of ours, each byte for byte as it is in the crawl.

Neighbouring records come in one range. Each is a whole gzip member and is checked: it can be unpacked, holds one
WARC record of the length it states, and its payload has the digest that the record and the index state. A record
that fails a check is left out and counted. A killed stage continues where it was: a journal says up to which byte
the file is complete.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline.common.locks import resumed_folder
from pipeline.common.progress import progress
from pipeline.crawl.fetch import GONE, reason_of
from pipeline.crawl.index import RECORD_MAX, by_warc, coalesce, read_plan
from pipeline.crawl.options import Index
from pipeline.crawl.origins import finish_folder, write_origins
from pipeline.network.client import Client
from pipeline.network.threads import stream_in_threads
from pipeline.network.transports import FetchError
from pipeline.warc.encodings import BODY_MAX

HEADERS_MAX = 2**16
LENGTH = re.compile(rb"\r\nContent-Length:[ \t]*(\d{1,12})\r\n", re.IGNORECASE)
DIGEST = re.compile(rb"\r\nWARC-Payload-Digest:[ \t]*sha1:([A-Z2-7]{32})\r\n", re.IGNORECASE)
TYPE = re.compile(rb"\r\nWARC-Type:[ \t]*response\r\n", re.IGNORECASE)


class Planned(NamedTuple):
    """A record to fetch: its place in the crawl's file, in compressed bytes, and the digest of its payload."""

    offset: int
    length: int
    digest: str


@dataclass(frozen=True)
class Request:
    """Neighbouring records of one file of the crawl, which come in one range of bytes."""

    warc: str
    records: list[Planned]

    @property
    def start(self) -> int:
        return self.records[0].offset

    @property
    def stop(self) -> int:
        return max(record.offset + record.length for record in self.records)


@dataclass(frozen=True)
class Fetched:
    """What came of a request.

    `members` has (file of the crawl, offset there, gzip member) of each good record, `failures` has
    (reason, length in the crawl) of each other one.
    """

    members: list[tuple[str, int, bytes]] = field(default_factory=list)
    failures: list[tuple[str, int]] = field(default_factory=list)


def fetch_records(options: Index, plan: str, part: int, output: str, cache: str, connections: int) -> None:
    """Fetch one part of the plan into the folder `output`: a WARC file, and where its records come from.

    Raises FetchError (a StageError) where the network fails for long; what was fetched is kept for the next run.
    """
    client = Client(connections, Path(cache, "slots"))
    requests = list(_requests(read_plan(plan, part), options))
    name = f"records-{part:05d}.warc.gz"
    with resumed_folder(output) as folder:
        lost = _fetch_into(folder, name, requests, options, client)
        if requests and not (folder / name).stat().st_size:
            counts = ", ".join(f"{entry['documents']} {entry['reason']}" for entry in lost)
            raise FetchError(f"no record of part {part} could be had: {counts}; check crawl.index.base_url")
        entry = {"file": name, "source": f"{options.crawl} records {part}", "origins": f"{name}.origins.arrow"}
        finish_folder(folder, output, [entry] if requests else [], lost)


def _fetch_into(
    folder: Path, name: str, requests: list[Request], options: Index, client: Client
) -> list[dict[str, Any]]:
    """Write the WARC file `name` and where its records come from; returns what could not be had, by reason."""
    journal, warc = folder / "journal.jsonl", folder / name
    work = hashlib.sha256(repr((requests, options.base_url)).encode()).hexdigest()
    done, size = _resume(journal, warc, work)
    fetch = functools.partial(_fetch, client, options.base_url.rstrip("/"))
    with (
        warc.open("rb+") as file,
        journal.open("a") as log,
        progress(len(requests), "fetch", "ranges", len(done)) as bar,
    ):
        file.truncate(size)
        file.seek(size)
        for fetched in stream_in_threads(client, fetch, requests[len(done) :]):
            step: dict[str, Any] = {"origins": [], "failed": fetched.failures}
            for source, offset, member in fetched.members:
                step["origins"].append((file.tell(), source, offset))
                file.write(member)
            file.flush()
            log.write(json.dumps(step | {"size": file.tell()}) + "\n")
            log.flush()
            done.append(step)
            bar.update()
        os.fsync(file.fileno())
    write_origins(folder / f"{name}.origins.arrow", (tuple(o) for step in done for o in step["origins"]))
    lost: dict[str, dict[str, Any]] = {}
    for reason, length in sorted(failure for step in done for failure in step["failed"]):
        entry = lost.setdefault(reason, {"reason": reason, "documents": 0, "bytes": 0})
        entry["documents"] += 1
        entry["bytes"] += length
    journal.unlink()
    return list(lost.values())


def _requests(table: pa.Table, options: Index) -> Iterator[Request]:
    for warc, rows in by_warc(table):
        offsets, lengths = rows["offset"].to_numpy(), rows["length"].to_numpy()
        columns = (offsets.tolist(), lengths.tolist(), rows["digest"].to_pylist())
        records = list(map(Planned, *columns))
        for first, last in coalesce(offsets, lengths, options.gap, options.max_range):
            yield Request(warc, records[first:last])


def _resume(journal: Path, warc: Path, work: str) -> tuple[list[dict[str, Any]], int]:
    """The steps that an earlier run of the same work finished, and the bytes of its WARC; else none and 0."""
    warc.touch()
    steps: list[dict[str, Any]] = []
    if journal.exists():
        for line in journal.read_bytes().split(b"\n")[:-1]:
            steps.append(json.loads(line))
        if steps and steps[0] == {"work": work} and steps[-1].get("size", 0) <= warc.stat().st_size:
            return steps[1:], steps[-1].get("size", 0)
    journal.write_text(json.dumps({"work": work}) + "\n", encoding="utf-8")
    return [], 0


def _fetch(client: Client, base_url: str, request: Request) -> Fetched:
    """The records of one request, each checked. Raises FetchError where the server has the file and fails."""
    if request.stop - request.start > RECORD_MAX:
        return _all_failed(request, "record_too_long")
    try:
        data = client.read(f"{base_url}/{request.warc}", request.start, request.stop)
    except FetchError as error:
        if error.status not in (*GONE, 416):
            raise
        return _all_failed(request, reason_of(error))
    fetched = Fetched()
    for record in request.records:
        begin = record.offset - request.start
        member = data[begin : begin + record.length]
        if problem := problem_of(member, record.digest):
            fetched.failures.append((problem, record.length))
        else:
            fetched.members.append((request.warc, record.offset, member))
    return fetched


def _all_failed(request: Request, reason: str) -> Fetched:
    return Fetched(failures=[(reason, record.length) for record in request.records])


def problem_of(member: bytes, digest: str | None) -> str | None:
    """Why these bytes are not one response record whose payload has this digest (None: unknown), or None."""
    inflater = zlib.decompressobj(31)
    try:
        record = inflater.decompress(member, BODY_MAX + HEADERS_MAX)
    except zlib.error:
        return "record_not_gzip"
    if inflater.unconsumed_tail:
        return "record_too_long"
    if not inflater.eof or inflater.unused_data:
        return "record_not_at_this_place"
    headers, _, block = record.partition(b"\r\n\r\n")
    headers += b"\r\n"
    length = LENGTH.search(headers)
    if not headers.startswith(b"WARC/") or length is None or not TYPE.search(headers):
        return "record_no_response"
    if len(block) != int(length[1]) + 4 or not block.endswith(b"\r\n\r\n"):
        return "record_wrong_length"
    payload = block[:-4].partition(b"\r\n\r\n")[2]
    stated = [digest.removeprefix("sha1:").encode()] if digest else []
    if match := DIGEST.search(headers):
        stated.append(match[1].upper())
    actual = base64.b32encode(hashlib.sha1(payload, usedforsecurity=False).digest())
    return "record_digest_mismatch" if any(value != actual for value in stated) else None
