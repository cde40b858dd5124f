"""What a backbone must do in every stage, tried on one tiny model of an architecture."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.architectures import tiny
from models import backbone
from models.adapter import load_adapter
from models.backbone import load_backbone, save_backbone
from models.extend import extend
from models.loss import log_probabilities, sum_nll, token_nll
from pipeline.common.errors import StageError
from train.data.tokens import open_tokenizer
from train.runs.backbone import fetch_backbone
from train.runs.export import save
from train.runs.generate import write
from train.runs.load import load_run
from train.runs.options import Export, Generate, Run
from train.sharing.export import export_run
from train.tasks.loglikelihood import Request, longest_cached, score
from train.trainer.documents import check_documents_apart
from train.trainer.randomness import RATES, without_randomness
from train.trainer.stages import extend as train_run

CPU = torch.device("cpu")
NOISE = 2e-4  # differences of fp32 by the order of sums
ADDED = [
    ("lora", "before_norm"),
    ("adapter", "before_norm"),
    ("neutral", "before_norm"),
    ("neutral", "after_norm"),
]


class Failure(AssertionError):
    """A stage that does something else than it promises with this architecture."""


def expect(right: bool, what: str) -> None:
    if not right:
        raise Failure(what)


def tokens(rows: int = 2, length: int = 14, seed: int = 0) -> Tensor:
    return torch.randint(4, tiny.VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def logits(model: Any, tokens_BT: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=tokens_BT, use_cache=False).logits
    return found


def same(one: Tensor, other: Tensor, within: float, what: str) -> None:
    difference = (one - other).abs().max().item()
    expect(difference <= within, f"{what}: off by {difference:.2g}")


def alike(found: Tensor, expected: Tensor, before: Tensor, what: str) -> None:
    """The same but for bf16, in which what was added is saved: far nearer than without what was added."""
    share = ((found - expected).norm() / (before - expected).norm()).item()
    expect(share < 0.1, f"{what}: differs by {share:.2g} of what training changed")


def shake(model: Any) -> None:
    """What was added does something."""
    torch.manual_seed(2)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.1)


class Tried:
    """A backbone that came through the door, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, str(folder / "backbone")

    def load(self) -> Any:
        return load_backbone(self.path, dtype=torch.float32)

    def extended(self, method: str = "neutral", placement: str = "before_norm") -> Any:
        model = self.load()
        extend(model, method, fraction=0.3, placement=placement)
        shake(model)
        return model


def at_the_door(model_type: str, folder: Path) -> str | None:
    """The line in which the architecture is refused, or None: its copy is then in `folder`/backbone."""
    model = tiny.make(model_type)
    save_backbone(model, tiny.tokenizer(folder / "tokenizer"), folder / "source")
    try:
        fetch_backbone(str(folder / "source"), None, "downloads", str(folder / "backbone"))
    except StageError as error:
        return str(error)
    return None


# Each returns what is to be told of it, or None -----------------------------------------------------


def identity(tried: Tried) -> None:
    """Before the first step the outputs are the backbone's, to the bit, and depend on no later token."""
    model = tried.load()
    x_BT = tokens()
    before, other_BT = logits(model, x_BT), tokens()
    other_BT[:, 9:] = (other_BT[:, 9:] + 5) % tiny.VOCABULARY
    same(logits(model, other_BT)[:, :9], before[:, :9], NOISE, "a token sees those behind it")
    for method, placement in [("finetune", "before_norm"), *ADDED]:
        model = tried.load()
        extend(model, method, fraction=0.3, placement=placement)
        expect(torch.equal(logits(model, x_BT), before), f"{method} {placement} changes the model before training")
        if method != "finetune":
            shake(model)
            expect(not torch.equal(logits(model, x_BT), before), f"{method} {placement} changes nothing")


def losses(tried: Tried) -> None:
    """The loss is the cross-entropy of the logits."""
    model, x_BT1 = tried.extended(), tokens(2, 13)
    nll_BT = functional.cross_entropy(logits(model, x_BT1[:, :-1]).transpose(1, 2), x_BT1[:, 1:], reduction="none")
    with torch.no_grad():
        same(sum_nll(model, x_BT1), nll_BT.sum(), 1e-3, "the loss")
    same(token_nll(model, x_BT1), nll_BT, NOISE, "the loss of a token")
    all_CV = torch.cat(list(log_probabilities(model, x_BT1, 5)))
    same(-all_CV.gather(1, x_BT1[:, 1:].reshape(-1, 1)).view_as(nll_BT), nll_BT, NOISE, "log-probabilities")


