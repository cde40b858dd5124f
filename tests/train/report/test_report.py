import base64
import csv
import hashlib
import io
import json
import re
from urllib.parse import unquote

import pytest

from pipeline.common.ledger import Ledger
from train.report.options import Report
from train.report.points import trade_off_points
from train.report.report import data_link, write_report
from train.report.results import markdown_table, results_table, summary

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
DOMAINS = {"en": {"bpb": 2.0, "nats_per_token": 3.0}, "fr": {"bpb": 3.0, "nats_per_token": 4.0}}
SET = {"name": "quiz", "ngrams": 1200, "documents_dropped": 7}
POINTS = [{"threshold": t, "precision": t, "recall": 1 - t, "kept": 0.5} for t in (0.2, 0.4, 0.6)]
SITES = [{"site": HOSTILE, "tokens": 9, "bytes": 20, "bpb": 0.1}]
CHANGE = {"rows": 2, "tokens": 9, "kl": 0.01, "agreement": 0.9, "bpb": 0.1, "sites": SITES,
          "layers": [{"gate": 0.5, "block": 0.1}, {"gate": 0.2, "block": 0.3}]}  # fmt: skip
SPEED = {"scoring": 100.0, "writing": 10.0}
TASK = {"count": 5, "metric": "char", "accuracy": {"raw": 0.2, "char": 0.4}, "stderr": {"raw": 0.1, "char": 0.2}}
PAPER = f"# table1: {HOSTILE}\n\nWords.\n\n| a | b |\n|---|---:|\n| {HOSTILE} | ![x](http://out.example/x.png) |\n"


def evaluation(en, fr):
    return {"domains": {"en": {"bpb": en, "nats_per_token": 1.0}, "fr": {"bpb": fr, "nats_per_token": 1.0}},
            "change": {"en": CHANGE, "fr": CHANGE},
            "generations": [{"prompt": HOSTILE, "continuation": HOSTILE}]}  # fmt: skip


def run(method, **options):
    return {"method": method, "options": {"learning_rate": 1e-2, "seed": 0, "gate": "elu", "alpha": 1} | options,
            "extra_parameters": 10, "backbone_parameters": 50, "true_fraction": 0.2, "seconds": 1.0, "tokens": 100,
            "peak_memory_mib": 5, "device": "cpu"}  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("report")
    ledgers = []
    for stage in ("extract", "dedup", "filter", "near", "quality"):
        ledger = Ledger(stage)
        ledger.enter(documents=2, paragraphs=2, bytes=2)
        ledger.keep(documents=1, paragraphs=1, bytes=1)
        ledger.drop("a_reason", documents=1, paragraphs=1, bytes=1)
        ledger.sample("a_reason", HOSTILE, HOSTILE)
        ledger.language("fr", documents=1)
        ledgers.append(ledger.data())
    counts = {"shards": 1, "documents": 1, "paragraphs": 1, "bytes": 1}
    files = {
        "stats.json": {"languages": {"fr": {"train": counts}}, "ledgers": ledgers,
                       "decontamination": {"ngram": 13, "sets": [SET]}},
        "quality.json": {"language": "fr", "threshold": 0.4, "examples": {"good": 5, "random": 5}, "curve": POINTS,
                         "chosen": {"by": "keep_share", "value": 0.9, **POINTS[1]}},
        "backbone/training.json": {"parameters": 50, "steps": 2, "tokens": 4, "seconds": 1.0},
        "backbone/metrics.jsonl": {"step": 0, "evaluation": DOMAINS},
        "tasks/neutral.json": {"tasks": {"arc/fr": TASK}, "skipped": {"mmlu/fr": HOSTILE}},
        "base.json": evaluation(2.0, 3.0),
    }  # fmt: skip
    lines = [{"step": s, "evaluation": DOMAINS} for s in (0, 2)]
    lines += [{"step": 1, "loss": 3.0, "gate_old": 0.1, "gate_new": 0.9}]
    for method in ("adapter", "neutral"):
        files[f"{method}.json"] = evaluation(2.01, 2.5)
        files[f"speed/{method}.json"] = {"speeds": {"backbone": SPEED, "run": SPEED}}
        files[f"runs/{method}/run.json"] = run(method)
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(data))
    for method in ("adapter", "neutral"):
        (tmp_path / f"runs/{method}/metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper/table1.md").write_text(PAPER)
    (tmp_path / "paper/table1.png").write_bytes(b"\x89PNG")
    (tmp_path / "paper/table1.csv").write_text("a,b\n1,2\n")
    (tmp_path / "config.yaml").write_text(f"title: {HOSTILE}")
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/card.tsv").write_text("s\tmax_rss\n2.5\t10\n")

    def both(pattern):
        return [str(tmp_path / pattern.format(method)) for method in ("adapter", "neutral")]

    write_report(Report(title=HOSTILE), str(tmp_path / "stats.json"), [str(tmp_path / "quality.json")],
                 str(tmp_path / "backbone"), both("runs/{}/run.json"),
                 [str(tmp_path / "base.json"), *both("{}.json")], both("speed/{}.json"), "en", "fr",
                 [str(tmp_path / "config.yaml")], str(tmp_path / "benchmarks"), str(tmp_path / "tasks"),
                 str(tmp_path / "paper"), str(tmp_path / "report.html"))  # fmt: skip
    return (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_crawled_and_generated_text_is_escaped(page):
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert "<img src=x" not in page


def test_the_page_is_small_and_asks_for_nothing(page):
    assert len(page) < 5_000_000
    assert "default-src 'none'" in page
    for attribute in ('src="http', 'href="http', "@import", "url(http"):
        assert attribute not in page


def test_only_the_scripts_of_the_page_may_run(page):
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]
    rule = next(part for part in policy.split("; ") if part.startswith("script-src"))
    assert "unsafe" not in rule
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 2
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in rule


