"""Records by the columnar index: the plan, the ranges, the WARC that comes of them, and what goes wrong."""

from __future__ import annotations

import gzip
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from index_files import CRAWL, SCHEMA, index_rows, make_crawl, parquet, paths_gz
from server import serving

from pipeline.__main__ import STAGES
from pipeline.common.cli import main
from pipeline.common.errors import StageError
from pipeline.common.files import read_json
from pipeline.crawl import records as records_module
from pipeline.crawl.index import coalesce, parts, plan_records, read_plan
from pipeline.crawl.options import Index
from pipeline.crawl.origins import read_folder, read_origins
from pipeline.crawl.records import fetch_records, problem_of
from pipeline.warc.reader import responses


@pytest.fixture(scope="module")
def crawl(tmp_path_factory):
    return make_crawl(tmp_path_factory.mktemp("crawl"))


@pytest.fixture
def server(crawl):
    with serving() as running:
        running.files = dict(crawl)
        yield running


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    monkeypatch.setattr("pipeline.network.client.FIRST_WAIT", 0.0)


def options(server, **changes) -> Index:
    given = {"crawl": CRAWL, "languages": ["fra"], "files": 1, "gap": 0, "base_url": f"{server.url}/"}
    return Index(**(given | changes))


def make_plan(tmp_path, chosen: Index):
    plan_records(
        chosen, str(tmp_path / "plan.arrow"), str(tmp_path / "plan.json"), str(tmp_path / "cache"), 3, 0.1, 1e6
    )
    return read_json(tmp_path / "plan.json")


def fetch(tmp_path, chosen: Index, part: int = 0):
    output = tmp_path / f"part{part}"
    fetch_records(chosen, str(tmp_path / "plan.arrow"), part, str(output), str(tmp_path / "cache"), 3)
    return output


def expected(crawl, wanted):
    """{(file, offset): URL} of the rows of the index for which `wanted` holds."""
    rows = [row for path, body in crawl.items() if path.endswith(".warc.gz") for row in index_rows(path[1:], body)]
    return {(r["warc_filename"], r["warc_record_offset"]): r["url"] for r in rows if wanted(r)}


def first_is_french(row):
    return row["content_languages"].split(",")[0] == "fra"


def test_the_plan_says_what_the_fetch_then_asks_for(server, crawl, tmp_path):
    chosen = options(server)
    summary = make_plan(tmp_path, chosen)
    wanted = expected(crawl, first_is_french)
    table = read_plan(str(tmp_path / "plan.arrow"), 0)
    assert set(zip(table["warc"].to_pylist(), table["offset"].to_pylist(), strict=True)) == set(wanted)
    assert summary["records"] == len(wanted) == 32
    assert sum(host["records"] for host in summary["by_host"]) == 32
    assert sum(file["bytes"] for file in summary["by_warc"]) == summary["bytes"]
    server.requests.clear()
    server.sent = 0
    fetch(tmp_path, chosen)
    assert {"requests": len(server.requests), "bytes": server.sent} == summary["by_gap"]["0"]
    assert server.sent == summary["bytes"]


def test_what_arrives_is_a_warc_of_the_crawls_own_bytes_and_says_where_they_lie(server, crawl, tmp_path):
    chosen = options(server, gap=10**6)
    summary = make_plan(tmp_path, chosen)
    server.requests.clear()
    output = fetch(tmp_path, chosen)
    assert len(server.requests) == summary["by_gap"]["1000000"]["requests"] == 4  # one a WARC
    wanted = expected(crawl, first_is_french)
    (entry,), failed = read_folder(output)
    assert failed == []
    origins = read_origins(output / entry["origins"])
    found = list(responses(output / entry["file"]))
    assert {origins[record.offset]: record.url for record in found} == wanted
    for record in found:
        warc, offset = origins[record.offset]
        original = next(r for r in responses_of(crawl, warc, tmp_path) if r.offset == offset)
        assert (original.record_id, original.body, original.digest) == (
            record.record_id,
            record.body,
            record.digest,
        )
    whole = sum(len(body) for path, body in crawl.items() if path.endswith(".warc.gz"))
    assert (output / entry["file"]).stat().st_size < whole / 4


