"""What the report says of made-up results: changes, how sure they are, and which belong together."""

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import evaluation, run_record, task_score

pytest.importorskip("altair")  # there with all that the report needs

from pipeline.common.errors import StageError
from train.evaluation.intervals import document_kl
from train.report.control import against_control, settling
from train.report.markdown import (
    markdown_comparisons,
    markdown_control,
    markdown_costs,
    markdown_results,
    markdown_spreads,
    markdown_table,
)
from train.report.points import trade_off_points
from train.report.results import flat_comparisons, flat_table, results_table, spreads
from train.report.settings import Axis, RunResult, axes, paired_domains, settings_of
from train.report.summary import comparisons, summary
from train.report.tasks import mean_accuracy, mean_change, tasks_table
from train.report.trade_off import trade_off
from train.runs.record import Languages
from train.runs.results import TaskScores

BASE = evaluation(None, documents=60, en=2.0, fr=3.0, de=3.5)


def run(
    name: str, method: str, en: float, fr: float, de: float = 3.5, documents: int = 60, **options: Any
) -> RunResult:
    measured = evaluation(name, documents=documents, en=en, fr=fr, de=de)
    return RunResult(name, run_record(method, **{"new": "fr"} | options), [], measured)


METHODS = [
    run("finetune", "finetune", 2.5, 2.0),
    run("lora", "lora", 2.2, 2.3),
    run("adapter", "adapter", 2.1, 2.2005),
    run("neutral", "neutral", 2.01, 2.2),
]


def told(runs: list[RunResult], base: Any = BASE) -> dict[str, Any]:
    """All that the report computes of the runs."""
    languages = axes(runs, "fr", "fr")
    bpb = paired_domains(base, runs, ["en", *(axis.learning for axis in languages)])
    return {
        "axes": languages,
        "bpb": bpb,
        "table": results_table(base, runs, languages, "en", bpb),
        "sentences": summary(languages, "en", bpb, base),
        "compared": comparisons(languages[0], "en", bpb),
        "seeds": spreads(languages, bpb),
    }


def test_the_sentences_name_both_sides_all_methods_and_the_noise() -> None:
    neutral, finetune, lora, adapter, distance, about = told(METHODS)["sentences"]
    ends, shares = r"\([+-]\d\.\d+ to [+-]\d\.\d+\)", r"\(\d+% to \d+%\)"
    assert re.match(
        rf"Neutral residues change en, which measures forgetting, by \+0\.010\d* {ends} bits per byte, "
        rf"and fr, which measures learning, by -0\.800\d* {ends}; "
        rf"beside finetune, they forget 2% {shares} as much and learn 80% {shares} as much; beside lora, they",
        neutral,
    )
    assert re.search(rf"lora, they forget 5% {shares} as much and learn 114% {shares} as much;", neutral)
    assert re.search(
        rf"adapter, they forget 10% {shares} as much and learn as much, within the noise: 100%", neutral
    )
    for text, old, new in ((finetune, 500, "1\\.000"), (lora, 200, "0\\.700"), (adapter, 100, "0\\.800")):
        assert re.fullmatch(rf"\w+ changes them by \+0\.{old}\d* {ends} and -{new}\d* {ends}\.", text)
    assert distance.startswith("On en, KL divergence from the backbone (nats a token), and tokens after which")
    assert "one is most probable: finetune 0.5 and 75.0%, lora 0.5 and 75.0%," in distance
    assert distance.endswith(
        "Neutral residues' divergence is 100% of finetune's, 100% of lora's and 100% of adapter's."
    )
    assert about.startswith("In brackets: 95% intervals over held-out documents (60 of en, 60 of fr); another")


