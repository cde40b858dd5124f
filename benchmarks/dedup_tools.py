"""One step of paragraph dedup in a process of its own, on one core: `… -m benchmarks.dedup_tools STEP FOLDER`.

Prints a JSON line with its processor time (imports not counted) and its peak of memory: that of the process, and
that which is its own (anonymous), without the pages of mapped files that the kernel may drop.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from benchmarks.report import measure


def _files(folder: str, kind: str) -> list[str]:
    return sorted(str(path) for path in Path(folder, kind).glob("*.arrow"))


def hash_step(folder: str, normalize: str = "none") -> None:
    from pipeline.corpus.dedup import hash_paragraphs
    from pipeline.corpus.options import Dedup

    for path in _files(folder, "pages"):
        hash_paragraphs(
            Dedup(normalize=normalize), path, str(Path(folder, f"hashes-{normalize}", Path(path).name))
        )


def hash_ccnet(folder: str) -> None:
    hash_step(folder, "ccnet")


def reduce_step(folder: str) -> None:
    from pipeline.corpus.dedup import reduce_hashes
    from pipeline.corpus.options import Dedup

    files = _files(folder, "hashes-none")
    reduce_hashes(Dedup(), files, f"{folder}/duplicates", f"{folder}/index.arrow", 1, None)


def apply_step(folder: str) -> None:
    from pipeline.corpus.dedup import apply_duplicates
    from pipeline.corpus.options import Dedup

    for path in _files(folder, "pages"):
        name = Path(path).name
        out = str(Path(folder, "documents", name))
        apply_duplicates(Dedup(min_chars=1), path, f"{folder}/duplicates/{name}", out, out + ".json")


def datatrove(folder: str, tasks: int = 1) -> None:
    """Its sentence dedup with lines for sentences and spans of one line; `tasks` share out the two files."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import SentenceDedupFilter, SentenceDedupSignature, SentenceFindDedups
    from datatrove.pipeline.dedup.sentence_dedup import SentDedupConfig
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.text import TextNormConfig

    plain = TextNormConfig(False, False, False, False, False)
    config = SentDedupConfig(
        n_sentences=1, split_sentences=False, min_doc_words=0, min_num_sentences=0, norm_config=plain
    )
    out = f"{folder}/datatrove-{tasks}"
    steps = [
        (tasks, [JsonlReader(f"{folder}/jsonl", compression=None), SentenceDedupSignature(f"{out}/s", 1, config)]),
        (1, [SentenceFindDedups(f"{out}/s", f"{out}/d", config=config)]),
        (
            tasks,
            [
                JsonlReader(f"{folder}/jsonl", compression=None),
                SentenceDedupFilter(f"{out}/d", config),
                JsonlWriter(f"{out}/documents", compression=None),
            ],
        ),
    ]
    for number, (count, pipeline) in enumerate(steps):
        LocalPipelineExecutor(pipeline, tasks=count, workers=1, logging_dir=f"{out}/logs{number}").run()


def datatrove_2(folder: str) -> None:
    datatrove(folder, 2)


STEPS: dict[str, Callable[[str], None]] = {
    "hash": hash_step,
    "hash, ccnet": hash_ccnet,
    "reduce": reduce_step,
    "apply": apply_step,
    "datatrove, 1 task": datatrove,
    "datatrove, 2 tasks": datatrove_2,
}


def main() -> None:
    step, folder = sys.argv[1:]
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if step.startswith("datatrove"):
        import datatrove.executor
        import datatrove.pipeline.dedup
        import datatrove.pipeline.readers
        import datatrove.pipeline.writers  # noqa: F401
    else:
        import pipeline.corpus.dedup  # noqa: F401
    peak, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            status = Path("/proc/self/status").read_text()
            own = next(line for line in status.splitlines() if line.startswith("RssAnon"))
            peak[0] = max(peak[0], int(own.split()[1]))

    threading.Thread(target=watch, daemon=True).start()
    _, times = measure(lambda: STEPS[step](folder))
    ended.set()
    status = Path("/proc/self/status").read_text()
    high = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    record = {"cpu_s": times["cpu_s"], "own_mib": peak[0] / 1024, "peak_mib": int(high.split()[1]) / 1024}
    sys.stdout.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
