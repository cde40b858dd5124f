import json

import pytest

from pipeline.ledger import Ledger
from train.options import Report
from train.report import write_report
from train.results import markdown_table, results_table, summary

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
DOMAINS = {"en": {"bpb": 2.0, "nats_per_token": 3.0}, "fr": {"bpb": 3.0, "nats_per_token": 4.0}}
SET = {"name": "quiz", "ngrams": 1200, "documents_dropped": 7}
POINTS = [{"threshold": t, "precision": t, "recall": 1 - t, "kept": 0.5} for t in (0.2, 0.4, 0.6)]


def evaluation(en, fr):
    return {"domains": {"en": {"bpb": en, "nats_per_token": 1.0}, "fr": {"bpb": fr, "nats_per_token": 1.0}},
            "generations": [{"prompt": HOSTILE, "continuation": HOSTILE}]}  # fmt: skip


def run(method):
    return {"method": method, "options": {"learning_rate": 1e-2, "seed": 0}, "extra_parameters": 10,
            "backbone_parameters": 50, "true_fraction": 0.2, "seconds": 1.0, "peak_memory_mib": 5}  # fmt: skip


@pytest.fixture
def page(tmp_path):
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
        "base.json": evaluation(2.0, 3.0),
        "neutral.json": evaluation(2.01, 2.5),
        "runs/neutral/run.json": run("neutral"),
    }  # fmt: skip
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(data))
    lines = [{"step": s, "evaluation": DOMAINS} for s in (0, 2)] + [{"step": 1, "loss": 3.0}]
    (tmp_path / "runs/neutral/metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    write_report(Report(title=HOSTILE), str(tmp_path / "stats.json"), [str(tmp_path / "quality.json")],
                 str(tmp_path / "backbone"),
                 [str(tmp_path / "runs/neutral/run.json")],
                 [str(tmp_path / "base.json"), str(tmp_path / "neutral.json")], "en", "fr", None, None,
                 str(tmp_path / "report.html"))  # fmt: skip
    return (tmp_path / "report.html").read_text()


def test_crawled_and_generated_text_is_escaped(page):
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert "<img src=x" not in page


def test_the_page_is_small_and_asks_for_nothing(page):
    assert len(page) < 5_000_000
    assert "default-src 'none'" in page
    for attribute in ('src="http', 'href="http', "@import", "url(http"):
        assert attribute not in page


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
