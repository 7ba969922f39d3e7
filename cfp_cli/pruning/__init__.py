"""From scores to a smaller network: clusters, budgets, selection, plan, rebuild, proof, recalibration."""
