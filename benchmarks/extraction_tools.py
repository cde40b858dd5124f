"""One tool over some WARC files, in a process of its own: who keeps which pages, and at what cost.

`python -m benchmarks.extraction_tools TOOL …` prints a JSON line. Imports are not counted. All tools keep pages
in French with a score of at least 0.5 and 200 characters of text. Processor time is that of all processes: what
the tool takes of one core, whoever else uses the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from benchmarks.report import measure

LANGUAGE, MIN_SCORE, MIN_CHARS = "fr", 0.5, 200


def plain(warcs: list[str], model: str, folder: str, workers: int) -> list[str]:
    """The loop anybody would write: FastWARC, resiliparse's main text, fastText on all of it."""
    import fasttext
    from fastwarc.warc import ArchiveIterator, WarcRecordType
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    lid, kept = fasttext.load_model(model), []
    with open(f"{folder}/pages.jsonl", "w", encoding="utf-8") as output:  # noqa: PTH123
        for warc in warcs:
            for record in ArchiveIterator(warc, record_types=WarcRecordType.response, fsspec_args=False):
                if record.http_headers.status_code != 200 or record.http_content_type != "text/html":
                    continue
                body = record.reader.read()
                html = bytes_to_str(body, record.http_charset or detect_encoding(body))
                text = extract_plain_text(html, main_content=True)
                labels, scores = lid.predict(text.replace("\n", " "))
                if labels == (f"__label__{LANGUAGE}",) and scores[0] >= MIN_SCORE and len(text) >= MIN_CHARS:
                    url = record.headers["WARC-Target-URI"]
                    output.write(json.dumps({"url": url, "text": text}) + "\n")
                    kept.append(url)
    return kept


def ours(warcs: list[str], model: str, folder: str, workers: int, cascade: bool = True) -> list[str]:
    """`python -m pipeline extract`, which also writes the pages and the ledger."""
    from pipeline.common.files import read_arrow
    from pipeline.extract.options import Extract
    from pipeline.extract.webpages import _extractor, extract

    options = Extract(languages=[LANGUAGE], language_min_score=MIN_SCORE, min_chars=MIN_CHARS, cascade=cascade)
    output = f"{folder}/pages.json"
    extract(options, warcs, model, output, f"{folder}/ledger.json", workers, None)
    _extractor(options.page_seconds, threading.get_ident()).stop()  # its processor time is known when it has ended
    return [url for batch in read_arrow(output) for url in batch.column("url").to_pylist()]


def no_cascade(warcs: list[str], model: str, folder: str, workers: int) -> list[str]:
    """The same with `--no-cascade`: what the cascade loses is seen beside it."""
    return ours(warcs, model, folder, workers, cascade=False)


def datatrove(warcs: list[str], model: str, folder: str, workers: int) -> list[str]:
    """datatrove's WarcReader, Trafilatura and LanguageFilter as its examples chain them."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.extractors import Trafilatura
    from datatrove.pipeline.filters import LanguageFilter
    from datatrove.pipeline.readers import WarcReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.lid import FT176LID

    FT176LID.MODEL_URL = str(Path(model).resolve())  # the same model
    paths = Path(folder) / "paths.txt"
    paths.write_text("\n".join(str(Path(warc).resolve()).lstrip("/") for warc in warcs))
    LocalPipelineExecutor(
        pipeline=[
            WarcReader("/", paths_file=str(paths)),
            Trafilatura(favour_precision=False, timeout=60),
            LanguageFilter(languages=[LANGUAGE], language_threshold=MIN_SCORE),
            JsonlWriter(f"{folder}/out", compression=None),
        ],
        tasks=workers,
        workers=workers,
        logging_dir=f"{folder}/logs",
        skip_completed=False,
    ).run()
    rows = [json.loads(line) for path in Path(folder, "out").glob("*") for line in path.open()]
    return [row["metadata"]["url"] for row in rows if len(row["text"]) >= MIN_CHARS]


TOOLS: dict[str, Callable[[list[str], str, str, int], list[str]]] = {
    "plain": plain,
    "ours": ours,
    "no_cascade": no_cascade,
    "datatrove": datatrove,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("--warcs", nargs="+", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--workers", type=int, default=1, help="one worker also means one core")
    arguments = parser.parse_args()
    if arguments.workers == 1:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if arguments.tool != "datatrove":
        import pyarrow as pa

        import pipeline.extract.webpages  # noqa: F401

        pa.array(["a"])  # imports pandas, where it is installed
    with tempfile.TemporaryDirectory() as folder:
        kept, times = measure(
            lambda: TOOLS[arguments.tool](arguments.warcs, arguments.model, folder, arguments.workers)
        )
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    found = times | {"peak_mib": round(peak / 1024), "kept": kept}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
