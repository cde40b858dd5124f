"""Packages' JSON and text as pages: golden pages made by hand, and what holds for all."""

import gzip
import html
import io
import json
import re

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.crawl import rendering
from pipeline.crawl.catalogue import SOURCES
from pipeline.extract.main_text import main_text

HOST = "site.example"


def text(string):
    return {"type": "text", "text": string}


def element(name, *children, **attributes):
    return {"type": "element", "name": name, "attributes": attributes, "children": list(children)}


def body(page):
    """What stands in the page between <main> and </main>, without line breaks."""
    return page.body.decode().replace("\n", "").partition("<main>")[2].partition("</main>")[0]


def only(pages):
    (page,) = pages
    assert page.media_type == "text/html"
    return page


def test_a_guide():
    tree = element(
        "Publication",
        element("dc:title", text("Passeport & visa")),
        element("dc:description", text("not shown")),
        element("FilDAriane", element("Niveau", text("not shown"))),
        element("Introduction", element("Texte", element("Paragraphe", text("Durée :\n "), text("10 ans")))),
        element("Chapitre", element("Titre", element("Paragraphe", text("Où ?"))), element("Liste",
            element("Item", element("Paragraphe", text("en "), element("LienInterne", text("mairie")))))),
        element("Tableau", element("Rangée", element("Cellule", text("1 < 2")), element("Cellule", text("oui")))),
        element("OuSAdresser", element("Titre", text("not shown"))),
        spUrl="https://www.example/F1",
    )  # fmt: skip
    page = only(rendering.guides("particuliers/F1.json", json.dumps({"children": [tree]}).encode(), HOST))
    assert page.url == "https://www.example/F1"
    assert body(page) == (
        "<h1>Passeport &amp; visa</h1><div><div><p>Durée : 10 ans</p></div></div>"
        "<div><h2>Où ?</h2><ul><li><p>en mairie</p></li></ul></div>"
        "<table><tr><td>1 &lt; 2</td><td>oui</td></tr></table>"
    )


def test_a_guide_without_its_address_has_that_of_its_file():
    tree = {"children": [element("Publication", element("dc:title", text("A")))]}
    page = only(rendering.guides("associations/R2.json", json.dumps(tree).encode(), HOST))
    assert page.url == "https://site.example/associations/R2"


def article(number, **data):
    return {"type": "article", "data": {"id": f"A{number}", "num": number, "etat": "VIGUEUR", **data}}


def section(name, *children):
    return {"type": "section", "data": {"id": name, "title": f"Titre {name}\r\n "}, "children": list(children)}


def test_a_page_for_each_section_with_articles_in_force():
    code = section("code", section("I", section("II",
        article("L1", texteHtml="<p>Un</p>"), article("L2", texteHtml="<p>Deux</p>", etat="ABROGE"))),
        section("III", article("L3", texteHtml="<p>Trois</p>", etat="MODIFIE")))  # fmt: skip
    page = only(rendering.codes("LEGITEXT1", json.dumps(code).encode(), HOST))
    assert page.url == "https://site.example/codes/section_lc/II"
    assert body(page) == "<h1>Titre I</h1><h2>Titre II</h2><h3>Article L1</h3><p>Un</p>"


def test_an_agreement_whose_articles_have_no_number():
    agreement = section("K", section("S", article(None, content="<p>Un</p>"), article(None, content=None)))
    page = only(rendering.agreements("KALICONT1", json.dumps(agreement).encode(), HOST))
    assert page.url == "https://site.example/conv_coll/id/S"
    assert body(page) == "<h2>Titre S</h2><p>Un</p>"


def test_an_answer_for_all_and_one_for_each_agreement():
    answers = {"generic": {"markdown": "**Oui**, voir [ici](https://a.example).\n\n- un\n- deux"},
               "conventions": [{"idcc": "0016", "markdown": "Non"}, {"idcc": "0029"}]}  # fmt: skip
    questions = [{"id": "q", "title": "Peut-on ?", "answers": answers}]
    pages = list(rendering.labour_answers("contributions", json.dumps(questions).encode(), HOST))
    assert [page.url for page in pages] == [
        f"https://site.example/contribution/q{part}" for part in ("", "/0016", "/0029")
    ]
    assert body(pages[0]) == (
        "<h1>Peut-on ?</h1><p><strong>Oui</strong>, voir <a href=\"https://a.example\">ici</a>.</p>"
        "<ul><li>un</li><li>deux</li></ul>"
    )  # fmt: skip
    assert body(pages[1]) == "<h1>Peut-on ?</h1><p>Non</p>"