def test_how_much_less_the_predictions_change_has_an_interval_too() -> None:
    random = np.random.default_rng(0)
    runs = []
    for each, kl in zip(METHODS, (0.8, 0.4, 0.2, 0.05), strict=True):
        kl_N = random.normal(1, 0.1, 60) * kl * 100
        change = replace(each.evaluation.change["en"], kl=kl_N.sum() / 6000, documents=document_kl(
            kl_N, np.full(60, 100), np.arange(60)))  # fmt: skip
        runs.append(replace(each, evaluation=replace(each.evaluation, change={"en": change})))
    result = told(runs)
    shares = {each.other.label: each.kl_share for each in result["compared"]}
    for label, share in (("finetune", 1 / 16), ("lora", 1 / 8), ("adapter", 1 / 4)):
        assert shares[label].value == pytest.approx(share, rel=0.1)
        assert shares[label].low < shares[label].value < shares[label].high < 1.2 * share
    assert re.search(r"neutral residues 0\.0\d+ \(0\.0\d+ to 0\.0\d+\) and 75\.0%\.", result["sentences"][-2])
    assert re.search(r"25% \(2\d% to 2\d%\) of adapter's\.", result["sentences"][-2])
    flat = {row["model"]: row for row in flat_table(result["table"])}
    assert flat["lora"]["en kl low"] < flat["lora"]["en kl"] < flat["lora"]["en kl high"]
    bare = [replace(each, evaluation=replace(each.evaluation, change={})) for each in METHODS]
    unknown = told(bare)
    assert not any("KL" in sentence for sentence in unknown["sentences"])
    assert markdown_table(unknown["table"], "en").splitlines()[-1].endswith("|  |  |")


def test_changes_are_given_against_a_control_too() -> None:
    control = run("replay", "finetune", 1.9, 3.1, old_rate=1.0)
    runs = [*METHODS, control]
    languages = axes(METHODS, "fr", "fr")
    bpb = paired_domains(BASE, runs, ["en", "fr"])
    table = results_table(BASE, runs, languages, "en", bpb, control="replay")
    against = {row.name: {domain: change.value for domain, change in row.control.items()} for row in table}
    assert against.pop("backbone") == against.pop("replay") == {}
    for one in METHODS:
        expected = {"en": one.evaluation.domains["en"].bpb - 1.9, "fr": one.evaluation.domains["fr"].bpb - 3.1}
        assert {domain: against[one.name][domain] for domain in expected} == pytest.approx(expected)
    assert all(row.control["en"].beyond() for row in table if row.control)
    about, sentence = against_control("replay", languages, "en", bpb)
    assert re.match(r"replay, a control that trained on the replay alone, changes en by -0\.100", about)
    assert re.search(
        r"en and fr change with finetune by \+0\.600.* and -1\.100.*, with neutral by \+0\.110", sentence
    )
    assert "| neutral | +0.110" in markdown_control(table)
    shares = {each.other.label: each for each in comparisons(languages[0], "en", bpb, "replay")}
    assert shares["lora"].control_share.value == pytest.approx(0.11 / 0.3)  # of 0.01 / 0.2 against the backbone
    assert shares["lora"].control_share.low < 0.11 / 0.3 < shares["lora"].control_share.high < 0.4
    assert (
        markdown_comparisons(list(shares.values())).splitlines()[0].endswith("| en, share against the control |")
    )
    ends = trade_off_points(languages[0], {"control": [control]}, "en", bpb)
    assert [(point["label"], round(point["forgetting"], 3)) for point in ends[:2]] == [
        ("backbone", 0.0), ("replay, control", -0.1)
    ]  # fmt: skip
    named_so = trade_off_points(languages[0], {"replay": [control]}, "en", bpb)[1]
    assert named_so["label"] == "replay"
    columns = next(point for point in flat_table(table) if point["model"] == "lora")
    assert columns["en against control"] == pytest.approx(0.3)


def test_what_settling_changed_is_told_and_the_source_is_a_row() -> None:
    source = evaluation(None, documents=60, en=2.4, fr=3.1, de=3.5)
    languages = axes(METHODS, "fr", "fr")
    bpb = paired_domains(BASE, METHODS, ["en", "fr"], source)
    table = results_table(BASE, METHODS, languages, "en", bpb, source)
    assert [row.name for row in table][:2] == ["source", "backbone"]
    assert table[0].bpb["en"] == 2.4 and table[0].change["en"].value == pytest.approx(0.4)
    backbone, point = trade_off_points(languages[0], {}, "en", bpb)[:2]
    assert point["label"] == "source" and point["forgetting"] == pytest.approx(0.4)
    assert point["family"] != backbone["family"]  # points of a family are joined by a line
    told = settling("tiny, settled on web", 12345, bpb)
    assert told.startswith("The backbone is tiny, settled on web for 12,345 tokens; against the source")
    assert re.search(r"changes en by -0\.400\d* \(-0\.\d+ to -0\.\d+\), fr by -0\.100", told)


