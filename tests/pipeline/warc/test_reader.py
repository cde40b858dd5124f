import gzip
import zlib
from collections import Counter

import brotli
import pytest
import zstandard
from archives import FORMATS, body_of, http, record, url_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.warc import resync
from pipeline.warc.encodings import BODY_MAX
from pipeline.warc.reader import Damage, Response, responses


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


def test_a_response_without_http_headers_says_so(tmp_path):
    records = [
        record(url_of(0), b"<html>0.9</html>"),
        record(url_of(1), b""),
        record("dns:a", b"x", media="text/dns"),
    ]
    assert [r.problem for r in write(tmp_path / "a", FORMATS["warc"], records)] == ["no_http_headers"] * 3


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
