"""Hostile values of every field of a page, from every reader, through all the stages behind it."""

from __future__ import annotations

import gzip
import itertools
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from archives import arc_record, http
from conftest import page, prose
from hypothesis import given
from hypothesis import strategies as st

from pipeline.__main__ import STAGES, main
from pipeline.common.files import read_arrow, read_json
from pipeline.common.schemas import PAGE_SCHEMA
from pipeline.extract.pages import FIELD_MAX, YEARS, fit_page, read_date

# Line separators and half surrogate pairs; hosts that urlsplit refuses, and one of 3,000 labels.
STRINGS = [
    "", "\0", "a\0b\r\n\tc", "\ud800", "\udfff\ud800", "\U0010ffff\ufffe\uffff", "é" * 3, "http://[", "http://[::1",
    "//a:99999999", "http://a\u2100b/", "__label__fr", "\u2028\x85", "../../etc/passwd", "<script>", "| a | b |",
    "x" * (FIELD_MAX - 10), "http://" + "a." * 3_000,
]  # fmt: skip
DATES = [
    "9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00", "0001-01-01T00:00:00Z", "1677-01-01T00:00:00Z",
    "2263-01-01T00:00:00Z", "2026-01-01T00:00:00+99:99", "2026-01-01T00:00:00", "2026-01-01T00:00:00.9+23:59:59.9",
    "2026-W01-1", "20260101T000000,5Z", "2026-01-01\ud80000:00:00Z", "-2026-01-01", "nan", "1" * 30_000, "",
]  # fmt: skip


RULES = ("gopher_quality", "c4_lorem_ipsum", "c4_curly_bracket", "fineweb_short_lines")


def stage(*arguments: str) -> None:
    assert main("pipeline", "", STAGES, list(arguments)) == 0


def through_all_stages(folder: Path) -> list[dict[str, Any]]:
    """The rows of the shards that come of `pages.json` in the folder."""
    at = {name: str(folder / name) for name in ("pages.json", "hashes.arrow", "verdicts", "index.arrow", "d.arrow",
          "f.arrow", "near.npy", "near", "clusters", "n.arrow", "corpus", "README.md", "stats.json")}  # fmt: skip
    ledgers = [str(folder / name) for name in ("pages.ledger.json", "d.json", "f.json", "n.json", "s.json")]
    (folder / "blocked.txt").write_text("bad.example\n")
    stage("dedup-hash", "--pages", at["pages.json"], "--output", at["hashes.arrow"])
    stage("dedup-reduce", "--hashes", at["hashes.arrow"], "--output", at["verdicts"], "--index", at["index.arrow"])
    stage("dedup-apply", "--pages", at["pages.json"], "--duplicates", f"{at['verdicts']}/hashes.arrow",
          "--output", at["d.arrow"], "--ledger", ledgers[1])  # fmt: skip
    stage("filter", "--documents", at["d.arrow"], "--output", at["f.arrow"], "--ledger", ledgers[2],
          "--rules", *RULES, "--url-blocklists", str(folder / "blocked.txt"))  # fmt: skip
    stage("near-hash", "--documents", at["f.arrow"], "--output", at["near.npy"])
    stage("near-reduce", "--signatures", at["near.npy"], "--documents", at["f.arrow"], "--output", at["near"],
          "--clusters", at["clusters"])  # fmt: skip
    stage("near-apply", "--documents", at["f.arrow"], "--duplicates", at["near"], "--position", "0",
          "--output", at["n.arrow"], "--ledger", ledgers[3])  # fmt: skip
    stage("shards", "--documents", at["n.arrow"], "--languages", "fr", "--name", "00000", "--output", at["corpus"],
          "--ledger", ledgers[4], "--validation-share", "0.5")  # fmt: skip
    shards = sorted(map(str, Path(at["corpus"]).rglob("*.arrow")))
    stage(
        "card", "--shards", *shards, "--ledgers", *ledgers, "--card", at["README.md"], "--stats", at["stats.json"]
    )
    return [row for shard in shards for batch in read_arrow(shard) for row in batch.to_pylist()]


def text_of(number: int) -> str:
    """French that no other number has, and that a language model and the rules keep."""
    return "\n".join(f"{number * 7 + p} {line} {number}." for p, line in enumerate(prose("fr", number)))