def responses_of(crawl, warc, folder):
    (folder / "x.warc.gz").write_bytes(crawl[f"/{warc}"])
    return list(responses(folder / "x.warc.gz"))


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"match": "any"}, lambda row: True),
        ({"languages": ["eng", "fra"]}, lambda row: True),
        ({"languages": ["eng"]}, lambda row: row["url_host_tld"] == "com"),
        ({"tlds": ["fr"], "match": "any"}, lambda row: row["url_host_tld"] == "fr"),
        (
            {"hosts": ["site1.fr", "www.site2.fr"]},
            lambda r: r["url_host_registered_domain"] in ("site1.fr", "site2.fr"),
        ),
    ],
)
def test_the_filters_are_those_of_the_config(server, crawl, tmp_path, changes, wanted):
    assert make_plan(tmp_path, options(server, **changes))["records"] == len(expected(crawl, wanted))


def test_a_filter_on_sites_reads_only_a_part_of_the_index(server, tmp_path):
    digests = np.random.default_rng(0).integers(0, 2**60, 40_000)
    rows = [
        {
            "warc_filename": f"crawl-data/x/{i % 9}.warc.gz",
            "warc_record_offset": i,
            "warc_record_length": 1,
            "content_digest": str(digest),
            "content_languages": "fra",
            "content_mime_detected": "text/html",
            "fetch_status": 200,
            "url_host_name": "a",
            "url_host_tld": "com" if i < 36_000 else "fr",
        }
        for i, digest in enumerate(digests)
    ]
    server.files["/index.parquet"] = parquet(rows, row_group_size=2000)
    sent = {}
    for name, tlds, count in (("all", [], 40_000), ("fr", ["fr"], 4000)):
        before = server.sent
        summary = make_plan(tmp_path, options(server, tlds=tlds, tables=[f"{server.url}/index.parquet"]))
        assert summary["records"] == count
        sent[name] = server.sent - before
    assert sent["all"] > 0.8 * len(server.files["/index.parquet"])
    assert sent["fr"] < sent["all"] / 3


def test_a_larger_limit_begins_with_the_same_records_and_parts_share_them_evenly(server, tmp_path):
    def rows(chosen):
        make_plan(tmp_path, chosen)
        tables = [read_plan(str(tmp_path / "plan.arrow"), part) for part in range(chosen.files)]
        return [list(zip(t["warc"].to_pylist(), t["offset"].to_pylist(), strict=True)) for t in tables]

    (everything,) = rows(options(server))
    assert rows(options(server, limit=10)) == [everything[:10]]
    assert rows(options(server, limit=11)) == [everything[:11]]
    assert rows(options(server, limit=10, seed=3)) != [everything[:10]]
    assert len({warc for warc, _ in everything[:10]}) == 2  # 8 records a WARC: as near each other as can be
    parts = rows(options(server, files=4))
    assert [row for part in parts for row in part] == everything
    assert {len(part) for part in parts} <= {7, 8, 9}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(1, 30)), min_size=1, max_size=30),
    st.integers(0, 40),
    st.integers(1, 100),
)
def test_runs_hold_every_record_once_within_the_gap_and_the_length(steps, gap, longest):
    offsets, place = [], 0
    for before, length in steps:
        offsets.append(place + before)
        place += before + length
    lengths = [length for _, length in steps]
    runs = coalesce(np.array(offsets), np.array(lengths), gap, longest)
    assert [i for first, last in runs for i in range(first, last)] == list(range(len(steps)))
    for first, last in runs:
        assert last - first == 1 or offsets[last - 1] + lengths[last - 1] - offsets[first] <= longest
        assert all(offsets[i] - offsets[i - 1] - lengths[i - 1] <= gap for i in range(first + 1, last))
    for (first, last), (_, after) in itertools.pairwise(runs):
        apart = offsets[last] - offsets[last - 1] - lengths[last - 1] > gap
        assert apart or offsets[last] + lengths[last] - offsets[first] > longest
        assert after > last


