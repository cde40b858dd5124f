import base64
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from device import DEVICE
from helpers import LENGTH, VOCABULARY, language, write_rows, write_tokenizer
from tiny import make, shake
from torch.nn import functional

from models.backbone import create_llama, load_tokenizer, save_backbone
from models.block import close_gates
from models.extend import extend
from models.loss import plain_head
from pipeline.common.files import read_json
from train.data.rows import open_rows
from train.data.sites import MOST, OTHERS, count_sites, host, site_places
from train.data.tokens import tokenizer_digest
from train.evaluation import change, speed
from train.evaluation.change import measure_change
from train.evaluation.evaluate import evaluate
from train.evaluation.options import Evaluate
from train.evaluation.speed import measure_speed
from train.runs.options import Run
from train.runs.results import Amounts
from train.trainer.stages import extend as train_run

NAMES = ["a.example", "b.example", OTHERS]


def sites(places):
    return {"names": NAMES, "documents": base64.b64encode(bytes(places)).decode()}


@pytest.fixture
def rows(tmp_path):
    """Rows of tokens below 50, in which now and then a document ends."""
    tokens_NT1 = language(1, 20) % 49 + 1
    tokens_NT1[::3, 7] = 0
    return open_rows(write_rows(tmp_path / "rows.arrow", tokens_NT1, separator=0, sites=sites([0, 0, 1] * 7)))


def pair(method="neutral", architecture="Llama", **how):
    backbone, model = make(architecture).to(DEVICE), make(architecture).to(DEVICE)
    extend(model, method, fraction=0.3, **how)
    return backbone, model.eval()


def explicit(backbone, model, rows):
    """KL, agreement and change of the NLL, from whole fp64 distributions, and the mask."""
    tokens_NT1 = torch.from_numpy(rows.tokens(np.arange(len(rows)))).to(DEVICE)
    with torch.no_grad():
        before, after = (m(tokens_NT1[:, :-1]).logits.double().log_softmax(-1) for m in (backbone, model))
    target_NT1 = tokens_NT1[:, 1:, None]
    mask_NT = tokens_NT1[:, 1:] != 0
    kl_NT = (before.exp() * (before - after)).sum(-1)
    nats_NT = (before - after).gather(2, target_NT1)[..., 0]
    return kl_NT, before.argmax(-1) == after.argmax(-1), nats_NT, mask_NT


@pytest.mark.parametrize("method", ["lora", "adapter", "neutral"])
def test_nothing_has_changed_at_initialisation(rows, method):
    found = measure_change(*pair(method), rows, DEVICE)
    assert (found.kl, found.agreement, found.bpb) == (0, 1, 0)
    assert all(site.bpb == 0 for site in found.sites)
    assert all(layer.block == 0 for layer in found.layers)


# Gemma 2 caps its logits, so it has no plain head.
@pytest.mark.parametrize("architecture", ["Llama", "Gemma2"])
def test_kl_and_agreement_are_those_of_whole_distributions(rows, architecture, monkeypatch):
    monkeypatch.setattr(change, "LOGITS", 50 * 13)  # 13 tokens a chunk, which does not divide a batch's
    backbone, model = pair(architecture=architecture)
    assert (plain_head(model) is None) == (architecture == "Gemma2")
    shake(model)
    # Not in bf16, which the explicit computation is not in either.
    monkeypatch.setattr(change, "compute", lambda *_: torch.no_grad())
    kl_NT, same_NT, nats_NT, mask_NT = explicit(backbone, model, rows)
    found = measure_change(backbone, model, rows, DEVICE)
    assert found.tokens == mask_NT.sum()
    assert found.kl == pytest.approx(kl_NT[mask_NT].mean().item(), rel=1e-4)
    assert found.kl > 0.01
    kl_N, tokens_N = (
        np.frombuffer(base64.b64decode(text), kind)
        for text, kind in ((found.documents.kl, "<f4"), (found.documents.tokens, "<u4"))
    )
    assert kl_N == pytest.approx((kl_NT * mask_NT).sum(1).numpy(force=True), rel=1e-3)
    assert tokens_N.tolist() == mask_NT.sum(1).tolist()
    assert found.agreement == pytest.approx(same_NT[mask_NT].double().mean().item(), abs=1e-9)
    size = 2 * LENGTH * len(rows)
    assert found.bpb == pytest.approx(nats_NT[mask_NT].sum().item() / math.log(2) / size, rel=1e-4)


