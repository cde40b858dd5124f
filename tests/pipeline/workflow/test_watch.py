"""What a terminal shows of a run: whole lines above live ones, and at the end what matters most."""

from __future__ import annotations

import io
import logging
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from snakemake.logging import ColorizingTextHandler, DefaultFilter, DefaultFormatter

from pipeline.common.progress import Progress
from pipeline.workflow import watch as module
from pipeline.workflow.live_lines import MOST_ROWS
from pipeline.workflow.log_end import State
from pipeline.workflow.time_left import Job
from pipeline.workflow.watch import Watch

WIDTH = 40
CONTROL = re.compile(r"\x1b\[(\d*)([A-Za-z])")


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def screen(text: str) -> list[str]:
    """The lines of an endless terminal of WIDTH columns; of its controls it knows cursor up and erase below."""
    lines, row, column, place = [""], 0, 0, 0
    while place < len(text):
        if match := CONTROL.match(text, place):
            place = match.end()
            if match[2] == "A":
                row = max(0, row - int(match[1] or 1))
            elif match[2] == "J":
                lines = [*lines[:row], lines[row][:column]]
            else:
                assert match[2] == "m", match[0]
            continue
        char, place = text[place], place + 1
        if char == "\r":
            column = 0
        elif char == "\n":
            row, column = row + 1, 0
        else:
            if column == WIDTH:
                row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
            lines[row] = lines[row][:column].ljust(column) + char + lines[row][column + 1 :]
            column += 1
        lines += [""] * (row + 1 - len(lines))
    return [line.rstrip() for line in lines]


def handler(stream: io.StringIO, jobs: int = 3) -> Watch:
    inner = ColorizingTextHandler(
        nocolor=True,
        stream=stream,
        formatter=DefaultFormatter(None, True),
        filter=DefaultFilter(None, False, False, False, False),
    )
    plan = {number: Job(f"extract/{number}", "extract") for number in range(jobs)}
    return Watch(inner, plan, {}, 2, jobs)


def tell(
    watch: Watch, event: str | None = None, text: str | None = "", level: int = logging.INFO, **facts
) -> None:
    record = logging.LogRecord("snakemake.logging", level, "", 0, text, None, None)
    record.__dict__.update(facts, **({"event": event} if event else {}))
    watch.handle(record)


def begin(watch: Watch, number: int, log: str = "") -> None:
    facts = {"rule_name": "extract", "rule_msg": f"Extract {number}", "wildcards": {}, "threads": 1}
    tell(watch, "job_info", jobid=number, log=[log] if log else [], **facts)


def fail(watch: Watch, number: int, log: str, command: str = "python -m train extend --long") -> None:
    words = f"RuleException:\nCalledProcessError in file x:\nCommand '{command}' returned non-zero exit status 1."
    tell(watch, "error", words, logging.ERROR, exception="RuleException")
    facts = {"rule_name": "extract", "log": [log], "shellcmd": command, "aux": {}}
    tell(watch, "job_error", "Error in rule", logging.ERROR, jobid=number, **facts)


STEPS = st.lists(st.sampled_from(["begin", "end", "words", "look"]), max_size=30)


@given(STEPS)
def test_live_lines_leave_every_line_of_snakemake_whole_and_are_gone_at_the_end(steps):
    stream, said, running, number = Terminal(), [], [], 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", "xterm")
        patch.setattr(module, "_size", lambda stream: os.terminal_size((WIDTH, 24)))
        watch = handler(stream, 100)
        for step in steps:
            if step == "begin":
                begin(watch, number)
                running.append(number)
                number += 1
            elif step == "end" and running:
                ended = running.pop(0)
                tell(watch, "job_finished", job_id=ended)
                said.append(f"done      0:00  Extract {ended}")
            elif step == "words":
                tell(watch, None, f"Snakemake says {len(said)}")
                said.append(f"Snakemake says {len(said)}")
            elif step == "look":
                for shown in watch.running.values():
                    shown.state = State(Progress("extract", "WARCs", 1, 3, "1.00/s", 2, "loss 4"), "far more " * 9)
                watch._write("")
            live = screen(stream.getvalue())[len(said) :]
            assert len(live) == min(len(running), MOST_ROWS) + (len(running) > MOST_ROWS) + 1
        watch.close()
        watch.close()
    lines = screen(stream.getvalue())
    assert [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in lines] == [*said, ""]


