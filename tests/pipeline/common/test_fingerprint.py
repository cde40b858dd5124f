import pytest

from pipeline.common import fingerprint as module

CODE = {
    "pipeline/a.py": "from pipeline import b\nimport os\ndef f():\n    return b.g()\n",
    "pipeline/b.py": "def g():\n    from train.c import h\n    return h()\n",
    "train/c.py": "def h():\n    return 1\n",
    "train/other.py": "x = 1\n",
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROOT", tmp_path)

    def write(**changes):
        module.fingerprint.cache_clear()
        module._read.cache_clear()
        for path, text in (CODE | {k.replace("__", "/") + ".py": v for k, v in changes.items()}).items():
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_text(text)
        return module.fingerprint("pipeline.a")

    return write


def test_what_runs_counts_even_where_imported_late_and_indirectly(project):
    assert project() != project(train__c="def h():\n    return 2\n")


def test_what_does_not_run_does_not_count(project):
    same = project()
    assert same == project(train__other="x = 2\n")
    assert same == project(train__c='"""Why."""\n# a comment\ndef h():\n    """Doc."""\n    return  1\n')


def test_files_beside_the_code_that_it_names_count(project, tmp_path):
    names = {"pipeline__b": "def g():\n    return open('page.html.j2'), open('0.5')\n"}
    without = project(**names)
    (tmp_path / "pipeline" / "page.html.j2").write_text("one")
    one = project(**names)
    (tmp_path / "pipeline" / "page.html.j2").write_text("two")
    assert len({without, one, project(**names)}) == 3
