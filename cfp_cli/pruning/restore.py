"""What follows a rebuild before any training: fitted weights, then new statistics of batch norm."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from cfp_cli.execution.full_precision import full_precision
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.graph import Selection
from cfp_cli.pruning.recalibrate import recalibrate, settle
from cfp_cli.pruning.reconstruct import reconstruct


@dataclass(frozen=True)
class Restoration:
    """What is done to a rebuilt network.

    Attributes:
        reconstruct: fit every layer to its outputs in the original.
        recalibrate: re-estimate the statistics of batch norm; of fitted layers such that the function stays.
    """

    reconstruct: bool = True
    recalibrate: bool = True

    @property
    def stage(self) -> str | None:
        """What the network is called afterwards; None where nothing is done."""
        return "reconstructed" if self.reconstruct else "recalibrated" if self.recalibrate else None

    def apply(
        self,
        pruned: nn.Module,
        original: nn.Module,
        selection: Selection,
        loader: Iterable[tuple[Tensor, Tensor]],
        progress: Progress = SILENT,
    ) -> None:
        """Restore `pruned`, in place.

        Args:
            pruned: what `rebuild` made of `original`.
            original: the network that the selection's graph was derived from.
            selection: the kept units.
            loader: batches of training images float32 [N, 3, H, W] and labels, the same in each pass.
            progress: told of layers and batches.

        Raises:
            DataError: there are no images, or only one in each batch.
        """
        with full_precision():
            if self.reconstruct:
                reconstruct(pruned, original, selection, loader, progress=progress)
                if self.recalibrate:
                    settle(pruned, loader, progress)
            elif self.recalibrate:
                recalibrate(pruned, loader, progress)


FULL = Restoration()
