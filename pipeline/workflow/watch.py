"""What the terminal shows while Snakemake runs: its jobs in short, the live lines below them, and how it ended.

Snakemake tells of its jobs to handlers of `logging`, in records with an `event`: the interface of its plugins for
logging. Here one such handler stands in the place of its own for the terminal, which still words every record that
is not known here. Snakemake's log file has all records as they are.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline.common.progress import clock, line
from pipeline.common.shown import printable, printable_lines
from pipeline.workflow.layout import Layout
from pipeline.workflow.live_lines import MOST_ROWS, Row, columns, left, live_lines
from pipeline.workflow.log_end import State, read_failure, read_state
from pipeline.workflow.time_left import Job, Running, known_work, seconds_left

LIVE_SECONDS, LINE_SECONDS = 1.0, 60.0  # between looks at the logs, on a terminal and elsewhere
COUNT_SECONDS = 5.0  # between two counts of the time that all jobs have left
MOST_FAILURES = 3  # that the end repeats
TELLING = ("count_languages", "clean_intermediate")  # rules that print what users should see
# What Snakemake says between the jobs, and what the lines here say better. Unknown words are shown.
NOISE = re.compile(
    r"Select jobs to execute|DAG of jobs will be updated|Shutting down, this might|Exiting because a job execution"
    r"|Elapsed time: |Touching output file|Updating checkpoint dependencies"
)
# How a command of a job ended, in Snakemake's words for it.
ENDED = re.compile(r"CalledProcessError in .*(?:exit status (\d+)|<Signals\.\w+: (\d+)>)", re.DOTALL)
KILLED = {137: "something killed it, such as the system where memory runs out", 143: "it was told to end"}


@dataclass
class Shown:
    """A job that runs. log: its log, with the mark of an earlier run's file, which says nothing of this one."""

    job: Job
    title: str
    log: str
    began: float
    stale: tuple[int, ...] | None
    named: bool = True
    mark: tuple[int, ...] | None = None
    heard: float = 0.0
    state: State = field(default_factory=State)
    told: float = 0.0


@dataclass(frozen=True)
class Failure:
    title: str
    lines: list[str]


def watch(workflow: Any, out: Layout, config: Mapping[str, Any]) -> None:
    """Show this run of Snakemake from now to its end; call it in `onstart:`.

    Does nothing for the job of a cluster, with --quiet, or where a logger plugin writes to the terminal.
    """
    logger = logging.getLogger("snakemake.logging")
    try:
        _watch(workflow, out, config, logger)
    except Exception as error:  # of no run the reason to fail
        logger.warning(f"progress is not shown: {type(error).__name__}: {error}")


def _watch(workflow: Any, out: Layout, config: Mapping[str, Any], logger: logging.Logger) -> None:
    settings = workflow.output_settings
    inner = next((one for one in logger.handlers if one.name == "DefaultStreamHandler"), None)
    quiet = {str(what).rpartition(".")[2].lower() for what in settings.quiet or ()}
    if not workflow.is_main_process or inner is None or quiet & {"all", "rules", "progress"}:
        return
    jobs = {one.jobid: _job(one, out, workflow) for one in workflow.dag.needrun_jobs()}
    cores = workflow.cores if workflow.local_exec else None
    handler = Watch(inner, jobs, known_work(out, jobs.values(), config), cores, len(workflow.dag))
    logger.removeHandler(inner)
    logger.addHandler(handler)
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handler.note(number)
    handler.start()
    report = any(out.report in map(str, one.output) for one in workflow.dag.needrun_jobs())
    logger.info(printable(f"Logs: {out.logs}{f'   report: {out.report}' if report else ''}"))
    if seconds := handler.seconds_left(time.monotonic()):
        logger.info(f"{_about(seconds).capitalize()} on {cores} cores, by what the same jobs took before")


