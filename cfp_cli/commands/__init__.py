"""One file per command: it parses the arguments, calls the function in `runs/` and prints the result."""
