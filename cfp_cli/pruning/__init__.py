"""From scores to a smaller network: allocation, selection, plan, rebuild, proof, refit."""
