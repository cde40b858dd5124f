import argparse
import math
import os
import re
import subprocess
import sys
import typing
from dataclasses import dataclass, fields
from pathlib import Path

import jsonschema
import pytest
import yaml
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from snakemake.utils import format as snakemake_format

import pipeline.__main__ as pipeline_stages
import train.__main__ as train_stages
from pipeline.common.cli import main
from pipeline.common.config import (
    ConfigError,
    add_arguments,
    flags,
    json_schema,
    option,
    read,
    to_data,
)
from pipeline.common.options_page import _sections, options_page
from pipeline.corpus.options import Dedup, Positives, Quality
from pipeline.extract.options import Extract
from train.config import Config, write_schema
from train.runs.options import Generate, Run

BACKBONE = {"source": "some/model"}
RUN = {"learning_rate": 1e-3}
RUNS = {"runs": {"a": RUN}}
DOMAINS = {"en": {"language": "en"}, "en-replay": {"language": "en"}, "fr": {"language": "fr"}}
GOOD = {"output": "x", "backbone": BACKBONE, "extend": RUNS, "domains": DOMAINS}


def test_all_errors_are_listed_at_once_with_key_and_cure():
    bad = GOOD | {
        "extrct": {},
        "evaluate": {"learning": "it"},
        "extract": {"min_chars": -3, "languages": "fr"},
        "extend": {"runs": {"a": {"learning_rate": 1, "method": "magic"}}},
    }
    with pytest.raises(ConfigError) as caught:
        read(Config, bad, "my.yaml")
    text = str(caught.value)
    assert len(text.splitlines()) == 4, text
    assert "my.yaml: extrct: unknown key; did you mean extract?" in text
    assert "extract.languages: expected a list of text, found 'fr'; write ['fr']" in text
    assert "extract.min_chars: -3 characters is too small; the least is 1 characters" in text
    assert "extend.runs.a.method: 'magic' is not a choice; choose one of finetune, " in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"evaluate": {"learning": "it"}}, "evaluate.learning: no domain 'it'"),
        ({"backbone": {}}, "backbone.source: give exactly one of source and pretrain"),
        (
            {"backbone": {"pretrain": {"learning_rate": 1e-3}}, "tokens": {"domain": "it"}},
            "tokens.domain: no domain 'it'",
        ),
        (
            {"backbone": {"pretrain": RUN, "settle": RUN | {"domain": "en"}}},
            "backbone.settle: only a source can be settled; give one",
        ),
        ({"backbone": BACKBONE | {"settle": RUN | {"domain": "it"}}}, "backbone.settle.domain: no domain 'it'"),
        ({"export": {"runs": ["b"]}}, "export.runs: no run 'b'; extend.runs has a"),
        (
            {"export": {"gguf": ["q9"]}},
            "export.gguf: 'q9' is no kind of GGUF file; choose of f32, f16, bf16, q8_0",
        ),
        ({"evaluate": {"control": "b"}}, "evaluate.control: no run 'b'; extend.runs has a"),
        ({"evaluate": {"control": "a"}}, "evaluate.control: a has old_rate 0.1; set it to 1"),
        (
            {"evaluate": {"control": "a"}, "extend": {"runs": {"a": RUN | {"old_rate": 1}}}},
            "evaluate.control: a is the only run; add one that learns",
        ),
        ({"extract": {"language_model": "no/such.bin"}}, "extract.language_model: no such file: no/such.bin"),
        (
            {"domains": DOMAINS | {"it": {"language": "it"}}},
            "domains.it.language: 'it' is not in extract.languages ['en', 'fr', 'de']; add it there",
        ),
        (
            {"domains": DOMAINS | {"it": {"language": "Italian"}}},
            "domains.it.language: the language model has no label 'Italian'; did you mean it?",
        ),
        (
            {"quality": {"positives": {"fra": {"urls": "a"}}}},
            "quality.positives.fra: the language model has no label 'fra'; did you mean fr?",
        ),
        (
            {"domains": DOMAINS | {"x": {"language": "fr", "urls": "("}}},
            "domains.x.urls: not a regular expression",
        ),
        ({"output": 3}, "output: expected text, found 3; put it in quotes"),
        (
            {"tokens": {"row_tokens": "64"}},
            "row_tokens: expected a whole number, found '64'; write 64 without quotes",
        ),
        ({"near": {"enabled": "True"}}, "near.enabled: expected true or false, found 'True'; write true without"),
        (
            {"extend": {"runs": {"a": {}}}},
            "extend.runs.a.learning_rate: missing; give a number: peak learning rate",
        ),
        ({"crawl": {"warcs": ["no/*.gz"]}}, "crawl.warcs: no file matches no/*.gz"),
        ({"crawl": {"warcs": [__file__, __file__]}}, "test_config.py is named twice"),
    ],
)
def test_each_wrong_value_names_its_key(change, message):
    with pytest.raises(ConfigError, match=r".") as caught:
        read(Config, GOOD | change)
    assert message in str(caught.value)


