"""FP8 weights stand for the bf16 weights that their definition gives."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_refusals import UP, refused, words
from tiny import make
from torch import Tensor

from models.backbone import load_backbone, save_backbone
from models.quantised import dequantise

FP8 = torch.float8_e4m3fn


def by_hand(weight: Tensor, scale: Tensor, block: tuple[int, int]) -> Tensor:
    """Number by number."""
    plain = torch.empty(weight.shape)
    for row in range(weight.shape[0]):
        for column in range(weight.shape[1]):
            factor = scale[row // block[0], column // block[1]]
            plain[row, column] = torch.tensor(float(weight[row, column])) * torch.tensor(float(factor))
    return plain.bfloat16()


@pytest.mark.parametrize("block", [(128, 128), (8, 8), (5, 16), (16, 7), (24, 16)])
@pytest.mark.parametrize("end", ["_scale_inv", "_scale"])
def test_each_block_is_multiplied_with_its_scale(block: tuple[int, int], end: str) -> None:
    torch.manual_seed(0)
    weight = torch.randn(24, 16).to(FP8)
    scale = torch.rand(-(-24 // block[0]), -(-16 // block[1])) + 0.1
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": list(block)}}
    read = dequantise({"a.weight": weight, f"a.weight{end}": scale, "b.weight": scale}, config)
    assert read.keys() == {"a.weight", "b.weight"}
    assert torch.equal(read["a.weight"], by_hand(weight, scale, block))
    assert read["b.weight"] is scale


@pytest.mark.parametrize(
    ("scale", "block"),
    [
        (torch.tensor(0.3), (24, 16)),
        (torch.tensor([0.3]), (24, 16)),
        (torch.rand(24), (1, 16)),
        (torch.rand(24, 1), (1, 16)),
        (torch.rand(3, 2), (8, 8)),  # no block of the config
        (torch.tensor([[120, 130], [127, 125], [126, 128]], dtype=torch.uint8), (8, 8)),  # exponents
    ],
)
def test_other_scales(scale: Tensor, block: tuple[int, int]) -> None:
    weight = torch.linspace(-2, 2, 24 * 16).view(24, 16).to(FP8)
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": None}}
    read = dequantise({"a.weight": weight, "a.weight_scale_inv": scale}, config)["a.weight"]
    factors = 2.0 ** (scale.double() - 127) if scale.dtype == torch.uint8 else scale
    expected = by_hand(weight, factors.reshape(24 // block[0], 16 // block[1]), block)
    assert torch.equal(read, expected)


@pytest.mark.parametrize("block", [[8, 8], None])
def test_a_model_in_fp8_is_read_as_transformers_reads_it(block: list[int] | None, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    from transformers import AutoModelForCausalLM, FineGrainedFP8Config

    save_backbone(make(), words(), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "_proj" not in name}
    for name in weights.keys() - kept.keys():
        rows, columns = weights[name].shape
        kept[name] = weights[name].to(FP8)
        kept[f"{name}_scale_inv"] = torch.rand(rows // 8, columns // 8) if block else torch.rand(1, 1)[0, 0]
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    about = {"quant_method": "fp8", "weight_block_size": block, "modules_to_not_convert": ["lm_head"]}
    config = json.loads((tmp_path / "config.json").read_text()) | {"quantization_config": about}
    (tmp_path / "config.json").write_text(json.dumps(config))
    plain = FineGrainedFP8Config(dequantize=True, **{key: about[key] for key in about if key != "quant_method"})
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16, quantization_config=plain)
    ours = load_backbone(str(tmp_path))
    assert not hasattr(ours.config, "quantization_config")
    expected = theirs.state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in ours.state_dict().items())

    save_file(kept | {f"{UP}_scale_inv": torch.rand(7, 3)}, tmp_path / "model.safetensors", {"format": "pt"})
    assert refused(tmp_path) == f"{UP}: its FP8 scale of [7, 3] does not fit it; download the model again"
    for wrong in (5, "ab", [0, 8], [1.5, 8], {"a": 1, "b": 2}):
        config["quantization_config"]["weight_block_size"] = wrong
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert refused(tmp_path).startswith("config.json: weight_block_size is not two sizes")
