"""Large files as hf_xet sends them to the hub: xorbs hold chunks, and shards say of which chunks each file is.

Source: the formats of xorbs and shards of the Xet protocol, of chunks that are
not compressed (HF_XET_XORB_COMPRESSION_POLICY=none).
"""

from __future__ import annotations

import struct

ENTRY = 48  # bytes of a shard's header and of each entry
LAST = b"\xff" * 32  # where the hash of a file would be, if there were another
VERIFIED, NAMED = 1 << 31, 1 << 30  # flags of a file: a hash of each part follows, and the file's SHA-256


def chunks(xorb: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(xorb):
        version, size, compression = xorb[at], int.from_bytes(xorb[at + 1 : at + 4], "little"), xorb[at + 4]
        assert (version, compression) == (0, 0)
        found.append(xorb[at + 8 : at + 8 + size])
        at += 8 + size
    return found


def files(shard: bytes) -> dict[str, list[tuple[str, int, int]]]:
    """By the SHA-256 of each file its parts: the hash of a xorb, the first of its chunks, and the end of them."""
    found, at = {}, ENTRY
    while shard[at : at + 32] != LAST:
        flags, count = struct.unpack_from("<II", shard, at + 32)
        assert flags & VERIFIED and flags & NAMED
        entries = [shard[start : start + ENTRY] for start in range(at + ENTRY, at + ENTRY * (count + 1), ENTRY)]
        at += ENTRY * (1 + 2 * count)
        found[_hex(shard[at : at + 32])] = [
            (_hex(one[:32]), *struct.unpack_from("<II", one, 40)) for one in entries
        ]
        at += ENTRY
    return found


def _hex(hashed: bytes) -> str:
    """A hash as it is written: four numbers of 64 bits."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", hashed))
