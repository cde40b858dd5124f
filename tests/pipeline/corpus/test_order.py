import pytest

from pipeline.corpus.options import Filter, Near
from pipeline.corpus.order import documents_before, ledgers, stages_on
from pipeline.workflow.layout import Layout

OUT = Layout("out")
OFF, ON = Filter(), Filter(rules=["c4"])


@pytest.mark.parametrize(
    ("filters", "near", "read"),
    [
        (OFF, False, {"quality": "documents"}),
        (ON, False, {"filter": "documents", "quality": "filtered"}),
        (OFF, True, {"near": "documents", "quality": "near"}),
        (ON, True, {"filter": "documents", "near": "filtered", "quality": "near"}),
    ],
)
def test_each_stage_reads_what_the_one_before_it_that_is_on_writes(filters, near, read):
    stages = stages_on(filters, Near(enabled=near))
    assert {stage: documents_before(OUT, stages, stage, "0") for stage in read} == {
        stage: f"out/{folder}/0.arrow" for stage, folder in read.items()
    }
    assert len(ledgers(OUT, stages)) == len(stages) + 2


def test_the_ledgers_of_a_batch():
    assert ledgers(OUT, ["dedup", "near"], "0") == [
        "out/pages/0.ledger.json",
        "out/documents/0.ledger.json",
        "out/near/0.ledger.json",
        "out/corpus/.ledgers/0.json",
    ]