def test_damage_and_lies_cost_their_record_and_are_counted_by_reason(server, crawl, tmp_path):
    names = sorted(path[1:] for path in crawl if path.endswith(".warc.gz"))
    rows = [row for name in names for row in index_rows(name, crawl[f"/{name}"]) if first_is_french(row)]
    bodies = {name: bytearray(crawl[f"/{name}"]) for name in names}
    lies = [dict(row) for row in rows]
    bodies[names[0]][rows[0]["warc_record_offset"]] ^= 0xFF  # no gzip begins there
    bodies[names[0]][rows[1]["warc_record_offset"] + 150] ^= 0xFF
    lies[2]["content_digest"] = "A" * 32
    lies[3]["warc_record_length"] -= 5
    lies[4]["warc_record_length"] += 5
    lies[5]["warc_record_offset"] = 2**30
    lies[6]["warc_filename"] = names[0].replace("00000", "77777")
    forged = gzip.compress(gzip.decompress(bytes(member(bodies, rows[7]))).replace(b"response", b"revisits"), 9)
    start = rows[7]["warc_record_offset"]
    bodies[names[0]][start : start + rows[7]["warc_record_length"]] = forged
    lies[7]["warc_record_length"] = len(forged)
    lies[8]["warc_filename"] = "../../etc/passwd"
    lies[9]["warc_record_offset"] = -1
    lies.append(dict(lies[10]))
    for name in names[1:]:
        server.files[f"/{name}"] = bytes(bodies[name])
    server.files[f"/{names[0]}"] = bytes(bodies[names[0]])
    (tmp_path / "index.parquet").write_bytes(parquet(lies))
    chosen = options(server, tables=[str(tmp_path / "index.parquet")], gap=0)
    summary = make_plan(tmp_path, chosen)
    assert summary["rows_left_out"] == {"no such place in a WARC": 2, "named twice": 1}
    output = fetch(tmp_path, chosen)
    (entry,), failed = read_folder(output)
    reasons = {failure["reason"]: failure["documents"] for failure in failed}
    kept = list(responses(output / entry["file"]))
    assert len(kept) == len(read_origins(output / entry["origins"])) == summary["records"] - sum(reasons.values())
    assert reasons.pop("fetch_http_404") == 1
    assert reasons.pop("fetch_http_416") == 1
    assert reasons.pop("record_digest_mismatch") >= 1
    assert reasons.pop("record_no_response") == 1
    assert sum(reasons.values()) == 4
    assert set(reasons) <= {"record_not_gzip", "record_not_at_this_place"}


def hostile_index(tmp_path, **columns) -> str:
    """An index of the rows 0, 1, … of one WARC, each of ten bytes, but for these columns."""
    count = len(next(iter(columns.values())))
    sound = {
        "warc_filename": ["crawl-data/x/a.warc.gz"] * count,
        "warc_record_offset": [10 * i for i in range(count)],
        "warc_record_length": [10] * count,
        "content_digest": ["A" * 32] * count,
        "content_languages": ["fra"] * count,
        "content_mime_detected": ["text/html"] * count,
        "fetch_status": [200] * count,
        "url_host_name": ["a.example"] * count,
        "url_host_tld": ["example"] * count,
    }
    pq.write_table(pa.table(sound | columns), tmp_path / "hostile.parquet")
    return str(tmp_path / "hostile.parquet")


@pytest.mark.parametrize(
    ("columns", "left_out"),
    [
        ({"warc_record_length": [10, 10**12, 2**63 - 1]}, {"too long a record, or no digest": 2}),
        ({"warc_record_offset": [0, -(2**63), 2**63 - 1]}, {"no such place in a WARC": 2}),
        ({"warc_record_length": [10, 0, -5]}, {"no such place in a WARC": 2}),
        ({"warc_record_length": [10, None, None]}, {"no such place in a WARC": 2}),
        ({"warc_filename": ["a/b", "../../etc/passwd", "a/\n"]}, {"no such place in a WARC": 2}),
        ({"warc_filename": ["a/b", "/etc/passwd", None]}, {"no such place in a WARC": 2}),
        ({"content_digest": ["A" * 32, "A" * 10**6, "é"]}, {"too long a record, or no digest": 2}),
        ({"warc_filename": pa.array([b"a/b", b"a/\xff", b"\xfe"]).view("string")}, {"no such place in a WARC": 2}),
        (
            {"content_digest": pa.array([b"A", b"\xff", b"\xfe"]).view("string")},
            {"too long a record, or no digest": 2},
        ),
        ({"url_host_name": pa.array([b"a", b"\xff", b"\xfe"]).view("string")}, {}),
        ({"warc_record_offset": [0, 0, 0]}, {"named twice": 2}),
    ],
)
def test_rows_that_cannot_be_are_left_out_and_counted(server, tmp_path, columns, left_out):
    chosen = options(server, tables=[hostile_index(tmp_path, **columns)], files=3)
    summary = make_plan(tmp_path, chosen)
    assert summary["rows_left_out"] == left_out
    assert summary["records"] == 3 - sum(left_out.values())
    assert sum(len(read_plan(str(tmp_path / "plan.arrow"), part)) for part in range(3)) == summary["records"]


