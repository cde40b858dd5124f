"""Fetched folders, which may come from others."""

import json

import pyarrow as pa
import pytest

from pipeline.common.errors import StageError
from pipeline.common.files import write_batches
from pipeline.crawl.origins import ORIGIN_SCHEMA, finish_folder, input_files, read_folder, read_origins

FILE = {"file": "a.warc.gz", "source": "crawl/a.warc.gz"}
FAILURE = {"reason": "fetch_http_404", "documents": 1, "bytes": 0}


def write(folder, files, failed):
    part = folder.with_name("part")
    part.mkdir()
    (part / "a.warc.gz").touch()
    (part / "a.arrow").touch()
    finish_folder(part, str(folder), files, failed)


def test_what_was_written_is_read(tmp_path):
    files, failed = [FILE | {"origins": "a.arrow"}], [FAILURE, FAILURE | {"source": "crawl/b.warc.gz"}]
    write(tmp_path / "batch", files, failed)
    assert read_folder(tmp_path / "batch") == (files, failed)
    (file,), missing = input_files([str(tmp_path / "batch")])
    assert file.path == str(tmp_path / "batch/a.warc.gz")
    assert file.origins == str(tmp_path / "batch/a.arrow")
    assert missing == failed


@pytest.mark.parametrize("key", ["file", "origins"])
@pytest.mark.parametrize("name", ["../a.warc.gz", "/etc/passwd", "x/../a.warc.gz", "x/a.arrow", "a\nb", "link"])
def test_a_name_that_is_none_in_the_folder_is_refused(key, name, tmp_path):
    write(tmp_path / "batch", [FILE | {key: name}], [])
    (tmp_path / "batch/link").symlink_to("/etc/passwd")
    with pytest.raises(StageError, match=r"leads out of the folder|is no name of a file|is in another folder"):
        input_files([str(tmp_path / "batch")])


@pytest.mark.parametrize(
    ("files", "failed", "problem"),
    [
        ([{"file": "a.warc.gz"}], [], r"files\[0\].source: missing"),
        ([FILE | {"file": 3}], [], r"files\[0\].file: expected text, found 3"),
        ([FILE | {"origins": ["a"]}], [], r"files\[0\].origins: expected text, found "),
        (["a.warc.gz"], [], r"files\[0\]: expected keys and values"),
        ({}, [], "files: expected a list"),
        ([FILE], [FAILURE | {"documents": -1}], r"failed\[0\].documents: -1 is too small"),
        ([FILE], [FAILURE | {"bytes": 2**70}], r"failed\[0\].bytes: \d+ is too large"),
        ([FILE], [FAILURE | {"reason": None}], r"failed\[0\].reason: expected text, found None"),
        ([FILE], [FAILURE | {"reason": '=LINK("https://x")'}], r"failed\[0\].reason: .* is no word"),
        ([FILE], None, "failed: expected a list"),
        ([FILE, FILE | {"source": "other"}], [], "names a file twice"),
        ([FILE | {"source": "a\x1b[2J"}], [], r"files\[0\].source: 'a.x1b\[2J' is no name"),
        ([FILE | {"source": "x" * 10**5}], [], r"files\[0\].source: 'x+ is no name"),
    ],
)
def test_a_list_of_another_form_is_refused(files, failed, problem, tmp_path):
    write(tmp_path / "batch", files, failed)
    with pytest.raises(StageError, match=f"fetched.json: {problem}.*; delete the folder and fetch it again"):
        read_folder(tmp_path / "batch")
    for text in ("", "[]", json.dumps({"files": []})):
        (tmp_path / "batch/fetched.json").write_text(text)
        with pytest.raises(StageError, match=r"fetched.json: .*; delete the folder and fetch it again"):
            read_folder(tmp_path / "batch")


def write_origins(path, codes, names, offsets=None):
    """An Arrow file as `read_origins` reads them, whatever is in its columns."""
    numbers = pa.array(range(len(codes)), pa.int64()) if offsets is None else pa.array(offsets, pa.int64())
    warcs = pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(names, pa.string()))
    write_batches(path, ORIGIN_SCHEMA, [pa.record_batch([numbers, warcs, numbers], ORIGIN_SCHEMA)])
    return path


def test_a_name_of_many_records_is_in_memory_once(tmp_path):
    path = write_origins(tmp_path / "a.arrow", [0] * 1000, ["x" * 100_000])  # 100 MB as a string for each
    assert path.stat().st_size < 5000
    origins = read_origins(path)
    assert origins[0] == ("x" * 100_000, 0)
    assert all(warc is origins[0][0] for warc, _ in origins.values())


@pytest.mark.parametrize(
    ("codes", "names", "offsets"), [([0, None], ["x"], None), ([0, 1], ["x", None], None), ([0], ["x"], [None])]
)
def test_a_record_without_its_origin_is_refused(codes, names, offsets, tmp_path):
    with pytest.raises(StageError, match=r"a\.arrow: a record without its origin; fetch its folder again"):
        read_origins(write_origins(tmp_path / "a.arrow", codes, names, offsets))
