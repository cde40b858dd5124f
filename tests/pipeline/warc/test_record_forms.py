"""Records in every form that a standard allows or a writer is known to use: each is read, from where it begins."""

from __future__ import annotations

import base64
import hashlib
import itertools
import random
import re

import lz4.frame
import pytest
from archives import FORMATS, arc_record, body_of, http, record, url_of

from pipeline.warc import content, resync
from pipeline.warc.content import Response
from pipeline.warc.headers import HEADER_MAX
from pipeline.warc.reader import Damage, responses

DATE = "2026-01-01T00:00:00Z"
PLAIN = FORMATS["warc"]


def read(path, data):
    path.write_bytes(data)
    found = list(responses(path))
    return [r for r in found if isinstance(r, Response)], [d for d in found if isinstance(d, Damage)]


# Header blocks ------------------------------------------------------------------------------------


def with_lines(change):
    """The same change to each line of the header but the first."""

    def spell(header):
        first, *lines = header.split(b"\r\n")[:-2]
        return b"\r\n".join([first, *map(change, lines), b"", b""])

    return spell


def with_names(change):
    return with_lines(lambda line: re.sub(rb"^[^:]*", lambda name: change(name[0]), line))


def version(text):
    return lambda header: header.replace(b"WARC/1.0", text, 1)


def more(fields):
    return lambda header: header.replace(b"WARC/1.0\r\n", b"WARC/1.0\r\n" + fields, 1)


def every_other_line_lf(header):
    ends = itertools.cycle([b"\n", b"\r\n"])
    return re.sub(rb"\r\n", lambda _: next(ends), header[:-2]) + b"\r\n"


HEADERS = {
    "as written": lambda header: header,
    "LF": lambda header: header.replace(b"\r\n", b"\n"),
    "LF but for the empty line": lambda header: header[:-2].replace(b"\r\n", b"\n") + b"\r\n",
    "CR LF but for the empty line": lambda header: header[:-2] + b"\n",
    "every other line LF": every_other_line_lf,
    "capitals": with_names(bytes.upper),
    "lower case": with_names(bytes.lower),
    "one capital": with_names(bytes.capitalize),
    "folded": with_lines(lambda line: line.replace(b": ", b":\r\n ")),
    "folded with LF and a tab": with_lines(lambda line: line.replace(b": ", b":\n\t")),
    "folded twice": with_lines(lambda line: line.replace(b": ", b":\r\n  \r\n\t ")),
    "white space before the colon": with_lines(lambda line: line.replace(b": ", b" \t: ")),
    "no white space": with_lines(lambda line: line.replace(b": ", b":")),
    "much white space": with_lines(lambda line: line.replace(b": ", b":  \t ") + b" \t "),
    **{f"version {text!r}": version(text) for text in (b"WARC/0.17", b"WARC/1.1", b"WARC/1.2", b"WARC/2.0")},
    **{f"version {text!r}": version(text) for text in (b"WARC/1.0 ", b"WARC/1.0\t", b"WARC/1.1  \t")},
    "a line without a colon": more(b"no field\r\n"),
    "a field without a name": more(b": nothing\r\n"),
    "a field that is no UTF-8": more(b"X-\xff: \xfe\x00\r\n"),
    "5,000 fields": more(b"".join(b"X-%d: y\r\n" % i for i in range(5000))),
    "a field of 900 kB": more(b"X-Long: %b\r\n" % (b"long " * 180_000)),
    "a length of zeros": lambda header: header.replace(b"Content-Length: ", b"Content-Length: 00000"),
    "the same length twice": lambda header: header[:-2] + re.search(rb"Content-Length.*\r\n", header)[0] + b"\r\n",
    "the name of a version": more(b"WARC-Conforms-To: https://spec.example/WARC/1.0\r\n"),
}
BETWEEN = [b"", b"\n", b"\r\n", b"\n\n", b"\r\n" * 40, b" \t \r\n", b"\n" * 5000, b"\xef\xbb\xbf"]


def spelled(number, spell):
    header, _, rest = PLAIN.record(number).partition(b"\r\n\r\n")
    return spell(header + b"\r\n\r\n") + rest


