"""A check before a long run: whether its checkpoint can be read back."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.save import save, without_subnormals
from cfp_cli.checkpoints.spec import spec_of
from cfp_cli.foundation.errors import CfpError, CheckpointError
from cfp_cli.foundation.scratch import scratch_folder


def require_readable(model: nn.Module, folder: Path) -> None:
    """Save a network to a temporary file, load it, and compare the two.

    Args:
        model: the network, with a spec; it is not changed.
        folder: folder of the temporary file; it is made if it does not exist.

    Raises:
        CheckpointError: the file cannot be loaded, or holds another network.
    """
    spec = spec_of(model)
    folder.mkdir(parents=True, exist_ok=True)
    with scratch_folder(folder, ".cfp-trial-") as trial:
        path = trial / "trial.pt"
        save(path, model)
        try:
            loaded = load(path, spec.arch)
        except CfpError as error:
            reason = str(error).replace(str(path), "its checkpoint")
            raise CheckpointError(
                f"a checkpoint of this network could not be loaded after training ({reason}); "
                "change the network so that its factory and its head's shape give the number of classes"
            ) from error
        if not _are_same(loaded, model):
            raise CheckpointError(
                "a checkpoint of this network loads as another network; its factory must build the same network again"
            )


def _are_same(loaded: nn.Module, model: nn.Module) -> bool:
    """Return whether a network has the tensors that `save` writes of another one."""
    read, written = loaded.state_dict(), model.state_dict()
    return read.keys() == written.keys() and all(
        read[name].dtype == value.dtype and torch.equal(read[name], without_subnormals(value))
        for name, value in written.items()
    )
