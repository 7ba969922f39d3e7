from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import squareform

from cfp_cli.scoring.clusters import ClusterRule, labels


@pytest.mark.shared_data
@pytest.mark.parametrize("layer", range(1, 13))
def test_published_vgg16_partitions(shared: Path, layer: int) -> None:
    square = np.load(shared / "golden" / "vgg16_distance" / f"dis_conv{layer}.npy")
    published = np.load(shared / "golden" / "vgg16_clusters" / f"ci_conv{layer}.npy")
    found = labels(squareform(square, checks=False), ClusterRule.parse("adaptive:2"))
    np.testing.assert_array_equal(found, published)
