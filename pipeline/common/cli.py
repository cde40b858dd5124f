"""The command line that both wings share: a table of stages becomes `python -m WING STAGE`."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.common.config import ConfigError, add_arguments, bad_values, read
from pipeline.common.errors import StageError
from pipeline.common.shown import printable, printable_lines


@dataclass(frozen=True)
class File:
    """An argument that names files, or a single value. `flag`: given as `--name`; otherwise by its position.

    low, high, above: bounds of a number, as `option()` has them.
    """

    name: str
    doc: str
    many: bool = False
    kind: type = str
    default: Any = None
    required: bool = True
    metavar: str = ""
    flag: bool = True
    low: float | None = None
    high: float | None = None
    above: float | None = None


@dataclass(frozen=True)
class Stage:
    """One stage: `run` is 'module:function', called with the files by name and, if any, `options`.

    `section` is the key of a config (with dots: a key in a key) that holds the options, so that `--configfile`
    can be given by hand. `example` ends the help.
    """

    name: str
    doc: str
    run: str
    files: tuple[File, ...]
    options: type | None = None
    section: str = ""
    example: str = ""


def main(wing: str, doc: str, stages: Sequence[Stage], argv: Sequence[str] | None = None) -> int:
    """Run one stage; returns its exit status. A wrong use (2) or an error of the stage (1) is one clear line."""
    start_logging()
    arguments = vars(make_parser(wing, doc, stages).parse_args(argv))
    name = arguments.pop("stage")
    stage = next(s for s in stages if s.name == name)
    try:
        values = {f.name: arguments.pop(f.name) for f in stage.files}
        _check_numbers(stage, values)
        values |= {f.name: list(_expand_lists(values[f.name])) for f in stage.files if _is_list(f)}
        values |= {f.name: f.default for f in stage.files if _is_left_out(f, values[f.name])}
        if stage.options is not None:
            values["options"] = _options(stage, stage.options, arguments)
        module, function = stage.run.split(":")
        getattr(importlib.import_module(module), function)(**values)
    except ConfigError as error:  # one line for each wrong key
        problem = str(error)
    except StageError as error:  # the message of a library in it may have many lines
        problem = " ".join(str(error).splitlines())
    except OSError as error:  # full disk, missing file, read-only folder: the system's words say it best
        problem = " ".join(f"{error.strerror or error}: {error.filename or ''}".splitlines())
    else:
        return 0
    print(f"{wing} {stage.name}: {printable_lines(problem)}", file=sys.stderr)
    return 1


def make_parser(wing: str, doc: str, stages: Sequence[Stage]) -> argparse.ArgumentParser:
    """The parser of a wing's command line."""
    parser = argparse.ArgumentParser(f"python -m {wing}", description=doc)
    commands = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    for stage in stages:
        _add_stage(commands, stage)
    return parser


class Printable(logging.LogRecord):
    """What is logged: no message moves a cursor or begins a line of its own, and none has secrets.

    A record and no formatter, since libraries such as transformers have handlers of their own.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        if self.exc_info:
            self.exc_text = printable_lines(logging.Formatter().formatException(self.exc_info))

    def getMessage(self) -> str:
        return printable(super().getMessage())


def start_logging() -> None:
    """How this process and its workers log."""
    logging.setLogRecordFactory(Printable)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for chatty in ("distributed", "httpx", "httpx2", "filelock", "datasets", "gguf"):
        logging.getLogger(chatty).setLevel(logging.ERROR)


def _check_numbers(stage: Stage, values: Mapping[str, Any]) -> None:
    """Raises ConfigError for numbers out of their bounds."""
    problems = [
        problem for file in stage.files for problem in bad_values(values[file.name], vars(file), file.name)
    ]
    if problems:
        raise ConfigError("\n".join(f"command line: {problem}" for problem in problems))


def _is_list(file: File) -> bool:
    """Whether the argument takes `@LIST` too: where it names several things, but is no free text."""
    return file.many and file.kind is str and file.metavar != "TEXT"


def _is_left_out(file: File, value: Any) -> bool:
    """Whether the value of an argument stands for none: a rule has none for it."""
    return value == "" and not (file.required or file.many)


def list_argument(files: str) -> str:
    """For the `shell:` of a rule, the `@LIST` of the files of a placeholder such as `input.hashes`.

    printf is a builtin of bash, so that no number of names is too long for it. In the list a zero byte ends each
    name, which no name can hold.

    >>> list_argument("input.hashes")
    "@<(printf '%s\\\\0' {input.hashes:q})"
    """
    return f"@<(printf '%s\\0' {{{files}:q}})"


def _expand_lists(paths: Iterable[str]) -> Iterator[str]:
    """The names, and for each `@name` those in the file `name`: each ended by a zero byte, or one a line.

    A whole crawl has more files than a command line may name.
    """
    for path in paths:
        if path.startswith("@"):
            with open(path[1:], "rb") as file:  # noqa: PTH123
                listed = file.read().decode("utf-8", "surrogateescape")
            names = listed.split("\0") if "\0" in listed else map(str.strip, listed.split("\n"))
            yield from filter(None, names)
        else:
            yield path


def _add_stage(commands: Any, stage: Stage) -> None:
    command = commands.add_parser(
        stage.name,
        help=stage.doc,
        description=stage.doc,
        epilog=stage.example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    files = command.add_argument_group("files")
    for file in stage.files:
        if not file.flag:
            files.add_argument(file.name, help=file.doc, type=file.kind, metavar=file.metavar or file.name.upper())
            continue
        doc = f"{file.doc}; or @LIST, a file of them, one a line or each ended by a zero byte"
        doc = doc if _is_list(file) else file.doc
        keywords: dict[str, Any] = {"help": doc, "type": file.kind, "dest": file.name}
        if file.many:
            keywords["nargs"] = "+" if file.required else "*"
        metavar = file.metavar or ("N" if file.kind is int else "PATH")
        files.add_argument(
            f"--{file.name.replace('_', '-')}",
            required=file.required and file.default is None,
            default=file.default if file.default is not None else ([] if file.many else None),
            metavar=metavar,
            **keywords,
        )
    if stage.options is not None:
        group = command.add_argument_group("options", "The same keys as in the config.")
        if stage.section:
            text = f"take the options from the section `{stage.section}` of a config"
            group.add_argument("--configfile", metavar="YAML", help=text)
        add_arguments(group, stage.options)


def _options(stage: Stage, cls: type, given: dict[str, Any]) -> Any:
    """The stage's options: those of --configfile, if given, with the flags on top."""
    config = given.pop("configfile", None)
    data: Any = {}
    if config:
        from pipeline.common.yaml_file import load_yaml

        data = load_yaml(config)
        for key in stage.section.split("."):
            data = (data.get(key) or {}) if isinstance(data, dict) else data
    section = stage.section if config else ""
    return read(cls, data | given if isinstance(data, dict) else data, config or "command line", section)
