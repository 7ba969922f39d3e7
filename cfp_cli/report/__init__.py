"""One self-contained HTML page that shows what a prune did and why it can be trusted."""