def test_a_share_is_given_only_of_what_is_beyond_the_noise() -> None:
    """Nothing forgotten by the one or the other, or nothing learned by the other: then a difference is told."""
    same = run("adapter", "adapter", 2.0, 3.0)
    sentence, other, *_ = told([same, METHODS[3]])["sentences"]
    assert "within the noise)" in other
    assert "they differ on en by +0.010" in sentence and "differ on fr by -0.800" in sentence
    gained = run("neutral", "neutral", 1.9, 2.2)
    assert "differ on en by -0.6" in told([METHODS[0], gained])["sentences"][0]
    assert "%" not in sentence


def test_shares_of_other_domains_are_of_changes_that_go_the_same_way() -> None:
    other = run("lora", "lora", 2.2, 2.3, de=3.1)
    for de, share in ((3.4, 0.25), (3.6, None)):  # 0.1 of 0.4 less, and 0.1 more
        (each,) = told([other, run("neutral", "neutral", 2.01, 2.2, de=de)])["compared"]
        assert list(each.differences) == ["en", "fr", "de"]
        assert each.shares.get("de") is None if share is None else each.shares["de"].value == pytest.approx(share)
    (worse,) = told([run("lora", "lora", 2.2, 2.3, de=3.9), run("neutral", "neutral", 2.01, 2.2, de=3.6)])[
        "compared"
    ]
    assert worse.shares["de"].value == pytest.approx(0.25)
    lines = markdown_comparisons([worse]).splitlines()
    assert lines[0].endswith("| fr, share | en, share of KL | de, share |") and "| 25% (2" in lines[-1]


@pytest.mark.parametrize("documents", [0, 5])
def test_without_intervals_nothing_is_within_the_noise_or_as_good_and_it_says_so(documents: int) -> None:
    base = evaluation(None, documents=documents, en=2.0, fr=3.0, de=3.5)
    runs = [
        run("adapter", "adapter", 2.1, 2.2, documents=documents),
        run("neutral", "neutral", 2.0, 2.2, documents=documents),
    ]
    result = told(runs, base)
    assert "by +0.000 bits per byte, and fr, which measures learning, by -0.800; beside" in result["sentences"][0]
    assert "measure it again with `evaluate`" in result["sentences"][-1]
    assert not any("noise" in sentence for sentence in result["sentences"])
    assert [row.marks for row in result["table"]] == [{}, {"fr": "best"}, {"en": "best"}]
    assert result["table"][1].change["fr"].low is None


def test_the_best_is_marked_and_all_that_are_as_good_within_the_noise() -> None:
    assert [row.marks for row in told(METHODS)["table"]] == [{}, {"fr": "best"}, {}, {}, {"en": "best"}]
    like = run("like", "adapter", 2.0101, 2.0001)
    marks = {row.name: row.marks for row in told([*METHODS, like])["table"]}
    assert marks["like"] == {"en": "as good", "fr": "as good"}
    assert told(METHODS[:1])["table"][1].marks == {}  # the best of one is no news


