"""From scores to a smaller network: budgets, selection, plan, rebuild, proof, restoration."""
