import gzip
import itertools
import random
import struct
import zlib
from collections import Counter

import brotli
import pytest
import zstandard
from archives import FORMATS, body_of, http, record, url_of
from fastwarc import stream_io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.warc import resync, unpacking, usual
from pipeline.warc.content import Response
from pipeline.warc.encodings import BODY_MAX, ENCODINGS_MAX, undo
from pipeline.warc.frames import DICTIONARY_MAX, Part
from pipeline.warc.reader import Damage, responses


def urls(found):
    return [r.url for r in found if isinstance(r, Response)]


def test_a_sound_file_gives_every_response(make_warc):
    found = list(responses(make_warc(count=30)))
    assert urls(found) == [f"https://site.example/{i}" for i in range(30)]
    assert all(r.status == 200 and r.charset == "utf-8" and r.content_type == "text/html" for r in found)


def test_an_offset_leads_back_to_its_record(make_warc):
    from fastwarc.warc import ArchiveIterator

    path = make_warc(count=5)
    record = list(responses(path))[3]
    with path.open("rb") as file:
        file.seek(record.offset)
        assert next(iter(ArchiveIterator(file))).record_id == record.record_id


def test_a_damaged_member_costs_only_itself(make_warc):
    path = make_warc(count=50)
    sound = list(responses(path))
    data = bytearray(path.read_bytes())
    place = (sound[20].offset + sound[21].offset) // 2
    data[place : place + 20] = b"\xff" * 20
    path.write_bytes(data)
    found = list(responses(path))
    assert urls(found) == [r.url for r in sound if r is not sound[20]]
    damage = [r for r in found if isinstance(r, Damage)]
    assert [(d.offset, d.length) for d in damage] == [(sound[20].offset, sound[21].offset - sound[20].offset)]
    after = [r for r in found if isinstance(r, Response)]
    assert {r.url: r.offset for r in after}.items() <= {r.url: r.offset for r in sound}.items()


def test_a_truncated_file_says_so(make_warc):
    path = make_warc(count=10)
    sound = list(responses(path))
    path.write_bytes(path.read_bytes()[:-200])
    found = list(responses(path))
    assert urls(found) == [r.url for r in sound[:-1]]
    assert isinstance(found[-1], Damage)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bytes_lose_only_the_members_they_hit(make_warc, data):
    path = make_warc(count=12)
    sound = list(responses(path))
    content = bytearray(path.read_bytes())
    shares = data.draw(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=4, unique=True))
    places = [int(share * len(content)) for share in shares]
    for place in places:
        content[place] = content[place] ^ data.draw(st.integers(1, 255))
    path.write_bytes(content)
    ends = [*(r.offset for r in sound[1:]), len(content)]
    untouched = [r.url for r, end in zip(sound, ends, strict=True) if not any(r.offset <= p < end for p in places)]
    assert set(untouched) <= set(urls(responses(path)))


def write(path, format_, records):
    path.write_bytes(format_.head + b"".join(format_.pack(r) for r in records))
    return list(responses(path))


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_by_its_content(tmp_path, name):
    format_ = FORMATS[name]
    found = write(tmp_path / "nameless", format_, [format_.record(i) for i in range(20)])
    assert [(r.url, r.body, r.kind, r.problem) for r in found] == [
        (url_of(i), body_of(i), format_.kind, "") for i in range(20)
    ]


