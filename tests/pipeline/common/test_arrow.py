"""Arrow files that are damaged, or made to end the process or to take all memory."""

import os
import random
import resource
import struct

import pyarrow as pa
import pytest

from pipeline.common import arrow
from pipeline.common.arrow import map_table, read_batches, read_metadata, read_schema
from pipeline.common.errors import StageError
from pipeline.common.files import write_arrow, write_batches

SCHEMA = pa.schema([("text", pa.string()), ("n", pa.int64()), ("list", pa.list_(pa.int32()))])
ROWS = [{"text": f"Phrase {i}. " * 20, "n": i, "list": [0, i]} for i in range(60)]


@pytest.fixture
def path(tmp_path):
    write_arrow(tmp_path / "a.arrow", SCHEMA.with_metadata({"key": '{"a": 1}', "list": "[1]"}), ROWS)
    return tmp_path / "a.arrow"


def rows(path, schema=SCHEMA):
    return [row for batch in read_batches(path, schema) for row in batch.to_pylist()]


def write(path, batch, compression=None):
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return path


def test_both_formats_of_arrow_are_read(path, tmp_path):
    table = pa.Table.from_pylist(ROWS, SCHEMA)
    with pa.ipc.new_file(tmp_path / "file.arrow", SCHEMA) as writer:
        writer.write_table(table, max_chunksize=7)
    assert rows(path) == rows(tmp_path / "file.arrow") == ROWS
    assert map_table(tmp_path / "file.arrow", SCHEMA).equals(table)


def test_a_large_batch_comes_in_parts(path, monkeypatch):
    monkeypatch.setattr(arrow, "ROWS_AT_ONCE", 25)
    assert [batch.num_rows for batch in read_batches(path)] == [25, 25, 10]
    assert rows(path) == ROWS


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view()])
def test_any_strings_are_read_as_strings(tmp_path, kind):
    write(tmp_path / "a", pa.record_batch({"url": pa.array(["u", None]), "text": pa.array(["é", "b"], kind)}))
    (batch,) = read_batches(tmp_path / "a", pa.schema([("text", pa.string())]))
    assert batch.schema.types == [pa.string()] and batch.to_pylist() == [{"text": "é"}, {"text": "b"}]


def test_views_of_more_text_than_a_column_holds_are_refused(tmp_path, monkeypatch):
    """500 bytes say 60,000 times where the same 80,000 lie; Arrow crashes when it makes strings of them."""
    one = struct.pack("<i4sii", 100, b"xxxx", 0, 0)
    views = pa.Array.from_buffers(pa.string_view(), 20, [None, pa.py_buffer(one * 20), pa.py_buffer(b"x" * 100)])
    write(tmp_path / "a", pa.record_batch({"text": views}))
    text = pa.schema([("text", pa.string())])
    assert rows(tmp_path / "a", text) == [{"text": "x" * 100}] * 20
    monkeypatch.setattr(arrow, "MOST_UNPACKED", 1000)
    with pytest.raises(StageError, match="a: a batch has 2,000 bytes of text; write smaller batches"):
        rows(tmp_path / "a", text)


@pytest.mark.parametrize(
    "columns",
    [{"texte": ["a"]}, {"text": [1]}, {"text": [b"a"]}, {"text": pa.array(["a"]).dictionary_encode()}, {}],
    ids=["name", "number", "binary", "dictionary", "none"],
)
def test_other_columns_are_refused_by_name_and_type(tmp_path, columns):
    write(tmp_path / "a", pa.record_batch({"n": [1]} | columns))
    for read in (rows, map_table):
        with pytest.raises(StageError, match=r"a: expected one column text \(string\); found n \(int64\)"):
            read(tmp_path / "a", pa.schema([("text", pa.string())]))


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    write(tmp_path / "a", pa.record_batch([["a"], ["b"]], names=["text", "text"]))
    with pytest.raises(StageError, match="expected one column text"):
        rows(tmp_path / "a", pa.schema([("text", pa.string())]))


@pytest.mark.parametrize("offsets", [[0, 2**30], [0, -5], [2, 1], [-(2**31), 1]], ids=str)
def test_wrong_offsets_are_refused(tmp_path, offsets):
    data = write(tmp_path / "a", pa.record_batch({"text": ["abcde" * 24_691]})).read_bytes()
    sound, wrong = (struct.pack("<2i", *pair) for pair in ([0, 123_455], offsets))
    place = data.rindex(sound)  # behind the metadata
    (tmp_path / "a").write_bytes(data[:place] + wrong + data[place + 8 :])
    for read in (rows, map_table):
        with pytest.raises(StageError, match="not a sound Arrow file"):
            read(tmp_path / "a", pa.schema([("text", pa.string())]))


def test_text_that_is_not_utf8_is_refused(tmp_path):
    data = write(tmp_path / "a", pa.record_batch({"text": ["abcde"]})).read_bytes()
    (tmp_path / "a").write_bytes(data.replace(b"abcde", b"\xff" * 5))
    with pytest.raises(StageError, match="Invalid UTF8"):
        rows(tmp_path / "a", pa.schema([("text", pa.string())]))