def test_the_tables_have_a_line_a_model_with_the_change_and_its_interval() -> None:
    result = told(METHODS)
    lines = markdown_table(result["table"], "en").splitlines()
    assert len(lines) == 7
    changes = (r"\+0\.010\d*, \+0\.0\d+ to \+0\.0\d+, best", r"-0\.800\d*, -0\.8\d+ to -0\.79\d+")
    cells = [
        "neutral",
        rf"2\.010 \({changes[0]}\)",
        rf"2\.200 \({changes[1]}\)",
        r"3\.500 \([^)]+, within the noise\)",
    ]
    assert re.fullmatch(" [|] ".join([*cells, r"0\.5", r"75\.0%"]), lines[-1].strip("| "))
    costs = markdown_costs(result["table"]).splitlines()
    assert (
        costs[-1] == "| neutral | 0.01 | 1,200 | 20.0% | 1,000 | 100 | 10 s · 20 ms CPU a token | 400 |"
        and len(costs) == 6
    )
    against = markdown_comparisons(result["compared"]).splitlines()
    named = [line.split(" | ")[0].strip("| ").rpartition(" ") for line in against[2:]]
    assert [name for *_, name in named] == ["finetune", "lora", "adapter"]
    assert "within the noise) | 100% (" in against[-1] and against[-1].endswith("| 100% |")
    flat = {row["model"]: row for row in flat_table(result["table"])}
    assert flat["neutral"]["fr change low"] < flat["neutral"]["fr change"] < flat["neutral"]["fr change high"]
    differences = {(row["against"], row["domain"]): row for row in flat_comparisons(result["compared"])}
    assert differences["lora", "fr"]["difference"] == pytest.approx(-0.1)
    assert differences["lora", "fr"]["high"] < 0
    scores = {"arc/fr": task_score(0.4, 0.03), "quiz/fr": task_score(0.6, 0.04)}
    asked = TaskScores(model="a", tasks=scores, skipped={})
    fewer = replace(asked, tasks={"arc/fr": task_score(0.5, None)})
    more = replace(asked, tasks=scores | {"arc/fr": task_score(0.6, 0.03, {"": "10101"})})
    tasks = tasks_table({"backbone": asked, "neutral": fewer, "lora": more}, [])
    page = markdown_results(result["sentences"], result["table"], [result["compared"]], [], tasks, "en")
    assert "| accuracy | mean, fr | change, fr | arc/fr | quiz/fr |" in page
    assert "| backbone | 50.0 ±2.5% |  | 40.0 ±3.0% | 60.0 ±4.0% |" in page  # half of sqrt(3^2 + 4^2)
    assert "| neutral |  |  | 50.0% |  |" in page
    # Of five questions one more is right: 0.2 ± sqrt(0.2 / 5), and of the other five none.
    assert "| lora | 60.0 ±2.5% | +10.0 ±10.0% | 60.0 ±3.0% | 60.0 ±4.0% |" in page
    assert page.count("|---|") == 4 and page.rstrip().endswith("by more.")


def test_runs_that_differ_in_rate_and_seed_are_one_family_and_seeds_one_setting() -> None:
    runs = [
        run("a", "neutral", 2.0, 2.0),
        run("a-1", "neutral", 2.2, 2.4, seed=1),
        run("b", "neutral", 2.0, 2.0, learning_rate=1.0),
        run("c", "neutral", 2.0, 2.0, alpha=3.0),
    ]
    settings = settings_of(runs)
    assert [(each.label, each.family, len(each.runs)) for each in settings] == [
        ("a", 0, 2),
        ("b", 0, 1),
        ("c", 1, 1),
    ]
    result = told(runs)
    (spread,) = result["seeds"]
    assert spread.seeds["fr"] == pytest.approx((-1.0, -0.6))
    assert spread.mean["fr"].value == pytest.approx(-0.8)
    assert spread.mean["fr"].high < -0.7  # of documents, not of seeds
    assert "); seeds -1.000 to -0.600 |" in markdown_spreads(result["seeds"])
    assert "(a) (mean of 2 seeds) change en" in result["sentences"][0]
    assert "the spread of the seeds is below the table" in result["sentences"][-1]
    points = trade_off_points(result["axes"][0], {}, "en", result["bpb"])
    ends = [point for point in points if point["kind"] == "mean"]
    assert [(point["label"], point["seeds"]) for point in ends] == [("backbone", 0), ("a", 2), ("b", 1), ("c", 1)]
    assert ends[1]["learning"] == pytest.approx(-0.8)
    assert ends[1]["learning_low"] < -0.8 < ends[1]["learning_high"]
    assert [point["learning"] for point in points if point["kind"] == "run"] == pytest.approx([-1.0, -0.6])


def test_means_are_of_the_languages_with_several_tasks() -> None:
    tasks = {"arc/en": task_score(0.5, 0.1), "arc/fr": task_score(0.2, 0.1), "quiz/fra": task_score(0.4, 0.1)}
    scores = TaskScores(model="a", tasks=tasks, skipped={})
    assert tasks_table({"a": scores}, []).means["a"] == {"fr": (pytest.approx(0.3), pytest.approx(0.1 / 2**0.5))}
    assert mean_accuracy(scores, "de") is None
    assert mean_accuracy(scores, "eng") == (0.5, pytest.approx(0.1))


