"""What the README and the guide show really runs."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import yaml
from conftest import ROOT, prose
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipeline.common.config import read
from pipeline.common.files import write_arrow
from pipeline.common.schemas import SHARD_SCHEMA
from pipeline.workflow.layout import shard_path
from train.config import Config
from train.tasks.task import read_task

README, GUIDE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/guide.md"))


def test_the_example_reads_shards(tmp_path):
    for split in ("train", "validation"):
        rows = [
            dict.fromkeys(SHARD_SCHEMA.names) | {"text": "\n".join(prose("fr", i)), "url": f"u{i}"}
            for i in range(5)
        ]
        write_arrow(shard_path(tmp_path / "results/demo/corpus", "fr", split, "00000"), SHARD_SCHEMA, rows)
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "num_rows: 5" in done.stdout
    assert "u2 None None" in done.stdout


def test_links_lead_somewhere():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    wrong = []
    for page in pages:
        text = re.sub(r"(?ms)^```.*?^```|`[^`\n]*`", "", page.read_text(encoding="utf-8"))
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            path, _, anchor = link.partition("#")
            target = (page.parent / path) if path else page
            if not target.exists() or (anchor and anchor not in anchors(target)):
                wrong.append(f"{page.relative_to(ROOT)}: {link}")
    assert not wrong


def anchors(page: Path) -> set[str]:
    """Names of a page's headings in links, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_first_command_brings_all_that_the_examples_import():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    brought = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    brought |= {project["name"]}
    for example in re.findall(r"```python\n(.*?)```", README + GUIDE, re.DOTALL):
        for node in ast.walk(ast.parse(example)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for module in {name.partition(".")[0] for name in names} - sys.stdlib_module_names:
                assert brought & set(map(canonicalize_name, packages_distributions()[module])), module


def yaml_with(words: str) -> str:
    """The example in the guide that has these words."""
    (example,) = (text for text in re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL) if words in text)
    return example


def test_the_config_by_hand_is_valid(tmp_path, monkeypatch):
    (tmp_path / "crawl").mkdir()
    (tmp_path / "crawl" / "a.warc.gz").touch()
    monkeypatch.chdir(tmp_path)
    for name, text in (
        ("lists/adult.txt.gz", ""),
        ("eval/arc.jsonl", ""),
        ("lists/urls.txt", "https://a.example/b"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    example, task = yaml_with("output: results/breton"), yaml_with("prompt:")
    optional, commoncrawl, settle, gpus = map(yaml_with, ("\nnear:", "commoncrawl:", "settle:", "gpus: 8"))
    own, tracked = yaml_with("my-dataset"), yaml_with("track: trackio")
    config = read(Config, yaml.safe_load(example) | yaml.safe_load(optional))
    assert config.extend.new == "br"
    assert config.filter.active
    french = {"extract": {"languages": ["br", "en", "fr"]}}
    crawl = read(Config, yaml.safe_load(example) | yaml.safe_load(commoncrawl) | french).crawl
    assert crawl.commoncrawl and crawl.index and crawl.texts
    for name in ("books/br/a.txt", "news/a.txt.gz", "dumps/a.jsonl.zst", "dumps/b.parquet", "my-dataset/a.arrow"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert len(read(Config, yaml.safe_load(example) | yaml.safe_load(own)).crawl.texts) == 4
    settled = yaml.safe_load(example)
    for section, changes in yaml.safe_load(settle).items():
        settled[section] = changes if section == "backbone" else settled.get(section, {}) | changes
    assert read(Config, settled).evaluate.control == "replay"
    whole = yaml.safe_load(example)
    whole["extend"] |= yaml.safe_load(gpus)["extend"]
    assert [run.gpus for run in read(Config, whole).extend.runs.values()] == [8]
    whole["extend"] |= yaml.safe_load(tracked)["extend"]
    assert [run.track for run in read(Config, whole).extend.runs.values()] == ["trackio"]
    (tmp_path / "task.yaml").write_text(task)
    assert read_task(str(tmp_path / "task.yaml")).metric == "char"
