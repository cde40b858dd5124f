import json

import pytest
from conftest import ROOT

from pipeline.common.config import ConfigError, read
from pipeline.common.yaml_file import load_yaml
from pipeline.crawl.options import Crawl

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 30)
)
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 300))


@pytest.fixture
def load(tmp_path):
    def load(text):
        path = tmp_path / "my.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_yaml(path)

    return load


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/**/*.yaml")), ids=lambda path: path.name)
def test_every_shipped_file_is_loaded(path):
    assert load_yaml(path)


def test_aliases_and_merges_of_ordinary_size_are_those_of_yaml(load):
    text = "runs:\n  a: &run {rate: 1e-3, steps: 2}\n  b: {<<: *run, steps: 3}\n  c: *run\n"
    a = {"rate": "1e-3", "steps": 2}
    assert load(text) == {"runs": {"a": a, "b": a | {"steps": 3}, "c": a}}
    assert load("") == {}
    assert len(load(f"a: [{'1, ' * 20_000}]")["a"]) == 20_000


def test_json_is_read_as_json(tmp_path):
    data = {"report": {"title": "\N{GRINNING FACE}"}}
    (tmp_path / "my.json").write_text(json.dumps(data, indent="\t"))
    assert load_yaml(tmp_path / "my.json") == data
    for text, problem in (("[1]", "my.json: expected keys and values, found a list"), ("{", "my.json: damaged")):
        (tmp_path / "my.json").write_text(text)
        with pytest.raises(ConfigError, match=problem):
            load_yaml(tmp_path / "my.json")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (LAUGHS, "line 5: stands for more than 50,000 values; repeat less by aliases"),
        (MERGES, "stands for more than 50,000 values"),
        (CHAIN, "nested deeper than 50"),
        ("a: &a [*a]", "nested deeper than 50, or in itself"),
        ("a: " + "[" * 500 + "]" * 500, "nested deeper than 50"),
        ("a: " + "x" * 2**18, "longer than 262,144 bytes"),
        ("? " + "x" * 2000 + "\n: 1", "line 1: a key of more than 1000 characters"),
        ("a: {b: 1,\n  c: 2, b: 3}", "line 2: 'b' stands twice in one mapping; take one away"),
        ("a: 1\n'a': 2", "line 2: 'a' stands twice"),
        ("- a\n- b", "expected keys and values, found a list"),
        ("just words", "expected keys and values, found a str"),
        ("a: 2026-13-01", "not valid YAML: month must be in"),
        ("a: " + "9" * 5000, "line 1: a number of more than 1000 characters"),
        ("a: 1" + ":1" * 100_000, "line 1: a number of more than 1000 characters"),
        ("a: 0x" + "f" * 5000, "line 1: a number of more than 1000 characters"),
        ("a: 1" + ":1" * 400 + ".5", "not valid YAML: int too large"),
        ('a: "\\UFFFFFFFF"', "not valid YAML: Python int too large"),
        ("a: !!bool x", "not valid YAML: 'x'"),
        ("a: !!int ''", "not valid YAML: string index out of range"),
        ("a: !!timestamp x", "not valid YAML: 'NoneType' object"),
        ("a: !!python/object/apply:os.system [true]", "not valid YAML: could not determine a constructor"),
        (b"a: \xff", "not valid YAML: 'utf-8' codec"),
        ("a: [", "not valid YAML"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_sound_is_refused_at_once(text, problem, load):
    with pytest.raises(ConfigError, match=f"my.yaml: .*{problem}"):
        load(text)


def test_errors_are_short_and_few():
    with pytest.raises(ConfigError) as caught:
        read(Crawl, {f"key{i}": i for i in range(20_000)} | {"cache": ["x" * 10**6], "connections": 1 << 10**6})
    text = str(caught.value)
    assert len(text) < 20_000
    assert text.endswith("config: and 19952 more")
