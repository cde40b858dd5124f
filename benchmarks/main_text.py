"""The main text of messy pages beside trafilatura's, and beside phrases that should and should not be in it.

    python -m benchmarks.main_text --output docs/benchmarks/main_text --peers .venv-peers/bin/python

The pages are those in the tests of two source packages: real ones, of 2003 to 2021, in several languages. A text
is its set of shingles: five words in a row, in lower case. trafilatura is no truth, but it was written for such
pages by looking at them; its own tests say of 83 of them which phrases belong to the text.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.report import write
from pipeline.common.packages import members
from pipeline.extract.charset import charset_of, decode

SOURCES = {  # their archives' sha256: pip checks it before it runs their setup.py, to learn what they need
    "trafilatura==1.0.0": "10222e9475363091d38d4aa92349974a23363e8a98692b5f902d60bba3e53383",
    "htmldate==1.0.0": "3767aed93c72a9ac0a68ff907eefc373c183593507a8354e899229bac621da1b",
}
WORD, SHINGLE = re.compile(r"\w+"), 5
ROUNDS = 3
TRAFILATURA = """
import json, sys, time, trafilatura
pages = json.load(sys.stdin)
trafilatura.extract(pages[0])
begin = time.process_time()
texts = [trafilatura.extract(page) or "" for page in pages]
json.dump([trafilatura.__version__, time.process_time() - begin, texts], sys.stdout)
"""
Texts = dict[str, str]


class Phrases(NamedTuple):
    wanted: list[str]
    unwanted: list[str]


def fetch_sources(folder: Path) -> list[Path]:
    """The archives of SOURCES, from the folder or by pip."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name.replace('==', '-')}.tar.gz" for name in SOURCES]
    if not all(path.exists() for path in paths):
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.writelines(f"{name} --hash=sha256:{digest}\n" for name, digest in SOURCES.items())
            file.flush()
            pip = [sys.executable, "-m", "pip", "-q", "download", "--no-deps", "--no-binary", ":all:"]
            subprocess.run([*pip, "--require-hashes", "-r", file.name], cwd=folder, check=True)
    return paths


def read_pages(archives: list[Path]) -> tuple[Texts, dict[str, Phrases]]:
    """The source of each page by its file's name, each once, and what the tests say of some."""
    pages: Texts = {}
    phrases: dict[str, Phrases] = {}
    for archive in archives:
        for path, data in members(archive, "*/tests/*"):
            name = path.rpartition("/")[2]
            if name == "realworld_tests.py":
                phrases = read_phrases(data.decode())
            elif name.endswith(".html"):
                html = decode(data, charset_of(data, None)[0])
                if html is not None and html not in pages.values():
                    pages[name] = html
    return pages, phrases


def read_phrases(source: str) -> dict[str, Phrases]:
    """Of each page what a module of tests asserts to be in its result, and not to be; the module is not run."""
    tree = ast.parse(source)
    found: dict[str, Phrases] = {}
    files: dict[str, str] = {}
    page = ""
    for node in _in_order(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict) and not files:
            files = ast.literal_eval(node.value)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "load_mock_page":
            page = files.get(str(node.args[0].value), "") if isinstance(node.args[0], ast.Constant) else ""
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Constant) and page:
            operator, phrase = node.ops[0], node.left.value
            if isinstance(operator, ast.In | ast.NotIn) and isinstance(phrase, str) and "<" not in phrase:
                found.setdefault(page, Phrases([], []))[isinstance(operator, ast.NotIn)].append(phrase)
    return found


def _in_order(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        yield child
        yield from _in_order(child)


def shingles(text: str) -> set[tuple[str, ...]]:
    words = WORD.findall(text.lower())
    return {tuple(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))}


def row(tool: str, seconds: float, texts: Texts, reference: Texts, phrases: dict[str, Phrases]) -> dict[str, Any]:
    """What a tool's texts have, and lack, of the reference's shingles and of the phrases."""
    pairs = [(shingles(texts[name]), shingles(reference[name])) for name in texts if reference[name]]
    plain = {name: " ".join(texts[name].split()) for name in texts}
    found = {
        kind: [" ".join(p.split()) in plain[name] for name in phrases if name in plain for p in phrases[name][i]]
        for i, kind in enumerate(Phrases._fields)
    }
    return {
        "tool": tool,
        "processor time, s": seconds,
        "missing, %": 100 * sum(len(b - a) for a, b in pairs) / sum(len(b) for _, b in pairs),
        "beyond, %": 100 * sum(len(a - b) for a, b in pairs) / sum(len(a) for a, _ in pairs),
        "missing, % of a page": 100 * sum(len(b - a) / len(b) for a, b in pairs) / len(pairs),
        "beyond, % of a page": 100 * sum(len(a - b) / len(a) for a, b in pairs) / len(pairs),
        **{f"{kind} phrases of {len(hits)}": sum(hits) for kind, hits in found.items()},
    }


def run(extract: Callable[[str], str], pages: Texts) -> tuple[float, Texts]:
    """The least processor time of ROUNDS, and the texts."""
    times = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        texts = {name: extract(html) for name, html in pages.items()}
        times.append(time.process_time() - begin)
    return min(times), texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="path of the table, without its ending")
    parser.add_argument("--sources", default="downloads/benchmarks", help="folder that keeps the archives")
    parser.add_argument("--peers", required=True, help="Python of an environment with trafilatura")
    arguments = parser.parse_args()
    from resiliparse.extract.html2text import extract_plain_text

    from pipeline.extract.main_text import main_text

    pages, phrases = read_pages(fetch_sources(Path(arguments.sources)))
    asked = subprocess.run(
        [arguments.peers, "-c", TRAFILATURA],
        input=json.dumps(list(pages.values())).encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    version, seconds, texts = json.loads(asked.stdout)
    reference = dict(zip(pages, texts, strict=True))
    tools: dict[str, Callable[[str], str]] = {
        "ours": main_text,
        "resiliparse, main_content": lambda html: extract_plain_text(html, main_content=True),
        "resiliparse, all": lambda html: extract_plain_text(html, alt_texts=False),
    }
    results = {tool: run(extract, pages) for tool, extract in tools.items()}
    results[f"trafilatura {version}"] = seconds, reference
    notes = [
        f"{len(pages)} different pages from the tests of {' and '.join(SOURCES)}. Missing: the share of "
        f"trafilatura's shingles ({SHINGLE} words in a row) that a text lacks; beyond: the share of a text's own "
        "that trafilatura's lacks; of all pages together, and the mean of the pages. Wanted phrases should be in "
        f"the text and unwanted ones should not, by the tests of {len(phrases)} of the pages.",
    ]
    rows = [row(tool, *result, reference, phrases) for tool, result in results.items()]
    write(arguments.output, "The main text of messy pages", rows, notes)


if __name__ == "__main__":
    main()
