"""`python -m pipeline look`: samples of what each stage kept and dropped, as one page to browse."""

from __future__ import annotations

import base64
import hashlib
import shlex
from pathlib import Path
from typing import Any

from pipeline.common.errors import StageError
from pipeline.common.files import write_text
from pipeline.inspect.fates import open_crawl
from pipeline.inspect.samples import Drawn, Kind, draw
from pipeline.inspect.texts import Text, texts_of
from pipeline.inspect.why import explain, place_of

TEXT_CHARS, URL_CHARS = 2000, 500
MOST_PAGES = 3000  # of all kinds


def look(output: str, page: str, reasons: list[str], warcs: list[str], each: int, seed: int) -> None:
    """Write a page of samples, `each` of them of a stage, reason and language, drawn by `seed`.

    `reasons`: only of these, as the ledgers name them, or `kept`. `warcs`: archives, or folders of them, which are
    looked for at their own paths as well. Raises StageError where there is nothing to show.
    """
    crawl = open_crawl(output)
    drawn, counts = draw(crawl, reasons, each, seed)
    if not drawn:
        known = sorted({kind.reason or kind.fate for kind in draw(crawl, [], 1, seed)[1]})
        wanted = f"the reason {' or '.join(reasons)}" if reasons else "been decided on"
        raise StageError(f"{output}: no page has {wanted}; the reasons are {', '.join(known) or 'none yet'}")
    shown = drawn[:MOST_PAGES]
    by_batch = sorted(range(len(shown)), key=lambda i: shown[i].page.batch)  # of which few are in memory
    samples = {}
    for i, (one, text) in zip(by_batch, texts_of(crawl, [shown[i] for i in by_batch], warcs), strict=True):
        batch = crawl.batch(one.page.batch)
        explained = explain(batch.stages[one.kind.stage], one.kind.reason, one.score)
        samples[i] = _sample(one, text, explained, place_of(batch, one.page))
    write_text(page, _page(output, [samples[i] for i in sorted(samples)], len(drawn), counts, seed))


def _sample(drawn: Drawn, text: Text, explained: str, place: str) -> dict[str, Any]:
    kind = drawn.kind
    return {
        "stage": kind.stage,
        "reason": kind.reason or kind.fate,
        "fate": kind.fate,
        "language": kind.language or "language unknown",
        "score": drawn.score if drawn.score == drawn.score else None,
        "explained": explained,
        "place": place,
        "is_part": kind.is_part,
        "url": text.url[:URL_CHARS],
        "what": text.what,
        "text": text.text[:TEXT_CHARS],
        "is_cut": len(text.text) > TEXT_CHARS,
    }


def _page(output: str, samples: list[dict[str, Any]], drawn: int, counts: dict[Kind, int], seed: int) -> str:
    """The page; it runs its own script and no other: the hash of that is in its Content-Security-Policy."""
    import jinja2

    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    script = (folder / "look.js").read_text()
    names = ("stage", "reason", "language")
    totals: dict[tuple[str, str], int] = {}
    for kind, count in counts.items():
        if not kind.is_part:
            key = kind.stage, kind.reason or kind.fate
            totals[key] = totals.get(key, 0) + count
    return environment.get_template("look.html.j2").render(
        output=output,
        command=shlex.join(["python", "-m", "pipeline", "why", "URL", f"--output={output}"]),
        drawn=drawn,
        samples=samples,
        seed=seed,
        totals=totals,
        choices={name: list(dict.fromkeys(sample[name] for sample in samples)) for name in names},
        script=script,
        hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
