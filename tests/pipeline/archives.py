"""Archives of every format that the reader promises to read, made by code."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import NAMESPACE_URL, uuid5

import lz4.frame
import zstandard

HTML = "application/http; msgtype=response"


def body_of(number: int) -> bytes:
    """A page that compresses about as pages do, different for each number."""
    words = " ".join(f"{number * 7919 + i * i:x}" for i in range(20 + number % 40))
    return f"<html><body><p>{words}</p></body></html>".encode()


def http(body: bytes, headers: str = "") -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n{headers}\r\n".encode() + body


def record(url: str, block: bytes, kind: str = "response", media: str = HTML, length: str | None = None) -> bytes:
    """One WARC record; `length` replaces its Content-Length field."""
    return (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2026-01-01T00:00:00Z\r\n"
        f"WARC-Record-ID: <urn:uuid:{uuid5(NAMESPACE_URL, kind + url)}>\r\nContent-Type: {media}\r\n"
        f"{f'Content-Length: {len(block)}' if length is None else length}\r\n\r\n"
    ).encode() + (block + b"\r\n\r\n")


def arc_record(url: str, block: bytes, length: str | None = None) -> bytes:
    size = str(len(block)) if length is None else length
    return f"{url} 192.0.2.1 20080430204825 text/html {size}\n".encode() + block + b"\n"


@dataclass(frozen=True)
class Format:
    """`packs` makes frames of records; `head` is what the file begins with."""

    suffix: str
    pack: Callable[[bytes], bytes] = bytes
    head: bytes = b""
    kind: str = "response"
    is_arc: bool = False

    def record(self, number: int, length: str | None = None, block: bytes | None = None) -> bytes:
        """The unpacked record of the page with this number."""
        url = url_of(number)
        if block is None:
            block = body_of(number) if self.kind == "conversion" else http(body_of(number))
        if self.is_arc:
            return arc_record(url, block, length)
        field = None if length is None else f"Content-Length: {length}"
        if self.kind == "conversion":
            return record(url, block, "conversion", "text/plain", field)
        return record(url, block, length=field)

    def other(self, number: int) -> bytes:
        """A record that is no page."""
        if self.is_arc:
            return arc_record(f"dns:{number}.example", b"20080430\n192.0.2.1")
        return record(url_of(number), b"fetchTimeMs: 3\r\n", "metadata", "application/warc-fields")


def url_of(number: int) -> str:
    return f"https://site.example/{number}"


def _with_dictionary() -> tuple[Callable[[bytes], bytes], bytes]:
    samples = [Format("").record(number) for number in range(300)]
    words = zstandard.train_dictionary(4096, samples)
    packed = zstandard.compress(words.as_bytes())
    head = struct.pack("<II", 0x184D2A5D, len(packed)) + packed
    return zstandard.ZstdCompressor(dict_data=words, write_checksum=True).compress, head


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def _lz4(data: bytes) -> bytes:
    return lz4.frame.compress(data, content_checksum=True)


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def formats() -> dict[str, Format]:
    pack, head = _with_dictionary()
    return {
        "warc": Format(".warc"),
        "warc.gz": Format(".warc.gz", _gzip),
        "warc.zst": Format(".warc.zst", _zstd),
        "warc.zst with a dictionary": Format(".warc.zst", pack, head),
        "warc.lz4": Format(".warc.lz4", _lz4),
        "wet": Format(".warc.wet", kind="conversion"),
        "wet.gz": Format(".warc.wet.gz", _gzip, kind="conversion"),
        "arc": Format(".arc", is_arc=True),
        "arc.gz": Format(".arc.gz", _gzip, is_arc=True),
    }


FORMATS = formats()


def starts(frames: Sequence[bytes]) -> list[int]:
    """The offset of each frame in the file."""
    offsets = [0]
    for frame in frames:
        offsets.append(offsets[-1] + len(frame))
    return offsets[:-1]
