"""Plain text in Parquet and JSON lines to pages."""

from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import jsonl, prose
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.common.errors import StageError
from pipeline.common.files import read_arrow, read_json
from pipeline.common.schemas import PAGE_SCHEMA
from pipeline.extract import parquet, texts
from pipeline.extract.options import Extract
from pipeline.extract.texts import read_texts
from pipeline.warc import unpacking

DOCUMENTS = [
    {"text": "\n\n".join(prose("fr" if i % 4 else "en", i)), "url": f"https://w.example/{i}", "id": i}
    for i in range(40)
]


def write(path: Path, documents=DOCUMENTS) -> Path:
    if ".parquet" in path.suffixes:
        pq.write_table(pa.Table.from_pylist(documents), path, row_group_size=7)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(jsonl(documents)))
    elif path.suffix == ".zst":
        with pa.CompressedOutputStream(str(path), "zstd") as file:
            file.write(jsonl(documents))
    else:
        path.write_bytes(jsonl(documents))
    return path


def make_pages(files, language_id, language=None, text="text", url="url", **options):
    folder = Path(files[0]).parent
    read_texts(
        Extract(languages=["fr"], **options),
        *(list(map(str, files)), language_id, text, url, language),
        output=str(folder / "0.json"),
        ledger=str(folder / "0.ledger.json"),
    )
    rows = [row for batch in read_arrow(folder / "0.json") for row in batch.to_pylist()]
    return rows, read_json(folder / "0.ledger.json")


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.json.gz", "a.ndjson", "a.jsonl.zst"])
def test_every_kind_of_file_gives_the_pages_of_the_wanted_language(tmp_path, language_id, name):
    pages, ledger = make_pages([write(tmp_path / name)], language_id)
    wanted = [(i, d) for i, d in enumerate(DOCUMENTS) if i % 4]
    assert [page["text"] for page in pages] == [d["text"] for _, d in wanted]
    assert [(page["offset"], page["url"]) for page in pages] == [(i, d["url"]) for i, d in wanted]
    assert {page["warc"] for page in pages} == {name}
    assert set(pages[0]) == set(PAGE_SCHEMA.names)
    assert ledger["in"]["documents"] == 40
    assert ledger["dropped"]["other_language"]["documents"] == 10
    assert ledger["stage"] == "extract"


