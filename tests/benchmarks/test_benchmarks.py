import json

from benchmarks.report import machine, measure, write


def test_a_report_is_a_table_and_the_same_numbers_whole_with_the_machine(tmp_path):
    rows = [
        {"tool": "ours", "rate": 1234567.8, "share": 0.123456, "count": 12345},
        {"tool": "peer", "rate": None, "share": 1.0, "count": 0},
    ]
    write(str(tmp_path / "speed"), "Speed", rows, ["A note."])
    data = json.loads((tmp_path / "speed.json").read_text())
    assert data["rows"] == rows
    assert data["machine"] == machine()
    assert data["machine"]["versions"]["numpy"]
    lines = (tmp_path / "speed.md").read_text().splitlines()
    assert "| ours | 1,234,568 | 0.123 | 12,345 |" in lines
    assert "| peer |  | 1 | 0 |" in lines
    assert lines[-1] == "A note."


def test_measuring_returns_the_result_and_counts_only_time_on_the_cpu_as_such():
    result, seconds = measure(lambda: sum(range(1_000_000)))
    assert result == sum(range(1_000_000))
    assert seconds["cpu_s"] > 0
    assert set(seconds) == {"wall_s", "cpu_s"}
