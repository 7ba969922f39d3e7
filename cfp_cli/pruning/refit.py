"""What is done to a rebuilt network before any training: refit its layers, then re-estimate its batch norms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from cfp_cli.execution.full_precision import full_precision
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.graph import Selection
from cfp_cli.pruning.layer_fit import BEST_FIT, FitOptions
from cfp_cli.pruning.recalibrate import absorb_statistics, recalibrate
from cfp_cli.pruning.reconstruct import RecordedOutputs, reconstruct


@dataclass(frozen=True)
class Refit:
    """Which parts of a rebuilt network are fitted to the original.

    Attributes:
        reconstruct: fit every layer to its outputs in the original.
        recalibrate: re-estimate the statistics of batch norm. Behind fitted layers the network then still computes the
            same.
        recorded: outputs of the original's layers, to fit many networks to them; None runs the original each time.
        fit: how each layer is fitted.
    """

    reconstruct: bool = True
    recalibrate: bool = True
    recorded: RecordedOutputs | None = None
    fit: FitOptions = BEST_FIT

    @property
    def stage(self) -> str | None:
        """Name of the network's state afterwards; None where nothing is done."""
        return "reconstructed" if self.reconstruct else "recalibrated" if self.recalibrate else None

    def apply(
        self,
        pruned: nn.Module,
        original: nn.Module,
        selection: Selection,
        loader: Iterable[tuple[Tensor, Tensor]],
        progress: Progress = SILENT,
    ) -> None:
        """Refit a pruned network in place.

        Args:
            pruned: the network that `rebuild` returned.
            original: the network that the selection's graph was derived from.
            selection: the kept units.
            loader: batches of training images float32 [N, C, H, W] and labels, the same in each pass.
            progress: reports progress over layers and batches.

        Raises:
            DataError: there are no images, or every batch has a single one.
        """
        with full_precision():
            if self.reconstruct:
                if self.recorded is not None:
                    self.recorded.fit(pruned, selection, self.fit, progress)
                else:
                    reconstruct(pruned, original, selection, loader, options=self.fit, progress=progress)
                if self.recalibrate:
                    absorb_statistics(pruned, selection.graph.traced, loader, progress)
            elif self.recalibrate:
                recalibrate(pruned, loader, progress)


FULL = Refit()
