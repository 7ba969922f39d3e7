"""Training of teachers and fine-tuning of pruned students, in one loop that can resume at any optimiser step."""
