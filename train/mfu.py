"""The speed that the hardware could have, of which a training reaches a share (MFU)."""

from __future__ import annotations

import torch

from models.cost import H100_FLOPS

# Dense bf16 FLOP/s of one device, from the makers' data sheets, by a part of the name that torch gives it.
PEAKS = {
    "H100 PCIe": 756e12,
    "H100": H100_FLOPS,
    "H200": H100_FLOPS,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
}


def peak_flops(device: torch.device) -> float | None:
    """Dense bf16 FLOP/s of the device, where it is known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)
