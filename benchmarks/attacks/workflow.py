"""Attacks by way of the workflow: names and texts that become words of a shell, and who may give a stage work."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from multiprocessing import Process
from pathlib import Path
from typing import Any

from benchmarks.attacks.run import Outcome, stage

MARK = "PWNED"  # the file that an attack makes where it succeeds
PROJECT = ("Snakefile", "pipeline", "train", "models", "configs", "profiles")
WORK = """import os, pathlib, time
from pipeline.common.engine import map_items

def mark_and_wait(name):
    pathlib.Path(f"pid-{name}-{os.getpid()}").touch()
    time.sleep(300)

if __name__ == "__main__":
    map_items(mark_and_wait, ["a", "b"], 2, None, "work", "items")
"""
ESCAPE = "\x1b]0;another title\x07"


def command_in_a_file_name(folder: Path) -> Outcome:
    """A text file that a glob finds, with a command in its name."""
    done = _workflow(_config("x*.jsonl", f"x$(touch {MARK}).jsonl"), "out/pages/00000.json")
    return _not_run(folder, done)


def command_in_the_output(folder: Path) -> Outcome:
    """A config with a command in the name of its output folder."""
    config = _config("x.jsonl", "x.jsonl") | {"output": f"out $(touch {MARK})"}
    done = _workflow(config, f"out $(touch {MARK})/pages/00000.json")
    return _not_run(folder, done)


def command_in_a_source(folder: Path) -> Outcome:
    """A config with a command in the revision of its backbone."""
    config = _config("x.jsonl", "x.jsonl")
    config["backbone"] = {"source": "no/model", "revision": f"$(touch {MARK})"}
    return _not_run(folder, _workflow(config, "out/backbone"))


def command_in_a_pattern(folder: Path) -> Outcome:
    """A config with a command behind a quote in the regular expression of the tokenizer's sites."""
    config = _config("x.jsonl", "x.jsonl")
    config["backbone"] = {"pretrain": {"learning_rate": 1e-3}}
    config["domains"]["en"] |= {"urls": f".'$(touch {MARK})'", "corpus": "corpus"}
    shard = Path("corpus/en/train-00000.arrow")
    shard.parent.mkdir(parents=True)
    shard.touch()
    return _not_run(folder, _workflow(config, "out/tokenizer"))


def wildcard_in_a_file_name(folder: Path) -> Outcome:
    """A text file that a glob finds, with a wildcard of Snakemake in its name."""
    done = _workflow(_config("x*.jsonl", "x{batch}.jsonl"), "out/pages/00000.json")
    return _works_or_one_line(done)


def bytes_in_a_file_name(folder: Path) -> Outcome:
    """A text file that a glob finds, with a name that is no UTF-8."""
    name = os.fsdecode(b"x\xff.jsonl")
    return _works_or_one_line(_workflow(_config("x*.jsonl", name), "out/pages/00000.json"))


def line_break_in_a_file_name(folder: Path) -> Outcome:
    """A text file that a glob finds, with a line break in its name."""
    return _works_or_one_line(_workflow(_config("x*.jsonl", "x\ny.jsonl"), "out/pages/00000.json"))


def escape_codes_in_a_file_name(folder: Path) -> Outcome:
    """A text file that a glob finds, with a terminal's control sequence in its name."""
    config = _config("x*.jsonl", f"x{ESCAPE}.jsonl")
    del config["crawl"]["texts"][0]["language"]  # so that the job fails, and its inputs are printed
    done = _workflow(config, "out/pages/00000.json")
    shown = ESCAPE in done.stdout + done.stderr
    return not shown, "the terminal got it as it is" if shown else "shown as text"


def domain_called_dot_dot(folder: Path) -> Outcome:
    """A config with a domain of the name `..`, whose rows lie outside their folder."""
    config = _config("x.jsonl", "x.jsonl")
    config["domains"][".."] = {"language": "fr"}
    config["extend"]["new"] = config["evaluate"]["learning"] = ".."
    return _refused(_workflow(config, "-n", "tokens"))


def run_called_backbone(folder: Path) -> Outcome:
    """A config with a run of the name `backbone`, whose evaluation would take the place of the backbone's."""
    config = _config("x.jsonl", "x.jsonl")
    config["extend"]["runs"] = {"backbone": {"learning_rate": 1e-3}}
    return _refused(_workflow(config, "-n", "tokens"))


def python_in_a_config(folder: Path) -> Outcome:
    """A config that says __use_yte__, so that Snakemake runs Python that is in it."""
    Path("config.yaml").write_text(_yte())
    return _not_run(folder, _snakemake("-n", "tokens"))


