import base64
import csv
import hashlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from conftest import ROOT
from helpers import evaluation, run_record, settling_record, speed, task_score

pytest.importorskip("altair")  # there with all that the report needs

from pipeline.common.files import write_json
from pipeline.common.ledger import Ledger
from pipeline.workflow.layout import Layout
from train.report import colours
from train.report.options import Report
from train.report.report import config_text, data_link, stage_times, write_report
from train.runs.record import write_record
from train.runs.results import Site, TaskScores, write_result

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
DOMAINS = {domain: {"bpb": 2.0, "nats_per_token": 3.0} for domain in ("en", "fr", "de")}
SET = {"name": "quiz", "ngrams": 1200, "documents_dropped": 7}
CHOSEN = {"by": "keep_share", "value": 0.9, "threshold": 0.5, "precision": 0.9, "recall": 0.75, "kept": 0.875}
EXAMPLES = {"examples": {"good": 5, "random": 5}, "held_out": {"good": 4, "random": 8}, "threshold": 0.5}
BINS = [{"low": low, "high": low + 0.5, "kept": low >= 0, "good": 2, "random": 4} for low in (-0.5, 0.0)]
AT_THRESHOLD = {side: [{"score": 0.5, "text": f"{side} {HOSTILE}"}] for side in ("dropped", "kept")}
SITES = [Site(site=HOSTILE, tokens=9, bytes=20, bpb=0.1)]
PAPER = f"# table1: {HOSTILE}\n\nWords.\n\n| a | b |\n|---|---:|\n| {HOSTILE} | ![x](http://out.example/x.png) |\n"


def measured(run, en, fr, de=4.0):
    return evaluation(run, text=HOSTILE, sites=SITES, documents=20, en=en, fr=fr, de=de)


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
    out = Layout(tmp_path)
    files = {
        out.stats: {"languages": {"fr": {"train": counts}}, "ledgers": ledgers,
                    "decontamination": {"ngram": 13, "sets": [SET]}},
        out.quality_report("fr"): {"language": "fr", "chosen": CHOSEN, **EXAMPLES, "scores": BINS,
                                   "at_threshold": AT_THRESHOLD},
        out.quality_report("de"): {"language": "de", "chosen": CHOSEN, **EXAMPLES, "curve": []},  # of old
    }  # fmt: skip
    for path, data in files.items():
        write_json(path, data)
    write_record(out.backbone, settling_record(steps=2))
    settled = [{"domain": "en-settle", "tokens": 1000}]
    write_json(
        tmp_path / "backbone/origin.json", {"source": "/home/me/tiny", "revision": None, "settled": settled}
    )
    (tmp_path / "backbone/metrics.jsonl").write_text(json.dumps({"step": 0, "evaluation": DOMAINS}))
    lines = [{"step": s, "evaluation": DOMAINS} for s in (0, 2)]
    lines += [{"step": 1, "loss": 3.0, "gate_old": 0.1, "gate_new": 0.9}]
    german = run_record("neutral", base="elsewhere/runs/neutral", new="de")
    records = {"adapter": run_record("adapter"), "neutral": run_record("neutral"), "german": german}
    records["replay"] = run_record("finetune", old_rate=1.0)
    for run, record in records.items():
        write_record(out.run(run), record)
        Path(out.metrics(run)).write_text("\n".join(map(json.dumps, lines)))
        write_result(out.evaluation(run), measured(run, 2.01, 2.5, 3.0 if run == "german" else 4.0))
        write_result(out.speed(run), speed(backbone=100.0, run=90.0))
    write_result(out.evaluation("backbone"), measured(None, 2.0, 3.0))
    write_result(out.evaluation("source"), measured(None, 2.2, 3.1))
    for model, error in (("source", 0.1), ("backbone", None), *((run, 0.2) for run in records)):
        scores = TaskScores(model=model, tasks={"arc/fr": task_score(0.4, error)}, skipped={"mmlu/fr": HOSTILE})
        write_result(out.task_scores(model), scores)
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper/table1.md").write_text(PAPER)
    (tmp_path / "paper/table1.png").write_bytes(b"\x89PNG")
    (tmp_path / "paper/table1.csv").write_text("a,b\n1,2\n")
    (tmp_path / "config.yaml").write_text(f"title: {HOSTILE}")
    (tmp_path / "benchmarks").mkdir()
    for job in ("card", "near_reduce", "extend/neutral", "extend/of_before", "evaluate/backbone"):
        (tmp_path / "benchmarks" / job).parent.mkdir(exist_ok=True)
        (tmp_path / f"benchmarks/{job}.tsv").write_text("s\tmax_rss\n2.5\t10\n")

    for domain, split, tokens in (("old", "train", 4000), ("en", "validation", 1000), ("fr", "train", 10_000)):
        counts = {"documents": 9, "bytes": 20_000, "tokens": tokens, "tokens_in_rows": tokens - 7}
        write_json(out.ledger(out.rows(domain, split)), counts)
    languages = ["old=en", "en=en", "fr=fr", "de=de"]
    configs = [str(tmp_path / "config.yaml")]
    given = list(records), ["fr", "de"], ["arc"], "en", "fr", None, configs, languages
    write_report(Report(title=HOSTILE), str(tmp_path), *given, control="replay")
    return (tmp_path / "report.html").read_text()


