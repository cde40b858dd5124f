import re

import pytest

from pipeline.workflow import fingerprint as module

CODE = {
    "pipeline/a.py": (
        "from pipeline import b\nfrom pipeline.b import LIMIT\nfrom pipeline.options import Near\nimport os\n"
        "def f(options: Near):\n    return b.g() + LIMIT\n"
        "def other():\n    return 1\n"
    ),
    "pipeline/b.py": (
        "LIMIT = 3\nRULES = {}\n"
        "def rule(f):\n    RULES[f.__name__] = f\n    return f\n"
        "def g():\n    from train.c import h\n    return h() + len(RULES)\n"
        "@rule\ndef registered():\n    return 1\n"
        "def unused():\n    return 1\n"
    ),
    "pipeline/options.py": (
        "from dataclasses import dataclass\nfrom pipeline.config import option\n"
        "@dataclass\nclass Near:\n    bands: int = option(9, 'how many', unit='bands', low=1)\n"
        "    def problems(self):\n        yield 'bands', 'odd'\n"
        "@dataclass\nclass Other:\n    x: int = option(1, 'x')\n"
    ),
    "pipeline/config.py": "def option(default, doc, **rest):\n    return default\n",
    "train/c.py": "def h():\n    return 1\n",
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Writes the project with some texts replaced, (path, old, new), and gives the fingerprint of pipeline.a:f."""
    monkeypatch.setattr(module, "ROOT", tmp_path)

    def write(*changes, stage="pipeline.a:f"):
        for cache in (module.fingerprint, module._read, module._statement, module._parse):
            cache.cache_clear()
        for path, text in CODE.items():
            for changed, old, new in changes:
                if changed == path:
                    assert old in text
                    text = text.replace(old, new)
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_text(text)
        return module.fingerprint(stage)

    yield write
    for cache in (module.fingerprint, module._read, module._statement, module._parse):
        cache.cache_clear()


@pytest.mark.parametrize(
    "change",
    [
        ("train/c.py", "return 1", "return 2"),
        ("pipeline/b.py", "LIMIT = 3", "LIMIT = 4"),
        ("pipeline/b.py", "def registered():\n    return 1", "def registered():\n    return 2"),
        ("pipeline/b.py", "return f", "return None"),
        ("pipeline/options.py", "option(9,", "option(10,"),
        ("pipeline/options.py", "bands: int", "bands: float"),
    ],
    ids=["late import", "constant", "registered by a decorator", "decorator", "default", "type of an option"],
)
def test_what_a_stage_reaches_counts(project, change):
    assert project() != project(change)


@pytest.mark.parametrize(
    "change",
    [
        ("pipeline/a.py", "def other():\n    return 1", "def other():\n    return 2"),
        ("pipeline/b.py", "def unused():\n    return 1", "def unused():\n    return 2"),
        ("pipeline/options.py", "'how many'", "'how many bands there are'"),
        ("pipeline/options.py", "unit='bands', low=1", "low=2"),
        ("pipeline/options.py", "yield 'bands', 'odd'", "yield 'bands', 'even'"),
        ("pipeline/options.py", "option(1, 'x')", "option(2, 'x')"),
        ("train/c.py", "def h():", '"""Why."""\n# a comment\ndef h( ) -> int:\n    """Doc."""'),
    ],
    ids=["another stage", "unused", "help text", "unit and bounds", "check", "another stage's option", "comments"],
)  # fmt: skip
def test_what_changes_no_result_does_not_count(project, change):
    assert project() == project(change)


def test_without_a_function_all_of_a_module_counts(project):
    change = ("pipeline/b.py", "def unused():\n    return 1", "def unused():\n    return 2")
    assert project(stage="pipeline.b") != project(change, stage="pipeline.b")


def test_modules_named_in_text_count(project):
    run = ("pipeline/a.py", "b.g()", "run('pipeline.b')")
    assert project(run) != project(
        run, ("pipeline/b.py", "def unused():\n    return 1", "def unused():\n    return 2")
    )


def test_a_stage_that_is_not_there_is_an_error(project):
    with pytest.raises(NameError, match=r"pipeline\.a has no nothing"):
        project(stage="pipeline.a:nothing")


def test_files_beside_the_code_that_it_names_count(project, tmp_path):
    names = ("pipeline/b.py", "return h()", "return open('page.html.j2'), open('0.5'), h()")
    without = project(names)
    (tmp_path / "pipeline" / "page.html.j2").write_text("one")
    one = project(names)
    (tmp_path / "pipeline" / "page.html.j2").write_text("two")
    assert len({without, one, project(names)}) == 3


def test_every_stage_of_this_project_has_a_fingerprint():
    from pipeline.__main__ import STAGES as PIPELINE
    from train.__main__ import STAGES as TRAIN

    found = {stage.name: module.fingerprint(stage.run) for stage in (*PIPELINE, *TRAIN)}
    assert len(set(found.values())) > 30  # stages that call each other have the same


def test_the_rules_name_stages_as_the_command_lines_do():
    from conftest import ROOT

    from pipeline.__main__ import STAGES as PIPELINE
    from train.__main__ import STAGES as TRAIN

    rules = [path.read_text() for wing in ("pipeline", "train") for path in (ROOT / wing).rglob("*.smk")]
    named = {name for text in rules for name in re.findall(r'fingerprint\("([^"]*)"\)', text)}
    assert len(named) > 20
    assert named <= {stage.run for stage in (*PIPELINE, *TRAIN)}


@pytest.mark.parametrize(
    ("stage", "code"),
    [
        ("train.trainer.stages:extend", {("models.block", "NeutralBlock"), ("models.local_losses", "add_l1")}),
        (
            "train.trainer.stages:extend",
            {("train.trainer.mixture", "mixture"), ("models.loss", "nll_and_gradient")},
        ),
        ("train.evaluation.evaluate:evaluate", {("models.block", "NeutralBlock")}),
        (
            "pipeline.extract.webpages:extract",
            {("pipeline.extract.sandbox", "main"), ("pipeline.warc.resync", "records")},
        ),
        ("pipeline.extract.texts:read_texts", {("pipeline.extract.tables", "write_lines")}),
        ("train.sharing.export:export_run", {("models.modeling_neutral", "ExtendedForCausalLM")}),
        ("pipeline.crawl.sample:make_sample", {("pipeline.crawl.catalogue", "SOURCES")}),
    ],
)
def test_a_stage_reaches_what_its_results_depend_on(stage, code):
    """Also by objects that are handed on, in a process of its own, and through a file that is copied."""
    pending, seen = [tuple(stage.split(":"))], set()
    while pending:
        reference = pending.pop()
        if reference not in seen:
            seen.add(reference)
            pending += module._read(*reference)[1]
    assert code <= seen