def python_in_a_config_to_plan(folder: Path) -> Outcome:
    """The same config, of which `python -m pipeline plan` makes a small corpus to measure."""
    _project()
    Path("a.warc.gz").touch()
    Path("config.yaml").write_text(_yte() + "crawl: {warcs: [a.warc.gz]}\n")
    done = stage("pipeline", "plan", "--configfile", "config.yaml", "--cores", "1")
    return _not_run(folder, done)


def work_from_another_user(folder: Path) -> Outcome:
    """While a stage works with two processes, another user of the machine gives them work."""
    from pipeline.common.engine import map_items

    attacker = Process(target=_give_work, args=(os.getpid(), str(folder / MARK)))
    attacker.start()
    map_items(time.sleep, [10.0, 10.0], 2, None, "work", "items")
    attacker.join(20)
    attacker.kill()
    done = (folder / MARK).exists()
    return not done, "code of the other ran" if done else "nothing to connect to"


def workers_after_a_kill(folder: Path) -> Outcome:
    """The parent of two workers is killed: do they work on?"""
    Path("work.py").write_text(WORK)
    parent = subprocess.Popen([sys.executable, "work.py"], stderr=subprocess.DEVNULL)
    while len(marks := list(folder.glob("pid-*"))) < 2 and parent.poll() is None:
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    workers = [int(mark.name.rpartition("-")[2]) for mark in marks]
    if len(workers) < 2:
        return False, "they did not start"
    deadline = time.monotonic() + 20
    while (left := sum(Path(f"/proc/{pid}").exists() for pid in workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not left, f"{left} of {len(workers)} still there after 20 s"


def _give_work(victim: int, mark: str) -> None:
    """Give work to every dask scheduler that the victim opens within some seconds."""
    from distributed import Client

    deadline, tried = time.monotonic() + 15, set()
    while time.monotonic() < deadline and not Path(mark).exists():
        for port in _listening(victim) - tried:
            tried.add(port)
            with contextlib.suppress(Exception), Client(f"tcp://127.0.0.1:{port}", timeout=2) as client:
                client.submit(Path(mark).touch).result(timeout=5)
        time.sleep(0.1)


def _listening(pid: int) -> set[int]:
    """The TCP ports of the machine at which a process listens."""
    links = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            links.append(str(descriptor.readlink()))
    ports = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[3] == "0A" and f"socket:[{words[9]}]" in links:
            ports.add(int(words[1].rpartition(":")[2], 16))
    return ports


def _project() -> None:
    """The attacked version's workflow in this folder."""
    import pipeline

    checkout = Path(pipeline.__file__ or "").parents[1]
    for name in PROJECT:
        Path(name).symlink_to(checkout / name)


def _config(pattern: str, name: str) -> dict[str, Any]:
    """A config with one file of French text, of this name, that `pattern` finds."""
    texts = [f"Le chat numéro {i} dort sur la chaise. " * 9 for i in range(5)]
    Path(name).write_text(
        "".join(json.dumps({"text": text, "url": "https://a.example/"}) + "\n" for text in texts)
    )
    Path("model.bin").touch()  # not read: the language is given
    return {
        "output": "out",
        "extract": {"languages": ["en", "fr"], "language_model": "model.bin"},
        "crawl": {"texts": [{"files": [pattern], "language": "fr"}]},
        "domains": {"en": {"language": "en"}, "fr": {"language": "fr"}},
        "backbone": {"source": "no/model"},
        "extend": {"old": "en", "new": "fr", "runs": {"a": {"learning_rate": 1e-3}}},
        "evaluate": {"forgetting": "en", "learning": "fr"},
    }


def _yte() -> str:
    """A config with Python, for the templates that Snakemake fills in."""
    return f'__use_yte__: true\n\'?__import__("pathlib").Path("{MARK}").touch() or "report"\': {{}}\n'


def _workflow(config: dict[str, Any], *arguments: str) -> subprocess.CompletedProcess[str]:
    Path("config.yaml").write_text(json.dumps(config))
    return _snakemake(*arguments)


def _snakemake(*arguments: str) -> subprocess.CompletedProcess[str]:
    _project()
    command = [sys.executable, "-m", "snakemake", "--cores=1", "--nolock", "--configfile=config.yaml", *arguments]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)


def _not_run(folder: Path, done: subprocess.CompletedProcess[str]) -> Outcome:
    made = list(folder.rglob(MARK))
    return not made, f"{'the command ran' if made else 'not run'}, status {done.returncode}"


def _works_or_one_line(done: subprocess.CompletedProcess[str]) -> Outcome:
    if done.returncode == 0:
        return True, "works"
    refused = "rename it" in done.stderr + done.stdout
    return refused, "refused in one line" if refused else f"fails, status {done.returncode}"


def _refused(done: subprocess.CompletedProcess[str]) -> Outcome:
    refused = re.search("choose another name|a name is made of", done.stdout + done.stderr)
    return bool(refused), "refused in one line" if refused else f"not refused, status {done.returncode}"