def test_hostile_values_in_archives_pass_all_stages(tmp_path, language_id):
    fields = [*itertools.product(["WARC-Target-URI", "WARC-Record-ID", "WARC-Payload-Digest"], STRINGS),
              *itertools.product(["WARC-Date"], DATES)]  # fmt: skip
    names = ("WARC-Target-URI", "WARC-Record-ID", "WARC-Payload-Digest", "WARC-Date")
    data = b""
    for number, (name, value) in enumerate(fields):
        block = http(page(text_of(number).split("\n")))
        header = {"WARC-Type": "response", "Content-Type": "application/http; msgtype=response",
                  "Content-Length": str(len(block))} | dict.fromkeys(names, f"x{number}")  # fmt: skip
        header[name] = value.replace("\r", "").replace("\n", "")
        lines = "".join(f"{key}: {entry}\r\n" for key, entry in header.items()).encode("utf-8", "surrogatepass")
        data += gzip.compress(b"WARC/1.0\r\n" + lines + b"\r\n" + block + b"\r\n\r\n", 1)
    (tmp_path / "a.warc.gz").write_bytes(data)
    dates = [b"99991231235959", b"00010101000000", b"99999999999999", b"00000000000000", b"20260101000000"]
    records = [arc_record(f"http://a.example/{n}", http(page(text_of(1000 + n).split("\n")))) for n in range(5)]
    pairs = zip(records, dates, strict=True)
    (tmp_path / "b.arc").write_bytes(b"".join(r.replace(b"20080430204825", date) for r, date in pairs))
    stage("extract", "--warcs", str(tmp_path / "a.warc.gz"), str(tmp_path / "b.arc"), "--language-id", language_id,
          "--languages", "fr", "--language-min-score", "0", "--no-cascade",
          "--output", str(tmp_path / "pages.json"), "--ledger", str(tmp_path / "pages.ledger.json"))  # fmt: skip
    ledger = read_json(tmp_path / "pages.ledger.json")
    # Headers of 65,000 bytes are longer than the reader takes.
    assert ledger["kept"]["documents"] >= len(fields) + len(records) - 3
    rows = through_all_stages(tmp_path)
    assert len(rows) > 0.9 * len(fields)
    assert all(row["date"] is None or row["date"].year in YEARS for row in rows)
    assert sum(row["date"] is not None for row in rows) >= 3


def hostile_rows() -> list[dict[str, Any]]:
    rows = [{"text": text_of(n), "url": url} for n, url in enumerate([*STRINGS, "http://a/" + "x" * 70_000])]
    rows += [{"text": text_of(100) + value, "url": "http://a.example/"} for value in STRINGS]
    strange = [None, 1, 1.5, True, [], {}, [["text"]], {"text": "text"}, float("nan"), float("inf"), 10**400]
    return rows + [{"text": value, "url": value} for value in strange] + [{"text": text_of(200), "url": value}
                                                                          for value in strange]  # fmt: skip


def test_hostile_values_in_json_lines_pass_all_stages(tmp_path):
    rows = hostile_rows()
    lines = [json.dumps(row) for row in rows]
    bad = [
        '{"text": ' + "[" * 100_000,
        '{"text": ' + "1" * 100_000 + "}",
        '{"text": "a", "text": 1, "url": 1e999}',
    ]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, *bad, "x" * 11_000_000, lines[0]]))
    stage("text", "--files", str(tmp_path / "a.jsonl"), "--language-id", "none", "--language", "fr",
          "--languages", "fr", "--output", str(tmp_path / "pages.json"),
          "--ledger", str(tmp_path / "pages.ledger.json"))  # fmt: skip
    ledger = read_json(tmp_path / "pages.ledger.json")
    failed = {reason: counts["documents"] for reason, counts in ledger["failed"].items()}
    assert failed == {"url_too_long": 1, "no_text": 11 + 1, "bad_json": 2, "row_too_long": 1}
    assert ledger["kept"]["documents"] == 2 * len(STRINGS) + 11 + 1
    assert ledger["in"]["documents"] == len(rows) + len(bad) + 2
    assert len(through_all_stages(tmp_path)) > len(STRINGS)


