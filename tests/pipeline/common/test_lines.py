import gzip

import pytest

from pipeline.common.errors import StageError
from pipeline.common.lines import read_lines


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_lines_are_those_of_the_file(tmp_path, name):
    content = "un\r\ndeux\n\n  été\n" + "x" * 20 + "\nfin"
    with (gzip.open if name.endswith(".gz") else open)(tmp_path / name, "wb") as file:
        file.write(content.encode())
    expected = ["un\n", "deux\n", "\n", "  été\n", "x" * 20 + "\n", "fin"]
    assert list(read_lines(tmp_path / name)) == expected
    chars = sum(map(len, expected))
    assert list(read_lines(tmp_path / name, longest=21, most=chars, key="k")) == expected
    with pytest.raises(StageError, match=rf"{name}, line 5: longer than 20 characters"):
        list(read_lines(tmp_path / name, longest=20))
    with pytest.raises(StageError, match=rf"{name}: more than {chars - 1} characters; raise k, or"):
        list(read_lines(tmp_path / name, most=chars - 1, key="k"))


def test_a_line_without_an_end_is_not_read_to_its_end(tmp_path):
    """A sparse file of 100 GB."""
    with (tmp_path / "a").open("wb") as file:
        file.truncate(10**11)
    with pytest.raises(StageError, match="line 1: longer than 1,000 characters"):
        list(read_lines(tmp_path / "a", longest=1000))


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-20], lambda data: b"x" + data, lambda data: data[:-8] + b"x" * 8]
)
def test_a_damaged_gz_is_named(tmp_path, damage):
    data = gzip.compress(b"".join(b"%d\n" % number for number in range(1000)))
    (tmp_path / "a.gz").write_bytes(damage(data))
    with pytest.raises(StageError, match=r"a\.gz: not a whole \.gz file"):
        list(read_lines(tmp_path / "a.gz"))


def test_what_is_not_utf8_is_named_or_replaced(tmp_path):
    (tmp_path / "a").write_bytes(b"a\n\xff\n")
    with pytest.raises(StageError, match="a: not UTF-8 behind line 0"):
        list(read_lines(tmp_path / "a"))
    assert list(read_lines(tmp_path / "a", errors="replace")) == ["a\n", "\ufffd\n"]