def test_many_records_in_one_member_cut_short(tmp_path):
    path = tmp_path / "a.warc.gz"
    whole = gzip.compress(b"".join(FORMATS["warc"].record(i) for i in range(40)))
    path.write_bytes(whole)
    assert urls(responses(path)) == [url_of(i) for i in range(40)]
    path.write_bytes(whole[: len(whole) // 2])
    found = list(responses(path))
    assert urls(found) == [url_of(i) for i in range(len(found) - 1)] and len(found) > 10
    assert isinstance(found[-1], Damage)


def test_files_that_are_no_archive(tmp_path):
    for content, reason in (
        (b"", "empty_file"),
        (b"hello\n" * 999, "no_archive"),
        (gzip.compress(b"x"), "no_archive"),
    ):
        (tmp_path / "a.warc.gz").write_bytes(content)
        assert list(responses(tmp_path / "a.warc.gz")) == [Damage(0, len(content), reason)]
    with pytest.raises(OSError):
        list(responses(tmp_path / "missing"))


@pytest.mark.parametrize("length", ["5", "99999", "-1", "9" * 40, "abc", ""])
def test_a_wrong_length_costs_its_record(tmp_path, length):
    for format_ in (FORMATS["warc"], FORMATS["warc.gz"]):
        records = [format_.record(0), format_.record(1, length=length), format_.record(2), format_.record(3)]
        offset = len(format_.pack(records[0]))
        found = write(tmp_path / "a", format_, records)
        assert urls(found) == [url_of(0), url_of(2), url_of(3)]
        assert found[1] == Damage(offset, len(format_.pack(records[1])), "damaged_record", 1)


def chunked(data):
    pieces = [data[i : i + 700] for i in range(0, len(data), 700)]
    return b"".join(b"%x;name=value\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"


BODY = body_of(3) * 5
ENCODED = [
    ("Content-Encoding: gzip", gzip.compress(BODY), ""),
    ("Content-Encoding: gzip, gzip", gzip.compress(gzip.compress(BODY)), ""),
    ("Content-Encoding: gzip, gzip", gzip.compress(BODY), ""),
    ("Content-Encoding: deflate", zlib.compress(BODY), ""),
    ("Content-Encoding: deflate", zlib.compress(BODY)[2:-4], ""),
    ("Content-Encoding: br", brotli.compress(BODY), ""),
    ("Content-Encoding: zstd", zstandard.compress(BODY), ""),
    ("Transfer-Encoding: chunked", chunked(BODY), ""),
    ("Content-Encoding: gzip\r\nTransfer-Encoding: chunked", chunked(gzip.compress(BODY)), ""),
    ("Content-Encoding: gzip\r\nTransfer-Encoding: chunked", gzip.compress(BODY), ""),
    *((f"Content-Encoding: {name}", BODY, "") for name in ("gzip", "deflate", "br", "zstd", "identity", "utf-8")),
    ("Transfer-Encoding: chunked", BODY, ""),
    ("Content-Encoding: gzip", gzip.compress(BODY)[:-20], "truncated_body"),
    ("Transfer-Encoding: chunked", chunked(BODY)[:-99], "truncated_body"),
    ("Content-Encoding: br", brotli.compress(BODY)[:-20], "undecodable_encoding"),
    ("Content-Encoding: gzip, gzip", gzip.compress(gzip.compress(bytes(100 * 2**20), 1)), "body_too_long"),
    ("Content-Encoding: br", brotli.compress(bytes(100 * 2**20), quality=1), "body_too_long"),
]


def test_encodings_are_undone(tmp_path):
    format_ = FORMATS["warc.gz"]
    records = [record(url_of(i), http(body, f"{line}\r\n")) for i, (line, body, _) in enumerate(ENCODED)]
    found = write(tmp_path / "a.warc.gz", format_, records)
    assert [r.problem for r in found] == [problem for *_, problem in ENCODED]
    for response in found:
        assert response.problem or response.body == BODY
        assert response.problem != "body_too_long" or len(response.body) == BODY_MAX


def test_a_body_has_few_encodings_and_unknown_ones_do_not_count():
    body = BODY
    for _ in range(ENCODINGS_MAX):
        body = gzip.compress(body)
    names = ["gzip"] * ENCODINGS_MAX
    assert undo(body, [", ".join(names), "identity, x-unknown"]) == (BODY, "")
    assert undo(gzip.compress(body), [", ".join([*names, "gzip"])]) == (gzip.compress(body), "too_many_encodings")


def test_all_encodings_of_a_body_together_unpack_to_a_bound(monkeypatch):
    monkeypatch.setattr("pipeline.warc.encodings.BODY_MAX", 2**21)
    spent = []
    layer = bytes(2**20)
    for _ in range(4):  # each layer unpacks to 1.5 MB: what follows the gzip member is ignored
        layer = gzip.compress(layer) + bytes(2**20)
    body, problem = undo(layer, ["gzip, gzip, gzip, gzip"], spent.append)
    assert problem == "body_too_long"
    assert len(body) <= sum(spent) < 2**21 + 2**20 + 1


class Counted(bytes):
    """Bytes that count how many of them are copied."""

    copied = 0

    def __getitem__(self, key):
        Counted.copied += len(piece := bytes(self)[key])
        return piece


def test_small_pieces_of_a_body_count_as_more_and_are_not_copied_with_what_follows():
    spent = []
    assert undo(b"1\r\na\r\n" * 1000 + b"0\r\n\r\n", ["chunked"], spent.append) == (b"a" * 1000, "")
    assert sum(spent) > 1000 * 1000
    spent.clear()
    members = gzip.compress(b"") * 2000
    assert undo(Counted(members), ["gzip"], spent.append) == (b"", "")
    assert sum(spent) > 2000 * 1000
    assert Counted.copied < 2000 * 2**10


def test_false_starts_cost_time_in_proportion(tmp_path, monkeypatch):
    """Bytes unpacked, not seconds: a chain of frames in frames, each of which is looked at only so often."""
    import pipeline.warc.frames

    read = Counter()
    number = pipeline.warc.frames._little_endian

    def count(data, start, size):
        read["calls"] += 1
        return number(data, start, size)

    monkeypatch.setattr(pipeline.warc.frames, "_little_endian", count)
    monkeypatch.setattr(resync, "WORK_MIN", 2**16)
    magic = b"\x28\xb5\x2f\xfd\x00\x58"
    chain = magic + (b"\x30\x00\x00" + magic) * 2000
    assert write(tmp_path / "a.warc.zst", FORMATS["warc"], [chain]) == [Damage(0, len(chain), "truncated_file")]
    assert read["calls"] < (resync.WORK_PER_BYTE * len(chain) + 2**17) / 9


def test_blocks_of_false_frames_count_as_more_than_their_bytes(tmp_path, monkeypatch):
    """100 frames, each with 10,000 empty blocks of all, which have no end: 1 MB took 28 s."""
    monkeypatch.setattr(unpacking, "UNPACKED_MIN", 2**25)
    magic = b"\x28\xb5\x2f\xfd\x00\x58"
    frames = (magic + b"\x30\x00\x00") * 100 + magic + b"\x00" * 30_000 + b"\x06\x00\x00"
    reasons = [damage.reason for damage in write(tmp_path / "a.warc.zst", FORMATS["warc"], [frames])]
    assert reasons == ["damaged_record", "unpacks_too_far"]


BOMB = http(brotli.compress(bytes(2**22)), "Content-Encoding: br\r\n")


PACKED = [*((name, "body") for name in ("warc", "arc")), *itertools.product(
    ("warc.gz", "warc.zst", "warc.lz4", "arc.gz"), ("body", "record")
)]  # fmt: skip


@pytest.mark.parametrize(("name", "bomb"), PACKED)
def test_a_file_that_unpacks_too_far_is_read_up_to_there(tmp_path, monkeypatch, name, bomb):
    monkeypatch.setattr(unpacking, "UNPACKED_MIN", 2**22)
    zeros = bytes(2**20)
    block = http(zeros) if bomb == "record" else http(brotli.compress(zeros), "Content-Encoding: br\r\n")
    format_ = FORMATS[name]
    records = [format_.record(0), *(format_.record(i, block=block) for i in range(1, 20))]
    *whole, damage = write(tmp_path / "a", format_, records)
    size = (tmp_path / "a").stat().st_size
    assert urls(whole) == [url_of(i) for i in range(len(whole))]
    bombs = (2**22 + 100 * size) // 2**20
    assert bombs - 1 <= len(whole) - 1 <= bombs < 19
    offset = sum(len(format_.pack(record)) for record in records[: len(whole)])
    assert damage == Damage(offset, size - offset, "unpacks_too_far")


def test_small_records_and_false_starts_count_as_more_than_their_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "UNPACKED_MIN", 2**20)
    for content, cost in ((FORMATS["warc"].record(1), usual.RECORD_COST), (b"WARC/1.0\r\n", None)):
        packed = gzip.compress(content * 3000)
        (tmp_path / "a.warc.gz").write_bytes(packed)
        *read, damage = responses(tmp_path / "a.warc.gz")
        assert damage.reason == "unpacks_too_far"
        assert len(read) == 0 if cost is None else 1 <= len(read) <= (2**20 + 100 * len(packed)) // cost < 3000


@pytest.mark.parametrize("name", ["warc.gz", "warc.zst"])
@pytest.mark.parametrize("frames", [1, 16])
def test_newlines_between_records_count_as_more_than_their_bytes(tmp_path, monkeypatch, name, frames):
    monkeypatch.setattr(unpacking, "UNPACKED_MIN", 2**20)
    plain, format_ = FORMATS["warc"], FORMATS[name]
    newlines = [b"\n" * (2**20 // frames)] * frames
    *read, damage = write(tmp_path / "a", format_, [plain.record(0), plain.record(1), *newlines, plain.record(2)])
    assert urls(read) in ([url_of(0)], [url_of(0), url_of(1)])
    assert damage.reason == "unpacks_too_far"


SLOW_BYTES = {
    "fields": gzip.compress(b"WARC/1.0\r\nContent-Length: 0\r\n" + b"a:\r\n" * 9000 + b"\r\n\r\n\r\n", 9) * 9,
    "frames that are none": b"\x1f\x8b\x08\0\0\0\0\0\0\x03" * 300,
    "frames of nothing behind plain records": FORMATS["warc"].record(0) + b"?" + gzip.compress(b"") * 300,
    "headers in headers": gzip.compress(b"WARC/1.0\r\n" + b"a:WARC/1.0\r\n" * 300 + b"\r\n"),
    "records that say they are long": gzip.compress(b"WARC/1.0\r\nContent-Length: 99999999\r\n\r\n" * 300),
}


@pytest.mark.parametrize("what", SLOW_BYTES)
def test_what_takes_time_counts_as_more_than_its_bytes(tmp_path, monkeypatch, what):
    monkeypatch.setattr(unpacking, "UNPACKED_MIN", 2**20)
    path = tmp_path / ("a.warc" if "plain" in what else "a.warc.gz")
    path.write_bytes(SLOW_BYTES[what])
    assert list(responses(path))[-1].reason == "unpacks_too_far"
    monkeypatch.setattr(unpacking, "UNPACKED_MIN", 2**30)
    assert "unpacks_too_far" not in [getattr(item, "reason", "") for item in responses(path)]


@pytest.mark.parametrize("length", [2**20, DICTIONARY_MAX + 1])
def test_a_long_dictionary_is_not_loaded_for_each_frame(tmp_path, monkeypatch, length):
    words = random.Random(0).randbytes(length)
    pack = zstandard.ZstdCompressor(dict_data=zstandard.ZstdCompressionDict(words)).compress
    plain = FORMATS["warc"]
    frames = [FORMATS["warc.zst"].pack(plain.record(0)), pack(plain.record(1, block=http(words[-2000:])))]
    path = tmp_path / "a.warc.zst"
    path.write_bytes(struct.pack("<II", 0x184D2A5D, length) + words + b"".join(frames))
    loaded = []
    reader = stream_io.ZstdReader

    def load(file, dictionary=None):
        loaded.append(dictionary if isinstance(file, Part) else words)
        return reader(file, dictionary=dictionary) if dictionary else reader(file)

    monkeypatch.setattr(stream_io, "ZstdReader", load)
    found = urls(responses(path))
    if length <= DICTIONARY_MAX:
        assert found == [url_of(0), url_of(1)] and words in loaded
    else:
        assert found == [url_of(0)] and words not in loaded


def test_usual_members_are_read_at_once_and_others_with_the_same_result(tmp_path, monkeypatch):
    noise, format_ = random.Random(0), FORMATS["warc.gz"]
    sizes = [10, 60_000, 200_000, 120_000, 10]  # of bytes that gzip cannot make less
    sound = [format_.record(i, block=http(noise.randbytes(size))) for i, size in enumerate(sizes)]
    by_window, read = [], resync._read_window
    monkeypatch.setattr(resync, "_read_window", lambda *args: by_window.append(1) or read(*args))
    found = write(tmp_path / "a", format_, sound)
    assert urls(found) == [url_of(i) for i in range(5)]
    assert len(by_window) == 1  # the long one
    monkeypatch.setattr(usual, "GZIP", b"none")
    assert write(tmp_path / "a", format_, sound) == found


@pytest.mark.parametrize(
    ("name", "place", "frames"),
    [("warc", 1, "each"), ("warc.gz", 1, "one"), ("warc.gz", 2, "each"), ("warc.zst", 1, "one")],
)
def test_a_record_longer_than_the_bound_gives_its_beginning(tmp_path, monkeypatch, name, place, frames):
    monkeypatch.setattr(resync, "LOST_MAX", 2**20)
    format_, body = FORMATS[name], bytes(range(256)) * (2**18 + 2**8)  # 64 MiB and 64 kB
    records = [format_.record(i, block=http(body)) if i == place else format_.record(i) for i in range(3)]
    parts = [b"".join(records)] if frames == "one" else records
    (tmp_path / "a").write_bytes(b"".join(map(format_.pack, parts)))
    found = list(responses(tmp_path / "a"))
    problems = ["body_too_long" if i == place else "" for i in range(3)]
    assert [(r.url, r.problem) for r in found] == [(url_of(i), problem) for i, problem in enumerate(problems)]
    assert len(found[place].body) > BODY_MAX - 2**10 and body.startswith(found[place].body)


def test_lengths_that_are_not_true_cost_time_in_proportion(tmp_path, monkeypatch):
    """Bytes copied, not seconds: each of these records says that it is longer than the file."""
    copied = Counter()

    def count(data):
        copied["bytes"] += len(data)
        return bytes(data)

    monkeypatch.setattr(resync, "bytes", count, raising=False)
    record_ = FORMATS["warc"].record(0)
    data = (b"WARC/1.0\r\nContent-Length: 90000000\r\n\r\n" + record_) * 4000
    assert len(write(tmp_path / "a.warc", FORMATS["warc"], [data])) == 8000
    assert copied["bytes"] < 50 * len(data)
