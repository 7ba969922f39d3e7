"""Training of teachers and fine-tuning of pruned students: one loop, resumable at any step."""
