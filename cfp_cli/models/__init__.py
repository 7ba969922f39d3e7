"""Networks: the built-in architectures, the lookup by name, and the fitting of pruned shapes."""