def test_a_labour_page():
    item = {"url": "https://a.example/b", "title": "A", "intro": "<p>I</p>",
            "sections": [{"title": "B", "html": "<p>C</p>"}]}  # fmt: skip
    page = only(rendering.labour_pages("fiches-travail", json.dumps([item]).encode(), HOST))
    assert page.url == "https://a.example/b"
    assert body(page) == "<h1>A</h1><p>I</p><h2>B</h2><p>C</p>"


@pytest.mark.parametrize(
    ("tagged", "plain"),
    [
        ("The/at jury/nn 's/x said/vbd ,/, ``/`` No/rb ./. ''/''", 'The jury \'s said, "No."'),
        ("``/`` (/( a/at )/) ''/'' ?/. --/-- 1/2/cd %/nn", '"(a)"? -- 1/2%'),
        ("What/wdt ?/. ?/.", "What?"),
        ("etc./rb ;/. ./.", "etc.;."),
    ],
)
def test_tagged_words_are_joined_as_people_write(tagged, plain):
    assert rendering.join_words(tagged.split()) == plain


def test_half_of_the_brown_corpus_is_under_held():
    tagged = b"\n\n\tOne/cd ./.\n\n\n\tTwo/cd\nthree/cd ./.\n"
    pages = [only(rendering.brown(name, tagged, HOST)) for name in ("ca01", "cr02")]
    assert [page.url for page in pages] == ["https://site.example/held/ca01", "https://site.example/train/cr02"]
    assert body(pages[0]) == "<p>One.</p><p>Two three.</p>"


def test_nodes_of_an_info_file_without_its_menus():
    top = "File: j, Node: Top, Up: (dir)\n\n* Menu:\n\n* bit::\n"
    info = f"x\x1f\n{top}\x1f\nFile: j, Node: bit, Up: Top\n\n:bit:\n  a\n\n  b & c\n"
    page = only(rendering.info_nodes("j", gzip.compress(info.encode("latin-1")), HOST))
    assert page.url == "https://site.example/1"
    assert body(page) == "<h1>bit</h1><p>:bit: a</p><p>b &amp; c</p>"


@pytest.mark.parametrize(
    ("name", "row", "paragraphs"),
    [
        (
            "boolq",
            {"passage": "A < B.", "question": "is it", "answer": False},
            ["A &lt; B.", "Is it? No."],
        ),
        ("sciq", {"support": "", "question": "Which?", "correct_answer": "the bottom"}, ["Which? The bottom."]),
        (
            "hellaswag",
            {
                "ctx_a": "[header] How to fly [title] Wait.",
                "ctx_b": "then he",
                "endings": ["sits.", "runs. [step] He flies."],
                "label": "1",
            },
            ["How to fly. Wait. Then he runs. He flies."],
        ),
        (
            "tau/commonsense_qa",
            {"question": "Where?", "choices": {"label": ["A", "B"], "text": ["bank", "mall"]}, "answerKey": "B"},
            ["Where? Mall."],
        ),
    ],
)
def test_questions_with_their_right_answers(name, row, paragraphs):
    pages = list(rendering.questions(name, write_stream([row] * (rendering.QUESTIONS_PER_PAGE + 1)), HOST))
    assert [page.url for page in pages] == [f"https://site.example/{name}/0", f"https://site.example/{name}/10"]
    assert body(pages[1]) == "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)


def write_stream(rows):
    table, out = pa.Table.from_pylist(rows), io.BytesIO()
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


@given(st.lists(st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=30), min_size=1, max_size=4))
def test_no_text_of_a_guide_is_markup(texts):
    tree = element("Publication", element("dc:title", text("T")), *(element("Paragraphe", text(t)) for t in texts))
    page = only(rendering.guides("F1.json", json.dumps({"children": [tree]}).encode(), HOST))
    assert [html.unescape(part) for part in re.findall("<p>(.*?)</p>", body(page))] == texts


def test_the_text_of_a_page_comes_out_of_the_extraction():
    parts = ["<p>Une phrase assez longue pour compter comme du texte.</p>", "<ul><li>Un élément</li></ul>"]
    found = main_text(rendering.page("https://a.example", "Le titre", parts).body.decode())
    assert found.split("\n") == [
        "Le titre", "", "Une phrase assez longue pour compter comme du texte.", "", "• Un élément",
    ]  # fmt: skip


def test_sources_name_hosts_and_patterns_with_one_group():
    for name, source in SOURCES.items():
        assert re.fullmatch(r"[a-z0-9.-]+\.(example|fr)", source.host), name
        assert re.compile(source.pages).groups == 1, name