def steps(tried: Tried) -> None:
    """Gradients are where they belong, the same with recomputed layers, and a step lowers the loss."""
    x_BT1 = tokens(2, 13)
    for method, placement in [("finetune", "before_norm"), *ADDED]:
        gradients = []
        for recompute in (False, True):
            model = tried.load()
            extension = extend(model, method, fraction=0.3, placement=placement)
            trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
            if method != "finetune":
                shake(model)
            if recompute and model.supports_gradient_checkpointing:
                enable = getattr(model, "activation_checkpointing_enable", None)
                (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})
            model.train()
            with without_randomness(model), extension.context.losses(torch.ones(2, 1, 1), torch.tensor(0.1), 0.0):
                loss = sum_nll(model, x_BT1)
                loss.backward()
            expect(bool(torch.isfinite(loss)), f"{method}: the loss is {loss.item()}")
            frozen = [name for name, weight in model.named_parameters() if weight.grad is not None]
            expect(set(frozen) <= trained.keys(), f"{method}: a frozen weight has a gradient")
            missing = [name for name, weight in trained.items() if weight.grad is None]
            if method != "finetune":  # which has weights of other uses, such as heads for images
                expect(not missing, f"{method} {placement}: no gradient of {', '.join(missing[:2])}")
            gradients.append([weight.grad for weight in trained.values() if weight.grad is not None])
        expect(len(gradients[0]) == len(gradients[1]), f"{method}: recomputed layers have other gradients")
        for one, other in zip(*gradients, strict=True):
            scale = one.abs().max().item() + 1
            same(one / scale, other / scale, NOISE, f"{method} {placement}: gradients of recomputed layers")


def randomness(tried: Tried) -> None:
    """With all rates of chance at a half, two passes in train mode are the same, and the config stays."""
    plain = tried.load()
    with contextlib.suppress(ValueError, TypeError):  # a config that takes no such rates
        plain = type(plain)._from_config(type(plain.config).from_dict(raised(plain.config.to_dict())))
    model, found = plain.train(), []
    before = model.config.to_dict()
    with without_randomness(model), torch.no_grad():
        for seed in (1, 2):
            torch.manual_seed(seed)
            found.append(sum_nll(model, tokens()))
    expect(torch.equal(*found), "two passes in train mode differ")
    expect(model.config.to_dict() == before, "the config has changed")


def raised(config: dict[str, Any]) -> dict[str, Any]:
    """The config with each rate of chance at a half."""
    return {
        key: raised(value)
        if isinstance(value, dict)
        else 0.5
        if isinstance(value, float) and RATES.search(key)
        else value
        for key, value in config.items()
    }


def documents(tried: Tried) -> str:
    """`mask_documents` is refused, or the second document of a row is computed as if it were alone."""
    told = []
    for attention in ("eager", "sdpa"):
        model = load_backbone(tried.path, dtype=torch.float32, attention=attention)
        extend(model, "neutral")
        shake(model)
        try:
            check_documents_apart(model, CPU)
        except StageError:
            told.append("refused")
            continue
        told.append("apart")
        x_BT1 = tokens(2, 21)
        position_BT = torch.cat([torch.arange(9), torch.arange(11)]).expand(2, -1)
        later_BT = (torch.arange(20) >= 9).float().expand(2, -1)
        with torch.no_grad():
            packed = sum_nll(model, x_BT1, later_BT, position_BT)
            same(packed, sum_nll(model, x_BT1[:, 9:]), 2e-3, f"a document behind another, {attention}")
    return told[0] if told[0] == told[1] else f"eager {told[0]}, sdpa {told[1]}"


def generation(tried: Tried) -> str | None:
    """The same continuation with the cache of transformers as without one, if the backbone's own is right."""
    if cache_is_right(tried.extended()):
        write(tried.load(), open_tokenizer(tried.path), "5 6 7", Generate(tokens=3))
        return None
    expect(not cache_is_right(tried.load()), "generation with a cache differs from a loop without one")
    return "its own cache differs"


def cache_is_right(model: Any) -> bool:
    x_BT, how = tokens(2, 12), {"max_new_tokens": 8, "eos_token_id": None, "pad_token_id": 0, "do_sample": False}
    with torch.no_grad():
        cached_BT = model.generate(x_BT, attention_mask=torch.ones_like(x_BT), use_cache=True, **how)
    for _ in range(8):
        x_BT = torch.cat([x_BT, logits(model, x_BT)[:, -1:].argmax(-1)], 1)
    return torch.equal(cached_BT, x_BT)