def test_a_settled_backbone_is_named_and_its_source_shown(page):
    assert "The backbone is tiny, settled on en-settle for 1,000 tokens; against the source as it comes" in page
    assert "/home/me" not in page
    rows = re.findall(r"<tr[^>]*><td>(source|backbone|replay)</td>\s*<td><span[^>]*>([\d.]+)</span>", page)
    assert rows == [("source", "2.200"), ("backbone", "2.000"), ("replay", "2.010")]


def test_speeds_are_those_on_old_and_on_new_text(page):
    for kind in ("scoring", "writing"):
        assert all(page.count(f'"kind": "{kind} {text} text"') == 4 for text in ("old", "new"))


def test_a_control_is_no_run_that_learned(page):
    assert "replay, a control that trained on the replay alone, changes en by" in page
    assert "finetune (replay)" not in page and "neutral against replay" not in page


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


def specs(page):
    return re.search(r'<script type="application/json" id="specs">(.*?)</script>', page, re.DOTALL)[1]


def charts(page):
    return re.findall(r'<div class="chart" id="(\w+)"', page)


def test_every_figure_has_its_specification_its_words_and_its_data(page):
    drawn = json.loads(specs(page))
    assert sorted(charts(page)) == sorted(drawn)
    assert len(drawn) == 21
    for name in drawn:
        link = re.search(rf'<a href="(data:text/csv[^"]+)" download="{name}.csv">', page)[1]
        rows = list(csv.DictReader(io.StringIO(unquote(link.split(",", 1)[1]))))
        assert rows
        assert re.search(rf'id="{name}" role="img" aria-label="[^"]+"', page)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: https://h/x  # as it is\n", None),
        ("a: https://h/x?sig=SECRET\n", "https://h/x?sig=***"),
        ('a: "https://h/x?b=1\\\n  &sig=SECRET"\n', "https://h/x?b=***&sig=***"),
        ('{"a": "https:\\/\\/h\\/x?sig=SECRET"}', "https://h/x?sig=***"),
        ("a: b  # https://me:SECRET@h/x\n", "b"),
        ("urls: https://h/\\?page=.*\n", r"https://h/\?page=.*"),
    ],
)
def test_a_config_is_shown_as_it_is_but_without_secrets(text, said, tmp_path):
    (tmp_path / "config.yaml").write_text(text)
    shown = config_text(str(tmp_path / "config.yaml"))
    assert "SECRET" not in shown
    assert shown == text if said is None else said in json.loads(shown).values()


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


def test_the_page_says_in_words_how_sure_it_is_and_what_a_second_language_added(page):
    cells = dict(
        re.findall(
            r"<tr[^>]*><td>(adapter|neutral|german)\b.*?</td>(.*?)</tr>", page.split("<tbody>")[1], re.DOTALL
        )
    )
    text = {run: " ".join(re.sub(r"<[^>]+>", " ", row).split()) for run, row in cells.items()}
    number = r"[+-]\d\.\d+"
    for run in ("adapter", "neutral"):  # as good as each other
        assert re.match(
            rf"2\.010 {number} {number} to {number} (best|as good) 2\.500 -0\.500\d* {number} to ", text[run]
        )
    assert {"best", "as good"} == set(re.findall("best|as good", text["adapter"] + text["neutral"]))
    assert "within the noise" in text["adapter"]
    assert '<td>20.0%<br><span class="delta">40.0% in all</span></td>' in page
    assert f"<td>{'neutral'}</td>" in page and 'german<br><span class="delta">after neutral</span>' in page
    assert re.search(
        r'id="trade_off_2" role="img" aria-label="Changes of en and of de [^"]*german \+0\.010 and -1\.000"', page
    )
    assert "<li>Against neutral, which it goes on from, german changes" in page
    assert "learn as much, within the noise: 100% (" in page


