"""Damage to archives: each mutation does one kind of it to the frames of a file."""

from __future__ import annotations

import random
from dataclasses import dataclass

from archives import FORMATS, Format, body_of, http


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
