from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cfp_cli.graph import Selection, channel_sets
from cfp_cli.pruning.ranking import Ranking, balanced
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


@given(st.integers(2, 40), st.integers(0, 50), st.sampled_from(["1", "2", "7", "adaptive:2"]), st.data())
def test_dead_channels_are_dropped_before_live_ones_under_any_cluster_rule(
    channels: int, seed: int, rule: str, data: st.DataObject
) -> None:
    scores = scored(channels, seed)
    dead = sorted(data.draw(st.sets(st.integers(0, channels - 1), max_size=channels)))
    scores.richness[dead] = 0
    count = data.draw(st.integers(1, channels))
    kept = Ranking.of(replace(scores, dead=tuple(dead)), ClusterRule.parse(rule)).keep(count)
    assert len(set(kept.tolist())) == count
    assert len(np.intersect1d(kept, dead)) == max(count - (channels - len(dead)), 0)


def test_constraints_take_live_channels_before_dead_ones() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.GroupNorm(2, 8),
        nn.Conv2d(8, 4, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    graph = channel_sets(model.eval(), torch.rand(1, 3, 4, 4))
    ranking = Ranking.of(replace(scored(8, 0), dead=(0, 4, 7)), ClusterRule())
    selection = balanced(Selection(graph, {"0": ranking.keep(4)}), {"0": ranking})
    assert len(selection["0"]) == 4
    assert not set(selection["0"].tolist()) & {0, 4, 7}
