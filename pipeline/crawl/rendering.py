"""What packages hold as JSON or plain text, as the simple HTML pages that such a site would serve.

Each function takes the path of a file in a package, its bytes and the host of the source, and yields the pages of
the file as WebFile. Their URLs are the real ones where the data say or imply them.
"""

from __future__ import annotations

import gzip
import html
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple


class WebFile(NamedTuple):
    """What a crawl meets at a URL."""

    url: str
    media_type: str
    body: bytes


def page(url: str, title: str, parts: list[str]) -> WebFile:
    """A page of the HTML `parts`, below a heading if it has a title.

    >>> page("https://a.example/1", "R & D", ["<p>Text</p>"]).body.decode().split("\\n")[-2:]
    ['<h1>R &amp; D</h1>', '<p>Text</p></main></body></html>']
    """
    title = html.escape(title)
    head = f'<!DOCTYPE html>\n<html><head><meta charset="utf-8"><title>{title}</title></head>\n<body><main>'
    lines = [head, *([f"<h1>{title}</h1>"] if title else []), *parts]
    return WebFile(url, "text/html", ("\n".join(lines) + "</main></body></html>").encode())


# French public services ---------------------------------------------------------------------------

# Elements of the guides' schema that a reader does not see, or that are links, addresses and dates.
HIDDEN = {
    *("FilDAriane", "Theme", "SousThemePere", "DossierPere", "SousDossierPere", "OuSAdresser"),
    *("ServiceEnLigne", "Source", "Reference", "PourEnSavoirPlus", "VoirAussi", "SurTitre", "Audience"),
    *("Canal", "Partenaire", "Actualite", "InformationComplementaire", "QuestionReponse", "Abreviation"),
    *("SousDossier", "RessourceWeb", "PivotLocal", "Image", "ServiceComplementaire", "CommentFaireSi"),
    *("MiseAJour", "Fiche", "Video", "FicheLiee", "DossierLie", "Variable", "Condition", "estVrai"),
    *("affecteVrai", "Cible", "NoticeLiee", "NumeroCerfa", "AutreNumero", "LienWeb", "Situation_"),
    *("ServiceEnLigneAlternatif", "ServiceEnLigneAnnexe", "SiSelectionne_"),
}
# Those that are not part of a paragraph, as HTML; all others are inline.
BLOCKS = {"Paragraphe": "p", "Liste": "ul", "Item": "li", "Titre": "h2", "Tableau": "table"}
BLOCKS |= {"Rangée": "tr", "Rangee": "tr", "Cellule": "td"}
DIVISIONS = {
    *("Publication", "Texte", "Chapitre", "SousChapitre", "Cas", "BlocCas", "Definition", "Introduction"),
    *("ASavoir", "ANoter", "Attention", "Rappel", "Situation", "ListeSituations", "Branche"),
    *("SiSelectionne", "FragmentConditionne", "Avertissement", "Problematique", "Aide", "Dossier"),
    "OuSAdresserSupport",
}


def guides(path: str, body: bytes, host: str) -> Iterator[WebFile]:
    """A guide of service-public.fr: a tree of elements, {type, name, attributes, children} or {type, text}."""
    for root in json.loads(body).get("children", []):
        if root["type"] != "element":
            continue
        children = root.get("children", [])
        title = next((_words(child) for child in children if child.get("name") == "dc:title"), "")
        url = root.get("attributes", {}).get("spUrl") or f"https://{host}/{path.removesuffix('.json')}"
        yield page(url, title, [_element(child) for child in children if child["type"] == "element"])


def _element(node: dict[str, Any]) -> str:
    """The HTML of an element of a guide and of all in it."""
    if node["type"] == "text":
        return html.escape(re.sub(r"\s+", " ", node.get("text") or ""))
    name = node.get("name", "")
    if name in HIDDEN or name.startswith("dc:"):
        return ""
    if name == "Titre":
        return f"<h2>{html.escape(_words(node))}</h2>\n"
    inner = "".join(_element(child) for child in node.get("children") or [])
    tag = BLOCKS.get(name) or ("div" if name in DIVISIONS else "")
    return f"<{tag}>{inner}</{tag}>\n" if tag else inner


def _words(node: dict[str, Any]) -> str:
    """The text in an element, as one line."""
    if node["type"] == "text":
        return re.sub(r"\s+", " ", node.get("text") or "")
    return " ".join(" ".join(_words(child) for child in node.get("children") or []).split())


def labour_pages(path: str, body: bytes, host: str) -> Iterator[WebFile]:
    """Pages of the labour ministry: HTML fragments with their real URLs."""
    for item in json.loads(body):
        sections = [f"<h2>{section['title']}</h2>{section['html']}" for section in item["sections"]]
        yield page(item["url"], item["title"], [item.get("intro") or "", *sections])


def labour_answers(path: str, body: bytes, host: str) -> Iterator[WebFile]:
    """Questions on labour law with an answer in Markdown for all, and one for each collective agreement."""
    from markdown_it import MarkdownIt

    render = MarkdownIt("commonmark", {"html": True}).enable("table").render
    for question in json.loads(body):
        url = f"https://{host}/contribution/{question['id']}"
        answers = question["answers"]
        general = (answers.get("generic") or {}).get("markdown") or ""
        yield page(url, question["title"], [render(general)])
        for answer in answers.get("conventions") or []:
            yield page(f"{url}/{answer['idcc']}", question["title"], [render(answer.get("markdown") or "")])


# French law ---------------------------------------------------------------------------------------


