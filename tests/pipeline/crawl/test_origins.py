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


@pytest.mark.parametrize(
    ("offset", "names", "number", "place"),
    [(None, ["a"], 0, 1), (0, ["a"], None, 1), (0, ["a"], 0, None), (0, [None], 0, 1), (0, ["x" * 10**6], 0, 1)],
)
def test_origins_that_no_page_can_have_are_refused(offset, names, number, place, tmp_path):
    """A long name stands once in the file, and would be text of its own in memory for each record."""
    warcs = pa.DictionaryArray.from_arrays(pa.array([0, number], pa.int32()), pa.array(names, pa.string()))
    batch = pa.record_batch([pa.array([0, offset]), warcs, pa.array([0, place])], schema=ORIGIN_SCHEMA)
    write_batches(tmp_path / "a.arrow", ORIGIN_SCHEMA, [batch])
    with pytest.raises(StageError, match=r"a\.arrow: a record has no offset, or no file that it comes from"):
        read_origins(tmp_path / "a.arrow")


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
        ({}, [], "files: expected list"),
        ([FILE], [FAILURE | {"documents": -1}], r"failed\[0\].documents: -1 is too small"),
        ([FILE], [FAILURE | {"bytes": 2**70}], r"failed\[0\].bytes: expected whole number"),
        ([FILE], [FAILURE | {"reason": None}], r"failed\[0\].reason: expected text, found None"),
        ([FILE], None, "failed: expected list"),
        ([FILE], [FAILURE | {"reason": "a b"}], r"failed\[0\].reason: 'a b' is no word"),
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
