from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from pipeline.manifest import batches, manifest

ENTRIES = st.lists(st.lists(st.text("abc", min_size=1), min_size=1, max_size=7), min_size=1, max_size=4)


@given(entries=ENTRIES, added=ENTRIES, size=st.integers(1, 5))
def test_batches_hold_every_warc_in_order_and_an_added_entry_changes_none(entries, added, size):
    before, after = batches(entries, size), batches(entries + added, size)
    assert [warc for name in sorted(after) for warc in after[name]] == list(chain.from_iterable(entries + added))
    assert all(1 <= len(warcs) <= size for warcs in after.values())
    assert {name: after[name] for name in before} == before


def test_a_pattern_is_an_entry_sorted_and_a_wrong_one_a_problem(tmp_path):
    for name in ("b.warc.gz", "a.warc.gz", "c.warc"):
        (tmp_path / name).touch()
    entries, problems = manifest([f"{tmp_path}/*.gz", f"{tmp_path}/c.warc"])
    assert entries == [[f"{tmp_path}/a.warc.gz", f"{tmp_path}/b.warc.gz"], [f"{tmp_path}/c.warc"]]
    assert not problems
    _, problems = manifest([f"{tmp_path}/*.gz", f"{tmp_path}/x*", f"{tmp_path}/b*"])
    assert [p.split(";")[0] for p in problems] == [
        f"no file matches {tmp_path}/x*",
        f"{tmp_path}/b.warc.gz is named twice",
    ]