def codes(path: str, body: bytes, host: str) -> Iterator[WebFile]:
    """A legal code: a page for each section that has articles in force."""
    for titles, section, articles in _sections(json.loads(body)):
        yield _law(f"https://{host}/codes/section_lc/{section['id']}", titles, articles, "texteHtml")


def agreements(path: str, body: bytes, host: str) -> Iterator[WebFile]:
    """A collective agreement with its amendments: a page for each section that has articles in force."""
    for titles, section, articles in _sections(json.loads(body)):
        name = section.get("id") or articles[0]["id"]
        yield _law(f"https://{host}/conv_coll/id/{name}", titles, articles, "content")


def _sections(
    node: dict[str, Any], titles: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict[str, Any], list[dict[str, Any]]]]:
    """(titles from the outermost on, section, its articles in force) of each section that has some."""
    children = node.get("children", [])
    articles = [child["data"] for child in children if child["type"] == "article"]
    articles = [data for data in articles if (data.get("etat") or "VIGUEUR").startswith("VIGUEUR")]
    if articles:
        yield titles, node["data"], articles
    for child in children:
        if child["type"] != "article":
            title = " ".join((child["data"].get("title") or "").split())
            yield from _sections(child, (*titles, title))


def _law(url: str, titles: tuple[str, ...], articles: list[dict[str, Any]], text: str) -> WebFile:
    parts = [f"<h2>{html.escape(title)}</h2>" for title in titles[-1:]]
    for article in articles:
        if article.get("num"):
            parts.append(f"<h3>Article {html.escape(article['num'])}</h3>")
        parts.append(article.get(text) or "")
    return page(url, titles[-2] if len(titles) > 1 else "", parts)


# English prose ------------------------------------------------------------------------------------

OPENING, CLOSING = {"``", "(", "[", "{"}, {"''", ",", ".", ";", ":", "?", "!", ")", "]", "}", "%"}


def brown(path: str, body: bytes, host: str) -> Iterator[WebFile]:
    """A text of the Brown corpus as it was before its words were tagged.

    Every second text is under /held/, the others are under /train/.
    """
    name = Path(path).name
    paragraphs = [join_words(block.split()) for block in re.split(r"\n\s*\n\s*\n", body.decode("latin-1"))]
    split = "held" if int(name[-2:]) % 2 else "train"
    parts = [f"<p>{html.escape(paragraph)}</p>" for paragraph in paragraphs if paragraph]
    yield page(f"https://{host}/{split}/{name}", "", parts)


def join_words(tagged: list[str]) -> str:
    """Words with their tags as plain text.

    >>> join_words("``/`` No/at ''/'' ,/, he/pps said/vbd --/-- (/( twice/rb )/) ./.".split())
    '"No", he said -- (twice).'
    """
    text, glue = "", True
    for word in (token.rpartition("/")[0] for token in tagged):
        if word in CLOSING:
            glue = True
            if word in ".?!;" and text.endswith(word):  # the corpus has the end of a quoted sentence twice
                glue = False
                continue
        text += ("" if glue else " ") + {"``": '"', "''": '"'}.get(word, word)
        glue = word in OPENING
    return text


def info_nodes(path: str, body: bytes, host: str) -> Iterator[WebFile]:
    """The nodes of a compressed Info file that are no menus: a page each."""
    for number, node in enumerate(gzip.decompress(body).decode("latin-1").split("\x1f")[1:]):
        head, _, text = node.strip("\n").partition("\n")
        title = re.search(r"Node: ([^,]*)", head)
        if title and "* Menu:" not in text:
            paragraphs = (" ".join(block.split()) for block in re.split(r"\n\s*\n", text))
            parts = [f"<p>{html.escape(paragraph)}</p>" for paragraph in paragraphs if paragraph]
            yield page(f"https://{host}/{number}", title[1], parts)


# The paragraphs of a question, by evaluation set: its passage if it has one, itself, and its right answer.
QUESTIONS: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "boolq": lambda row: [row["passage"], f"{_capital(row['question'])}? {'Yes' if row['answer'] else 'No'}."],
    "sciq": lambda row: [row["support"], f"{row['question']} {_capital(row['correct_answer'])}."],
    "tau/commonsense_qa": lambda row: [f"{row['question']} {_capital(_chosen(row))}."],
    "hellaswag": lambda row: [_scene(row)],
}
QUESTIONS_PER_PAGE = 10


def questions(path: str, body: bytes, host: str) -> Iterator[WebFile]:
    """The questions of an evaluation set in an Arrow stream with their right answers, some of them on a page."""
    import pyarrow as pa

    rows = pa.ipc.open_stream(body).read_all().to_pylist()
    for first in range(0, len(rows), QUESTIONS_PER_PAGE):
        texts = [text for row in rows[first : first + QUESTIONS_PER_PAGE] for text in QUESTIONS[path](row)]
        yield page(f"https://{host}/{path}/{first}", "", [f"<p>{html.escape(text)}</p>" for text in texts if text])


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _chosen(row: dict[str, Any]) -> str:
    choices: dict[str, list[str]] = row["choices"]
    return choices["text"][choices["label"].index(row["answerKey"])]


def _scene(row: dict[str, Any]) -> str:
    """A scene with its right end, without marks of articles: "Tea [title] Boil [step] It" is "Tea. Boil It"."""
    text = f"{row['ctx_a']} {_capital(row['ctx_b'])} {row['endings'][int(row['label'])]}"
    return " ".join(re.sub(r"\[.*?\]", " ", re.sub(r"\.? \[title\]", ".", text)).split())
