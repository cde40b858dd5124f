from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.warc import Damage, Response, responses


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