@pytest.mark.parametrize("name", ["warc", "warc.gz", "warc.zst"])
def test_every_spelling_of_a_header_is_read(tmp_path, name):
    pack = FORMATS[name].pack
    for (what, spell), place in itertools.product(HEADERS.items(), range(3)):
        records = [spelled(i, spell if i == place else HEADERS["as written"]) for i in range(3)]
        pages, damages = read(tmp_path / "a", b"".join(map(pack, records)))
        begins = [sum(len(pack(r)) for r in records[:i]) for i in range(3)]
        assert [(p.url, p.date, p.body, p.offset) for p in pages] == [
            (url_of(i), DATE, body_of(i), begins[i]) for i in range(3)
        ], what
        assert not damages, what


@pytest.mark.parametrize("name", ["warc", "warc.gz"])
def test_whatever_blank_is_between_records(tmp_path, name):
    for first, between, spell in itertools.product(BETWEEN, BETWEEN, (HEADERS["as written"], HEADERS["LF"])):
        records = [first] + [spelled(i, spell)[:-4] + between for i in range(3)]
        pages, damages = read(tmp_path / "a", b"".join(map(FORMATS[name].pack, records)))
        assert [(p.url, p.body) for p in pages] == [(url_of(i), body_of(i)) for i in range(3)]
        assert not damages


@pytest.mark.parametrize(
    "length",
    [b"", b"5 5", b"+5", b"-1", b"0x10", b"1e3", b"five", b"9" * 19, b"9" * 400, b"7\r\nContent-Length: 8", None],
)
def test_a_length_that_is_none_counts_as_one_failed_record(tmp_path, length):
    for name in ("warc", "warc.gz", "warc.zst"):
        pack, line = FORMATS[name].pack, rb"Content-Length: \d+\r\n"
        bad = re.sub(line, b"" if length is None else b"Content-Length: %b\r\n" % length, PLAIN.record(1), count=1)
        pages, damages = read(tmp_path / "a", b"".join(map(pack, [PLAIN.record(0), bad, PLAIN.record(2)])))
        assert [p.url for p in pages] == [url_of(0), url_of(2)]
        begin = len(pack(PLAIN.record(0)))
        assert damages == [Damage(begin, len(pack(bad)), "damaged_record", 1)]


@pytest.mark.parametrize("other", ["WARC-Type: request", "warc-type: request"])
def test_a_record_of_two_types_is_a_failure(tmp_path, other):
    data = (
        FORMATS["warc"]
        .record(1)
        .replace(b"WARC-Type: response\r\n", f"WARC-Type: response\r\n{other}\r\n".encode())
    )
    ((found,), _) = read(tmp_path / "a.warc", data)
    assert found.problem == "no_record_type"


def test_a_header_cut_short_does_not_lend_its_fields_to_the_next_record(tmp_path):
    header = PLAIN.record(1).partition(b"\r\n\r\n")[0]
    for size in range(len(header)):
        data = PLAIN.record(0) + header[:size] + PLAIN.record(2)
        pages, damages = read(tmp_path / "a", data)
        assert [(p.url, p.body, p.offset) for p in pages] == [
            (url_of(0), body_of(0), 0),
            (url_of(2), body_of(2), data.index(PLAIN.record(2))),
        ], header[:size]
        assert sum(d.records for d in damages) == (size > 0)


