"""Networks: built-in architectures, lookup by name, fusing, and the shapes of pruned networks."""
