"""The attacks are found, each has its own process, and mutants differ from the sound file by one change."""

from __future__ import annotations

import gzip
import importlib
import json
import random
import zlib

import pytest

from benchmarks.attacks.mutants import KINDS, mutate, read_all, row
from benchmarks.attacks.run import ROOT, attacks, run


def test_every_attack_says_what_it_is_and_has_a_name_of_its_own():
    found = list(attacks())
    assert all(doc for _, _, doc in found)
    assert len({name for _, name, _ in found}) == len(found) >= 2


def test_an_attack_runs_in_a_process_that_is_measured():
    result = run("archives", "many_encodings")
    assert result["held"], result
    assert result["peak_mb"] > 10 and result["seconds"] > 0


def test_mutants_are_changed_and_the_same_every_time():
    sound = [
        gzip.compress(b"WARC/1.0\r\nContent-Length: 5\r\n\r\nhello" * 9, mtime=0),
        b'{"files": ["a", "b"], "count": 3}',
    ]
    for data in sound:
        mutants = [mutate(data, random.Random(number)) for number in range(100)]
        assert mutants == [mutate(data, random.Random(number)) for number in range(100)]
        assert len(set(mutants) - {data}) > 80


def test_half_of_the_mutants_of_json_are_json_and_of_gzip_are_gzip():
    data = json.dumps({"files": ["a", "b"], "count": 3}).encode()
    packed = gzip.compress(data, mtime=0)

    def sound(data: bytes, read) -> bool:
        try:
            read(data)
        except (ValueError, OSError, EOFError, zlib.error):
            return False
        return True

    assert 40 <= sum(sound(mutate(data, random.Random(n)), json.loads) for n in range(100)) < 100
    whole = [mutate(packed, random.Random(n)) for n in range(100)]
    assert 30 <= sum(sound(mutant, gzip.decompress) for mutant in whole) < 100


def test_the_table_counts_each_way_that_a_mutant_ends():
    ends = ("read 3 rows", "refused: damaged", "raised ValueError: x", "crashed (-11): no message")
    results = [
        {"number": n, "outcome": outcome, "outside": n == 1, "seconds": 1.0, "peak_mb": n}
        for n, outcome in enumerate(ends)
    ]
    line = row("shard", results)
    assert [
        line[name] for name in ("read", "refused in a line", "Python errors", "crashes", "written outside")
    ] == [1] * 5
    assert line["peak MB"] == 3


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_file_can_be_made_and_read(kind):
    module = importlib.import_module(f"benchmarks.attacks.{KINDS[kind][0]}")
    assert callable(getattr(module, f"_make_{kind}")) and callable(getattr(module, f"_read_{kind}"))


@pytest.mark.slow
def test_mutants_are_read_in_processes_of_their_own():
    results = read_all("shard", 6, ROOT)
    assert [result["number"] for result in results] == list(range(6))
    assert row("shard", results) | {"longest s": 0, "peak MB": 0} == row("shard", results) | {
        "Python errors": 0, "crashes": 0, "written outside": 0, "longest s": 0, "peak MB": 0
    }  # fmt: skip
