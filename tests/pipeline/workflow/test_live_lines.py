"""What the live lines say: how far jobs are, by the ends of their logs, and how long the whole takes."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common.progress import Progress, line
from pipeline.workflow.layout import Layout
from pipeline.workflow.live_lines import Row, columns, cut, live_lines
from pipeline.workflow.log_end import END_BYTES, State, read_failure, read_state
from pipeline.workflow.time_left import Job, Running, config_mark, known_work, seconds_left

TEXT = st.text(st.sampled_from("abc é中ф\u0301,:%/"), max_size=60)
STATE = st.builds(
    State,
    st.none()
    | st.builds(
        Progress,
        title=TEXT,
        unit=st.just("steps"),
        done=st.integers(0, 2000),
        total=st.none() | st.integers(0, 1000),
        rate=st.sampled_from(["", "3.25/s", "12.1/min"]),
        left=st.none() | st.integers(0, 10**6),
        note=TEXT,
    ),
    TEXT,
)
ROWS = st.lists(st.builds(Row, TEXT, st.floats(0, 1e6), STATE, st.floats(0, 100)), max_size=20)


def wide(text: str) -> int:
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


@given(ROWS, TEXT, st.integers(1, 200), st.integers(2, 60), st.booleans())
def test_live_lines_fit_any_terminal_and_say_how_many_are_left_out(rows, whole, width, height, blocks):
    lines = live_lines(rows, whole, width, height, blocks)
    assert all(wide(one) <= width and "\n" not in one for one in lines)
    assert len(lines) <= max(3, height)
    shown = len(lines) - 1 - (len(rows) > len(lines) - 1)
    if shown < len(rows):
        assert lines[-2] == cut(f"and {len(rows) - shown} more", width)
    assert blocks or not {"█", "░"} & set("".join(lines))


@given(TEXT, st.integers(0, 70))
def test_a_cut_text_is_a_beginning_that_fits(text, width):
    short = cut(text, width)
    assert columns(short) <= width
    assert short == text or text.startswith(short.rstrip(".").rstrip()) or set(short) <= {"."}


def test_a_bar_has_rate_and_time_left_which_goes_on_between_two_lines_of_the_log():
    state = State(Progress("extend neutral", "steps", 100, 400, "5.00/s", 60, "loss 4.2"))
    (line, whole) = live_lines([Row("Extend: neutral", 20.0, state, 12.0)], "1 of 3 jobs", 100, 24)
    assert line == "Extend: neutral  ███░░░░░░░░░░░  25%  5.00 steps/s    0:48 left  loss 4.2"
    assert whole == "1 of 3 jobs"
    narrow, _ = live_lines([Row("Extend: neutral", 20.0, state, 12.0)], "1 of 3 jobs", 39, 24)
    assert narrow == "Extend: neutral   25%  0:48 left"
    silent, _ = live_lines([Row("Evaluate", 5.0, State(None, "loading results/backbone"))], "", 60, 24)
    assert silent == "Evaluate  0:05  loading results/backbone"
    some = State(Progress("tokenize", "documents", 2304, None, "30.1/s"))
    endless, _ = live_lines([Row("Pack", 65.0, some)], "", 60, 24)
    assert endless == "Pack  2304 documents  30.1 documents/s  1:05"
    first = State(Progress("extend", "steps", 0, 400), "measuring at step 0: 3 of 9 rows (33%)")
    measuring, _ = live_lines([Row("Extend", 5.0, first)], "", 60, 24)
    assert measuring == "Extend  0:05  measuring at step 0: 3 of 9 rows (33%)"
    imports, _ = live_lines([Row("Evaluate", 5.0, State())], "", 60, 24)
    assert imports == "Evaluate  0:05  starting"


# The ends of logs ---------------------------------------------------------------------------------


def test_a_state_is_the_last_progress_and_what_was_said_since(tmp_path):
    log = tmp_path / "a.log"
    shown = Progress("extend", "steps", 3, 10, "1.00/s", 7)
    log.write_bytes(b"x" * 100_000 + b"\n12:00:00 loading \x1b[2Jthe backbone\n")
    assert read_state(log) == State(None, r"loading \x1b[2Jthe backbone")
    with log.open("a") as file:
        file.write(f"12:00:01 {line(shown)}\n\rLoading weights: 100%|####| 3/3 [00:01<00:00]\n")
    assert read_state(log) == State(shown)
    with log.open("a") as file:
        file.write("12:00:02 measuring\n")
    assert read_state(log) == State(shown, "measuring")


@given(st.binary(max_size=300), st.integers(0, 2 * END_BYTES))
def test_any_bytes_are_a_state_in_one_printable_line(tmp_path_factory, data, size):
    log = tmp_path_factory.mktemp("log") / "a.log"
    log.write_bytes(data + b"a" * size + data)
    state = read_state(log)
    assert not any(unicodedata.category(char) == "Cc" and char != "\t" for char in state.text)


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (
            "loading\ntrain extend: the loss is no number; lower it\n",
            "train extend: the loss is no number; lower it",
        ),
        ("python -m train extend: error: argument --x\n", "python -m train extend: error: argument --x"),
        (
            "a: b\nTraceback (most recent call last):\n  File x\nKeyError: 'a'\n\nDuring handling:\n\n"
            'Traceback (most recent call last):\n  File "a.py", line 1\nValueError: bad\nmore of it\n',
            "ValueError: bad",
        ),
        (f"one\ntrain extend: {'long ' * 200}\n", f"train extend: {'long ' * 200}".rstrip()),
        ("one\ntwo\n12:00:01 extend: 1 of 2 steps (50%)\n", "two"),
    ],
)
def test_a_failed_job_says_its_own_message_first(tmp_path, log, message):
    (tmp_path / "a.log").write_text(log)
    assert read_failure(tmp_path / "a.log")[0] == message


def test_an_empty_log_has_no_message(tmp_path):
    (tmp_path / "a.log").touch()
    assert read_failure(tmp_path / "a.log") == []


# Time ---------------------------------------------------------------------------------------------

JOBS = [
    Job("pretrain", "pretrain", 2, 1),
    *(Job(f"extract/{i}", "extract", 1, 2) for i in range(4)),
    Job("", "all"),
]
WORK = {"pretrain": 100.0} | {f"extract/{i}": 10.0 for i in range(4)}


def test_the_time_left_is_the_work_on_the_cores():
    assert seconds_left(JOBS, WORK, {}, {}, 2) == 100 / 2 + 4 * 10 / 2
    assert seconds_left(JOBS, WORK, dict.fromkeys(WORK, 1), {}, 2) == 0
    # More cores than all jobs of a rule can use help no more.
    assert seconds_left(JOBS, WORK, {}, {}, 64) == 100 / 2 + 4 * 10 / 2


def test_what_a_running_job_says_itself_counts():
    running = {"pretrain": Running(10.0, 40.0)}  # as expected: 50 seconds on two cores
    assert seconds_left(JOBS, WORK, {}, running, 2) == 40 + 20
    slow = {"pretrain": Running(10.0, 90.0)}
    assert 90 + 20 < seconds_left(JOBS, WORK, {}, slow, 2) < 90 + 40


def test_nothing_is_said_of_what_is_not_known():
    known = {"pretrain": 100.0}
    assert seconds_left(JOBS, known, {}, {}, 2) is None
    # But for a rule of which a job has ended.
    assert seconds_left(JOBS, known, {"extract/0": 8.0}, {}, 2) == 100 / 2 + 3 * 8 / 2


@given(st.dictionaries(st.sampled_from(sorted(WORK)), st.floats(0.1, 1000)), st.integers(1, 64))
def test_more_cores_or_more_ended_jobs_take_no_longer(took, cores):
    now = seconds_left(JOBS, WORK, took, {}, cores)
    assert now >= 0 and seconds_left(JOBS, WORK, took, {}, cores + 1) <= now + 1e-9


def test_work_is_known_by_an_earlier_run_a_measured_config_or_the_plan(tmp_path, monkeypatch):
    out = Layout(tmp_path / "out")
    jobs = [Job("extract/0", "extract"), Job("extract/1", "extract"), Job("report", "report"), Job("", "all")]
    header = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
    assert known_work(out, jobs, {}) == {}
    for path, row in ((out.benchmark("extract/0"), "9\t0:00:09" + "\t1" * 7 + "\t7.5"), (out.plan, "{")):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(header + row if path.endswith("tsv") else row)
    assert known_work(out, jobs, {}) == {"extract/0": 7.5}  # a damaged plan counts as none
    (tmp_path / out.plan).write_text('{"stages": [{"stage": "extract", "jobs": 4, "core_seconds": 12}]}')
    assert known_work(out, jobs, {}) == {"extract/0": 7.5, "extract/1": 3.0}
    monkeypatch.setattr("pipeline.workflow.time_left.TIMES", tmp_path)
    config = {"output": "results/a", "seed": 1}
    (tmp_path / "a.tsv").write_text(f"# config {config_mark(config | {'output': 'b'})}\nreport\t4.0\n")
    assert known_work(out, jobs, config)["report"] == 4.0
    assert "report" not in known_work(out, jobs, config | {"seed": 2})