@pytest.mark.parametrize(
    "columns",
    [
        {"warc_record_offset": ["x", "y"]},
        {"warc_record_length": [1.5, 2.5]},
        {"warc_record_length": pa.array([2**64 - 1, 1], pa.uint64())},
        {"content_languages": [1, 2]},
        {"content_languages": [["fra"], ["eng"]]},
        {"warc_filename": [{"a": 1}, {"a": 2}]},
        {"content_digest": [[1], [2]]},
    ],
)
def test_columns_of_other_types_are_an_error_that_names_the_file(server, tmp_path, columns):
    path = hostile_index(tmp_path, **columns)
    with pytest.raises(StageError, match=r"hostile\.parquet: not a Parquet file of the index, or a damaged one"):
        make_plan(tmp_path, options(server, tables=[path]))


def test_an_index_that_unpacks_to_more_than_the_memory_is_an_error(server, tmp_path):
    rows, name = 50_000, pa.array(["h" * 100_000])  # 40 kB in the file, 5 GB as strings
    names = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), name)
    path = hostile_index(tmp_path, url_host_name=names)
    with pytest.raises(
        StageError, match=r"more than 500 MB of memory; set crawl\.index\.limit, or, .* --memory-mb"
    ):
        plan_records(options(server, tables=[path]), str(tmp_path / "plan"), str(tmp_path / "report"),
                     str(tmp_path / "cache"), 3, 0.1, 1e6, 500)  # fmt: skip
    assert not (tmp_path / "plan").exists()
    np.empty(2**30, np.uint8)  # the bound is gone


