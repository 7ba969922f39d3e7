"""Autocast to bfloat16 or float16 where the hardware computes in it."""

from __future__ import annotations

import torch

from cfp_cli.foundation.errors import TrainingError
from cfp_cli.training.options import Amp


def autocast_dtype(amp: Amp, device: torch.device) -> torch.dtype | None:
    """The type that `--amp` means on a device, or None for float32.

    Raises:
        TrainingError: the device does not compute in the type asked for.
    """
    if amp == "off" or (amp == "auto" and device.type != "cuda"):
        return None
    if amp == "auto":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    dtype = torch.bfloat16 if amp == "bf16" else torch.float16
    if not _computes_in(dtype, device):
        raise TrainingError(f"this {device.type} does not compute in {amp}; pass --amp off")
    return dtype


def _computes_in(dtype: torch.dtype, device: torch.device) -> bool:
    if device.type == "cuda":
        return dtype == torch.float16 or torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    # oneDNN only says so through these operators; AVX-512 BF16 and FP16 or AMX make the difference.
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and _cpu_has("avx512_bf16", "amx_bf16")
    return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported()) and _cpu_has("avx512_fp16", "amx_fp16")


def _cpu_has(*features: str) -> bool:
    known = torch.cpu.get_capabilities()
    return any(bool(known.get(feature)) for feature in features)