def test_each_site_has_the_tokens_of_its_documents(rows, monkeypatch):
    backbone, model = pair()
    shake(model)
    monkeypatch.setattr(change, "compute", lambda *_: torch.no_grad())
    _, _, nats_NT, mask_NT = explicit(backbone, model, rows)
    expected = {}
    for n in range(len(rows)):
        document, in_row = n, int(mask_NT[n].sum())
        for t in range(LENGTH):
            document += rows.tokens(np.array([n]))[0, t + 1] == 0
            if mask_NT[n, t]:
                total = expected.setdefault(NAMES[[0, 0, 1][document % 3]], [0, 0.0, 0.0])
                total[0] += 1
                total[1] += nats_NT[n, t].item()
                total[2] += 2 * LENGTH / in_row
    found = measure_change(backbone, model, rows, DEVICE).sites
    assert [site.site for site in found] == NAMES[:2]
    for site in found:
        tokens, nats, size = expected[site.site]
        assert site.tokens == tokens
        assert site.bytes == round(size)
        assert site.bpb == pytest.approx(nats / math.log(2) / size, abs=1e-6)


@pytest.mark.parametrize(
    ("gate", "threshold"), [("none", 0.0), ("elu", 0.0), ("elu", 0.3), ("sigmoid", 0.0), ("relu", 0.0)]
)
def test_gate_activity_is_what_the_blocks_compute(rows, gate, threshold, monkeypatch):
    backbone, model = pair(gate=gate)
    shake(model)
    close_gates(model, threshold)
    monkeypatch.setattr(change, "compute", lambda *_: torch.no_grad())
    tokens_NT1 = torch.from_numpy(rows.tokens(np.arange(len(rows)))).to(DEVICE)
    inputs = []
    layer = model.model.layers[1]
    handle = layer.mlp.register_forward_hook(lambda module, arguments, output: inputs.append(arguments[0]))
    with torch.no_grad():
        model(tokens_NT1[:, :-1])
        handle.remove()
        x_NTD, mask_NT = inputs[0], tokens_NT1[:, 1:] != 0
        block, ffn = layer.mlp.block, layer.mlp.ffn
        g_NT1 = torch.ones((), device=DEVICE)
        if gate != "none":
            logit_NT1 = x_NTD @ block.gate.weight.T + block.gate.bias
            g_NT1 = {"sigmoid": torch.sigmoid, "elu": functional.elu, "relu": functional.relu}[gate](logit_NT1)
            g_NT1[g_NT1.abs() <= threshold] = 0
        inside = torch.nn.functional.silu(block.gate_proj(x_NTD)) * block.up_proj(x_NTD)
        out_NTD = g_NT1 * block.down_proj(inside)
        share = out_NTD[mask_NT].abs().mean() / ffn(x_NTD)[mask_NT].abs().mean()
        g_N1 = g_NT1.expand(*mask_NT.shape, 1)[mask_NT]
    layers = measure_change(backbone, model, rows, DEVICE).layers
    assert len(layers) == 2
    assert layers[1].gate == pytest.approx(g_N1.abs().mean().item(), rel=1e-5)
    assert layers[1].open == pytest.approx((g_N1 != 0).double().mean().item(), abs=1e-9)
    assert (layers[1].open < 1) == (gate == "relu" or threshold > 0)
    assert layers[1].block == pytest.approx(share.item(), rel=1e-5)


def test_methods_without_blocks_have_no_gates_and_no_hook_stays(rows):
    assert measure_change(*pair("lora"), rows, DEVICE).layers == []
    backbone, model = pair()
    measure_change(backbone, model, rows, DEVICE)
    assert not any(module._forward_hooks for module in model.modules())


def test_long_rows_are_measured_on_fewer(rows, monkeypatch):
    monkeypatch.setattr(change, "TOKENS", 5 * LENGTH + 1)
    assert measure_change(*pair(), rows, DEVICE).rows == 5


# Sites --------------------------------------------------------------------------------------------


def test_the_largest_sites_keep_their_name_and_the_others_are_together():
    urls = [f"https://site{i}.example/{j}" for i in range(MOST + 3) for j in range(i + 1)]
    found = count_sites([host(url) for url in urls])
    assert found["names"] == [f"site{i}.example" for i in range(MOST + 2, 2, -1)] + [OTHERS]
    places = base64.b64decode(found["documents"])
    named = [found["names"][place] for place in places]
    assert len(places) == len(urls)
    assert all(name == host(url) or name == OTHERS for name, url in zip(named, urls, strict=True))
    assert named.count(OTHERS) == 1 + 2 + 3


