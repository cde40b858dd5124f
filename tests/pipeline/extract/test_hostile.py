"""Hostile pages and mutated archives through the whole of extraction: it ends, and its ledger balances."""

import random

import pytest
from archives import FORMATS, http
from conftest import page, prose, write_warc
from mutations import MUTATIONS, Frame, Mutant

from pipeline.common.files import read_arrow, read_json
from pipeline.extract.options import Extract
from pipeline.extract.webpages import extract

pytestmark = pytest.mark.slow

FILES, PAGES = 120, 8

HOSTILE = {
    "deep": b"<div>" * 100_000,
    "deep and closed": b"<span>" * 20_000 + b"x" + b"</span>" * 20_000,
    "tables": b"<table><tr><td>" * 5_000,
    "lists": b"<ul><li>" * 20_000 + b"y",
    "attributes": b"<p " + b"".join(b'a%d="%d" ' % (i, i) for i in range(50_000)) + b">z",
    "one attribute": b"<a href='" + b"A" * 3_000_000,
    "no end of a tag": b"<" * 1_000_000,
    "comments": b"<!--" * 300_000,
    "entities": b"&amp;&lt;&#x10ffff;&#0;&nosuch" * 50_000,
    "forms": b"<form><select><option>" * 10_000,
    "misnested": b"<b><i><p></b></i>" * 20_000,
    "script": b"<script>" + b"</scrip" * 200_000,
    "svg": b"<svg><foreignObject><math>" * 2_000,
    "charset": b'<meta charset="' + b"\xff" * 40 + b'">' + bytes(range(256)) * 400,
    "utf-16": b"\xff\xfe" + b"\x00\xd8" * 100_000,
    "nul": b"<html>\0<p>\0" * 20_000,
    "lang": b"<html" + b" lang" * 100_000 + b">",
    "nothing": b"",
}


def run(tmp_path, name, warcs, language_id, **options):
    extract(Extract(languages=["fr"], **options), [str(w) for w in warcs], language_id,
            str(tmp_path / f"{name}.json"), str(tmp_path / f"{name}.ledger.json"), 1, None)  # fmt: skip
    rows = [row for batch in read_arrow(tmp_path / f"{name}.json") for row in batch.to_pylist()]
    return rows, read_json(tmp_path / f"{name}.ledger.json")


def test_hostile_pages_cost_only_themselves(tmp_path, language_id):
    records = [(f"https://good.example/{i}", page(prose("fr", i)), "text/html") for i in range(len(HOSTILE))]
    for (name, body), good in zip(HOSTILE.items(), list(records), strict=True):
        hostile = (f"https://hostile.example/{name.replace(' ', '-')}", body, "text/html")
        records.insert(records.index(good), hostile)
    warc = write_warc(tmp_path / "h.warc.gz", records)
    rows, ledger = run(tmp_path, "h", [warc], language_id, cascade=False, page_seconds=1)
    good = [row["url"] for row in rows if "good" in row["url"]]
    assert good == [f"https://good.example/{i}" for i in range(len(HOSTILE))]
    assert ledger["in"]["documents"] == len(records)
    assert ledger["failed"]["extractor_hung"]["documents"] >= 1


def test_mutated_archives_end_with_a_balanced_ledger(tmp_path, language_id):
    rng = random.Random(0)
    kept = 0
    warcs = []
    for number in range(FILES):
        form = FORMATS[rng.choice(sorted(FORMATS))]
        pages = [page(prose("fr", number * PAGES + i)) for i in range(PAGES)]
        records = [form.record(i, block=p if form.kind == "conversion" else http(p)) for i, p in enumerate(pages)]
        mutant = Mutant([Frame(form.pack(record), i) for i, record in enumerate(records)], rng, form)
        rng.choice(MUTATIONS)(mutant)
        warcs.append(tmp_path / f"{number}{form.suffix}")
        warcs[-1].write_bytes(form.head + b"".join(frame.data for frame in mutant.frames))
    rows, ledger = run(tmp_path, "m", warcs, language_id, min_chars=100)
    kept = ledger["kept"]["documents"]
    assert kept == len(rows) > 0.7 * FILES * PAGES  # most mutations touch one record
    assert ledger["failed"]
    assert sum(c["documents"] for r in ("dropped", "failed") for c in ledger[r].values()) == (
        ledger["in"]["documents"] - kept
    )
