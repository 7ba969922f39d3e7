"""The channel graph: a traced network, its channel sets, and which of their channels are kept."""

from __future__ import annotations

from cfp_cli.graph.channel_graph import ChannelGraph, ChannelSet, Dimension, Tap
from cfp_cli.graph.constraints import Balance
from cfp_cli.graph.derive import derive as channel_sets
from cfp_cli.graph.selection import Selection
from cfp_cli.graph.trace import TracedGraph, trace

__all__ = [
    "Balance",
    "ChannelGraph",
    "ChannelSet",
    "Dimension",
    "Selection",
    "Tap",
    "TracedGraph",
    "channel_sets",
    "trace",
]
