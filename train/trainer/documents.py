"""Whether a backbone keeps the documents of a row apart, as `mask_documents` asks: tried before training."""

from __future__ import annotations

from typing import Any

import torch

from models.backbone import compute
from models.loss import sum_nll
from pipeline.common.errors import StageError

CURE = "set it to false, or take another backbone"
TOKENS, STARTS = 16, (5, 11)  # of the rows that are tried, and where the second document of each begins


def check_documents_apart(model: Any, device: torch.device) -> None:
    """Raises StageError unless other tokens in the first document of a row leave the loss of the second as it is.

    transformers takes positions that begin anew for the border of a document. Layers that carry a state along the
    row (recurrent, convolutional) do not, nor does attention that knows no positions (ALiBi).
    """
    place_T, start_B1 = torch.arange(TOKENS, device=device), torch.tensor(STARTS, device=device)[:, None]
    is_later_BT = place_T >= start_B1
    position_BT = torch.where(is_later_BT, place_T - start_B1, place_T)
    vocabulary = len(model.get_input_embeddings().weight)
    tokens_BT1 = torch.arange(len(STARTS) * (TOKENS + 1), device=device).view(len(STARTS), -1) % vocabulary
    others_BT1 = tokens_BT1.clone()
    others_BT1[:, :-1][~is_later_BT] = others_BT1[:, :-1][~is_later_BT].add(1) % vocabulary
    try:
        with torch.no_grad(), compute(device, model):
            one, other = (
                sum_nll(model, rows_BT1, is_later_BT.float(), position_BT) for rows_BT1 in (tokens_BT1, others_BT1)
            )
    except (TypeError, ValueError, RuntimeError) as error:
        raise StageError(
            f"mask_documents: a {type(model).__name__} takes no positions ({error}); {CURE}"
        ) from None
    if not torch.equal(one, other):
        raise StageError(
            f"mask_documents: a {type(model).__name__} does not keep the documents of a row apart; {CURE}"
        )
