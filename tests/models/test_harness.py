"""An exported model in lm-evaluation-harness, on a task of a few lines. Skipped where it is not installed."""

import json
import math
from pathlib import Path

import pytest
import torch
from test_export import addition
from tiny import make, rounded
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from models.adapter import attach
from models.export import export

TASK = """
task: tiny
dataset_path: json
dataset_kwargs: {data_files: {test: "FILE"}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: label
metric_list: [{metric: acc}]
"""


def test_scores_are_those_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm_eval, registry = pytest.importorskip("lm_eval"), pytest.importorskip("lm_eval.api.registry")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    vocabulary = {"<end>": 0} | {f"w{i}": i for i in range(1, 50)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<end>"))  # noqa: S106 - no password
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>")  # noqa: S106
    one = addition("Llama", "neutral")
    model = rounded(make())
    attach(model, [one])
    (tmp_path / "model").mkdir()
    assert export(model, tokenizer, tmp_path / "model").has_code

    with pytest.raises(ValueError, match="trust_remote_code=True"):
        registry.get_model("hf")(pretrained=str(tmp_path / "model"), device="cpu")
    lines = [{"question": f"w{i} w{i + 3}", "choices": ["w1", "w7 w9"], "label": i % 2} for i in range(1, 9)]
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "tiny.yaml").write_text(TASK.replace("FILE", str(tmp_path / "lines.jsonl")))
    results = lm_eval.simple_evaluate(
        model="hf",
        model_args={
            "pretrained": str(tmp_path / "model"),
            "trust_remote_code": True,
            "dtype": "float32",
            "attn_implementation": "eager",
        },
        tasks=["tiny"],
        task_manager=lm_eval.tasks.TaskManager(include_path=str(tmp_path), include_defaults=False),
        device="cpu",
        batch_size=1,
        log_samples=True,
        bootstrap_iters=0,
    )
    samples = results["samples"]["tiny"]
    assert len(samples) == len(lines)
    model.float()
    for sample in samples:
        question = sample["doc"]["question"]
        for choice, response in zip(sample["doc"]["choices"], sample["filtered_resps"], strict=True):
            ids = torch.tensor([tokenizer(f"{question} {choice}")["input_ids"]])
            with torch.no_grad():
                logp = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])
            assert math.isclose(float(response[0]), logp[1:].sum().item(), abs_tol=1e-4)