def test_every_wrong_language_is_named_at_once():
    changes = {
        "extract": {"languages": ["french", "en", "gallo"]},
        "domains": DOMAINS | {"fr": {"language": "french"}, "x": {"language": "de"}, "y": {"language": "gallo"}},
        "crawl": {"texts": [{"files": [__file__], "language": name} for name in ("gallo", "german")]},
    }
    with pytest.raises(ConfigError) as caught:
        read(Config, GOOD | changes)
    lines = [line for line in str(caught.value).split("\n") if "crawl.texts: files" not in line]
    assert [line.partition(": ")[2].partition(": ")[0] for line in lines if ".files" not in line] == [
        "extract.languages[0]",
        "crawl.texts[1].language",
        "domains.fr.language",
        "domains.x.language",
    ]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        *(({"output": name}, "output") for name in ("", "{run}", "<logs>", "a\nb", "a\x1bb", "a\rb", "a\udcffb",
                                                       "a/" + "é" * 128)),
        *(({"extend": {"runs": {name: RUN}}}, f"extend.runs.{name}")
          for name in ("..", ".", "", "-x", "@x", "a/b", "a b", "$(x)", "backbone", "source", "a.part",
                       "a.checkpoints", "é" * 101, False, None, 1.1)),
        *(({"paper": {"runs": {name: RUN}}}, f"paper.runs.{name}") for name in ("..", "backbone")),
        *(({"domains": DOMAINS | {name: {"language": "fr"}}}, f"domains.{name}")
          for name in ("..", "-x", "a=b", "a/b", "backbone.txt", "runs.txt")),
        *(({"extract": {"languages": ["en", "fr", name]}}, "extract.languages[2]")
          for name in ("..", "--output", "a.b", "a/b", "", "fr")),
        ({"domains": DOMAINS | {"x": {"language": "../fr", "corpus": "."}}}, "domains.x.language"),
        ({"filter": {"decontaminate": {"sets": {"x": "{y}.txt"}}}}, "filter.decontaminate.sets.x"),
        ({"quality": {"models": {"fr": "a\nb"}}}, "quality.models.fr"),
        ({"crawl": {"texts": [{"files": ["s3://a/b.jsonl"], "language": "-x"}]}}, "crawl.texts[0].language"),
        ({"evaluate": {"tasks": ["{x}.yaml"]}}, "evaluate.tasks[0]"),
        ({"evaluate": {"tasks": ["mmlu", "x/mmlu.yaml"]}}, "evaluate.tasks[1]: x/mmlu.yaml"),
        ({"evaluate": {"prompts": ["a\0b"]}}, "evaluate.prompts[0]"),
        ({"report": {"title": "\x1b]0;x\7"}}, "report.title"),
        ({"domains": DOMAINS | {"fr": {"language": "fr", "urls": "é" * 2**15 + "x"}}}, "domains.fr.urls"),
        ({"crawl": {"texts": [{"files": ["x" * 256 + ".jsonl"]}]}}, "File name too long"),
    ],
)  # fmt: skip
def test_a_name_or_text_that_would_be_something_else_is_refused_by_its_key(change, key):
    with pytest.raises(ConfigError) as caught:
        read(Config, GOOD | {"extract": {"languages": ["en", "fr"]}} | change)
    wrong = [line for line in str(caught.value).splitlines() if line.startswith(f"config: {key}: ")]
    assert wrong and all(line.isprintable() for line in wrong), caught.value


def test_names_and_paths_that_look_odd_are_allowed(tmp_path):
    odd = str(tmp_path / 'it\'s "$(touch x)" `y`; -z & @ * ~ \\ é')
    Path(odd).mkdir()
    (Path(odd) / "-x.txt").touch()
    change = {
        "output": odd,
        "extract": {"languages": ["en", "fr", "zh-yue", "fra_Latn"], "language_model": odd},
        "domains": DOMAINS | {"größe_1.5-x": {"language": "fra_Latn"}},
        "extend": {"runs": {"größe_1.5-x": RUN, "_": RUN}},
        "filter": {"decontaminate": {"sets": {"x": f"{odd}/-x.txt"}}},
        "evaluate": {"prompts": ["two\nlines\t{x} <y>", ""]},
    }
    assert read(Config, GOOD | change).output == odd


def numeric_options():
    """Every option of both wings that is a number or has numbers in it: (class, field)."""
    stages = {stage.options for wing in (pipeline_stages.STAGES, train_stages.STAGES) for stage in wing}
    classes = list(dict.fromkeys([*_sections(Config, "", {}), *filter(None, stages)]))
    for cls in sorted(classes, key=lambda cls: cls.__name__):
        hints = typing.get_type_hints(cls)
        for field in fields(cls):
            parts = {hints[field.name], *typing.get_args(hints[field.name])}
            if parts & {int, float}:
                yield pytest.param(cls, field, float if float in parts else int, id=f"{cls.__name__}.{field.name}")


