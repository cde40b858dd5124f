"""Plain text in Parquet and JSON lines to pages."""

from __future__ import annotations

import gzip
import io
import json
import re
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
from pipeline.crawl.origins import finish_folder
from pipeline.crawl.text_files import text_files
from pipeline.extract import tables, texts
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
    elif path.suffix.lower() == ".arrow":
        table = pa.Table.from_pylist(documents)
        with pa.ipc.new_stream(str(path), table.schema) as file:
            file.write_table(table, max_chunksize=7)
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


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.json.gz", "a.ndjson", "a.jsonl.zst", "a.ARROW"])
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
    for name in ("a.parquet", "a.jsonl", "a.arrow", "a.json.gz"):
        what = "line 1: no key" if "json" in name else "no column"
        message = rf"{re.escape(name)}.*{what} 'body'; it has text, url, id: set crawl\.texts\.text to text$"
        with pytest.raises(StageError, match=message):
            make_pages([write(tmp_path / name)], "no/model", "fr", text="body")


def test_a_key_that_is_in_none_of_many_lines_is_an_error_before_the_file_ends(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"{}\n" * 999 + b'{"id": 1, "Content": ""}\n' + b'{"text": ""}\n')
    with pytest.raises(StageError, match=r"line 1: no key 'text'; it has id, Content: .* to Content$"):
        make_pages([tmp_path / "a.jsonl"], "no/model", "fr")
    (tmp_path / "a.jsonl").write_bytes(b"{}\n" * 999 + b'{"text": ""}\n')
    assert make_pages([tmp_path / "a.jsonl"], "no/model", "fr")[1]["in"]["documents"] == 1000


def test_what_a_line_has_for_keys_is_shown_short_and_takes_no_memory(tmp_path):
    lines = [{f"{'k' * 10_000}{i}\ud800": 1, f"{i}": 1} for i in range(50)]
    (tmp_path / "a.jsonl").write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    with pytest.raises(StageError) as raised:
        make_pages([tmp_path / "a.jsonl"], "no/model", "fr")
    assert len(str(raised.value)) < 3000


PLAIN = ["\n".join(prose("fr", number)) for number in range(40)]


def of_texts(folder, contents, language="fr", documents="files", **options):
    """The pages and the ledger of .txt files, by the bytes of each name, as the workflow names the files."""
    for name, content in contents.items():
        (folder / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "in" / name).write_bytes(content)
    read_texts(
        Extract(languages=["fr"], **options),
        *(text_files([str(folder / "in")]).files, "no/model", "text", "url", language),
        output=str(folder / "0.json"),
        ledger=str(folder / "0.ledger.json"),
        documents=documents,
        folders=[str(folder / "in")],
    )
    rows = [row for batch in read_arrow(folder / "0.json") for row in batch.to_pylist()]
    return rows, read_json(folder / "0.ledger.json")


CHARSETS = [
    "utf-8",
    "utf-8-sig",
    "utf-16",
    "utf-16-le",
    "utf-16-be",
    "utf-32",
    "cp1252",
    "iso2022_jp",
    "shift_jis",
]


@pytest.mark.parametrize("codec", CHARSETS)
@pytest.mark.parametrize("documents", ["files", "blocks"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_plain_text_in_any_charset_with_any_ends_of_lines(tmp_path, codec, documents, end):
    japanese = codec.endswith("jp") or "jis" in codec
    line = "これは日本語の文章です。どこでも読めます。" if japanese else "Où l’été dure, la forêt paraît gênée."
    texts = [f"{line} {number}\n{line}" for number in range(20)]
    content = "\n\n".join(texts).replace("\n", end).encode(codec)
    pages, ledger = of_texts(tmp_path, {"a.txt": content}, documents=documents, min_chars=1)
    assert [page["text"] for page in pages] == (texts if documents == "blocks" else ["\n\n".join(texts)])
    assert [page["offset"] for page in pages] == list(range(len(pages)))
    assert not ledger["failed"]


def test_a_folder_of_plain_texts_is_a_document_a_file_named_by_its_place(tmp_path):
    names = ["Un été à Brest.txt", "b/c/1.TXT", "b/c 'x' $(y)/1.txt", "b/漢.txt.gz"]
    contents = {name: text.encode() for name, text in zip(names, PLAIN, strict=False)}
    contents["b/漢.txt.gz"] = gzip.compress(contents["b/漢.txt.gz"])
    contents |= {".hidden.txt": b"x", ".git/a.txt": b"x", "cover.jpg": b"x"}
    pages, ledger = of_texts(tmp_path, contents)
    assert {page["url"]: page["text"] for page in pages} == {
        f"{name}#0": text for name, text in zip(names, PLAIN, strict=False)
    }
    assert {page["warc"] for page in pages} == set(names)
    assert ledger["in"]["documents"] == 4


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from([b"\xff\xfe\xfd " * 40, b"\n", b" \t\n", "né ".encode() * 90, b"x" * 2000, b"\0"])),
    st.sampled_from(["files", "blocks"]),
)
def test_any_bytes_cost_only_their_block_and_the_ledger_balances(tmp_path, pieces, documents):
    good = PLAIN[0].encode()
    contents = {"a.txt": b"\n\n".join([good, *pieces, good]), "b.txt": good}
    pages, ledger = of_texts(tmp_path, contents, documents=documents, max_html_bytes=1500)
    assert pages[-1]["warc"] == "b.txt"
    assert documents == "files" or len(pages) >= 2 or "not_text" in ledger["failed"]
    assert ledger["in"]["documents"] >= 2