def test_a_file_without_its_end_is_refused_wherever_it_is_cut(path, tmp_path):
    data = path.read_bytes()
    with pa.ipc.new_file(tmp_path / "file.arrow", SCHEMA) as writer:
        writer.write_table(pa.Table.from_pylist(ROWS, SCHEMA), max_chunksize=20)
    whole = (tmp_path / "file.arrow").read_bytes()
    behind_a_batch = data.index(arrow.END)
    for content in [data[:behind_a_batch], data + data, data + b"\0",
                    *(part[:size] for part in (data, whole) for size in range(0, len(part), 160))]:  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(StageError, match=r"a\.arrow: (cut off|not a sound Arrow file)"):
            rows(path)


@pytest.mark.parametrize("content", [b"", b"x", b"ARROW1", b"\xff" * 100, b"\0" * 100, b"PAR1" * 50])
def test_what_is_no_arrow_file_is_refused(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    for read in (rows, map_table, read_schema, lambda path: read_metadata(path, "key")):
        with pytest.raises(StageError, match="/a: "):
            read(tmp_path / "a")


def test_a_missing_file_is_an_error_of_the_system(tmp_path):
    for read in (rows, map_table, read_schema):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "a")


@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
def test_what_a_batch_unpacks_to_is_bounded_before_it_is_unpacked(tmp_path, monkeypatch, compression):
    """The columns take 800,000 and 100,000 bytes; compressed, a few hundred."""
    monkeypatch.setattr(arrow, "MOST_UNPACKED", 899_999)
    batch = pa.record_batch({"n": pa.array([0] * 10**5), "m": pa.array([0] * 10**5, pa.int8())})
    write(tmp_path / "a", batch, compression)
    with pytest.raises(StageError, match=r"100,000 rows in 900,0.. bytes; write batches of at most 899,999"):
        rows(tmp_path / "a", None)
    monkeypatch.setattr(arrow, "MOST_UNPACKED", 900_100)
    assert len(rows(tmp_path / "a", None)) == 10**5


def test_all_dictionaries_of_a_file_are_bounded_together(tmp_path, monkeypatch):
    monkeypatch.setattr(arrow, "MOST_UNPACKED", 25_000)
    schema = pa.schema([("word", pa.dictionary(pa.int32(), pa.string()))])
    with pa.OSFile(str(tmp_path / "a"), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for i in range(3):
            words = pa.array([f"{i}" * 10_000]).dictionary_encode()
            writer.write_batch(pa.record_batch([words], schema=schema))
    with pytest.raises(StageError, match="write batches of at most 25,000 bytes"):
        rows(tmp_path / "a", None)


@pytest.mark.parametrize("claim", [10**15, 2**40, 2**62, -2, -(2**63)])
def test_a_compressed_buffer_that_lies_about_its_length_is_refused(path, claim):
    data = path.read_bytes()
    place = data.index(b"\x28\xb5\x2f\xfd") - 8  # before the first frame of zstd
    path.write_bytes(data[:place] + struct.pack("<q", claim) + data[place + 8 :])
    with pytest.raises(StageError, match=r"rows in .* bytes; write batches|not a sound Arrow file"):
        rows(path)


def test_rows_that_take_no_bytes_are_refused(tmp_path):
    """A column of nulls has as many rows as it claims, without a byte of them."""
    data = write(tmp_path / "a", pa.record_batch({"nothing": pa.nulls(0x123456)})).read_bytes()
    (tmp_path / "a").write_bytes(data.replace(struct.pack("<q", 0x123456), struct.pack("<q", 2**40)))
    with pytest.raises(StageError, match="1,099,511,627,776 rows in 0 bytes"):
        next(read_batches(tmp_path / "a"))


def test_a_compressed_file_is_not_mapped(path, tmp_path):
    with pytest.raises(StageError, match="is compressed, so that it cannot be mapped"):
        map_table(path)
    write_batches(tmp_path / "b", SCHEMA, read_batches(path), compression=None)
    assert map_table(tmp_path / "b", SCHEMA).to_pylist() == ROWS


def test_metadata_are_a_json_object(path):
    assert read_metadata(path, "key") == {"a": 1}
    for key in ("list", "other"):
        with pytest.raises(StageError, match=f"a.arrow: its Arrow metadata have no JSON object '{key}'"):
            read_metadata(path, key)
    write_arrow(path, SCHEMA.with_metadata({"key": '{"a":' * 100_000, "list": "1" * 10_000}), ROWS)
    for key in ("key", "list"):
        with pytest.raises(StageError, match="no JSON object"):
            read_metadata(path, key)


@pytest.mark.parametrize("compression", ["zstd", None])
def test_no_damage_ends_the_process_or_takes_its_memory(path, tmp_path, compression):
    """150 files, each with a few bytes changed: read whole, or refused. In a process, since it might end it."""
    write_batches(tmp_path / "b", SCHEMA, read_batches(path), compression)
    data, rng = (tmp_path / "b").read_bytes(), random.Random(0)
    child = os.fork()
    if not child:
        status = 1
        try:
            resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
            for _ in range(150):
                changed = bytearray(data)
                for _ in range(rng.randint(1, 4)):
                    place = rng.randrange(len(data))
                    changed[place : place + 4] = rng.choice([rng.randbytes(4), b"\xff" * 4, b"\0\0\0\x7f"])
                (tmp_path / "b").write_bytes(changed)
                for read in (rows, map_table):
                    try:
                        read(tmp_path / "b")
                    except StageError as error:
                        assert "\n" not in str(error)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
