"""The self-contained HTML page about a run: what was pruned, the proof of it, and what it costs."""
