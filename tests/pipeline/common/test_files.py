import json
import shutil
import struct

import numpy as np
import pyarrow as pa
import pytest

from pipeline.common.errors import StageError
from pipeline.common.files import (
    ROWS_PER_BATCH,
    arrow_rows,
    atomic,
    atomic_folder,
    inside,
    read_array,
    read_arrow,
    read_json,
    write_arrow,
    write_list,
)
from pipeline.common.ledger import Ledger, LedgerError, merge

SCHEMA = pa.schema([("text", pa.string())])


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_folder_and_is_named(tmp_path):
    path = tmp_path / "a"
    with atomic_folder(path) as folder:
        (folder / "file").write_text("old")
    with pytest.raises(OSError, match="make room and run again") as caught, atomic_folder(path) as folder:
        (folder / "file").write_text("new")
        with open("/dev/full", "w") as file:  # noqa: PTH123
            file.write("whose every write says that the disk is full")
    assert caught.value.filename == str(path)
    assert (path / "file").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_is_killed_while_it_deletes_the_old_folder_leaves_the_new_one_whole(tmp_path, monkeypatch):
    path = tmp_path / "a"
    with atomic_folder(path) as folder:
        (folder / "file").write_text("old")

    def killed(*_, **__):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), atomic_folder(path) as folder:
        (folder / "file").write_text("new")
        monkeypatch.setattr(shutil, "rmtree", killed)
    assert (path / "file").read_text() == "new"


def test_rows_come_back_in_order_and_in_batches(tmp_path):
    rows = [{"text": str(i)} for i in range(2 * ROWS_PER_BATCH + 1)]
    assert write_arrow(tmp_path / "a.arrow", SCHEMA, rows) == len(rows)
    batches = list(read_arrow(tmp_path / "a.arrow"))
    assert [len(b) for b in batches] == [ROWS_PER_BATCH, ROWS_PER_BATCH, 1]
    assert [r for b in batches for r in b.to_pylist()] == rows


def test_long_texts_make_short_batches(tmp_path):
    write_arrow(tmp_path / "a.arrow", SCHEMA, ({"text": "x" * 20 * 2**20} for _ in range(4)))
    assert [len(b) for b in read_arrow(tmp_path / "a.arrow")] == [2, 2]


def test_a_list_reads_as_its_files_in_order(tmp_path):
    for name in ("a", "b"):
        write_arrow(tmp_path / f"in/{name}.arrow", SCHEMA, [{"text": name}])
    write_list(tmp_path / "list.json", [str(tmp_path / "in/b.arrow"), str(tmp_path / "in/a.arrow")])
    (tmp_path / "elsewhere").mkdir()
    for name in ("list.json", "in"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    rows = [r["text"] for b in read_arrow(tmp_path / "elsewhere/list.json") for r in b.to_pylist()]
    assert rows == ["b", "a"]


def test_what_is_lost_to_damage_is_said_with_its_reasons_and_where_they_stand(tmp_path, caplog):
    ledger = Ledger("extract")
    ledger.enter(documents=1)
    ledger.drop("text_too_short", documents=1)
    ledger.write(tmp_path / "a.json")
    assert not caplog.messages
    ledger.fail_unread("truncated_file", documents=2)
    ledger.fail_unread("damaged_record", documents=1)
    ledger.write(tmp_path / "a.json")
    (line,) = caplog.messages
    assert line == (
        "extract: documents lost to damage: 1 damaged_record, 2 truncated_file; fetch the files again, or see "
        f"{tmp_path}/a.json"
    )


def test_a_ledger_that_does_not_balance_is_refused(tmp_path):
    ledger = Ledger("stage")
    ledger.enter(documents=2, bytes=10)
    ledger.keep(documents=1, bytes=10)
    with pytest.raises(LedgerError, match="2 documents came in but 1 are accounted for"):
        ledger.write(tmp_path / "ledger.json")
    assert not (tmp_path / "ledger.json").exists()
    ledger.drop("a_reason", documents=1)
    ledger.write(tmp_path / "ledger.json")
    assert json.loads((tmp_path / "ledger.json").read_text())["dropped"]["a_reason"]["documents"] == 1


def test_merged_ledgers_add_up():
    parts = []
    for number in range(3):
        ledger = Ledger("stage")
        ledger.enter(documents=3)
        ledger.keep(documents=2)
        ledger.fail("broken", documents=1)
        ledger.sample("kept", f"https://{number}", "text")
        parts.append(ledger.data())
    total = merge("stage", parts).data()
    assert total["in"]["documents"] == 9
    assert total["failed"]["broken"]["documents"] == 3
    assert [s["url"] for s in total["samples"]["kept"]] == ["https://0", "https://1", "https://2"]


def test_several_files_filled_in_one_pass_have_the_bytes_of_each_written_alone(tmp_path):
    rows = [{"text": str(i)} for i in range(3 * ROWS_PER_BATCH)]
    with arrow_rows(tmp_path / "even", SCHEMA) as even, arrow_rows(tmp_path / "odd", SCHEMA) as odd:
        for i, row in enumerate(rows):
            (odd if i % 2 else even)(row)
    for name, part in (("even", rows[::2]), ("odd", rows[1::2])):
        write_arrow(tmp_path / f"{name}-alone", SCHEMA, part)
        assert (tmp_path / name).read_bytes() == (tmp_path / f"{name}-alone").read_bytes()


def header(text, version=1):
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text.encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04" + b"x" * 100,  # an .npz, which numpy would open
        b"\x80\x04N.",  # a pickle
        header("{'descr': '<u4', 'fortran_order': False, 'shape': (1000000000000000000,)}"),
        header("{'descr': '<u4', 'fortran_order': False, 'shape': (100000000000000000000000,)}"),
        header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"),
        header("(" * 9000),
        header("__import__('os').abort()"),
        header("{'descr': '<u4', 'fortran_order': False, 'shape': (2,)}", version=3) + b"1234567",
    ],
)
def test_an_array_that_is_not_whole_is_refused(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(StageError, match=r"a\.npy: not a sound \.npy file"):
        read_array(tmp_path / "a.npy", "uint32", (None,))


def test_an_array_of_another_type_or_shape_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 5), np.int64))
    assert read_array(tmp_path / "a.npy", "int64", (2, None)).shape == (2, 5)
    for kind, shape in (("uint64", (2, None)), ("int64", (3, None)), ("int64", (None,)), ("int64", (2, 5, None))):
        with pytest.raises(StageError, match=r"a\.npy: expected .* found int64 \(2, 5\)"):
            read_array(tmp_path / "a.npy", kind, shape)
    with pytest.raises(FileNotFoundError):
        read_array(tmp_path / "b.npy", "int64", (2, None))


