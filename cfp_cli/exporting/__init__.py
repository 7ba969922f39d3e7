"""From a checkpoint to a file that runs without this tool, proven on images before it is kept."""