def test_what_a_job_prints_itself_stands_in_lines_of_its_own(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    watch = handler(stream)
    begin(watch, 0)
    watch.jobs[1] = Job("count_languages", "count_languages")
    begin(watch, 1)
    stream.write("br: 3 of 9 documents\n")  # as its process does
    watch._write("")
    tell(watch, "job_finished", job_id=1)
    assert screen(stream.getvalue())[0] == "br: 3 of 9 documents"
    assert len(screen(stream.getvalue())) > 2  # the first job is shown again
    watch.close()


def test_a_terminal_that_got_narrower_has_broken_the_lines_into_more(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    watch = handler(Terminal())
    watch.drawn = ["x" * 40, "y" * 10, ""]
    monkeypatch.setattr(module, "_size", lambda stream: os.terminal_size((16, 24)))
    assert watch._erasing() == "\r\x1b[4A\x1b[J"  # 3 + 1 + 1 lines, of which the cursor is in the last


def test_where_there_is_no_terminal_lines_are_plain(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = io.StringIO()
    watch = handler(stream, 1)
    begin(watch, 0)
    tell(watch, "job_finished", job_id=0)
    tell(watch, "progress", done=1, total=1)
    watch.close()
    lines = [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in stream.getvalue().splitlines()]
    assert lines == ["start           Extract 0", "done      0:00  Extract 0", "Done in 0:00."]
    assert "\r" not in stream.getvalue() and "\x1b" not in stream.getvalue()


def test_a_dumb_terminal_has_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert not handler(Terminal()).live


def test_a_long_job_says_something_once_a_minute(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    watch = handler(stream)
    begin(watch, 0)
    for second in range(1, 301):
        now[0] = second
        shown = watch.running[0]
        shown.state, shown.heard = State(Progress("extract", "WARCs", second, 600)), second
        watch._tell([shown])
    news = [line for line in stream.getvalue().splitlines() if "Extract 0: extract: " in line]
    assert [re.search(r"(\d+) of 600", line)[1] for line in news] == ["60", "120", "180", "240", "300"]


def test_a_failed_job_says_its_own_message_first_and_last(tmp_path):
    log = tmp_path / "a.log"
    log.write_text("12:00:00 loading\n12:00:01 extract: 1 of 2 WARCs (50%)\ntrain extend: no number; lower it\n")
    stream = io.StringIO()
    watch = handler(stream)
    begin(watch, 0)
    fail(watch, 0, str(log))
    tell(watch, "error", "WorkflowError:\nAt least one job", logging.ERROR, exception="WorkflowError")
    watch.close()
    text = stream.getvalue()
    message, command = text.index("train extend: no number"), text.index("python -m train extend --long")
    assert text.index("FAILED Extract 0") < message < command < text.rindex("train extend: no number")
    assert "50%" not in text and "CalledProcessError" not in text
    assert text.splitlines()[-4:] == [
        "FAILED Extract 0",
        "  train extend: no number; lower it",
        f"  log: {log}",
        "Run the same command again when that is mended: what is done stays.",
    ]


def test_what_was_tried_again_and_ended_well_is_no_failure(tmp_path):
    stream = io.StringIO()
    watch = handler(stream, 1)
    begin(watch, 0)
    fail(watch, 0, str(tmp_path / "none.log"))
    begin(watch, 0)
    tell(watch, "job_finished", job_id=0)
    tell(watch, "progress", done=1, total=1)
    watch.close()
    assert stream.getvalue().splitlines()[-1] == "Done in 0:00."


def test_an_old_log_says_nothing_of_a_new_job(tmp_path):
    log = tmp_path / "a.log"
    log.write_text("12:00:00 of yesterday\n")
    watch = handler(Terminal())
    begin(watch, 0, str(log))
    module._read(watch.running[0])
    assert watch.running[0].state == State()
    log.write_text("12:00:00 of today, and longer\n")
    module._read(watch.running[0])
    assert watch.running[0].state.text == "of today, and longer"


def test_an_error_of_the_watcher_leaves_the_terminal_to_snakemake(monkeypatch):
    def broken(*args: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(Watch, "_emit", broken)
    stream = io.StringIO()
    watch = handler(stream)
    for word in ("one", "two"):
        tell(watch, None, word)
    watch.close()
    assert stream.getvalue().splitlines() == ["progress is not shown any more: ValueError: a bug", "one", "two"]


# Snakemake itself ---------------------------------------------------------------------------------

SNAKEFILE = """
from pipeline.workflow.layout import Layout
from pipeline.workflow.watch import watch
OUT = Layout("out")
onstart:
    watch(workflow, OUT, config)
rule all:
    input: "out/a", "out/b"
rule make:
    output: "out/{x}"
    log: OUT.log("{x}")
    benchmark: OUT.benchmark("{x}")
    message: "Make {wildcards.x}"
    shell: "sh make.sh {wildcards.x} > {log} 2>&1 && touch {output}"
"""


def run_on_a_terminal(folder: Path, script: str, stop_at: bytes = b"") -> str:
    """What Snakemake writes to a terminal; Ctrl-C is typed when that has `stop_at`."""
    (folder / "Snakefile").write_text(SNAKEFILE)
    (folder / "make.sh").write_text(script)
    ours, theirs = pty.openpty()
    run = subprocess.Popen(
        [sys.executable, "-m", "snakemake", "--cores", "1", "--quiet", "host", "--nolock"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm", "NO_COLOR": "1"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    text = b""
    with open(ours, "rb", buffering=0) as terminal:  # noqa: PTH123
        while True:
            try:
                text += terminal.read(2**16)
            except OSError:  # it has ended
                break
            if stop_at and stop_at in text:
                os.killpg(run.pid, signal.SIGINT)
                stop_at = b""
    assert run.wait() == 1
    return text.decode().replace("\r\n", "\n")


@pytest.mark.slow
def test_a_failure_on_a_terminal_ends_with_the_jobs_own_message(tmp_path):
    text = run_on_a_terminal(tmp_path, "[ $1 = a ] || { echo train b: it is wrong; exit 1; }")
    assert text[text.rindex("\x1b[J") :].splitlines()[-4:] == [
        "FAILED Make b",
        "  train b: it is wrong",
        "  log: out/logs/b.log",
        "Run the same command again when that is mended: what is done stays.",
    ]
    assert text.index("Logs: out/logs") < text.index("it is wrong") < text.index("sh make.sh b")


@pytest.mark.slow
def test_ctrl_c_on_a_terminal_says_how_to_go_on(tmp_path):
    text = run_on_a_terminal(tmp_path, "echo 12:00:00 waiting; sleep 60", stop_at=b"waiting")
    assert text.splitlines()[-1] == "Stopped. Run the same command again: it goes on where it was."
    assert "FAILED" not in text and "CalledProcessError" not in text
