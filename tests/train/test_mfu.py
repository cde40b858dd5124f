import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.backbone import create_llama
from models.cost import flops_per_token
from models.extend import extend
from models.loss import sum_nll
from train.mfu import peak_flops

LENGTH, LAYERS, SIZE, FFN = 32, 4, 32, 64


@pytest.mark.parametrize("method", ["finetune", "lora", "adapter", "neutral"])
@pytest.mark.parametrize("tied", [True, False])
def test_formula_is_what_torch_counts(method: str, tied: bool) -> None:
    model = create_llama(hidden_size=SIZE, layers=LAYERS, heads=2, ffn_size=FFN, vocabulary=96, row_tokens=LENGTH)
    if not tied:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
    extension = extend(model, method)
    with FlopCounterMode(display=False) as counter:
        sum_nll(model, torch.randint(96, (2, LENGTH + 1))).backward()
    counted = counter.get_total_flops() / (2 * LENGTH)
    formula = flops_per_token(model, LENGTH)
    if method == "finetune":
        assert counted == formula
    elif method == "lora":
        assert 0.85 * formula < counted < formula
    else:  # no gradient passes through the first frozen layer, nor through the block's own input there
        attention, ffn = 4 * SIZE * SIZE, 3 * SIZE * FFN
        below = 2 * (attention + ffn) + 8 * SIZE * LENGTH
        below += 2 * SIZE * (2 * extension.width + (method == "neutral"))
        assert counted == formula - below


def test_a_cpu_has_no_known_peak() -> None:
    assert peak_flops(torch.device("cpu")) is None
