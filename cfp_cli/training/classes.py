"""Checks that a network and a dataset have the same classes."""

from __future__ import annotations

from cfp_cli.data.dataset import Dataset
from cfp_cli.foundation.errors import DataError
from cfp_cli.foundation.naming import name_some


def require_classes(classes: tuple[str, ...], dataset: Dataset, network: str) -> None:
    """Raise an error if the classes of a network differ from those of the dataset, or have another order.

    A network with numbers as class names passes if the dataset has equally many classes. Each class needs training
    images.

    Args:
        classes: classes of the network.
        dataset: the dataset.
        network: what the message calls the network.

    Raises:
        DataError: the classes differ, or a class has no training images.
    """
    for name, count in zip(dataset.classes, dataset.counts("train"), strict=True):
        if count == 0:
            raise DataError(f"class '{name}' has no images in train of {dataset.root}; add some to train the network")
    numbered = classes == tuple(str(index) for index in range(len(classes)))
    if classes == dataset.classes or (numbered and len(classes) == len(dataset.classes)):
        return
    raise DataError(
        f"{network} was made for the classes {name_some(classes)}, the data has {name_some(dataset.classes)}; "
        "use the data it was trained on"
    )
