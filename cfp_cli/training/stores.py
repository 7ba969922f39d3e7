"""The decoded images that training needs, in the preprocessing of each network that will see them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cfp_cli.data.dataset import Dataset
from cfp_cli.data.decoding import DEFAULT_BUDGET
from cfp_cli.data.images import ImageStore, load_images
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.data.views import ViewStore
from cfp_cli.foundation.errors import DataError
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.training.options import TrainOptions


@dataclass
class Stores:
    """Images of one dataset, each kind decoded once however many networks ask.

    Attributes:
        dataset: whose images.
        options: augmentation, views and seed.
        cache_folder: where pixels go that do not fit the budget; the system's temporary folder where None.
        budget: bytes of memory that one store may take.
        progress: told of the images done.
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

    def keep_only(self, preprocessing: Preprocessing) -> None:
        """Let go of the views that only teachers needed."""
        self._views = {preprocessing: self._views[preprocessing]}

    def plain(self, split: str, preprocessing: Preprocessing) -> ImageStore:
        """The images of a split as they are.

        Raises:
            DataError: there is no such split, or too many images are broken.
        """
        return load_images(
            self.dataset,
            split,
            preprocessing,
            cache_folder=self.cache_folder,
            budget=self.budget,
            progress=self.progress,
        )


def require_classes(found: tuple[str, ...], dataset: Dataset, whose: str) -> None:
    """Refuse a network whose classes are not the dataset's, in the same order.

    A network whose classes are only numbered takes the dataset's names, where there are as many.

    Raises:
        DataError: they differ.
    """
    numbered = found == tuple(str(index) for index in range(len(found)))
    if found == dataset.classes or (numbered and len(found) == len(dataset.classes)):
        return
    raise DataError(
        f"{whose} was made for the classes {', '.join(found)}, the data has {', '.join(dataset.classes)}; "
        "use the data it was trained on"
    )