def scoring(tried: Tried) -> str:
    """Log-likelihoods of answers are those of a loop over single rows."""
    model, random = tried.extended(), np.random.default_rng(0)
    shots = random.integers(4, tiny.VOCABULARY, 10)
    requests = []
    for i in range(8):
        question = random.integers(4, tiny.VOCABULARY, random.integers(1, 9))
        context = np.concatenate([shots[: 10 * (i % 3 > 0)], question]).astype(np.int32)
        answers = [random.integers(4, tiny.VOCABULARY, random.integers(1, 8)).tolist() for _ in range(3)]
        requests.append(Request((str(i % 3 > 0),), context, answers))
    found = {number: values for part in score(model, requests) for number, values in part.items()}
    for number, request in enumerate(requests):
        for answer, value in zip(request.continuations, found[number], strict=True):
            row = torch.tensor([[*request.context.tolist(), *answer]])
            logp_AV = logits(model, row[:, :-1])[0, -len(answer) :].log_softmax(-1)
            plain = logp_AV.gather(1, torch.tensor(answer)[:, None]).sum().item()
            expect(abs(plain - value) < 1e-3, f"an answer's log-likelihood is off by {abs(plain - value):.2g}")
    with torch.inference_mode():
        return "cached" if longest_cached(model, requests) else "whole rows"


def runs(tried: Tried) -> str:
    """Trained by the stage, loaded, saved as an adapter, and exported: always the same model."""
    exports = []
    tiny.write_rows(tried.folder, tried.folder / "backbone")
    for method, placement in ADDED:
        run, name = str(tried.folder / f"{method}-{placement}"), f"{method} {placement}"
        options = Run(
            learning_rate=3e-2, steps=2, batch_rows=2, micro_batch_rows=2, threads=1, device="cpu", alpha=1.0,
            old_rate=0.5, fraction=0.3, method=method, placement=placement, evaluate_rows=2,
        )  # fmt: skip
        rows = str(tried.folder / "rows.arrow")
        train_run(options, tried.path, [rows], rows, [f"en={rows}"], run)
        expected, before = logits(load_run(tried.path, run, CPU), tokens()), logits(tried.load(), tokens())
        save(run, None, f"{run}.adapter")
        adapter = load_adapter(f"{run}.adapter", tried.path, dtype=torch.float32)
        alike(logits(adapter, tokens()), expected, before, f"{name}: the saved adapter")
        export_run(Export(), run, None, [], f"{run}.export")
        exports.append(exported(f"{run}.export", expected, before, name))
    return ", ".join(dict.fromkeys(exports))


def exported(folder: str, expected: Tensor, before: Tensor, name: str) -> str:
    from transformers import AutoModelForCausalLM

    plain = not (Path(folder) / "modeling_neutral.py").exists()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=not plain)
    kind = "plain" if plain else "with code"
    alike(logits(model.eval(), tokens()), expected, before, f"{name}: the export ({kind})")
    return kind


COLUMNS = ("architecture", "outcome", "documents", "scoring", "generation", "export", "said")
CHECKS: dict[str, Callable[[Tried], str | None]] = {
    "identity": identity, "loss": losses, "steps": steps, "randomness": randomness, "documents": documents,
    "generation": generation, "scoring": scoring, "runs": runs,
}  # fmt: skip


def try_architecture(model_type: str, folder: Path) -> dict[str, str]:
    """A row of the table. outcome: passes, refused, not made or fails later."""
    row = dict.fromkeys(COLUMNS, "") | {"architecture": model_type}
    try:
        tiny.make(model_type)
    except Exception as error:
        return row | {"outcome": "not made", "said": short(error)}
    try:
        if refusal := at_the_door(model_type, folder):
            why = refusal.partition(" (safetensors or GGUF): ")[2] or refusal
            return row | {"outcome": "refused", "said": why.partition("; ")[0]}  # the cure is behind it
    except Exception as error:
        return row | {"outcome": "fails later", "said": f"door: {short(error)}"}
    failed = []
    with in_fp32():
        for name, check in CHECKS.items():
            try:
                told = check(Tried(folder))
                row |= {{"runs": "export"}.get(name, name): told} if told else {}
            except Exception as error:
                failed.append(f"{name}: {short(error)}")
    return row | {"outcome": "fails later" if failed else "passes", "said": "; ".join(failed)}


def short(error: Exception) -> str:
    kind = "" if isinstance(error, Failure | StageError) else f"{type(error).__name__}: "
    return kind + " ".join(str(error).split())[:200]


@contextlib.contextmanager
def in_fp32() -> Iterator[None]:
    """On every CPU: bf16 differs by the order of sums in the third digit."""
    import train.runs.load as loading

    kept = backbone.compute_dtype
    backbone.compute_dtype = loading.compute_dtype = lambda device: torch.float32
    try:
        yield
    finally:
        backbone.compute_dtype = loading.compute_dtype = kept
