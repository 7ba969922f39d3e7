"""`cfp fuse`: merge each RepVGG training block of a checkpoint into one convolution, and check the result."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.save import save
from cfp_cli.checkpoints.spec import spec_of
from cfp_cli.exporting.samples import procedural_images
from cfp_cli.foundation.errors import ProofError
from cfp_cli.foundation.files import sha256, write_bytes
from cfp_cli.foundation.scratch import scratch_folder
from cfp_cli.models.fuse import fuse
from cfp_cli.runs.inputs import ModelInput
from cfp_cli.runs.output_path import check_output

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Fused:
    """A fused checkpoint.

    Attributes:
        out: the checkpoint.
        params_before, params_after: number of parameters.
        max_relative_error: largest difference of a logit on 48 generated images, divided by the largest logit.
    """

    out: Path
    params_before: int
    params_after: int
    max_relative_error: float


def run_fuse(model: ModelInput, out: Path) -> Fused:
    """Fuse a checkpoint. The result is written only if its file, read back, gives the same logits.

    Raises:
        UsageError: `out` is the model, a file of a run, a folder or a device.
        CheckpointError: the model cannot be read, has no training block, or its architecture cannot be fused.
        ProofError: the fused network gives other logits.
    """
    check_output(out, inputs=[model.path])
    network = model.load()
    spec = spec_of(network).followed_by("fuse", **{"from": sha256(model.path)})
    spec = replace(spec, arch_kwargs={**spec.arch_kwargs, "fused": True})
    images = procedural_images(spec)
    with scratch_folder() as folder:
        candidate = folder / out.name
        save(candidate, fuse(network), spec)
        fused = load(candidate, spec.arch)
        with torch.inference_mode():
            expected, given = network(images), fused(images)
        error = ((given - expected).abs().max() / expected.abs().max().clamp_min(1e-30)).item()
        if not error <= TOLERANCE:
            raise ProofError(f"the fused network gives other logits (relative error {error:.1e}); nothing was written")
        write_bytes(out, candidate.read_bytes())
    before, after = (sum(parameter.numel() for parameter in each.parameters()) for each in (network, fused))
    return Fused(out, before, after, error)