def test_a_reader_takes_only_the_columns_it_asks_for(tmp_path):
    schema = pa.schema([("text", pa.string()), ("url", pa.string()), ("n", pa.int32())])
    write_arrow(tmp_path / "a", schema, [{"text": "t", "url": "u", "n": 1}])
    (batch,) = read_arrow(tmp_path / "a", pa.schema([schema.field("n"), schema.field("url")]))
    assert batch.to_pylist() == [{"n": 1, "url": "u"}]


OUTSIDE = [
    "../x",
    "in/../../x",
    "..",
    "/x",
    "",
    "a\0b",
    "a\nb",
    "\x1b[2J",
    "x" * 300,
    "\ud800",
    None,
    3,
    ["a"],
    {},
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leads_elsewhere_is_refused(name, tmp_path):
    (tmp_path / "folder").mkdir()
    write_arrow(tmp_path / "x", SCHEMA, [{"text": "secret"}])
    with pytest.raises(StageError, match=r"leads out of the folder|is no name of a file") as error:
        inside(tmp_path / "folder", name)
    assert len(str(error.value)) < 500
    (tmp_path / "folder/list.json").write_text(json.dumps({"files": [name]}))
    with pytest.raises(StageError, match=r"leads out of the folder|is no name of a file"):
        list(read_arrow(tmp_path / "folder/list.json"))


def test_a_link_counts_by_where_it_leads(tmp_path):
    (tmp_path / "folder/in").mkdir(parents=True)
    (tmp_path / "other").symlink_to(tmp_path / "folder")
    (tmp_path / "folder/near").symlink_to("in")
    (tmp_path / "folder/far").symlink_to("..")
    (tmp_path / "folder/round").symlink_to("round")
    for folder in ("folder", "other"):
        assert inside(tmp_path / folder, "in/été 1.warc.gz") == tmp_path / folder / "in/été 1.warc.gz"
        assert inside(tmp_path / folder, "near/a") == tmp_path / folder / "near/a"
        for name in ("far", "far/a", "round"):
            with pytest.raises(StageError, match=r"leads out of the folder|is no name of a file"):
                inside(tmp_path / folder, name)


@pytest.mark.parametrize("text", ["", "{", "[" * 99_999, '"\\x"', "\xff", "[3]", "{}", '{"files": 3}', "9" * 5000])
def test_a_list_that_is_none_is_an_error_of_one_line(text, tmp_path):
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(StageError, match=r"a.json: (damaged JSON|no list of files)") as error:
        list(read_arrow(tmp_path / "a.json"))
    assert "\n" not in str(error.value)


def test_json_of_any_length_is_not_read(tmp_path):
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(StageError, match=r"a.json: more than 64 MiB; do this"):
        read_json(tmp_path / "a.json", "do this")