@pytest.mark.parametrize("codec", ["utf-8", "cp1252"])
def test_a_stray_zero_byte_makes_no_other_charset(tmp_path, codec):
    text = "La forêt où dort l’été. " * 60
    content = text.encode(codec).replace(b"dort", b"do\0rt", 1)
    for documents in ("files", "blocks"):
        pages, _ = of_texts(tmp_path, {"a.txt": content}, documents=documents)
        assert [page["text"] for page in pages] == [text.strip()]


def test_utf8_among_blocks_of_another_charset_is_still_read_as_utf8(tmp_path):
    old, new = (f"La forêt où dort l’été {what}. " * 12 for what in ("ancien", "nouveau"))
    content = "\n\n".join([old] * 9).encode("cp1252") + b"\n\n" + new.encode()
    pages, _ = of_texts(tmp_path, {"a.txt": content}, documents="blocks")
    assert [page["text"] for page in pages] == [old.strip()] * 9 + [new.strip()]
    assert [page["charset"] for page in pages] == ["cp1252 (detected)"] * 9 + ["utf-8 (detected)"]
    # And bytes that are none are never guessed where the rest is UTF-8.
    content = "\n\n".join([new] * 9).encode() + b"\n\n" + old.encode("cp1252")
    pages, ledger = of_texts(tmp_path, {"a.txt": content}, documents="blocks")
    assert len(pages) == 9
    assert failed(ledger) == {"not_utf8": 1}


def test_a_charset_that_shows_late_in_a_file_is_found(tmp_path):
    late = "\n\n" + "La forêt où dort l’été. " * 12
    early = b"ascii " * 500_000
    pages, _ = of_texts(tmp_path, {"a.txt": early + bytes(2**21) + late.encode("cp1252")}, documents="blocks")
    assert [page["text"] for page in pages] == [early.decode().strip(), late.strip()]


@pytest.mark.parametrize("documents", ["files", "blocks"])
def test_what_is_no_text_and_what_is_too_long_is_counted(tmp_path, documents, caplog):
    contents = {"zeros.txt": bytes(9000), "zip.txt": b"PK\3\4\0\0" * 99, "long.txt": "né ".encode() * 9000}
    pages, ledger = of_texts(tmp_path, contents | {"z.txt": PLAIN[0].encode()}, documents=documents,
                             max_html_bytes=10_000)  # fmt: skip
    assert len(pages) == 1
    assert failed(ledger) == {"not_text": 2, "row_too_long": 1}
    assert ("set crawl.texts.documents to blocks" in caplog.text) == (documents == "files")


@pytest.mark.parametrize("documents", ["files", "blocks"])
def test_plain_text_that_unpacks_too_far_costs_only_itself(tmp_path, monkeypatch, documents):
    monkeypatch.setattr(unpacking, "UNPACKED_MIN", 10**6)
    (tmp_path / "in").mkdir()
    for name, content in (("a.txt.zst", b"a" * 10**8), ("b.txt.zst", b"\n" * 10**7)):
        with pa.CompressedOutputStream(str(tmp_path / "in" / name), "zstd") as file:
            file.write(content)
    half = gzip.compress(PLAIN[1].encode())[:-20]
    contents = {"c.txt": PLAIN[0].encode(), "d.txt.gz": half}
    pages, ledger = of_texts(tmp_path, contents, documents=documents, max_html_bytes=10_000)
    assert [page["warc"] for page in pages] == ["c.txt"]
    assert failed(ledger)["truncated_file"] == 1
    assert failed(ledger)["unpacks_too_far" if documents == "blocks" else "row_too_long"] == 2