@pytest.mark.parametrize(("cls", "field", "kind"), numeric_options())
def test_a_number_out_of_bounds_is_refused_by_its_key_and_one_at_a_bound_is_not(cls, field, kind):
    rule, many = field.metadata, field.type.startswith("list")
    base = {"crawl": "CC-MAIN-2026-30", "languages": ["fra"], "learning_rate": 1e-3, "hidden_size": 2**16}
    base = {key: value for key, value in base.items() if key in {f.name for f in fields(cls)}}
    schema = json_schema(cls)["properties"][field.name]

    def problems(value):
        try:
            read(cls, base | {field.name: [value] if many else value})
        except ConfigError as error:
            return [line for line in str(error).splitlines() if line.startswith(f"config: {field.name}")]
        return []

    step = 1 if kind is int else 1e-9
    low, high = rule["low"], rule["high"]
    least, most = (rule["above"] if low is None else low), (rule["below"] if high is None else high)
    assert least is not None, "without a lower bound"
    assert kind is float or most is not None or not problems(2**63 - 1)
    outside = [least - step, *[rule[name] for name in ("above", "below") if rule[name] is not None]]
    outside += [most * 1.001 if kind is float else most + 1] if most is not None else []
    for value in (*outside, math.nan, math.inf, -math.inf, "nan", ".nan", "-inf", "1e400", "x", True, [], {}):
        assert problems(value), value
    for value in (2**63, 10**400, 10**5000, -(10**400)):
        assert problems(value) or (kind is float and most is None), value
        assert all(len(line) < 400 for line in problems(value))
    for value in (low, high):
        if value is not None:
            assert not problems(kind(value)), value
            jsonschema.validate([kind(value)] if many else kind(value), schema)
    for value in outside:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate([kind(value)] if many else kind(value), schema)


def test_numbers_of_the_command_line_have_bounds_too(capsys):
    for wing in (pipeline_stages, train_stages):
        for stage in wing.STAGES:
            for file in stage.files:
                assert file.kind is str or (file.low, file.above) != (None, None), (stage.name, file.name)
    for value, problem in (("nan", "not finite"), ("0", "more than 0"), ("1.01", "the most is 1")):
        assert main("train", "", train_stages.STAGES, ["cost", "--configfile", "x", f"--mfu={value}"]) == 1
        assert re.search(f"command line: mfu: .*{problem}", capsys.readouterr().err)
    words = ["--model=x", "--prompt=x", "--temperature=nan", "--top-p=-1", "--seed=4294967296"]
    assert main("train", "", train_stages.STAGES, ["generate", *words]) == 1
    found = capsys.readouterr().err
    assert all(f"command line: {key}: " in found for key in ("temperature", "top_p", "seed"))
    assert (
        problem_of(Generate, temperature=1e-30)
        == "temperature: 1e-30 is neither 0 nor 0.01 or more; give one of these"
    )


def problem_of(cls, **options):
    with pytest.raises(ConfigError) as caught:
        read(cls, options)
    return str(caught.value).removeprefix("config: ")


def test_missing_required_key_is_named():
    with pytest.raises(ConfigError, match=r"output: missing"):
        read(Config, {key: value for key, value in GOOD.items() if key != "output"})


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])) | st.text("-@'\"$(){}<>`\\\n\t *=x")
TEXT = TEXT.filter(lambda text: text != "--")  # bad_texts() refuses it


@settings(max_examples=60, deadline=None)
@given(
    model=TEXT,
    score=st.floats(0, 1),
    languages=st.lists(TEXT, max_size=4),
    positives=st.dictionaries(TEXT, st.builds(Positives, files=st.lists(TEXT))),
)
def test_options_come_back_the_same_through_snakemake_bash_and_argparse(model, score, languages, positives):
    """Whatever their texts are: empty, with quotes and line feeds, like a flag, a command or a wildcard."""
    for options in (Extract(language_model=model, language_min_score=score, languages=languages),
                    Quality(positives=positives)):  # fmt: skip
        script = f"printf '%s\\0' {snakemake_format('{words:q}', words=flags(options))}"
        done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
        parser = argparse.ArgumentParser()
        add_arguments(parser.add_argument_group(), type(options))
        given = vars(parser.parse_args(done.stdout.decode().split("\0")[:-1]))
        assert all(given[key] == value for key, value in to_data(options).items() if value is not None)


@pytest.mark.parametrize("cls", [Extract, Dedup, Quality, Config, Run])
def test_every_option_is_documented(cls):
    assert all(field.metadata.get("doc") for field in fields(cls))