def test_hostile_values_in_parquet_pass_all_stages(tmp_path):
    import pyarrow.parquet as pq

    rows = [{name: value.encode("utf-8", "surrogatepass") for name, value in row.items()}
            for row in hostile_rows() if all(isinstance(value, str) for value in row.values())]  # fmt: skip
    table = pa.table({name: as_strings([row[name] for row in rows]) for name in ("text", "url")})
    pq.write_table(table, tmp_path / "a.parquet")
    stage("text", "--files", str(tmp_path / "a.parquet"), "--language-id", "none", "--language", "fr",
          "--languages", "fr", "--output", str(tmp_path / "pages.json"),
          "--ledger", str(tmp_path / "pages.ledger.json"))  # fmt: skip
    ledger = read_json(tmp_path / "pages.ledger.json")
    failed = {reason: counts["documents"] for reason, counts in ledger["failed"].items()}
    assert failed == {"url_too_long": 1, "not_utf8": 4}
    assert ledger["kept"]["documents"] == len(rows) - 5
    assert len(through_all_stages(tmp_path)) > len(STRINGS) - 4


def as_strings(values: list[bytes]) -> pa.Array:
    """A column of strings that need not be UTF-8."""
    return pa.Array.from_buffers(pa.string(), len(values), pa.array(values).buffers())


@given(st.sampled_from(DATES) | st.text(max_size=40) | st.datetimes().map(str), st.text(st.characters()))
def test_any_value_can_be_written_and_read(date, text):
    row = dict.fromkeys(PAGE_SCHEMA.names, text) | {"date": date, "offset": 2**63 - 1, "language_score": 1.0}
    fitted = fit_page(row)
    assert isinstance(fitted, dict)
    batch = pa.RecordBatch.from_pylist([fitted], PAGE_SCHEMA)
    assert batch.to_pylist()[0]["text"] == text.encode("utf-8", "replace").decode()
    assert batch.column("date").cast(pa.timestamp("ns", "UTC")) is not None  # as pandas has them


@pytest.mark.parametrize("name", ["url", "record_id", "digest", "warc"])
def test_a_long_field_is_a_failure(name):
    row = dict.fromkeys(("url", "record_id", "digest", "warc", "date"), "")
    assert fit_page(row | {name: "é" * (FIELD_MAX // 2)})[name] == "é" * (FIELD_MAX // 2)
    assert fit_page(row | {name: "é" * (FIELD_MAX // 2) + "."}) == f"{name}_too_long"


READABLE = {  # the date in UTC, and all forms of it
    "2014-01-01T00:00:00": ["2014", "2014-01", "2014-01-01", "2014-01-01T00", "20140101", "20140101000000"],
    "2014-02-03T04:00:00": ["2014-02-03T04", "2014-02-03T04Z", "2014-02-03t04z", "2014-02-03T04:00", "2014020304"],
    "2014-02-03T04:05:00": ["2014-02-03T04:05", "2014-02-03T04:05Z", "2014-02-03T06:05+02", "201402030405",
                            "2014-02-02T23:35:00-04:30", "2014-02-03T04:04:60Z"],
    "2014-02-03T04:05:06": ["2014-02-03T04:05:06Z", "2014-02-03t04:05:06z", "2014-02-03 04:05:06",
                            "20140203040506", "20140203T040506Z", "2014-02-03T05:05:06+0100",
                            "2014-02-03T04:05:06 Z", " 2014-02-03T04:05:06.0Z ", "2014-02-03T04:05:06.000000000Z"],
    "2014-02-03T04:05:06.120000": ["2014-02-03T04:05:06.12Z", "2014-02-03T04:05:06,120Z", "20140203040506120"],
    "2014-02-03T04:05:06.123456": [f"2014-02-03T04:05:06.{n}Z" for n in (123456, 1234567, 123456789)],
    "2016-02-29T23:59:59.999999": ["2016-02-29T23:59:59.999999999Z"],
}  # fmt: skip
UNREADABLE = [
    "", "x", "14", "201", "20140", "2014-2-3", "2014-00", "2014-13", "2014-02-30", "2015-02-29", "2014-02-03T25",
    "2014-02-03T04:60", "2014-02-03T04:05:61", "2014-02-03T04:05:06.Z", "2014-02-03T04:05:06+24:00", "0000",
    "1677", "2263", "2014-02-03T04:05:06Zx", "Mon, 03 Feb 2014 04:05:06 GMT", "\u0662\u0660\u0661\u0664", "-2014",
    "2014/02/03", "1391400306", None,
]  # fmt: skip


def test_dates_of_all_forms():
    for right, values in READABLE.items():
        for value in values:
            assert read_date(value) == datetime.fromisoformat(right).replace(tzinfo=UTC), value
    assert [read_date(value) for value in UNREADABLE] == [None] * len(UNREADABLE)