def test_a_header_longer_than_the_bound_is_one_failed_record(tmp_path):
    for field in (b"X: " + b"y" * HEADER_MAX + b"\r\n", b"X: y\r\n" * (HEADER_MAX // 6)):
        for name in ("warc", "warc.gz"):
            records = [PLAIN.record(0), more(field)(PLAIN.record(1)), PLAIN.record(2)]
            pages, damages = read(tmp_path / "a", b"".join(map(FORMATS[name].pack, records)))
            assert [p.url for p in pages] == [url_of(0), url_of(2)]
            assert [(d.reason, d.records) for d in damages] == [("damaged_record", 1)]


def mutated(header, rng):
    """The header with some of what writers and damage do to headers."""
    data = bytearray(header)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(data))
        end = place + rng.randint(1, 20)
        change = rng.randrange(8)
        if change == 0:
            data[place] = rng.randrange(256)
        elif change == 1:
            del data[place:end]
        elif change == 2:
            data[place:place] = rng.choice(
                [b"\r\n", b"\n", b" ", b"\t", b":", b"\r\n ", b"\n\t", b"\0", b"WARC/1.0\r\n"]
            )
        elif change == 3:
            data[place:end] = data[place:end].swapcase()
        elif change == 4:
            data = data.replace(b"\r\n", b"\n", rng.randint(1, 9))
        elif change == 5:
            data = data.replace(b": ", rng.choice([b":\r\n ", b" : ", b":", b":\n\t"]), rng.randint(1, 9))
        elif change == 6:
            data[place:place] = data[rng.randrange(len(data)) :][:50]
        else:
            data[place:place] = rng.randbytes(rng.randint(1, 100))
    return bytes(data)


@pytest.mark.parametrize("name", ["warc", "warc.gz"])
def test_mutants_of_headers_cost_no_other_record(tmp_path, name):
    """500 of them: the records beside are read from where they are, and the mutant is read or counted."""
    rng, pack = random.Random(0), FORMATS[name].pack
    kept = 0
    for _ in range(500):
        header, _, rest = PLAIN.record(1).partition(b"\r\n\r\n")
        mutant = mutated(header + b"\r\n\r\n", rng) + rest
        records = [PLAIN.record(0), mutant, PLAIN.record(2), PLAIN.record(3)]
        begins = [sum(len(pack(r)) for r in records[:i]) for i in range(4)]
        pages, damages = read(tmp_path / "a", b"".join(map(pack, records)))
        found = {p.offset: (p.url, p.body) for p in pages}
        assert all(found.get(begins[i]) == (url_of(i), body_of(i)) for i in (0, 2, 3)), mutant
        is_read = len(pages) == 4
        kept += is_read
        is_response = re.search(rb"(?i)\nwarc-type[ \t]*:\s*response\s*\n", mutant) is not None
        assert is_read or damages or not is_response, mutant
        assert len(pages) <= 4 and all(begins[1] <= d.offset < begins[2] for d in damages), mutant
    assert 100 < kept < 400


# Frames -------------------------------------------------------------------------------------------


def cut(data, size):
    return [data[i : i + size] for i in range(0, len(data), size)]


def lz4_block_of_nothing():
    return lz4.frame.compress(b"")


SKIPPED = {
    "warc.gz": [FORMATS["warc.gz"].pack(b"")],
    "warc.zst": [b"\x50\x2a\x4d\x18\x03\0\0\0abc", b"\x5e\x2a\x4d\x18\0\0\0\0", FORMATS["warc.zst"].pack(b"")],
    "warc.lz4": [b"\x5f\x2a\x4d\x18\x01\0\0\0a", lz4_block_of_nothing()],
}


@pytest.mark.parametrize("name", SKIPPED)
@pytest.mark.parametrize("size", [1, 7, 64, 200, 1000, 10**6, "header and block"])
def test_a_record_lies_where_its_first_frame_begins(tmp_path, name, size):
    records = [PLAIN.record(i) if i % 3 else PLAIN.other(i) for i in range(8)]
    if size == "header and block":
        parts = [part for r in records for part in (r[: r.index(b"\r\n\r\n") + 4], r[r.index(b"\r\n\r\n") + 4 :])]
    else:
        parts = cut(b"".join(records), size)
    frames, begins, place, offset = [], {}, 0, 0
    for number, part in enumerate(parts):
        frame = FORMATS[name].pack(part)
        skipped = SKIPPED[name][number % len(SKIPPED[name])] if number % 5 == 0 else b""
        begins[place] = offset + len(skipped)
        frames.append(skipped + frame)
        place, offset = place + len(part), offset + len(frames[-1])
    pages, damages = read(tmp_path / "a", b"".join(frames))
    starts = [sum(map(len, records[:i])) for i in range(8) if i % 3]
    frame_of = [begins[max(begin for begin in begins if begin <= start)] for start in starts]
    assert [(p.url, p.body, p.offset) for p in pages] == [
        (url_of(i), body_of(i), begin) for i, begin in zip([1, 2, 4, 5, 7], frame_of, strict=True)
    ]
    assert not damages


@pytest.mark.parametrize("name", SKIPPED)
@pytest.mark.parametrize("size", [50, 300, 900, 3000])
def test_one_bad_byte_costs_the_records_in_its_frame(tmp_path, name, size):
    records = [PLAIN.record(i) for i in range(12)]
    parts, starts = cut(b"".join(records), size), [sum(map(len, records[:i])) for i in range(13)]
    frames, rng = list(map(FORMATS[name].pack, parts)), random.Random(size)
    for number in range(len(frames)):
        frame = bytearray(frames[number])
        frame[rng.randrange(len(frame))] ^= 1 << rng.randrange(8)
        pages, damages = read(tmp_path / f"a.{name}", b"".join([*frames[:number], frame, *frames[number + 1 :]]))
        hit = {i for i in range(12) if starts[i] < (number + 1) * size and number * size < starts[i + 1]}
        right = {(p.url, p.body) for p in pages}
        assert {(url_of(i), body_of(i)) for i in range(12) if i not in hit} <= right, number
        lost = 12 - len(pages)  # of a record that begins in the bad frame nothing may be seen
        assert min(lost, 1) <= sum(d.records for d in damages) <= lost <= len(hit), number


def with_digest(number, write):
    header, _, rest = PLAIN.record(number).partition(b"\r\n\r\n")
    digest = write(hashlib.sha1(rest[:-4], usedforsecurity=False).digest())
    return header + b"\r\nWARC-Block-Digest: sha1:%b\r\n\r\n" % digest + rest


@pytest.mark.parametrize("name", SKIPPED)
def test_of_a_damaged_frame_only_records_with_a_right_digest_are_read(tmp_path, name):
    writers = itertools.cycle([base64.b32encode, lambda digest: digest.hex().encode()])
    frame = FORMATS[name].pack(b"".join(with_digest(i, next(writers)) for i in range(6)))
    rng, read_whole, wrong = random.Random(0), 0, 0
    for _ in range(200):
        bad = bytearray(frame)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        pages, _ = read(tmp_path / f"a.{name}", bytes(bad) + FORMATS[name].pack(PLAIN.record(6)))
        right = {body_of(i) for i in range(7)}
        wrong += sum(p.body not in right for p in pages)
        assert pages and pages[-1].url == url_of(6)
        read_whole += len(pages) - 1
    assert wrong < 10  # those where the name of the field with the digest was hit too
    assert read_whole > 100 or name == "warc.zst"  # one block of zstd holds all of the frame


@pytest.mark.parametrize("name", ["warc", "warc.gz", "warc.zst", "warc.lz4", "arc", "arc.gz"])
def test_how_many_neighbouring_records_are_lost(tmp_path, name):
    format_ = FORMATS[name]
    for first, count in itertools.product((0, 3, 5), (1, 2, 3)):
        frames = [format_.pack(format_.record(i)) for i in range(8)]
        for i in range(first, first + count):
            if format_.pack is bytes:  # the end of its block and its tail
                frames[i] = frames[i][:-30] + b"?" * 30
            else:
                middle = len(frames[i]) // 2
                frames[i] = (
                    frames[i][:middle]
                    + bytes(255 - b for b in frames[i][middle : middle + 9])
                    + frames[i][middle + 9 :]
                )
        pages, damages = read(tmp_path / "a", b"".join(frames))
        assert [p.url for p in pages] == [url_of(i) for i in range(8) if not first <= i < first + count]
        assert [d.records for d in damages] == [count]


@pytest.mark.parametrize("size", [1, 5, 40, 400, 700])
def test_a_truncated_file_loses_one_record(tmp_path, size):
    for name, format_ in FORMATS.items():
        frames = [format_.pack(format_.record(i)) for i in range(3)]
        data = format_.head + b"".join(frames[:2]) + frames[2][: min(size, len(frames[2]) - 5)]
        pages, damages = read(tmp_path / f"a{format_.suffix}", data)
        assert [p.url for p in pages] == [url_of(0), url_of(1)], name
        assert [d.records for d in damages] == [1], name
        assert damages[0].reason in ("truncated_file", "garbage")


def test_archives_of_all_formats_one_behind_the_other(tmp_path):
    for one, other in itertools.product(FORMATS.values(), repeat=2):
        formats = [one, other, one]
        parts = [f.head + b"".join(f.pack(f.record(3 * n + i)) for i in range(3)) for n, f in enumerate(formats)]
        pages, damages = read(tmp_path / "a", b"".join(parts))
        begins = [
            sum(map(len, parts[:n])) + len(f.head) + sum(len(f.pack(f.record(3 * n + k))) for k in range(i))
            for n, f in enumerate(formats)
            for i in range(3)
        ]
        assert [(p.url, p.offset) for p in pages] == [(url_of(i), begin) for i, begin in enumerate(begins)]
        assert not damages


def test_frames_behind_damaged_plain_records_are_read(tmp_path):
    plain = [PLAIN.record(0), b"WXRC" + PLAIN.record(1)[4:]]
    inner = FORMATS["warc.gz"].pack(b"a body that is packed")
    for name in ("warc.gz", "warc.zst", "warc.lz4"):
        rest = [FORMATS[name].pack(PLAIN.record(i)) for i in (2, 3)]
        pages, damages = read(tmp_path / "a", b"".join([*plain, inner, *rest]))
        assert [p.url for p in pages] == [url_of(0), url_of(2), url_of(3)]
        assert [(d.offset, d.length, d.records) for d in damages] == [(len(plain[0]), len(plain[1] + inner), 1)]


# Long records -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["warc", "warc.gz", "warc.zst", "warc.lz4"])
@pytest.mark.parametrize("frames", ["one", "each", "of 5,000 bytes"])
@pytest.mark.parametrize("kind", ["response", "conversion", "metadata", "request"])
def test_records_over_the_limit(tmp_path, monkeypatch, name, frames, kind):
    monkeypatch.setattr(resync, "HELD_MAX", 2**14)
    monkeypatch.setattr(resync, "BLOCK_MAX", 2**13)
    monkeypatch.setattr(content, "BODY_MAX", 2**12)
    monkeypatch.setattr(resync, "CHUNK", 2**10)
    media = "application/warc-fields" if kind == "metadata" else "text/plain"
    media = "application/http; msgtype=response" if kind == "response" else media
    giant = record("https://giant.example/", http(b"giant " * 20_000), kind, media)
    for place in range(4):
        records = [PLAIN.record(i) for i in range(3)]
        records.insert(place, giant)
        data = b"".join(records)
        parts = {"one": [data], "each": records, "of 5,000 bytes": cut(data, 5000)}[frames]
        pages, damages = read(tmp_path / "a", b"".join(map(FORMATS[name].pack, parts)))
        expected = [(url_of(i), "") for i in range(3)]
        if kind in ("response", "conversion"):
            expected.insert(place, ("https://giant.example/", "body_too_long"))
        assert [(p.url, p.problem) for p in pages] == expected
        assert not damages


# ARC ----------------------------------------------------------------------------------------------


def line(url="https://a.example/", ip="192.0.2.1", date="20080430204825", media="text/html", more=""):
    return f"{url} {ip} {date} {media}{more} %d\n"


V2 = " 200 6f0ac9bbd4b2b34eaf2b6d0d5b6b1ef5 - 1209 file-0001.arc.gz"
LINES = {
    "version 1": (line(), "https://a.example/", "2008-04-30T20:48:25Z"),
    "version 2": (line(more=V2), "https://a.example/", "2008-04-30T20:48:25Z"),
    "version 2, redirect": (line(more=V2.replace(" - ", " https://b.example/ ")), "https://a.example/", None),
    "spaces in the URL": (line("http://a.example/?t=a b  c"), "http://a.example/?t=a b  c", None),
    "spaces, version 2": (line("http://a.example/a b", more=V2), "http://a.example/a b", None),
    "a date in the URL": (line("http://a.example/ 20010101000000 x"), "http://a.example/ 20010101000000 x", None),
    "no IP": (line(ip="-"), "https://a.example/", None),
    "an empty IP": (line(ip=""), "https://a.example/", None),
    "a name for the IP": (line(ip="host-1.example"), "https://a.example/", None),
    "IPv6": (line(ip="2001:db8::1"), "https://a.example/", None),
    "12 digits": (line(date="200804302048"), "https://a.example/", "2008-04-30T20:48Z"),
    "17 digits": (line(date="20080430204825123"), "https://a.example/", "2008-04-30T20:48:25.123Z"),
    "8 digits": (line(date="20080430"), "https://a.example/", ""),
    "no date": (line(date="-"), "https://a.example/", ""),
    "a wrong date, version 2": (line(date="2008043020482", more=V2), "https://a.example/", ""),
    "CR LF": (line().replace("\n", "\r\n"), "https://a.example/", None),
    "an empty type": (line(media=""), "https://a.example/", None),
    "no type": (line().replace(" text/html", ""), "https://a.example/", None),
    "no-type": (line(media="no-type"), "https://a.example/", None),
    "a type with parameters": (line(media="text/html; charset=utf-8; x=y"), "https://a.example/", None),
    "parameters, version 2": (line(media="text/html; charset=utf-8", more=V2), "https://a.example/", None),
    "a URL of 64,000 bytes": (line("http://a.example/" + "x" * 64_000), "http://a.example/" + "x" * 64_000, None),
}


@pytest.mark.parametrize("name", ["arc", "arc.gz"])
def test_every_arc_line_is_read(tmp_path, name):
    pack = FORMATS[name].pack
    head = arc_record("filedesc://x.arc", b"1 0 test\nURL IP-address Archive-date Content-type Archive-length\n")
    for (what, (text, url, date)), first, place in itertools.product(LINES.items(), (head, b""), range(3)):
        block = http(body_of(7))
        records = [arc_record(url_of(i), http(body_of(i))) for i in range(3)]
        records[place] = (text % len(block)).encode() + block + b"\n"
        pages, damages = read(tmp_path / "a", b"".join(map(pack, [first, *records])))
        assert [p.url for p in pages] == [url if i == place else url_of(i) for i in range(3)], what
        page = pages[place]
        assert (page.body, page.date) == (body_of(7), "2008-04-30T20:48:25Z" if date is None else date), what
        assert page.offset == sum(len(pack(r)) for r in [first, *records[:place]])
        assert not damages, what


@pytest.mark.parametrize("url", ["mailto:a@a.example", "dns:a.example", "whois://w.example/a", "ftp://f.example/a",
                                 "news:alt.test", "x-new+scheme.1:a", "filedesc://a.arc"])  # fmt: skip
def test_arc_records_of_any_scheme_are_no_damage(tmp_path, url):
    for name in ("arc", "arc.gz"):
        others = [arc_record(url, b"some text\nof %d lines" % i) for i in range(5)]
        records = [arc_record(url_of(0), http(body_of(0))), *others, arc_record(url_of(1), http(body_of(1)))]
        pages, damages = read(tmp_path / "a", b"".join(map(FORMATS[name].pack, records)))
        assert [p.url for p in pages if p.url.startswith("https")] == [url_of(0), url_of(1)]
        assert not damages


@pytest.mark.parametrize("wrong", [-1, 0, 1])
def test_an_arc_length_that_is_wrong_by_the_newline(tmp_path, wrong):
    for name, newline in itertools.product(("arc", "arc.gz"), (b"\n", b"\n\n", b"\r\n")):
        blocks = [http(body_of(i)) + b"\n" for i in range(3)]
        records = [arc_record(url_of(i), b, str(len(b) + wrong))[:-1] + newline for i, b in enumerate(blocks)]
        pages, damages = read(tmp_path / "a", b"".join(map(FORMATS[name].pack, records)))
        assert [(p.url, p.body.strip()) for p in pages] == [(url_of(i), body_of(i)) for i in range(3)]
        assert not damages


@pytest.mark.parametrize("size", [40, 200, 1000])
def test_arc_records_in_members_of_any_cut(tmp_path, size):
    records = [arc_record(url_of(i), http(body_of(i))) for i in range(6)]
    pages, damages = read(tmp_path / "a", b"".join(map(FORMATS["arc.gz"].pack, cut(b"".join(records), size))))
    assert [(p.url, p.body) for p in pages] == [(url_of(i), body_of(i)) for i in range(6)]
    assert not damages