@pytest.mark.slow
def test_mypy_finds_a_default_that_is_not_of_the_fields_type(tmp_path):
    api = pytest.importorskip("mypy.api")
    code = """from pipeline.common.config import option
class Part: ...
class Whole:
    a: int | None = option(None, "a number", low=0)
    b: list[str] = option([])
    c: float | str = option(1, "a number or a word")
    d: Part = option(Part(), "a section")
    e: str = option(doc="must be given")
    f: int = option("many", "wrong")
    g: list[str] = option([3], "wrong")
    h: str = option(None, "wrong")
    i: Part = option(Part, "wrong")
"""
    (tmp_path / "snippet.py").write_text(code)
    found, _, _ = api.run(["--config-file=", f"--cache-dir={tmp_path}", str(tmp_path / "snippet.py")])
    assert re.findall(r"snippet\.py:(\d+): error", found) == ["9", "10", "11", "12"], found


def test_yaml_floats_without_a_dot_are_numbers():
    assert read(Run, yaml.safe_load("learning_rate: 1e-3")).learning_rate == 1e-3


def test_alpha_is_a_number_or_auto():
    rate = {"learning_rate": 1e-3}
    assert [read(Run, rate | {"alpha": value}).alpha for value in ("1e1", 3, "auto")] == [10.0, 3.0, "auto"]
    for value, problem in ((-1, "-1.0 is too small"), ("much", "'much' is no number"), ([], "number or text")):
        with pytest.raises(ConfigError, match=f"alpha: .*{problem}"):
            read(Run, rate | {"alpha": value})
    parser = argparse.ArgumentParser()
    add_arguments(parser.add_argument_group(), Run)
    given = vars(parser.parse_args(["--learning-rate", "1", "--alpha", "auto"]))
    assert "--alpha=auto" in flags(read(Run, given))


def test_bool_is_no_number():
    @dataclass(frozen=True)
    class One:
        count: int = option(1, "a count")

    with pytest.raises(ConfigError, match="count: expected a whole number, found True"):
        read(One, {"count": True})


def test_the_schema_for_editors_and_the_page_of_options_are_up_to_date(tmp_path):
    write_schema(str(tmp_path / "schema.json"), str(tmp_path / "options.md"))
    for shipped in ("configs/schema.json", "docs/options.md"):
        made = (tmp_path / Path(shipped).name).read_text()
        assert (ROOT / shipped).read_text() == made, "run: python -m train schema"


def test_a_page_of_options_says_all_of_each():
    @dataclass(frozen=True)
    class Part:
        """A part."""

        size: int = option(3, "how large, in `units` | steps", unit="bytes", low=0, high=2000)

    @dataclass(frozen=True)
    class Whole:
        """All of it."""

        kind: str = option(doc="which", choices=("a", "b"))
        part: Part = option(Part(), "a part")
        parts: dict[str, Part] = option({}, "more of them")

    text = options_page(Whole)
    assert "| `kind` | text |  | **required** | `a`, `b` | which |\n" in text
    assert "| `part` | [part](#part) |  |  |  | a part |\n" in text
    assert "\n## part\n\nA part.\n" in text
    assert "| `size` | whole number | bytes | `3` | 0 to 2,000 | how large, in `units` \\| steps |\n" in text
    assert "| `parts` | [mapping of names to part](#part) |  | `{}` |  | more of them |\n" in text


@pytest.mark.parametrize("wing", ["pipeline", "train"])
def test_help_imports_nothing_heavy(wing):
    heavy = ("torch", "transformers", "pyarrow", "numpy", "distributed", "fasttext", "altair")
    code = f"""
import runpy, sys
sys.argv = ["x", "--help"]
try: runpy.run_module("{wing}", run_name="__main__")
except SystemExit: pass
print(sorted(set({heavy!r}) & set(sys.modules)))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_what_torch_compiles_is_kept_where_no_other_user_may_write(tmp_path):
    code = """
import os, runpy, sys
sys.argv = ["x", "--help"]
try: runpy.run_module("train", run_name="__main__")
except SystemExit: pass
print(os.environ.get("TORCHINDUCTOR_CACHE_DIR"))"""
    for own, kept in (({}, f"{tmp_path}/.cache/torchinductor"), ({"TORCHINDUCTOR_CACHE_DIR": "mine"}, "mine")):
        others = {key: value for key, value in os.environ.items() if key != "TORCHINDUCTOR_CACHE_DIR"}
        environment = {**others, "HOME": str(tmp_path), **own}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True,
                              env=environment)  # fmt: skip
        assert done.stdout.splitlines()[-1] == kept
    environment = {**others, "HOME": f"{tmp_path}/none", "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True,
                          env=environment)  # fmt: skip
    assert Path(done.stdout.splitlines()[-1]).parent == tmp_path
    assert not list(tmp_path.iterdir())