@pytest.mark.parametrize("kind", ["jsonl", "txt"])
def test_packed_files_may_have_parts_and_one_that_takes_too_much_memory_is_said(tmp_path, kind, caplog):
    zstandard = pytest.importorskip("zstandard")
    window = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    far = zstandard.ZstdCompressor(compression_params=window).compressobj()
    packers = {
        "a.zst": zstandard.ZstdCompressor().compress,
        "b.gz": gzip.compress,
        "c.zst": lambda text: far.compress(text) + far.flush(),
    }
    text = jsonl([{"text": PLAIN[0]}]) if kind == "jsonl" else PLAIN[0].encode() + b"\n\n"
    contents = {name.replace(".", f".{kind}."): pack(text) * 2 for name, pack in packers.items()}
    pages, ledger = of_texts(tmp_path, contents, documents="blocks")
    assert [page["warc"] for page in pages] == [f"a.{kind}.zst"] * 2 + [f"b.{kind}.gz"] * 2
    assert failed(ledger) == {"packed_too_long": 1}
    assert f"c.{kind}.zst: was packed by zstd with --long=28 or more" in caplog.text


def test_a_dataset_on_disk_is_read_without_its_cached_rows(tmp_path):
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_list(DOCUMENTS)
    splits = datasets.DatasetDict({"train": made.select(range(30)), "test": made.select(range(30, 40))})
    splits.save_to_disk(str(tmp_path / "d"), num_shards={"train": 2, "test": 1})
    write(tmp_path / "d/train/cache-0123456789abcdef.arrow")
    found = text_files([str(tmp_path / "d")])
    assert [str(Path(path).relative_to(tmp_path)) for path in found.files] == [
        "d/test/data-00000-of-00001.arrow",
        "d/train/data-00000-of-00002.arrow",
        "d/train/data-00001-of-00002.arrow",
    ]
    assert found.left_out == [f"{tmp_path}/d/train/cache-0123456789abcdef.arrow"]
    assert not found.problems
    pages, _ = make_pages(found.files, "no/model", "fr")
    assert sorted(page["url"] for page in pages) == sorted(d["url"] for d in DOCUMENTS)


def test_a_damaged_arrow_file_costs_only_itself(tmp_path):
    path = write(tmp_path / "a.arrow")
    path.write_bytes(path.read_bytes()[:-200])
    (tmp_path / "b.arrow").write_bytes(b"ARROW1" + bytes(3000))
    pages, ledger = make_pages([path, tmp_path / "b.arrow", write(tmp_path / "c.jsonl")], "no/model", "fr")
    assert {page["warc"] for page in pages} == {"c.jsonl"}
    assert failed(ledger) == {"damaged_file": 2}


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
        tables.write_lines(str(tmp_path / "a.parquet"), name, "nothing", 10_000, lines)
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
from pipeline.extract import tables
{change}
sys.exit(tables.main(*sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("tables.MEMORY = 2**28", "unpacks_too_far"),
        ("tables.SECONDS = 1; tables._line = lambda *a: sum(iter(int, 1))", "unpacks_too_far"),
        ("tables._line = lambda *a: os.kill(os.getpid(), signal.SIGSEGV)", "damaged_file"),
        ("tables._line = lambda *a: os.write(1, b'[nothing') and os._exit(0)", "damaged_file"),
        ("tables._line = lambda *a: {'x': '\\ud800'}", "damaged_file"),
    ],
)
def test_a_file_that_crashes_or_hangs_its_reader_costs_only_itself(tmp_path, monkeypatch, change, reason):
    monkeypatch.setattr(tables, "COMMAND", [sys.executable, "-c", HELPER.format(change=change)])
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


def test_what_was_fetched_is_named_by_where_it_comes_from(tmp_path):
    (tmp_path / "part").mkdir()
    (tmp_path / "part/0f-a.txt").write_text(PLAIN[0])
    source = "https://a.example/a.txt"
    finish_folder(tmp_path / "part", str(tmp_path / "fetched"), [{"file": "0f-a.txt", "source": source}], [])
    pages, _ = make_pages([tmp_path / "fetched"], "no/model", "fr")
    assert [(page["warc"], page["url"]) for page in pages] == [(source, f"{source}#0")]


def test_the_stage_alone_takes_a_folder_and_refuses_what_it_does_not_know(tmp_path):
    (tmp_path / "in/b").mkdir(parents=True)
    (tmp_path / "in/b/a.txt").write_text(PLAIN[0])
    assert make_pages([tmp_path / "in"], "no/model", "fr")[0][0]["url"] == "b/a.txt#0"
    (tmp_path / "a.md").write_text(PLAIN[0])
    (tmp_path / "empty").mkdir()
    for path, problem in (
        (tmp_path / "a.md", "not a known kind of file"),
        (tmp_path / "empty", "an empty folder"),
    ):
        with pytest.raises(StageError, match=problem):
            make_pages([path], "no/model", "fr")


@pytest.mark.parametrize("name", ["a\udcff.jsonl", "a\nb.jsonl"])
def test_a_name_that_no_table_can_hold_is_an_error(tmp_path, name):
    assert make_pages([write(tmp_path / "é 漢\u3000\u00a0.jsonl")], "no/model", "fr")[0]
    with pytest.raises(StageError, match=r"its name is not UTF-8, or has control characters; rename the file"):
        make_pages([write(tmp_path / name)], "no/model", "fr")
