from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.crawl import manifest as manifest_module
from pipeline.crawl.manifest import MOST_BATCHES, batches, manifest
from pipeline.crawl.options import Crawl

ENTRIES = st.lists(st.lists(st.text("abc", min_size=1), min_size=1, max_size=7), min_size=1, max_size=4)


@given(entries=ENTRIES, added=ENTRIES, size=st.integers(1, 5))
def test_batches_hold_every_warc_in_order_and_an_added_entry_changes_none(entries, added, size):
    before, after = batches(entries, size), batches(entries + added, size)
    assert [warc for name in sorted(after) for warc in after[name]] == list(chain.from_iterable(entries + added))
    assert all(1 <= len(warcs) <= size for warcs in after.values())
    assert {name: after[name] for name in before} == before


def test_a_pattern_is_an_entry_sorted_and_a_wrong_one_a_problem(tmp_path):
    for name in ("b.warc.gz", "a.warc.gz", "c.warc"):
        (tmp_path / name).touch()
    entries, problems = manifest([f"{tmp_path}/*.gz", f"{tmp_path}/c.warc"])
    assert entries == [[f"{tmp_path}/a.warc.gz", f"{tmp_path}/b.warc.gz"], [f"{tmp_path}/c.warc"]]
    assert not problems
    _, problems = manifest([f"{tmp_path}/*.gz", f"{tmp_path}/x*", f"{tmp_path}/b*"])
    assert [p.split(";")[0] for p in problems] == [
        f"no file matches {tmp_path}/x*",
        f"{tmp_path}/b.warc.gz is named twice",
    ]


def test_a_list_is_an_entry_in_its_own_order(tmp_path):
    for name in ("b.warc.gz", "a.warc.gz"):
        (tmp_path / name).touch()
    (tmp_path / "crawl.txt").write_text(f"{tmp_path}/b.warc.gz\n\n{tmp_path}/./a.warc.gz\n")
    entries, problems = manifest([f"{tmp_path}/crawl.txt"])
    assert entries == [[f"{tmp_path}/b.warc.gz", f"{tmp_path}/a.warc.gz"]]
    assert not problems


def test_a_list_with_files_twice_or_missing_says_how_many_and_which(tmp_path):
    (tmp_path / "a.warc.gz").touch()
    (tmp_path / "folder").mkdir()
    names = ["a.warc.gz", "a.warc.gz", "gone.warc.gz", "folder"]
    (tmp_path / "crawl.txt").write_text("".join(f"{tmp_path}/{name}\n" for name in names))
    (tmp_path / "empty.txt").touch()
    _, problems = manifest([f"{tmp_path}/{name}.txt" for name in ("crawl", "empty", "none")])
    for problem, part in zip(
        problems,
        [
            f"crawl.txt: names 1 files twice, such as {tmp_path}/a.warc.gz",
            f"crawl.txt: 2 of its 4 files are missing, such as {tmp_path}/folder",
            "empty.txt: names no file",
            "none.txt: cannot be read as a list of WARCs",
        ],
        strict=True,
    ):
        assert part in problem


def test_a_list_is_no_longer_than_one_of_files_can_be(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest_module, "LIST_LINES", 3)
    monkeypatch.setattr(manifest_module, "LIST_BYTES", 100)
    (tmp_path / "lines.txt").write_text("https://a.example/x\n" * 4)
    (tmp_path / "bytes.txt").write_text("https://a.example/" + "x" * 100)
    for path in (tmp_path / "lines.txt", tmp_path / "bytes.txt", "/dev/zero"):
        (tmp_path / "link.txt").unlink(missing_ok=True)
        (tmp_path / "link.txt").symlink_to(path)
        _, problems = manifest([str(tmp_path / "link.txt")])
        assert "more than 3 lines or 100 bytes; give a path or URL a line, and of a very long list" in problems[0]


def test_a_password_in_a_list_is_not_in_what_is_said_of_it(tmp_path):
    (tmp_path / "a.txt").write_text("https://me:hunter2@a.example/x?sig=0f1e\n")
    _, problems = manifest([str(tmp_path / "a.txt"), "https://me:hunter2@a.example/y"])
    assert len(problems) == 2
    assert "hunter2" not in "".join(problems) and "0f1e" not in "".join(problems)


@given(lengths=st.lists(st.integers(1, 90_000), min_size=1, max_size=4))
def test_without_a_size_an_entry_makes_a_bounded_number_of_batches_whatever_follows(lengths):
    entries = [["x"] * length for length in lengths]
    made = [batches([entry], None) for entry in entries]
    assert all(len(one) <= MOST_BATCHES for one in made)
    assert list(batches(entries, None).values()) == [warcs for one in made for warcs in one.values()]


@pytest.mark.parametrize("name", [b"a\nb", b"a\rb", b"a\tb", b"{x}", b"<logs>", b"\xff", b"\x1b[2J"])
def test_a_file_whose_name_would_be_something_else_is_refused_in_one_line(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(f"in-{name.decode('utf-8', 'surrogateescape')}.gz").touch()
    (problem,) = manifest(["in-*.gz"])[1]
    assert problem.endswith("rename it")
    assert problem.isprintable()


def test_a_file_may_have_a_name_that_looks_odd(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["-x.gz", "--output.gz", "@x.gz", 'it\'s "$(touch x)" `y`; & * ~ \\.gz', "é.gz"]
    for name in names:
        (tmp_path / name).touch()
    assert manifest(["*.gz"]) == ([sorted(names)], [])
    (tmp_path / "x[1].gz").touch()
    assert manifest(["x[1].gz"]) == ([["x[1].gz"]], [])
    (tmp_path / "x1.gz").touch()
    assert manifest(["x[1].gz", "x[[]1].gz"]) == ([["x1.gz"], ["x[1].gz"]], [])


@pytest.mark.parametrize("pattern", ["", "a**.gz", "a\0.gz"])
def test_what_is_no_pattern_matches_nothing(pattern):
    assert manifest([pattern])[1][0].startswith(f"no file matches {pattern};")


@pytest.mark.parametrize("text", ["Demat d’an holl.\n\nUn destenn eo.\n" * 2, "caf\0é/x\n", "a" * 300, "x\n" * 5])
def test_who_gives_texts_as_archives_is_told_where_they_go(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    for name in (tmp_path / "a.txt", tmp_path, "/"):
        (problem,) = manifest([str(name)])[1]
        assert problem.endswith("texts, and no archives, are named in crawl.texts")
    assert [key for key, _ in Crawl(warcs=["a.jsonl", "a.parquet"]).problems()] == ["warcs"] * 2


def test_each_entry_may_have_its_own_size():
    assert list(batches([["a", "b"], ["c", "d"]], [1, None]).values()) == [["a"], ["b"], ["c", "d"]]
