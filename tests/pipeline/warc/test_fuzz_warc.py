"""Mutated archives by the hundred: every undamaged record comes back, once, from where it is; nothing crashes.

Each format is fuzzed in a process of its own, so that a crash or an endless loop of native code is a failed test.
"""

from __future__ import annotations

import multiprocessing
import random
import sys
from collections import Counter
from pathlib import Path

import pytest
from archives import FORMATS, Format, body_of, starts, url_of
from mutations import MUTATIONS, Frame, Mutant

from pipeline.warc.reader import Damage, responses

FILES, PAGES = 72, 24
GIVE_UP_S = 500  # a file takes some milliseconds


def make_mutant(format_: Format, seed: int) -> Mutant:
    """The first mutants of a format have one mutation each, all kinds of it; the others have several."""
    rng = random.Random(seed)
    frames = []
    for number in range(PAGES):
        frames.append(Frame(format_.pack(format_.record(number)), number))
        if number % 3 == 0:
            frames.append(Frame(format_.pack(format_.other(number))))
    mutant = Mutant(frames, rng, format_)
    several = [MUTATIONS[seed % len(MUTATIONS)]]
    if seed >= 3 * len(MUTATIONS):
        several += rng.choices(MUTATIONS, k=rng.randint(1, 3))
    for mutation in several:
        if mutant.frames:
            mutation(mutant)
    return mutant


def check(path: Path, mutant: Mutant) -> Counter[str]:
    """What came of one file; raises AssertionError where a promise is broken."""
    head = mutant.format.head
    path.write_bytes(head + b"".join(frame.data for frame in mutant.frames))
    size = path.stat().st_size
    found = list(responses(path))
    damages = [item for item in found if isinstance(item, Damage)]
    pages = {item.offset: item for item in found if not isinstance(item, Damage)}
    assert len(pages) + len(damages) == len(found), "a record was given twice"
    assert [item.offset for item in found] == sorted(item.offset for item in found)
    counts = Counter(files=1, damages=len(damages), damaged_files=bool(damages))
    for frame, start in zip(mutant.frames, starts([head, *(f.data for f in mutant.frames)])[1:], strict=True):
        end = start + len(frame.data)
        if not frame.whole:
            counts["touched"] += 1
            continue
        hit = [d for d in damages if d.offset < end and start < d.offset + d.length]
        counts["sound_called_damaged"] += bool(hit)
        if frame.number is not None:
            page = pages.get(start)
            right = page is not None and page.url == url_of(frame.number) and page.body == body_of(frame.number)
            counts["sound_pages"] += 1
            counts["read"] += right
    assert all(min(d.offset, d.length, size - d.offset - d.length) >= 0 < d.records for d in damages)
    return counts


def fuzz(name: str, folder: str, result: multiprocessing.SimpleQueue) -> None:
    total: Counter[str] = Counter()
    for seed in range(FILES):
        mutant = make_mutant(FORMATS[name], seed)
        try:
            total.update(check(Path(folder) / f"{seed}{FORMATS[name].suffix}", mutant))
        except BaseException as error:  # a panic of native code is no Exception
            print(f"{name}, seed {seed}: {error!r}", file=sys.stderr)
            raise
    result.put(dict(total))


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_mutants_lose_only_what_is_damaged(name, tmp_path):
    context = multiprocessing.get_context("fork")
    result = context.SimpleQueue()
    process = context.Process(target=fuzz, args=(name, str(tmp_path), result))
    process.start()
    process.join(GIVE_UP_S)
    if process.is_alive():
        process.kill()
    assert process.exitcode == 0
    counts = result.get()
    print(f"\n{name}: {counts}")
    assert counts["files"] == FILES and counts["damaged_files"] > FILES / 3
    assert counts["sound_pages"] > FILES * PAGES / 2
    # A plain ARC has no mark between records: what is glued to a URL becomes part of it.
    assert counts["read"] >= (0.99 if name == "arc" else 1) * counts["sound_pages"]
    assert counts["sound_called_damaged"] == 0