def test_a_given_language_is_not_identified_and_a_row_without_url_is_named_by_its_place(tmp_path):
    documents = [{"body": d["text"]} for d in DOCUMENTS]
    pages, _ = make_pages([write(tmp_path / "a.parquet", documents)], "no/model", "fr", text="body")
    assert len(pages) == 40
    assert pages[3]["url"] == "a.parquet#3"
    assert pages[3]["language_score"] == 1


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(
            [b'{"text": 3}', b"{}", b"[1]", b"{", b"\xff\xfe", b"nan", b'"text"', b'{"text": "\\ud800"}', b""]
        ),
        max_size=8,
    )
)
def test_bad_lines_cost_themselves_and_the_ledger_balances(tmp_path, lines):
    good = jsonl(DOCUMENTS[:2]).rstrip().split(b"\n")
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([good[0], *lines, good[1]]))
    pages, ledger = make_pages([tmp_path / "a.jsonl"], "no/model", "fr")
    assert len(pages) == 2
    assert ledger["in"]["documents"] == 2 + sum(bool(line) for line in lines)


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl.gz", "a.jsonl.zst"])
def test_a_damaged_file_costs_what_is_behind_the_damage_and_is_counted(tmp_path, name):
    path = write(tmp_path / name, DOCUMENTS * 40)
    other = write(tmp_path / "b.jsonl")
    whole = path.read_bytes()
    if name.endswith(".parquet"):
        path.write_bytes(whole[: len(whole) // 2] + bytes(500) + whole[len(whole) // 2 + 500 :])
    else:
        path.write_bytes(whole[: len(whole) // 2])
    pages, ledger = make_pages([path, other], "no/model", "fr")
    assert [page["warc"] for page in pages].count("b.jsonl") == 40
    assert sum(counts["documents"] for counts in ledger["failed"].values()) >= 1
    if name.endswith(".parquet"):
        assert ledger["in"]["documents"] == 40 * 41


def test_no_such_column_is_an_error_that_names_those_there_are(tmp_path):
    with pytest.raises(StageError, match=r"no column 'body'; it has text, url, id: set crawl\.texts\.text"):
        make_pages([write(tmp_path / "a.parquet")], "no/model", "fr", text="body")
    with pytest.raises(StageError, match="no line has a key 'body'"):
        make_pages([write(tmp_path / "a.jsonl")], "no/model", "fr", text="body")


def failed(ledger):
    return {reason: counts["documents"] for reason, counts in ledger["failed"].items()}


def repeated(path, text, times):
    """A small Parquet file of one long text many times, which stands in it once."""
    column = pa.DictionaryArray.from_arrays(pa.array([0] * times, pa.int32()), pa.array([text]))
    pq.write_table(pa.table({"text": column}), path, compression="zstd")
    return path


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.jsonl.gz"])
def test_a_row_that_is_too_long_costs_only_itself(tmp_path, name):
    documents = [DOCUMENTS[0], {"text": "x" * 3000, "url": ""}, DOCUMENTS[1], {"text": "x", "url": "y" * 3000},
                 *DOCUMENTS[2:4], {"text": "z" * 3000}]  # fmt: skip
    pages, ledger = make_pages([write(tmp_path / name, documents)], "no/model", "fr", max_html_bytes=2000)
    assert [page["url"] for page in pages] == [d["url"] for d in DOCUMENTS[:4]]
    assert [page["offset"] for page in pages] == [0, 2, 4, 5]
    assert failed(ledger) == {"row_too_long": 3}
    assert ledger["failed"]["row_too_long"]["bytes"] >= 9000


def test_text_in_any_type_of_column_and_none_in_others(tmp_path):
    strings = [DOCUMENTS[0]["text"], None, DOCUMENTS[1]["text"]]
    columns = {str(kind): pa.array(strings, kind) for kind in (pa.string(), pa.large_string(), pa.string_view())}
    columns["dictionary"] = columns["string"].dictionary_encode()
    columns["json"] = pa.ExtensionArray.from_storage(pa.json_(), columns["string"])
    columns |= {"binary": columns["string"].cast(pa.binary()), "list": pa.array([[s] for s in strings])}
    pq.write_table(pa.table(columns | {"number": pa.array([1, 2, 3])}), tmp_path / "a.parquet")
    for name in (*columns, "number"):
        lines = io.BytesIO()
        parquet.write_lines(str(tmp_path / "a.parquet"), name, "nothing", 10_000, lines)
        head, *rows = map(json.loads, lines.getvalue().splitlines())
        assert head == {"columns": [name], "rows": 3}
        texts_ = [None] * 3 if name in ("binary", "list", "number") else strings
        assert rows == [[text, None] for text in texts_]


def test_a_row_that_is_no_utf8_costs_only_itself(tmp_path):
    good = DOCUMENTS[0]["text"].encode()
    column = pa.Array.from_buffers(pa.string(), 3, pa.array([good, b"\xff" * 300, good]).buffers())
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    pages, ledger = make_pages([tmp_path / "a.parquet"], "no/model", "fr")
    assert [page["offset"] for page in pages] == [0, 2]
    assert failed(ledger) == {"not_utf8": 1}


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl.zst", "blank.jsonl.zst"])
def test_a_file_that_unpacks_too_far_is_read_up_to_there(tmp_path, monkeypatch, name):
    monkeypatch.setattr(unpacking, "UNPACKED_MIN", 100 * texts.LINE_COST)
    text = "Une phrase. " * 2000
    if name == "a.parquet":
        path = repeated(tmp_path / name, text, 1000)
    else:
        path = tmp_path / name
        with pa.CompressedOutputStream(str(path), "zstd") as file:
            file.write(jsonl([{"text": text}]) * 1000 if name == "a.jsonl.zst" else b"\n" * 10**6)
    pages, ledger = make_pages([path, write(tmp_path / "b.jsonl")], "no/model", "fr")
    assert [page["warc"] for page in pages].count("b.jsonl") == len(DOCUMENTS)
    assert len(pages) < len(DOCUMENTS) + 50
    assert list(failed(ledger)) == ["unpacks_too_far"]


HELPER = """
import os, signal, sys
from pipeline.extract import parquet
{change}
sys.exit(parquet.main(*sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("parquet.MEMORY = 2**28", "unpacks_too_far"),
        ("parquet.SECONDS = 1; parquet._line = lambda *a: sum(iter(int, 1))", "unpacks_too_far"),
        ("parquet._line = lambda *a: os.kill(os.getpid(), signal.SIGSEGV)", "damaged_file"),
        ("parquet._line = lambda *a: os.write(1, b'[nothing') and os._exit(0)", "damaged_file"),
        ("parquet._line = lambda *a: {'x': '\\ud800'}", "damaged_file"),
    ],
)
def test_a_file_that_crashes_or_hangs_its_reader_costs_only_itself(tmp_path, monkeypatch, change, reason):
    monkeypatch.setattr(parquet, "COMMAND", [sys.executable, "-c", HELPER.format(change=change)])
    bomb = repeated(tmp_path / "a.parquet", "x" * (8_000_000 if "MEMORY" in change else 20_000), 200)
    pages, ledger = make_pages([bomb, write(tmp_path / "b.jsonl")], "no/model", "fr", max_html_bytes=10_000)
    assert len(pages) == len(DOCUMENTS)
    assert failed(ledger) == {reason: 200}


def test_a_file_is_not_believed_to_have_more_rows_than_bytes(tmp_path):
    pq.write_table(pa.table({"text": pa.nulls(10**6, pa.string())}), tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + bytes(len(content) // 2) + content[len(content) // 2 + 4 :])
    _, ledger = make_pages([tmp_path / "a.parquet"], "no/model", "fr")
    assert failed(ledger) == {"damaged_file": len(content)}


def test_a_file_of_garbage_is_no_wrong_key(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"<html>not found</html>\n" * 3)
    pages, ledger = make_pages([tmp_path / "a.jsonl", write(tmp_path / "b.jsonl")], "no/model", "fr")
    assert len(pages) == len(DOCUMENTS)
    assert failed(ledger) == {"bad_json": 3}


@pytest.mark.parametrize("name", ["a\udcff.jsonl", "a\nb.jsonl"])
def test_a_name_that_no_table_can_hold_is_an_error(tmp_path, name):
    assert make_pages([write(tmp_path / "é 漢\u3000\u00a0.jsonl")], "no/model", "fr")[0]
    with pytest.raises(StageError, match=r"its name is not UTF-8, or has control characters; rename the file"):
        make_pages([write(tmp_path / name)], "no/model", "fr")
