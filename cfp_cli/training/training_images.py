"""The decoded images of a training run, in the preprocessing of each network that uses them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cfp_cli.data.dataset import Dataset
from cfp_cli.data.decoding import DEFAULT_BUDGET
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.data.views import ViewStore
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.measuring.metrics import Loader
from cfp_cli.training.options import TrainOptions

EVALUATION_BATCH = 128


@dataclass
class TrainingImages:
    """The images of one dataset. Networks with equal preprocessing share the decoded views.

    Attributes:
        dataset: the dataset.
        options: augmentation, number of views and seed.
        cache_folder: folder for pixels that exceed the budget; None is the temporary folder of the system.
        budget: largest number of bytes in memory per preprocessing or split.
        progress: reports progress.
    """

    dataset: Dataset
    options: TrainOptions
    cache_folder: Path | None = None
    budget: int = DEFAULT_BUDGET
    progress: Progress = SILENT
    _views: dict[Preprocessing, ViewStore] = field(default_factory=dict)

    def views(self, preprocessing: Preprocessing) -> ViewStore:
        """The augmented views of the training split.

        Raises:
            DataError: there is no training split, or too many images are broken.
        """
        if preprocessing not in self._views:
            self._views[preprocessing] = ViewStore(
                self.dataset.split("train"),
                preprocessing,
                self.options.augment,
                self.options.views,
                self.options.seed,
                self.cache_folder,
                self.budget,
                broken=self.dataset.broken,
                progress=self.progress,
            )
        return self._views[preprocessing]

    def release_other_views(self, preprocessing: Preprocessing) -> None:
        """Free the views in every preprocessing but this one, which only teachers needed."""
        self._views = {preprocessing: self._views[preprocessing]}

    def evaluation_images(self, split: str, preprocessing: Preprocessing) -> ViewStore:
        """The images of a split without augmentation: one view of each.

        Raises:
            DataError: there is no such split, or too many images are broken.
        """
        return ViewStore(
            self.dataset.split(split),
            preprocessing,
            "none",
            cache_folder=self.cache_folder,
            budget=self.budget,
            broken=self.dataset.broken,
            progress=self.progress,
        )

    def validation_views(self, preprocessing: Preprocessing) -> ViewStore | None:
        """The views of the validation images on which the distillation loss is measured; None without any.

        Raises:
            DataError: there is no validation split, or too many images are broken.
        """
        if not self.options.val_views or self.options.augment == "none":
            return None
        return ViewStore(
            self.dataset.split("val"),
            preprocessing,
            self.options.augment,
            self.options.val_views,
            # Other views than those by which `cfp shrink` judges the result.
            self.options.seed + 1,
            self.cache_folder,
            self.budget,
            broken=self.dataset.broken,
            progress=self.progress,
        )

    def evaluation_batches(self, split: str, preprocessing: Preprocessing) -> Loader:
        """The images of `evaluation_images`, in batches."""
        return self.evaluation_images(split, preprocessing).batches(EVALUATION_BATCH)
