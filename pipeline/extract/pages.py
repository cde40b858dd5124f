"""A page as all later stages can hold it, whatever an archive or a file said.

Half a surrogate pair is no text for Arrow, for a file or for the language model. The last day of the year 9999 in
a western time zone can be written and not read back. A batch of Arrow holds no thousand URLs of 64 MB.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

FIELD_MAX = 2**16  # bytes in UTF-8
BOUNDED = ("url", "record_id", "digest", "warc")
UNFIT = tuple(f"{name}_too_long" for name in BOUNDED)
# 64 bits of nanoseconds, in which some readers of shards count, reach from 1677 to 2262.
YEARS = range(1678, 2262)
# The forms of ISO 8601 that WARC 1.1 (section 5.4) and W3C's note on dates allow, from a year on, and those that
# archives have besides: without marks between the numbers, with an offset, with a space for the T.
DATE = re.compile(
    r"(\d{4})(?:-?(\d\d)(?:-?(\d\d)(?:[Tt ]?([01]\d|2[0-3])"
    r"(?::?([0-5]\d)(?::?([0-5]\d|60)(?:[.,]?(\d{1,30}))?)?)?"
    r" ?(?:[Zz]|([+-])([01]\d|2[0-3])(?::?([0-5]\d))?)?)?)?)?",
    re.ASCII,
)


def fit_page(page: dict[str, Any]) -> dict[str, Any] | str:
    """A row of PAGE_SCHEMA from values as they were read, its date as text; or the reason, one of UNFIT.

    >>> row = {"url": "https://a.example/\\ud800", "date": "2026-01-01", "record_id": "", "digest": "", "warc": ""}
    >>> fit_page(row)["url"]
    'https://a.example/?'
    >>> fit_page(row | {"url": "https://a.example/" + "x" * 100_000})
    'url_too_long'
    """
    row = {name: fit_text(value) if isinstance(value, str) else value for name, value in page.items()}
    for name, failure in zip(BOUNDED, UNFIT, strict=True):
        if len(row[name].encode()) > FIELD_MAX:
            return failure
    return row | {"date": read_date(row["date"])}


def fit_text(text: str) -> str:
    """The text with "?" for each half of a surrogate pair, as JSON and names of files may have."""
    return text.encode("utf-8", "replace").decode()


def read_date(value: str | None) -> datetime | None:
    """A date in UTC; None where it is no date, or one out of YEARS. Without a time zone it is taken for UTC.

    What a date does not say is its beginning: 2014-02 is the first of February at midnight.

    >>> read_date("2014-02")
    datetime.datetime(2014, 2, 1, 0, 0, tzinfo=datetime.timezone.utc)
    >>> read_date("2026-01-01T00:30:00+01:00")
    datetime.datetime(2025, 12, 31, 23, 30, tzinfo=datetime.timezone.utc)
    >>> read_date("9999-12-31T23:59:59-01:00")
    """
    match = DATE.fullmatch((value or "").strip())
    if match is None:
        return None
    year, month, day = int(match[1]), int(match[2] or 1), int(match[3] or 1)
    hour, minute, second = (int(match[i] or 0) for i in (4, 5, 6))
    time = timedelta(hours=hour, minutes=minute, seconds=second, microseconds=int(f"{match[7] or '':0<6.6}"))
    offset = timedelta(hours=int(match[9] or 0), minutes=int(match[10] or 0))
    try:
        date = datetime(year, month, day, tzinfo=UTC) + time + (offset if match[8] == "-" else -offset)
    except (ValueError, OverflowError):
        return None
    return date if date.year in YEARS else None
