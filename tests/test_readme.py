"""What the README shows really runs."""

import re
import subprocess
import sys

import yaml
from conftest import ROOT, prose

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


def test_the_config_for_ones_own_crawl_is_valid(tmp_path, monkeypatch):
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
    example, optional = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    commoncrawl, settle, _dask, gpus, task = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    config = read(Config, yaml.safe_load(example) | yaml.safe_load(optional))
    assert config.extend.new == "br"
    assert config.filter.active
    crawl = read(Config, yaml.safe_load(example) | yaml.safe_load(commoncrawl)).crawl
    assert crawl.commoncrawl and crawl.index and crawl.texts
    settled = yaml.safe_load(example)
    for section, changes in yaml.safe_load(settle).items():
        settled[section] = changes if section == "backbone" else settled.get(section, {}) | changes
    assert read(Config, settled).evaluate.control == "replay"
    whole = yaml.safe_load(example)
    whole["extend"] |= yaml.safe_load(gpus)["extend"]
    assert [run.gpus for run in read(Config, whole).extend.runs.values()] == [8]
    (tmp_path / "task.yaml").write_text(task)
    assert read_task(str(tmp_path / "task.yaml")).metric == "char"