def test_the_tokens_of_each_domain_are_counted_and_what_a_language_costs(page):
    text = '<td class="text">'
    rows = re.findall(rf"<tr><td>(old|en|fr)</td>{text}(en|fr)</td>(.*?)</tr>", page)
    assert [(domain, language) for domain, language, _ in rows] == [("old", "en"), ("en", "en"), ("fr", "fr")]
    assert re.findall(r"<td[^>]*>(.*?)</td>", rows[2][2]) == ["train", "9", "0.02", "10,000", "9,993", "", "2.00"]
    assert "<p>Tokens to train on: 3,990 of old (en) and 9,990 of fr (fr).</p>" in page
    # 40,000 bytes of English in 5,000 tokens, 20,000 of French in 10,000
    assert "A token covers 8.00 bytes of en and 2.00 of fr: as much text takes 4.00 times the tokens in fr" in page


def test_the_quality_filter_explains_itself(page):
    bins = json.loads(specs(page))["quality_1"]["layer"][0]["data"]["values"]
    assert [(x["random"], x["good"], x["outcome"]) for x in bins] == [(0.5, 0.5, "dropped"), (0.5, 0.5, "kept")]
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    said = "The threshold, 0.5, was set so that 87.5% of random documents pass, and 75.0% of good ones."
    for language in ("fr: scores of held-out documents", "de:"):
        assert re.search(f"{language} .*?{re.escape(said)}", text)
    assert "just below: dropped, score 0.5 dropped &lt;/script&gt;" in text
    assert '"id": "quality_2"' not in page and "1 of 2 documents, 50.0%." in text


def test_only_stages_and_models_of_this_config_have_their_time(tmp_path):
    for job in ("card", "near_reduce", "filter/00000", "quality_train/fr", "extend/a", "extend/b", "evaluate/b"):
        path = tmp_path / f"benchmarks/{job}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("s\tmax_rss\n2\t10\n")
    out = Layout(tmp_path)
    own = {time["stage"]: time["jobs"] for time in stage_times(out, {"extract", "dedup", "filter"}, {"a"})}
    assert own == {"card": 1, "filter": 1, "extend": 1}
    assert len(stage_times(out)) == 6


def test_every_colour_of_the_page_is_of_the_palette(page):
    known = {colour for theme in colours.THEMES.values() for colour in theme.values()}
    known |= {colour for colour, _ in colours.METHODS.values()} | {*colours.LANGUAGES, *colours.AMOUNTS}
    known |= set(colours.OUTCOMES.values())
    written = page[: page.index("<script>")]
    # "#000" and "#fff" are the numbers in cells.
    assert set(re.findall(r"#[0-9A-Fa-f]{6}\b", written)) <= known
    meanings = {}
    for names, values in re.findall(r'"scale": \{"domain": (\["[^]]+\]), "range": (\["#[^]]+\])\}', specs(page)):
        for name, colour in zip(json.loads(names), json.loads(values), strict=True):
            meanings.setdefault(name, set()).add(colour)
    assert all(len(own) == 1 for own in meanings.values()), meanings
    assert {"backbone", "adapter", "neutral", "en", "fr", "de", "kept", "dropped"} <= meanings.keys()


def test_the_funnel_has_every_stage_and_every_reason_is_in_the_table(page):
    for stage in ("extract", "dedup", "filter", "near", "quality"):
        assert f'"stage": "{stage}", "outcome": "a reason"' in page
        assert f'<tr><td>{stage}</td><td class="text">a reason</td><td>50.0%</td><td>1</td>' in page
    assert "<tr><td>quiz</td><td>1,200</td><td>7</td></tr>" in page


def test_no_part_of_it_imports_torch():
    """Which would take longer than the report."""
    folder = ROOT / "train/report"
    modules = [f"train.report.{path.stem}" for path in folder.glob("*.py")]
    script = f"import sys; sys.modules |= dict.fromkeys(('torch', 'transformers')); import {', '.join(modules)}"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
