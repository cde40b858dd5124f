"""Which files an entry of `crawl.texts` stands for."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.crawl.commoncrawl import left_out, per_job, text_folders, texts
from pipeline.crawl.manifest import batches
from pipeline.crawl.options import Crawl, Texts
from pipeline.crawl.text_files import TEXT_KINDS, kind_of, text_files

NAMES = st.text("ab .é", min_size=1, max_size=6).filter(str.strip)


@given(NAMES, st.sampled_from(TEXT_KINDS), st.sampled_from(["", ".gz", ".zst"]), st.sampled_from([str.upper, str]))
def test_a_kind_is_known_by_the_end_of_the_name_alone(name, kind, packed, case):
    table = kind in (".parquet", ".arrow")
    assert kind_of(case(f"{name}{kind}{packed}")) == (None if table and packed else kind)
    assert kind_of(f"{name}{kind}.md") is None


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def test_a_folder_stands_for_all_known_files_in_it_in_one_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path, "t/b.txt", "t/a.jsonl.zst", "t/z/a.parquet", "t/c/d/e.txt.gz", "t/z.pdf", "t/.git/x.txt")
    make(tmp_path, "t/dataset_info.json", "u/x.json")
    (tmp_path / "t/circle").symlink_to(tmp_path / "t")
    (tmp_path / "t/linked.txt").symlink_to(tmp_path / "u/x.json")  # as in a folder that the hub's client wrote
    os.mkfifo(tmp_path / "t/pipe.txt")
    inside = ["t/a.jsonl.zst", "t/b.txt", "t/linked.txt", "t/c/d/e.txt.gz", "t/z/a.parquet"]
    assert text_files(["t"]) == (inside, [], ["t/z.pdf"])
    assert text_files(["t/", "u/*.json"]) == ([*inside, "u/x.json"], [], ["t/z.pdf"])
    assert text_files(["[tu]"]).files == [*inside, "u/x.json"]
    assert text_files(["t/z*"]) == (["t/z/a.parquet"], [], ["t/z.pdf"])
    crawl = Crawl(texts=[Texts(files=["u"]), Texts(files=["t", "u/x.json"])])
    assert texts(crawl) == [["u/x.json"], [*inside, "u/x.json"]]
    assert left_out(crawl) == ["crawl.texts[1]: 1 files are of no known kind and not read, such as t/z.pdf"]
    assert text_folders(crawl.texts[1]) == ["t", "u"]
    assert text_folders(Texts(files=["t/z/*.txt", "a.txt", "https://a.example/a.txt"])) == ["t/z", "."]


@pytest.mark.parametrize(
    ("patterns", "problem"),
    [
        (["none.txt"], "no file matches none.txt; paths are relative to "),
        (["no/*.txt"], "no file matches no/*.txt; paths are relative to "),
        ([""], "an empty path"),
        (["a\0.txt"], "no file matches a"),
        (["empty"], "empty: an empty folder; put texts into it (.txt"),
        (["pdfs"], "pdfs: 2 files, such as pdfs/a.pdf: not a known kind of file; known are .txt, .jsonl"),
        (["pdfs/a.pdf"], "pdfs/a.pdf: not a known kind of file"),
        (["a.warc.gz"], "also as .gz or .zst; archives go under crawl.warcs"),
        (["t", "t/a.txt"], "t/a.txt is named twice; its texts would count twice"),
        (["https://a.example/a.pdf"], "https://a.example/a.pdf: not a known kind"),
        (["ftp://a.example/a.txt"], "ftp scheme"),
        (["odd"], "no braces or angle brackets in a path"),
    ],
)
def test_wrong_files_are_said_with_what_to_do(tmp_path, monkeypatch, patterns, problem):
    monkeypatch.chdir(tmp_path)
    make(tmp_path, "pdfs/a.pdf", "pdfs/b.pdf", "a.warc.gz", "t/a.txt", "odd/{x}.txt")
    (tmp_path / "empty").mkdir()
    found = text_files(patterns).problems
    assert len(found) == 1
    assert problem in found[0]
    assert [key for key, _ in Texts(files=patterns).problems()] == ["files"]


def dataset(folder, *names):
    make(folder, "data-00000-of-00001.arrow")
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    return text_files([str(folder)])


def test_the_list_of_a_dataset_leads_to_nothing_outside_of_it(tmp_path):
    make(tmp_path, "other.arrow", "d/inner/x.arrow")
    (tmp_path / "d/link.arrow").symlink_to(tmp_path / "other.arrow")
    for name in (
        "../other.arrow",
        "/etc/passwd",
        "gone.arrow",
        "inner/x.arrow",
        "link.arrow",
        "state.json",
        3,
        "",
        "a\0",
    ):
        found = dataset(tmp_path / "d", "data-00000-of-00001.arrow", name)
        assert str(tmp_path / "d/data-00000-of-00001.arrow") not in found.files
        assert str(tmp_path / "d") in found.problems[0], name
    found = dataset(tmp_path / "d", "./data-00000-of-00001.arrow")
    assert (found.files[0], found.problems) == (str(tmp_path / "d/data-00000-of-00001.arrow"), [])
    for text in ("{", "[" * 10**5, "[]", '{"_data_files": {}}'):  # damaged, or of something else
        (tmp_path / "d/state.json").write_text(text)
        found = text_files([str(tmp_path / "d")])
        assert bool(found.problems) == (text[-1] == "{" or len(text) > 100)


def test_a_job_reads_many_files_of_one_document_and_few_of_many(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path, *(f"t/{number:04d}.txt" for number in range(1001)), "b/a.txt", "b/b.txt", "b/c.txt")
    given_entries = [{"files": ["t"]}, {"files": ["b"], "documents": "blocks"}, {"files": ["b"]}]
    crawl = Crawl(texts=[Texts(**entry) for entry in given_entries], warcs_per_job=2)
    found = texts(crawl)
    made = batches([["w"], *found], per_job(crawl, [["w"]], found))
    assert [len(files) for files in made.values()] == [1, 1000, 1, 2, 1, 3]
