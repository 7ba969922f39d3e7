"""Autocast to bfloat16 or float16 on hardware that supports it."""

from __future__ import annotations

import torch

from cfp_cli.foundation.errors import TrainingError
from cfp_cli.training.options import Amp


def autocast_dtype(amp: Amp, device: torch.device) -> torch.dtype | None:
    """The autocast type that `--amp` selects on a device, or None for float32.

    Raises:
        TrainingError: the device does not support the requested type.
    """
    if amp == "off" or (amp == "auto" and device.type != "cuda"):
        return None
    if amp == "auto":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    dtype = torch.bfloat16 if amp == "bf16" else torch.float16
    if not _supports(dtype, device):
        raise TrainingError(f"this {device.type} does not compute in {amp}; pass --amp off")
    return dtype


def _supports(dtype: torch.dtype, device: torch.device) -> bool:
    if device.type == "cuda":
        return dtype == torch.float16 or torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    # oneDNN reports support through these operators only, and also on CPUs that emulate the type. Emulation is slow,
    # so check for the instructions as well.
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and _cpu_has("avx512_bf16", "amx_bf16")
    return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported()) and _cpu_has("avx512_fp16", "amx_fp16")


def _cpu_has(*features: str) -> bool:
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(feature)) for feature in features)