def charts(page):
    return re.findall(r'<div class="chart" id="(\w+)"', page)


def test_every_figure_has_its_specification_its_words_and_its_data(page):
    specs = json.loads(re.search(r'<script type="application/json" id="specs">(.*?)</script>', page, re.DOTALL)[1])
    assert sorted(charts(page)) == sorted(specs)
    assert len(specs) == 18
    for name in specs:
        link = re.search(rf'<a href="(data:text/csv[^"]+)" download="{name}.csv">', page)[1]
        rows = list(csv.DictReader(io.StringIO(unquote(link.split(",", 1)[1]))))
        assert rows
        assert re.search(rf'id="{name}" role="img" aria-label="[^"]+"', page)


def test_data_links_give_back_the_rows():
    rows = [{"a": 'x,"y"\nz', "b": 1}, {"a": "é & <", "c": 2.5}]
    text = unquote(data_link(rows).split(",", 1)[1])
    assert list(csv.DictReader(io.StringIO(text))) == [
        {"a": 'x,"y"\nz', "b": "1", "c": ""},
        {"a": "é & <", "b": "", "c": "2.5"},
    ]
    assert not set(' <>"') & set(data_link(rows))


def test_tasks_and_the_papers_tables_are_shown(page):
    assert '<td title="char, 5 questions">40.0 <span class="delta">&plusmn;20.0</span></td>' in page
    assert "mmlu/fr was skipped: &lt;/script&gt;" in page
    assert "<td>&lt;/script&gt;&lt;script&gt;alert(1)" in page
    assert 'src="data:image/png;base64,' in page
    link = re.search(r'href="data:text/csv;base64,([^"]+)" download="table1.csv"', page)[1]
    assert base64.b64decode(link) == b"a,b\n1,2\n"


def test_runs_that_differ_in_rate_and_seed_are_one_setting():
    def named(name, **options):
        lines = [{"step": s, "evaluation": DOMAINS} for s in (0, 9)]
        return {"name": name, "run": run("neutral", **options), "metrics": lines}

    runs = [named("a"), named("a-1", seed=1), named("b", learning_rate=1.0), named("c", alpha=3)]
    points = {point["model"]: point for point in trade_off_points(runs, "en", "fr")}
    assert [points[name]["setting"] for name in ("backbone", "a", "a-1", "b", "c")] == [-1, 0, 0, 0, 1]
    assert [points[name]["label"] for name in ("backbone", "a", "a-1", "b", "c")] == [
        "backbone",
        "a",
        "a",
        "b",
        "c",
    ]


def test_the_funnel_has_every_stage_and_the_curve_its_threshold(page):
    for stage in ("extract", "dedup", "filter", "near", "quality"):
        assert f'"stage": "{stage}", "outcome": "a reason"' in page
    assert page.count('"chosen": true') == 1
    assert "<tr><td>quiz</td><td>1,200</td><td>7</td></tr>" in page


def results():
    runs = [
        {"name": "a", "run": run("finetune"), "evaluation": evaluation(2.5, 2.0)},
        {"name": "n", "run": run("neutral"), "evaluation": evaluation(2.01, 2.2)},
    ]
    return results_table(evaluation(2.0, 3.0), runs, "en", "fr")


def test_the_best_of_each_kind_is_marked():
    assert [row.get("best", set()) for row in results()] == [set(), {"fr"}, {"en"}]


def test_the_summary_says_what_was_kept_of_what_others_learn():
    text = summary(results(), "en", "fr")
    assert "change en by +0.010 bits per byte and fr by -0.800" in text
    assert "They keep 80% of what finetune learns (finetune: +0.500 and -1.000)" in text


def test_the_table_has_a_line_a_model():
    lines = markdown_table(results()).splitlines()
    assert len(lines) == 5
    assert lines[-1].startswith("| n | 2.010 (+0.010) | 2.200 (-0.800) | 0.01 | 10 |")