def test_an_index_of_more_rows_than_any_has_is_an_error(server, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.crawl.index.ROWS_MAX", 2)
    with pytest.raises(StageError, match="more than 2 rows; make several files of it"):
        make_plan(tmp_path, options(server, tables=[hostile_index(tmp_path, fetch_status=[200] * 3)]))


def test_a_piece_of_the_index_that_is_larger_than_any_is_not_fetched(server, tmp_path, monkeypatch):
    server.files["/index.parquet"] = Path(hostile_index(tmp_path, fetch_status=[200] * 3)).read_bytes()
    monkeypatch.setattr("pipeline.crawl.index.READ_MAX", 100)
    with pytest.raises(StageError, match=r"index\.parquet: not a Parquet file .* bytes in one piece"):
        make_plan(tmp_path, options(server, tables=[f"{server.url}/index.parquet"]))


@given(st.lists(st.integers(1, 2**27), min_size=1, max_size=50), st.integers(1, 60))
def test_parts_share_the_bytes_evenly_at_any_size(lengths, files):
    ends = list(itertools.accumulate(lengths))
    assert parts(np.array(ends), files).tolist() == [(end - 1) * files // ends[-1] for end in ends]


def member(bodies, row):
    return bodies[row["warc_filename"]][row["warc_record_offset"] :][: row["warc_record_length"]]


def test_a_record_of_the_crawl_is_sound_and_no_changed_byte_of_it_goes_unseen(crawl):
    path = next(path for path in crawl if path.endswith(".warc.gz"))
    row = index_rows(path[1:], crawl[path])[3]
    whole = member({row["warc_filename"]: crawl[path]}, row)
    assert problem_of(whole, row["content_digest"]) is None
    assert problem_of(whole, None) is None
    for place in range(10, len(whole), 5):  # behind the gzip header, whose flags and time nobody needs
        changed = bytearray(whole)
        changed[place] ^= 1
        assert problem_of(bytes(changed), row["content_digest"]), place


def test_a_bomb_is_no_record():
    bomb = gzip.compress(b"WARC/1.0\r\n" + bytes(records_module.BODY_MAX + 2**20), 1)
    assert problem_of(bomb, None) == "record_too_long"


def test_a_fetch_that_breaks_off_goes_on_and_ends_in_the_same_bytes(server, tmp_path):
    chosen = options(server)
    make_plan(tmp_path, chosen)
    reference = fetch(tmp_path, chosen).rename(tmp_path / "reference")
    table = read_plan(str(tmp_path / "plan.arrow"), 0)
    last = f"/{table['warc'][-1].as_py()}"
    server.faults[last] = ["status 403"] * 3
    with pytest.raises(StageError, match="forbidden"):
        fetch(tmp_path, chosen)
    assert not (tmp_path / "part0").exists()
    broken = tmp_path / "part0.part" / "part0"
    with (broken / "records-00000.warc.gz").open("ab") as file:
        file.write(b"half a record")
    with (broken / "journal.jsonl").open("a") as file:
        file.write('{"half a line')
    server.faults.clear()
    before = len(server.requests)
    fetch(tmp_path, chosen)
    assert 0 < len(server.requests) - before < len(table)
    for path in reference.iterdir():
        assert (tmp_path / "part0" / path.name).read_bytes() == path.read_bytes()


def test_the_same_records_whatever_the_network_does(server, tmp_path):
    chosen = options(server, gap=3000)
    make_plan(tmp_path, chosen)
    reference = fetch(tmp_path, chosen).rename(tmp_path / "reference")
    for path in list(server.files):
        server.faults[path] = ["status 503", "drop 700", "wrong range", "refuse", "ignore range", "status 429"] * 2
    make_plan(tmp_path, chosen)
    fetch(tmp_path, chosen)
    for path in reference.iterdir():
        assert (tmp_path / "part0" / path.name).read_bytes() == path.read_bytes()


def test_an_index_that_is_none_or_lacks_a_column_or_has_no_such_record_is_an_error(server, tmp_path):
    def message(**changes):
        with pytest.raises(StageError) as caught:
            make_plan(tmp_path, options(server, **changes))
        return str(caught.value)

    assert "no record of 2 index files has languages ['bre']" in message(languages=["bre"])
    old = SCHEMA.remove(SCHEMA.get_field_index("content_languages"))
    (tmp_path / "old.parquet").write_bytes(parquet([], old))
    assert "old.parquet: no column content_languages; crawls before August 2018" in message(
        tables=[str(tmp_path / "old.parquet")]
    )
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no PAR1")
    assert "bad.parquet: not a Parquet file" in message(tables=[str(tmp_path / "bad.parquet")])
    body = Path(hostile_index(tmp_path, other=[1])).read_bytes()
    (tmp_path / "bad.parquet").write_bytes(body.replace(b"other", b"oth\xffr"))
    assert "bad.parquet: not a Parquet file" in message(tables=[str(tmp_path / "bad.parquet")])
    assert "crawl.index.tables: no file matches" in message(tables=["no/*.parquet"])
    server.files[f"/crawl-data/{CRAWL}/cc-index-table.paths.gz"] = paths_gz(["cc-index/a/subset=robotstxt/b"])
    (tmp_path / "cache").rename(tmp_path / "old cache")
    assert "lists no file of subset=warc" in message()


def test_a_plan_with_no_record_to_be_had_is_an_error_with_the_reasons(server, tmp_path):
    chosen = options(server)
    make_plan(tmp_path, chosen)
    server.files.clear()
    with pytest.raises(StageError, match="no record of part 0 could be had: 32 fetch_http_404; check"):
        fetch(tmp_path, chosen)


def test_a_part_without_records_is_an_empty_folder(server, tmp_path):
    chosen = options(server, limit=1, files=3)
    make_plan(tmp_path, chosen)
    folders = [read_folder(fetch(tmp_path, chosen, part)) for part in range(3)]
    assert sorted(len(files) for files, _ in folders) == [0, 0, 1]
    assert json.dumps(folders)


def test_the_plan_is_printed_for_a_config_before_anything_is_fetched(server, tmp_path, caplog, capsys):
    caplog.set_level("INFO")
    index = {"crawl": CRAWL, "languages": ["fra"], "base_url": server.url, "gap": 5000}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"output": "x", "crawl": {"index": index}}))
    out = [f"--{name}={tmp_path / name}" for name in ("output", "report", "cache")]
    assert main("pipeline", "", STAGES, ["index-plan", "--configfile", str(tmp_path / "c.yaml"), *out]) == 0
    assert "32 records, " in caplog.text
    assert re.search(r"gap +5,000: .* requests, .* MB, .* min  <- crawl\.index\.gap", caplog.text)
    assert "www.site0.fr: " in caplog.text
    assert not [path for path, _ in server.requests if path.endswith(".warc.gz")]
    assert main(
        "pipeline", "", STAGES, ["index-plan", "--configfile", str(tmp_path / "c.yaml"), "--tlds", "xx", *out]
    )
    assert "no record of 2 index files has languages ['fra'], tlds ['xx']" in capsys.readouterr().err
