from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.cluster import hierarchy

from cfp_cli.foundation.errors import UsageError
from cfp_cli.scoring.clusters import ClusterRule, labels, linkage


def condensed(channels: int) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(float, channels * (channels - 1) // 2, elements=st.floats(0, 10, width=32))


@given(st.integers(2, 12).flatmap(condensed), st.integers(1, 5))
def test_a_number_of_clusters_is_scipys_maxclust(distance: np.ndarray, count: int) -> None:
    expected = hierarchy.fcluster(hierarchy.linkage(distance, "average"), count, "maxclust")
    np.testing.assert_array_equal(labels(distance, ClusterRule(count=count)), expected)


@given(st.integers(2, 30).flatmap(condensed), st.sampled_from([1.5, 2.0, 3.0, 10.0]))
def test_the_adaptive_cut_has_at_most_four_clusters(distance: np.ndarray, scale: float) -> None:
    found = labels(distance, ClusterRule(scale=scale))
    threshold = hierarchy.fcluster(linkage(distance), (distance.max() - distance.min()) / scale, "distance")
    if threshold.max() <= 4:
        np.testing.assert_array_equal(found, threshold)
    else:
        np.testing.assert_array_equal(found, hierarchy.fcluster(linkage(distance), 4, "maxclust"))


def test_two_distant_groups_are_two_clusters() -> None:
    values = np.array([0.0, 0.1, 5.0, 5.1, 0.05])
    distance = np.abs(values[:, None] - values)[np.triu_indices(5, 1)]
    found = labels(distance, ClusterRule.parse("adaptive:2"))
    assert found.tolist() in ([1, 1, 2, 2, 1], [2, 2, 1, 1, 2])


def test_one_channel_is_one_cluster() -> None:
    assert labels(np.zeros(0), ClusterRule()).tolist() == [1]


@pytest.mark.parametrize(
    ("text", "rule"), [("3", ClusterRule(3)), ("adaptive:3", ClusterRule(scale=3)), ("adaptive", ClusterRule())]
)
def test_rules_are_read(text: str, rule: ClusterRule) -> None:
    assert ClusterRule.parse(text) == rule
    assert ClusterRule.parse(str(rule)) == rule


@pytest.mark.parametrize("text", ["", "0", "-1", "two", "adaptive:0", "adaptive:x", "2.5"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a cluster rule"):
        ClusterRule.parse(text)
