"""Text of others stays text: read back by a Markdown parser, and headers by YAML's and the hub's readers."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pipeline.common.markdown import code, escaped, front_matter, table_row

HOSTILE = [
    "<script>alert(1)</script>", "<!-- x", "[a](https://evil.example)", "![a](x.png)", "[a][b]", "<https://e.example>",
    "a|b", "a\\|b", "`code`", "``", "a\n\n# title", "a\r---\rb", "a\u2028# b", "*a* **b**", "&lt;b&gt;", "&#60;b>",
    "\\", "_a_", "\x1b[2Ja", "\u202etxt.exe", "~~~\nx", "| a |\n|---|", "a\x85b",
]  # fmt: skip
PLAIN = ["near_duplicate", "contaminated:quiz", "eval/quiz", "1.2 (+0.1)", "['fr']", "été", "R&D", "a & b"]


def cells(row: str) -> list[str]:
    """The text of the cells of a row, as a reader sees it; no HTML, link or code may be in it."""
    heads = len(row.replace("\\\\", "").replace("\\|", "").split("|")) - 2
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(f"{row}\n|{'---|' * heads}\n")
    assert {token.type for token in tokens} <= {
        *("table_open", "table_close", "thead_open", "thead_close", "tr_open", "tr_close", "th_open", "th_close"),
        "inline",
    }
    inline = [token for token in tokens if token.type == "inline"]
    assert {child.type for token in inline for child in token.children} <= {"text", "text_special"}
    return ["".join(child.content for child in token.children) for token in inline]


def plain(text: str) -> str:
    """A text as it is shown: control characters are spaces, and none stand at its ends."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


@pytest.mark.parametrize("text", [*HOSTILE, *PLAIN])
def test_a_cell_has_its_text_and_nothing_else(text):
    shown = cells(table_row([text, "next"]))
    assert [plain(cell) for cell in shown] == [plain(text), "next"]


@given(st.text("ab \\|`<>[]()*&#;!\n\r\t~-_x1", max_size=12))
def test_any_text_in_a_cell(text):
    if not plain(text).strip("_"):
        return
    shown = cells(table_row([f"a{text}", "next"]))
    assert [plain(cell) for cell in shown] == [plain(f"a{text}"), "next"]


@pytest.mark.parametrize("text", PLAIN)
def test_ordinary_text_stays_as_it_is(text):
    assert escaped(text) == text
    assert code(text) == f"`{text}`"


@pytest.mark.parametrize("text", HOSTILE)
def test_code_has_its_text_and_nothing_else(text):
    (paragraph,) = (t for t in MarkdownIt("commonmark").parse(f"a {code(text)} b") if t.type == "inline")
    assert [child.type for child in paragraph.children] == ["text", "code_inline", "text"]
    assert plain(paragraph.children[1].content) == plain(text)


WORDS = ["no", "NO", "yes", "on", "off", "y", "n", "null", "~", "true", "1e3", "1_000", "0x1f", "1:30", ".inf", "",
         "2026-01-01", "mit\ntags: [x]", "- a", "a: b", "a #b", "{a}", "[a", "&a", "*a", "!a", "@a", "'", '"', "é",
         "\x1b", "---", "...", "=", "<<", " a ", "fr/train-*.arrow", "text-generation"]  # fmt: skip


def test_a_header_is_read_back_as_it_was():
    data = {"license": "mit\ntags: [x]", "language": WORDS, **{f"k-{word}": [{word: word}] for word in WORDS}}
    header = front_matter(data)
    assert header.startswith("---\n") and header.endswith("\n---\n")
    assert header.count("\n---\n") == 1
    assert yaml.safe_load(header.removesuffix("---\n")) == data
    # As YAML 1.2 has it, which the hub's pages read by: what is not in quotes is a word.
    for word in WORDS:
        assert f'"{word}"' in header or f"'{word}'" in header or word.isidentifier() or not word.isalnum(), word


def test_an_ordinary_header_has_no_quotes():
    data = {
        "license": "odc-by",
        "language": ["en", "fr"],
        "configs": [{"config_name": "fr", "data_files": [{"path": "b1"}]}],
    }
    assert front_matter(data) == (
        "---\nlicense: odc-by\nlanguage: [en, fr]\nconfigs:\n- config_name: fr\n  data_files:\n  - path: b1\n---\n"
    )
