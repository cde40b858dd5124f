"""Normal form C in linear time."""

import re
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from pipeline.common.normal_form import normal_form


@given(st.integers(0, 200))
def test_marks_are_sorted_at_most_thirty_at_a_time(count):
    text = "q" + ("\u0301\u0323" * 100)[:count] + " e\u0301"
    runs = re.findall("[\u0301\u0323]+", normal_form(text))
    assert all(len(run) <= 30 for run in runs) and sum(map(len, runs)) == count
    assert normal_form(text).endswith("\u00e9")


@given(st.text(st.sampled_from("aé\u0301\u0323\u0e38\u0e48\u0e01 ."), max_size=30))
def test_up_to_thirty_marks_change_nothing(text):
    assert normal_form(text) == unicodedata.normalize("NFC", text)