@pytest.mark.parametrize("url", ["", "http://[::1", "=cmd()", "http://<script>/", "http://=1+1/", "mailto:a@b"])
def test_a_host_is_a_plain_name_or_none(url):
    assert host(url) == "no host"
    assert host("https://User@Docs.Example:80/x?y") == "docs.example"


def test_more_separators_than_documents_stay_with_the_last(rows):
    tokens_NT1 = np.zeros((1, 5), np.int64)
    assert site_places(rows, tokens_NT1, np.array([17])).tolist() == [[0, 0, 1, 1]]  # 18, 19, 20, and no 21


# Speed --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_speed_of_each_model_is_positive_and_beside_the_amounts(rows, monkeypatch):
    monkeypatch.setattr(speed, "ROUNDS", 2)
    backbone, model = pair()
    found = measure_speed({"backbone": backbone, "run": model}, rows, rows, DEVICE)
    for text in (found, found.new):
        assert text.speeds.keys() == {"backbone", "run"}
        assert all(rates.scoring > 0 and rates.writing > 0 for rates in text.speeds.values())
        assert text.tokens == Amounts(scoring=20 * LENGTH, writing=64)


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, 2), (1e9, 7)])
def test_of_a_slow_model_fewer_rounds_are_made(rows, monkeypatch, seconds, rounds):
    took = iter([0.1, 0.1, *(1.0 + i for i in range(14))])  # the first round does not count
    monkeypatch.setattr(speed, "_seconds", lambda do, device: next(took))
    monkeypatch.setattr(speed, "SECONDS", seconds)
    found = measure_speed({"backbone": pair()[0]}, rows, None, DEVICE)
    assert found.speeds["backbone"].scoring == found.tokens.scoring / 1.0
    assert found.new is None and len(list(took)) == 2 * (7 - rounds)


# The stage ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_evaluation_has_the_change_and_no_time_in_it(tmp_path):
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    same = {"tokenizer_sha256": tokenizer_digest(tokenizer), "separator": 0, "sites": sites([0, 0, 1] * 20)}
    old, new = (write_rows(tmp_path / f"{i}.arrow", language(i, 40), **same) for i in (1, 5))
    model = create_llama(
        hidden_size=16, layers=2, heads=2, ffn_size=24, vocabulary=VOCABULARY, row_tokens=LENGTH, bos=0, eos=0
    )
    backbone, run = str(tmp_path / "backbone"), str(tmp_path / "run")
    save_backbone(model, load_tokenizer(tokenizer), backbone)
    options = Run(
        learning_rate=1e-2, steps=4, batch_rows=8, micro_batch_rows=8, alpha=1.0, threads=1, device=DEVICE.type
    )
    held = [f"en={old}", f"fr={new}"]
    train_run(options, backbone, [old], new, held, run)
    how = Evaluate(prompts=["1 2"], generated_tokens=3, device=DEVICE.type)
    speed = tmp_path / "speed.json"
    evaluate(how, backbone, run, held, str(tmp_path / "a.json"), None)
    evaluate(how, backbone, run, held, str(tmp_path / "b.json"), str(speed))
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    found = read_json(tmp_path / "a.json")
    assert found["change"].keys() == found["domains"].keys() == {"en", "fr"}
    assert found["change"]["en"]["kl"] > 0
    assert [len(found["change"]["fr"][part]) for part in ("layers", "sites")] == [2, 2]
    assert read_json(speed)["speeds"].keys() == read_json(speed)["new"]["speeds"].keys() == {"backbone", "run"}
    evaluate(replace(how, gate_threshold=100.0), backbone, run, held, str(tmp_path / "d.json"), None)
    closed = read_json(tmp_path / "d.json")["change"]["fr"]
    assert closed["kl"] == 0 and [layer["open"] for layer in closed["layers"]] == [0, 0]
    evaluate(how, backbone, None, held, str(tmp_path / "c.json"), str(speed))
    assert read_json(tmp_path / "c.json")["change"] == {}
    assert read_json(speed)["speeds"].keys() == {"backbone"}