def test_the_change_of_a_mean_is_of_the_answers_to_the_same_questions() -> None:
    def asked(**correct: dict[str, str]) -> TaskScores:
        return TaskScores(
            model="a", tasks={f"{x}/fr": task_score(0, 0, y) for x, y in correct.items()}, skipped={}
        )

    base = asked(arc={"": "0011"}, mmlu={"law": "01", "art": "0011"})
    new = asked(arc={"": "0111"}, mmlu={"law": "11", "art": "0001"})
    # Question by question 0 1 0 0 of one task; 1 0 and 0 0 -1 0 of the groups of the other.
    arc, mmlu = (1 / 4, (1 / 4) / 4), ((1 / 2 - 1 / 4) / 2, ((1 / 2) / 2 + (1 / 4) / 4) / 4)
    value, error = mean_change(new, base, ["arc/fr", "mmlu/fr"]) or (0, 0)
    assert value == pytest.approx((arc[0] + mmlu[0]) / 2)
    assert error == pytest.approx(math.sqrt(arc[1] + mmlu[1]) / 2)
    assert mean_change(base, base, ["arc/fr"]) == (0, 0)
    assert mean_change(asked(arc={"": "001"}), base, ["arc/fr"]) is None
    assert mean_change(asked(arc={"": "0011"}), base, ["arc/fr", "mmlu/fr"]) is None


@pytest.mark.parametrize("new", ["de", None])
def test_german_after_french_has_its_own_axis_and_all_that_was_added(new: str | None) -> None:
    french = METHODS[3]
    german = run("german", "neutral", 2.02, 2.25, 2.6, base="elsewhere/runs/neutral", new=new)
    record = replace(german.record, languages=Languages(old=["en", "fr"], new="de"))
    german = replace(german, bases=[french.record], record=record)
    result = told([*METHODS, german])
    assert [(axis.learning, len(axis.runs)) for axis in result["axes"]] == [("fr", 4), ("de", 1)]
    assert (french.added_share, german.added_share) == (0.2, 0.4)
    assert "| 20.0%, 40.0% in all |" in markdown_costs(result["table"])
    marks = {row.name: row.marks for row in result["table"]}
    assert (marks["neutral"], marks["german"]) == ({"en": "best"}, {})
    (against,) = [sentence for sentence in result["sentences"] if sentence.startswith("Against")]
    assert against.startswith("Against neutral, which it goes on from, german changes en by +0.010")
    assert " fr by +0.050" in against and " de by -0.900" in against
    points = trade_off_points(result["axes"][1], {"base": [french]}, "en", result["bpb"])
    assert [(point["label"], round(point["learning"], 3)) for point in points] == [
        ("backbone", 0.0), ("neutral, base", 0.0), ("german", -0.9)
    ]  # fmt: skip


def test_a_new_domain_that_another_measures_and_one_that_is_not_measured() -> None:
    runs = [
        run("a", "lora", 2.0, 2.0, new="fr-wiki"),
        run("b", "lora", 2.0, 2.0, new="it"),
        run("c", "lora", 2.0, 2.0, new=None),
    ]
    assert [axis.learning for axis in axes(runs, "fr", "fr-wiki")] == ["fr"]
    assert axes([], "fr", "fr") == []
    with pytest.raises(StageError, match=r"it was not measured of backbone, a; `evaluate` with its rows too"):
        paired_domains(BASE, runs[:1], ["en", "it"])


def test_error_bars_go_both_ways_and_only_where_an_interval_is_known() -> None:
    older = run("older", "lora", 2.2, 2.3, documents=0)
    result = told([METHODS[3], older])
    points = trade_off_points(Axis("fr", [METHODS[3], older]), {}, "en", result["bpb"])
    assert [point.get("forgetting_low") is None for point in points] == [True, False, True]
    layers = trade_off(points, "en", "fr").to_dict()["layer"]
    ends = [layer["encoding"].get(end, {}).get("field", "") for layer in layers for end in ("x2", "y2")]
    assert [end for end in ends if end.endswith("high")] == ["forgetting_high", "learning_high"]
