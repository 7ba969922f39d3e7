from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cfp_cli.pruning.ranking import Ranking
from cfp_cli.scoring.clusters import ClusterRule, labels
from cfp_cli.scoring.scores import SetScores


def scored(channels: int, seed: int, levels: int = 0) -> SetScores:
    generator = np.random.default_rng(seed)
    norm = generator.random(channels) * 5
    richness = generator.integers(0, levels, channels).astype(float) if levels else generator.random(channels)
    distance = np.abs(norm[:, None] - norm)[np.triu_indices(channels, 1)].astype(np.float32)
    return SetScores("s", richness, distance, norm, 1.0)


@given(st.integers(2, 60), st.integers(0, 50), st.data())
def test_the_richest_of_every_cluster_stay(channels: int, seed: int, data: st.DataObject) -> None:
    scores = scored(channels, seed)
    count = data.draw(st.integers(1, channels))
    kept = Ranking.of(scores, ClusterRule()).keep(count)
    assert len(kept) == count
    assert sorted(set(kept.tolist())) == kept.tolist()
    cluster = labels(scores.distance, ClusterRule())
    for label in np.unique(cluster):
        members = np.flatnonzero(cluster == label)
        stay = np.isin(members, kept)
        if count >= cluster.max():
            assert stay.any(), "every cluster keeps one while the budget allows"
        if stay.any() and not stay.all():
            assert scores.richness[members[stay]].min() >= scores.richness[members[~stay]].max()


def test_ties_go_to_the_larger_norm_then_to_the_lower_index() -> None:
    scores = SetScores("s", np.ones(4), np.ones(6, np.float32), np.array([1.0, 3.0, 1.0, 2.0]), 1.0)
    order = Ranking.of(scores, ClusterRule(count=1)).orders[0]
    assert order.tolist() == [1, 3, 0, 2]


def test_the_published_selection_truncates_and_deletes_single_channels() -> None:
    scores = scored(20, 3)
    ranking = Ranking(np.array([1] * 19 + [2]), (np.arange(19), np.array([19])))
    assert ranking.keep_published(0.35).tolist() == list(range(12))
    assert 19 in ranking.keep(12)
    assert len(scores.richness) == 20
