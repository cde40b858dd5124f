"""Mutated archives by the hundred: every undamaged record comes back, once, from where it is; nothing crashes.

Each format is fuzzed in a process of its own, so that a crash or an endless loop of native code is a failed test.
"""

from __future__ import annotations

import multiprocessing
import random
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from archives import FORMATS, Format, body_of, http, starts, url_of

from pipeline.warc.reader import Damage, responses

FILES, PAGES = 72, 24
GIVE_UP_S = 500  # a file takes some milliseconds


@dataclass
class Frame:
    """A piece of the file, whole if nobody touched it; `number` is that of the page in it, if there is one."""

    data: bytes
    number: int | None = None
    whole: bool = True


@dataclass
class Mutant:
    frames: list[Frame]
    rng: random.Random
    format: Format

    def some(self) -> int:
        return self.rng.randrange(len(self.frames))

    def damage(self, place: int, data: bytes) -> None:
        self.frames[place] = Frame(data, self.frames[place].number, whole=data == self.frames[place].data)

    def insert(self, place: int, data: bytes) -> None:
        self.frames.insert(place, Frame(data, None, whole=False))


def flip(m: Mutant) -> None:
    for _ in range(m.rng.randint(1, 6)):
        place = m.some()
        data = bytearray(m.frames[place].data)
        if data:
            data[m.rng.randrange(len(data))] ^= 1 << m.rng.randrange(8)
            m.damage(place, bytes(data))


def overwrite(m: Mutant) -> None:
    place = m.some()
    data = bytearray(m.frames[place].data)
    start = m.rng.randrange(len(data))
    size = min(m.rng.randint(1, 300), len(data) - start)
    data[start : start + size] = m.rng.randbytes(size)
    m.damage(place, bytes(data))


def cut_out(m: Mutant) -> None:
    place = m.some()
    data = m.frames[place].data
    start = m.rng.randrange(len(data))
    m.damage(place, data[:start] + data[start + m.rng.randint(1, len(data)) :])


def truncate(m: Mutant) -> None:
    place = m.some()
    del m.frames[place + 1 :]
    m.damage(place, m.frames[place].data[: m.rng.randrange(1, len(m.frames[place].data))])


def splice(m: Mutant) -> None:
    """A part of another record between two."""
    data = m.frames[m.some()].data
    start = m.rng.choice([0, 0, m.rng.randrange(len(data))])
    m.insert(m.some(), data[start : start + m.rng.randrange(1, len(data))])


def duplicate(m: Mutant) -> None:
    frame = m.frames[m.some()]
    m.frames.insert(m.some(), frame)


def remove(m: Mutant) -> None:
    del m.frames[m.some()]


def garbage(m: Mutant) -> None:
    size = m.rng.randint(1, 3000)
    junk = [m.rng.randbytes(size), bytes(size), b"hello: you\r\n" * (size // 12 + 1), b"\x1f\x8b\x08\x00" * size]
    m.insert(
        m.some(), m.rng.choice([*junk, b"WARC/1.0\r\n" * size + b"\r\n", m.format.pack(m.rng.randbytes(size))])
    )


def wrong_length(m: Mutant) -> None:
    number, place = 1000 + m.rng.randrange(1000), m.some()
    right = len(http(body_of(number)))
    lengths = [right - m.rng.randint(5, 200), right + m.rng.randint(5, 9000), -5, 10**12, 10**30, "abc", "", "1e3"]
    data = m.format.record(number, length=str(m.rng.choice(lengths)))
    m.insert(place, m.format.pack(data))


def hostile_header(m: Mutant) -> None:
    data = m.format.record(2000 + m.rng.randrange(1000))
    line, rest = data.split(b"\n", 1)
    fields = [
        b"X: " + b"a" * 3_000_000 + b"\r\n",
        b"X-A: b\r\n" * 300_000,
        b"no colon in this line\r\n" * 20,
        b"\0\0\0: \0\r\n\xff\xfe: \x80\r\n",
        b"Content-Length: 7\r\n",
        b"WARC/1.0\r\n",
        b":\r\n \r\n\t\r\n",
        b"\r\n",
    ]
    m.insert(m.some(), m.format.pack(line + b"\n" + m.rng.choice(fields) + rest))


def nested(m: Mutant) -> None:
    """An archive in a record, sound: what is in it is no record of this file."""
    inner = b"".join(FORMATS["warc.gz"].pack(FORMATS["warc.gz"].record(3000 + i)) for i in range(3))
    number = 4000 + m.rng.randrange(1000)
    m.frames.insert(m.some(), Frame(m.format.pack(m.format.record(number, block=http(inner)))))


MUTATIONS = [
    flip,
    overwrite,
    cut_out,
    truncate,
    splice,
    duplicate,
    remove,
    garbage,
    wrong_length,
    hostile_header,
    nested,
]


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
