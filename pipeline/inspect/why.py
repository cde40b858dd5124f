"""`python -m pipeline why`: what became of a page in each stage of a crawl, without reading the crawl again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.common.decisions import KEPT
from pipeline.common.errors import StageError
from pipeline.common.files import inside, read_json
from pipeline.common.lines import read_lines
from pipeline.common.schemas import some_columns
from pipeline.common.shown import without_steering
from pipeline.corpus.decontaminate import contaminated_reason
from pipeline.corpus.filters import RULES, Rule
from pipeline.extract.pages import fit_text
from pipeline.inspect.fates import Batch, Crawl, Page, Stage, lost_records, open_crawl, pages_of_urls, read_rows
from pipeline.inspect.paragraphs import Dropped, dropped_paragraphs, pages_of_paragraph, pages_with_text
from pipeline.inspect.token_rows import rows_of_document

MOST_PAGES, MOST_GROUPS, MOST_QUOTES, QUOTE_CHARS, URL_CHARS = 10, 10, 3, 90, 500
# Of the reasons that a word does not explain; in braces the options of the stage, and what is known of the page.
REASONS = {
    "http_status": "the server did not answer with the status 200",
    "html_too_long": "longer than extract.max_html_bytes = {max_html_bytes}",
    "not_html": "no HTML by its type and its bytes",
    "unlikely_language": "by a guess from its bytes in none of {languages}, so that no text was extracted",
    "text_too_short": "its main text has less than extract.min_chars = {min_chars} characters",
    "other_language": "none of {languages}",
    "uncertain_language": "its score is below extract.language_min_score = {language_min_score}",
    "duplicate_paragraph": "an equal paragraph comes earlier in the crawl",
    "seen_in_earlier_crawl": "the paragraph is in an earlier crawl, of dedup.against",
    "little_new_in_block": "dedup.block_new_share = {block_new_share}",
    "little_text_left": "less than dedup.min_chars = {min_chars} characters",
    "blocked_url": "its host is in filter.url_blocklists",
    "few_characters": "{score:,.0f}, less than filter.min_chars = {min_chars}",
    "few_words": "{score:,.0f}, less than filter.min_words = {min_words}",
    "near_duplicate": "of an earlier document, near.threshold = {threshold}",
}


def why(page: str, output: str, configfile: list[str]) -> None:
    """Print what became of the pages with this URL, or else with this text, in each stage.

    `configfile` is the config or configs of the run, whose domains say which rows of tokens a document is in.
    Raises StageError where nothing is known of such a page, with what may be the cause.
    """
    crawl, page = open_crawl(output), fit_text(page)
    pages, how = find(crawl, page)
    if not pages:
        raise StageError(_unknown(crawl, page, output))
    lines = [_short(page, URL_CHARS), f"{how}: {len(pages):,}"]
    for found in pages[:MOST_PAGES]:
        lines += ["", *describe(crawl, found, configfile)]
    if len(pages) > MOST_PAGES:
        lines += ["", f"and {len(pages) - MOST_PAGES:,} more"]
    print("\n".join(map(without_steering, lines)))


def find(crawl: Crawl, page: str) -> tuple[list[Page], str]:
    """The pages with this URL, or nearly this one, or with this text; and in words which of them they are."""
    urls = variants(page)
    for url, pages in zip(urls, pages_of_urls(crawl, urls), strict=True):
        if pages:
            return pages, "pages of this URL" if url == page else f"pages of {_short(url, URL_CHARS)}"
    if _is_url(page):  # others may name it in their text
        return [], ""
    if pages := pages_of_paragraph(crawl, page):
        return pages, "batches with this paragraph, of each its first page"
    return pages_with_text(crawl, page, MOST_PAGES), f"pages with this text, {MOST_PAGES} at most"


def variants(url: str) -> list[str]:
    """A URL as given; without its fragment; with a slash more or less at its end. Of a file also its first text.

    >>> variants("https://a.example/b#c")
    ['https://a.example/b#c', 'https://a.example/b', 'https://a.example/b/']
    >>> variants("letters/2024.txt")
    ['letters/2024.txt', 'letters/2024.txt#0']
    """
    if not _is_url(url):
        return [url, f"{url}#0"]
    bare = url.partition("#")[0]
    return list(dict.fromkeys([url, bare, bare[:-1] if bare.endswith("/") else f"{bare}/"]))


def _is_url(text: str) -> bool:
    return "://" in text and not any(char.isspace() for char in text)


def _unknown(crawl: Crawl, page: str, output: str) -> str:
    lost = lost_records(crawl)
    causes = ["it is not in the crawl under exactly this URL"]
    if not _is_url(page):
        causes.append("or it is text of a page that was dropped before its text was kept")
    if lost:
        some = "; ".join(f"{count:,} {name}" for count, name in lost[:3])
        causes.append(f"or it is one of {sum(count for count, _ in lost):,} records lost to damage ({some})")
    return f"{output}: nothing is known of {_short(page, URL_CHARS)!r}: {', '.join(causes)}"


def describe(crawl: Crawl, page: Page, configfile: list[str]) -> Iterator[str]:
    """What became of a page, in lines: where it is, then a stage each, with more lines where more is known."""
    batch = crawl.batch(page.batch)
    yield f"{place_of(batch, page)}, batch {page.batch}{_url_line(crawl, page)}"
    for stage, number in batch.fates(page.number):
        yield f"  {stage.name:8} {_verdict(crawl, stage, stage.rows(number))}"
        for line in _more(crawl, page, stage, number, configfile):
            yield f"           {line}"
    if page.batch not in crawl.finished:
        yield f"  batch {page.batch} is not in {crawl.out.stats}: its run is not finished, or was earlier"
    last, number = list(batch.fates(page.number))[-1]
    if last.kept[number] and batch.missing:
        yield f"  then     not known: {batch.missing}"


def place_of(batch: Batch, page: Page) -> str:
    """Where a page comes from: the file, and the offset or the row in it."""
    extract = batch.stages["extract"]
    row = extract.rows(page.number)[0]
    file, place = extract.word("file", row) or "not fetched", int(extract.columns["place"][row])
    return f"{file} at {place:,}" if place >= 0 else file


def _url_line(crawl: Crawl, page: Page) -> str:
    """The URL of a page, and of a record that was fetched alone where the crawl has it; "" where this is gone."""
    row = _row_of(crawl, page)
    if row is None:
        return ""
    extract = crawl.batch(page.batch).stages["extract"]
    file = extract.word("file", extract.rows(page.number)[0])
    origin = (
        "" if Path(file).name == row["warc"] or file == row["warc"] else f" ({row['warc']} at {row['offset']:,})"
    )
    return f"{origin}: {_short(row['url'], URL_CHARS)}"


def _row_of(crawl: Crawl, page: Page) -> dict[str, Any] | None:
    """Where a page comes from, by the pages or else its shard; None where it is in neither."""
    batch = crawl.batch(page.batch)
    kept = batch.stages["extract"].kept
    if not kept[page.number]:
        return None
    places = [(crawl.out.pages(page.batch), int(kept[: page.number].sum()))]
    stage, number = list(batch.fates(page.number))[-1]
    if stage.name == "quality" and stage.kept[number]:
        row = stage.rows(number)[0]
        places.append((str(shard_of(crawl, stage, row)), int(stage.columns["place"][row])))
    schema = some_columns("url", "warc", "offset")
    return next((found[row] for path, row in places if (found := read_rows(path, schema, [row]))), None)


def shard_of(crawl: Crawl, quality: Stage, row: int) -> Path:
    """The shard of a kept document. Raises StageError where it is not in the corpus."""
    return inside(crawl.out.corpus, quality.word("file", row))


def _verdict(crawl: Crawl, stage: Stage, rows: range) -> str:
    row = rows[0]
    fate, reason = stage.word("fate", row), stage.word("reason", row)
    facts = []
    if stage.name == "extract":
        facts = [f"{int(stage.columns['bytes'][row]):,} bytes"]
    elif stage.name == "dedup":
        paragraphs = stage.columns["paragraphs"][rows.start : rows.stop]
        facts = [f"{int(paragraphs[0]):,} of {int(paragraphs.sum()):,} paragraphs"]
    if language := stage.word("language", row):
        facts.append(f"language {language}")
    score = float(stage.columns["score"][row])
    if score == score:
        facts.append(f"score {score:.4g}")
    if stage.name == "quality" and (threshold := _threshold(crawl, language)) is not None:
        facts.append(f"threshold {threshold:.4g}")
    if stage.name == "quality" and fate == KEPT:
        facts.append(f"{stage.word('file', row)} row {int(stage.columns['place'][row]):,}")
    words = f"{fate}: {reason}" if reason else fate
    if explained := explain(stage, reason, score):
        words += f", {explained}"
    return "; ".join([words, *facts])


def explain(stage: Stage, reason: str, score: float) -> str:
    """A reason in words, with the options that decided; "" where its name says it."""
    if reason.startswith(contaminated_reason("")):
        return "it has an n-gram of this evaluation set"
    if rule := RULES.get(reason):
        return f"{rule.doc}, {bounds_of(rule)}"
    try:
        return REASONS.get(reason, "").format(**{**stage.options, "score": score})
    except (KeyError, ValueError):
        return ""


def bounds_of(rule: Rule) -> str:
    """What a rule asks for.

    >>> bounds_of(Rule(measure=len, doc="", least=3, under=9))
    'at least 3, under 9'
    """
    bounds = {"at least": rule.least, "at most": rule.most, "over": rule.over, "under": rule.under}
    return ", ".join(f"{words} {bound:,g}" for words, bound in bounds.items() if bound is not None)


def _threshold(crawl: Crawl, language: str) -> float | None:
    folder = Path(crawl.out.quality_report("x")).parent
    path = inside(folder, f"{language}.json")
    return float(read_json(path)["threshold"]) if path.exists() else None


def _more(crawl: Crawl, page: Page, stage: Stage, number: int, configfile: list[str]) -> Iterator[str]:
    row = stage.rows(number)[0]
    if stage.name == "dedup":
        dropped = dropped_paragraphs(crawl, page.batch, stage, number)
        yield from _paragraph_lines(crawl, page, stage, number, dropped)
    elif stage.name == "near":
        yield from near_lines(crawl, page.batch, number)
    elif stage.name == "quality" and stage.kept[number]:
        yield from rows_of_document(crawl, stage.word("file", row), int(stage.columns["place"][row]), configfile)


def _paragraph_lines(
    crawl: Crawl, page: Page, stage: Stage, number: int, dropped: list[Dropped] | str
) -> Iterator[str]:
    if isinstance(dropped, str):
        for row in stage.rows(number)[1:]:
            yield f"{int(stage.columns['paragraphs'][row]):,} dropped: {stage.word('reason', row)}"
        yield f"which paragraphs, and where their first copies are, cannot be said: {dropped} is gone"
        return
    groups: dict[tuple[str, Page | None], list[str]] = {}
    for paragraph in dropped:
        groups.setdefault((paragraph.reason, paragraph.first), []).append(paragraph.text)
    ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
    for (reason, first), texts in ordered[:MOST_GROUPS]:
        where = ""
        if first is not None:
            where = f", first in {place_of(crawl.batch(first.batch), first)}{_url_line(crawl, first)}"
        yield f"{len(texts):,} {reason}{', first in this page' if first == page else where}"
        yield from (f"  {_short(text, QUOTE_CHARS)!r}" for text in texts[:MOST_QUOTES])
        if len(texts) > MOST_QUOTES:
            yield f"  and {len(texts) - MOST_QUOTES:,} more"
    if len(ordered) > MOST_GROUPS:
        yield f"and from {len(ordered) - MOST_GROUPS:,} more pages"


def near_lines(crawl: Crawl, batch: str, number: int) -> Iterator[str]:
    """Of which document this one is a near-duplicate, or how many are one of it."""
    path = crawl.out.near_clusters
    if not Path(path).exists():
        yield f"near-duplicates of what cannot be said: {path} is gone"
        return
    own = {"file": int(batch), "row": number}
    for line in read_lines(path):
        cluster = _cluster(line, path)
        if own.items() <= cluster.items():
            yield f"{len(cluster['near_duplicates']):,} near-duplicates of it were dropped"
        for other in cluster["near_duplicates"]:
            if own.items() <= other.items():
                yield f"similarity {other['similarity']} with {_short(str(cluster['url']), URL_CHARS)}"


def _cluster(line: str, path: str) -> dict[str, Any]:
    try:
        cluster = json.loads(line)
        others = [dict(other) for other in cluster["near_duplicates"]]
        if "url" in cluster and all("similarity" in other for other in others):
            return dict(cluster)
    except (ValueError, RecursionError, TypeError, KeyError):
        pass
    raise StageError(f"{path}: not the clusters of near-duplicates; make it again")


def _short(text: str, chars: int) -> str:
    """A text on one line, of at most so many characters."""
    line = text.replace("\n", " ")
    return line if len(line) <= chars else f"{line[:chars]}…"