def _job(job: Any, out: Layout, workflow: Any) -> Job:
    """What is known of a job of Snakemake before it runs."""
    threads = job.threads if isinstance(job.threads, int) else 1
    gpus = job.resources.get("gpu", 0)
    together = max(1, (workflow.cores or 1) // threads)
    if isinstance(gpus, int) and gpus > 0:
        limit = workflow.global_resources.get("gpu")
        together = max(1, min(together, int(getattr(limit, "value", limit) or gpus) // gpus))
    name = str(job.benchmark).removeprefix(f"{out.benchmarks}/").removesuffix(".tsv") if job.benchmark else ""
    return Job(name, job.rule.name, threads, together)


class Watch(logging.Handler):
    """The handler. inner: Snakemake's for the terminal. jobs: those to run, by their ids."""

    def __init__(
        self,
        inner: Any,
        jobs: dict[int, Job],
        known: dict[str, float],
        cores: int | None,
        total: int,
    ) -> None:
        super().__init__()
        self.inner, self.jobs, self.known, self.cores, self.total = inner, jobs, known, cores, total
        self.stream = inner.stream
        self.live = self.stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self.plain = bool(os.environ.get("NO_COLOR"))
        self.began = time.monotonic()
        self.running: dict[int, Shown] = {}
        self.took: dict[str, float] = {}
        self.failed: dict[int, Failure] = {}
        self.held: list[logging.LogRecord] = []
        self.done = 0
        self.stopped = self.broken = self.closed = False
        self.drawn: list[str] = []
        self.left: float | None = None
        self.recount = 0.0
        self.end = threading.Event()
        self.thread = threading.Thread(target=self._look, name="watch", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def note(self, number: signal.Signals) -> None:
        """Remember that the user stops the run, before Snakemake hears of it."""
        before = signal.getsignal(number)

        def handle(signum: int, frame: FrameType | None) -> None:
            self.stopped = True
            if callable(before):
                before(signum, frame)

        if callable(before):
            signal.signal(number, handle)

    # Records --------------------------------------------------------------------------------------

    def emit(self, record: logging.LogRecord) -> None:
        if not self.broken:
            try:
                self._emit(record)
                return
            except BrokenPipeError:
                raise
            except Exception as error:
                self._give_up(error)
        self.inner.handle(record)

    def _emit(self, record: logging.LogRecord) -> None:
        event, now = str(getattr(record, "event", None) or ""), time.monotonic()
        facts = record.__dict__
        if event == "progress":
            self.done, self.total = facts["done"], facts["total"]
        elif event == "job_info":
            self._begin(facts, now)
            message = printable_lines(str(facts["rule_msg"] or ""))
            if self.live and "\n" not in message:
                self._write("")
            elif message:
                self._say(record, f"start{'':9}  {message}")
        elif event == "job_finished":
            self.failed.pop(facts["job_id"], None)
            if (ended := self.running.pop(facts["job_id"], None)) is None:
                self._pass(record)
                return
            self.took[ended.job.name] = now - ended.began
            if ended.named:
                self._say(record, f"done  {clock(now - ended.began):>8}  {ended.title}")
        elif event == "job_error":
            self._fail(record, facts)
        elif event == "error" and ENDED.search(record.getMessage()):
            self.held.append(record)  # until the job's own message has been shown
        elif event != "job_started" and not (NOISE.match(record.getMessage()) and event in ("", "error")):
            self._pass(record)

    def _begin(self, facts: Mapping[str, Any], now: float) -> Shown:
        number, message = facts["jobid"], facts["rule_msg"]
        job = self.jobs.setdefault(number, Job("", facts["rule_name"], facts["threads"]))
        log = next(iter(facts["log"]), "")
        name = " ".join([facts["rule_name"], *map(str, facts["wildcards"].values())])
        title = printable(str(message or name).partition("\n")[0].rstrip(":"))
        shown = Shown(job, title, log, now, _mark(log), named=bool(message), told=now)
        self.running[number] = shown
        return shown

    def _fail(self, record: logging.LogRecord, facts: Mapping[str, Any]) -> None:
        """The job's own message first, then where its log is and how to run it by hand."""
        shown = self.running.pop(facts["jobid"], None)
        command = str(facts["shellcmd"] or "")
        own = [one for one in self.held if command and command.strip() in one.getMessage()]
        self.held = [one for one in self.held if one not in own]
        if self.stopped:
            return
        title = shown.title if shown else facts["rule_name"]
        logs, lines = list(facts["log"]), list[str]()
        for log in logs:
            try:
                lines += read_failure(log)
            except OSError as error:
                lines.append(f"{printable(log)}: {error.strerror}")
        status = next((_status(one.getMessage()) for one in own), 1)
        if not lines or status in KILLED:
            lines.insert(0, f"ended with status {status}: {KILLED.get(status, 'its log says no more')}")
        failure = Failure(title, [*lines[:1], *(f"log: {printable(log)}" for log in logs[:1])])
        self.failed[facts["jobid"]] = failure
        more = [f"{key}: {value}" for key, value in facts["aux"].items()]
        text = [f"FAILED {title}", *lines[:1], *failure.lines[1:], *more, *lines[1:]]
        self._say(record, "\n  ".join(text))
        self._say(record, f"  {printable(command.strip())}", colour=False)

    def _pass(self, record: logging.LogRecord) -> None:
        """Snakemake's own words for a record."""
        if self.inner.filter(record):
            text = self.inner.format(record)
            if text and text != "None":
                self._write(text if self.plain else self.inner.decorate(record, text))

    def _say(self, record: logging.LogRecord, text: str, colour: bool = True) -> None:
        text = f"{time.strftime('%H:%M:%S')} {text}" if colour else text
        colour = colour and record.levelno >= logging.WARNING and not self.plain
        self._write(self.inner.decorate(record, text) if colour else text)

    # Lines ----------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Look at the logs of running jobs again and again; never holds up or fails the run."""
        try:
            while not self.end.wait(LIVE_SECONDS if self.live else LINE_SECONDS / 4):
                with self._locked():
                    rows = list(self.running.values())[:MOST_ROWS]
                for shown in rows:
                    _read(shown)
                with self._locked():
                    if self.live:
                        self._write("")
                    else:
                        self._tell(rows)
        except Exception as error:
            with self._locked():
                self._give_up(error)

    def _locked(self) -> Any:
        return self.lock or nullcontext()

    def _tell(self, rows: Iterable[Shown]) -> None:
        """For a log: what is new of the jobs that have said nothing for a while."""
        now, news = time.monotonic(), list[str]()
        for shown in rows:
            if now - shown.told >= LINE_SECONDS and shown.heard > shown.told:
                progress, text = shown.state.progress, shown.state.text
                news.append(f"{shown.title}: {text or (line(progress) if progress else '')}")
                shown.told = now
        if news and (seconds := self.seconds_left(now)):
            news.append(f"{self.done} of {self.total} jobs done, {_about(seconds)} left")
        for text in news:
            self._write(f"{time.strftime('%H:%M:%S')} {text}")

    def _write(self, text: str) -> None:
        """A line above the live lines, if there are some, and these anew."""
        parts = [self._erasing()]
        if text:
            parts.append(f"{text}\n")
        is_telling = any(one.job.rule in TELLING for one in self.running.values())  # nothing in between, then
        if self.live and self.running and not self.closed and not is_telling:
            size = _size(self.stream)
            self.drawn = [self._encoded(line) for line in self._live(size)]
            parts.append("\n".join(self.drawn))
        self.stream.write("".join(parts))
        self.stream.flush()

    def _erasing(self) -> str:
        """What takes the live lines away; a terminal that got narrower has broken them into more lines."""
        if not self.drawn:
            return ""
        width = _size(self.stream).columns
        rows = sum(max(1, -(-columns(line) // width)) for line in self.drawn)
        self.drawn = []
        return "\r" + (f"\x1b[{rows - 1}A" if rows > 1 else "") + "\x1b[J"

    def _live(self, size: os.terminal_size) -> list[str]:
        now = time.monotonic()
        rows = [Row(one.title, now - one.began, one.state, now - one.heard) for one in self.running.values()]
        seconds = self.seconds_left(now)
        whole = f"{self.done} of {self.total} jobs  {clock(now - self.began)}"
        whole += f"  {_about(seconds)} left" if seconds else ""
        blocks = (getattr(self.stream, "encoding", "") or "").lower().replace("-", "") == "utf8"
        return live_lines(rows, whole, size.columns - 1, size.lines, blocks)

    def _encoded(self, line: str) -> str:
        """The line without what the terminal has no characters for."""
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        return line.encode(encoding, "replace").decode(encoding)

    def seconds_left(self, now: float) -> float | None:
        """Of the whole, where that is known; a crawl has so many jobs that it is not counted anew at each look."""
        if self.cores is None or now < self.recount:
            return self.left
        running = {
            one.job.name: Running(now - one.began, left(Row("", 0, one.state, now - one.heard)))
            for one in self.running.values()
        }
        self.left = seconds_left(self.jobs.values(), self.known, self.took, running, self.cores)
        self.recount = now + max(COUNT_SECONDS, 100 * (time.monotonic() - now))
        return self.left

    # The end --------------------------------------------------------------------------------------

    def _give_up(self, error: Exception) -> None:
        """Leave the terminal to Snakemake."""
        self.broken = self.closed = True
        self.end.set()
        text = f"progress is not shown any more: {type(error).__name__}: {error}"
        self.stream.write(f"{self._erasing()}{printable(text)}\n")

    def close(self) -> None:
        """The last lines of a run; Snakemake closes its handlers when it has said everything else."""
        if not self.closed:
            self.closed = True
            self.end.set()
            with self._locked():
                self._close()
        super().close()

    def _close(self) -> None:
        self._write("")
        for record in [] if self.stopped else self.held:
            self._pass(record)
        lines = []
        if self.failed:
            lines += ["", *(f"FAILED {x.title}\n  " + "\n  ".join(x.lines) for x in _some(self.failed.values()))]
            if len(self.failed) > MOST_FAILURES:
                lines.append(f"and {len(self.failed) - MOST_FAILURES} more")
            lines.append("Run the same command again when that is mended: what is done stays.")
        elif self.stopped and self.done < self.total:
            lines.append("Stopped. Run the same command again: it goes on where it was.")
        elif self.done == self.total:
            lines.append(f"Done in {clock(time.monotonic() - self.began)}.")
        for text in lines:
            self._write(text)


def _status(text: str) -> int:
    """The exit status in Snakemake's words, with 128 more than its number for a signal, as shells have it."""
    match = ENDED.search(text)
    return 1 if match is None else int(match[1]) if match[1] else 128 + int(match[2])


def _some(failures: Iterable[Failure]) -> list[Failure]:
    return list(failures)[:MOST_FAILURES]


def _mark(log: str) -> tuple[int, ...] | None:
    """What tells a file from what it was and will be."""
    try:
        status = Path(log).stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _read(shown: Shown) -> None:
    """The end of the log, if it is a new one."""
    mark = _mark(shown.log) if shown.log else None
    if mark is not None and mark not in (shown.stale, shown.mark):
        try:
            state = read_state(shown.log)
        except OSError:  # removed meanwhile, or a file system that fails for a moment
            return
        shown.mark, shown.stale, shown.state, shown.heard = mark, None, state, time.monotonic()


def _size(stream: Any) -> os.terminal_size:
    try:
        size = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        size = os.terminal_size((80, 24))
    return size if size.columns > 1 and size.lines > 1 else os.terminal_size((80, 24))


def _about(seconds: float) -> str:
    """
    >>> _about(50), _about(70), _about(930), _about(9000)
    ('less than a minute', 'some 2 minutes', 'some 16 minutes', 'some 2.5 hours')
    """
    minutes = -(-round(seconds) // 60)
    if minutes <= 1:
        return "less than a minute"
    return f"some {minutes} minutes" if minutes < 100 else f"some {seconds / 3600:.1f} hours"
