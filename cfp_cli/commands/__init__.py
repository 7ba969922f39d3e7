"""One file a command: it parses, calls the Python API and renders."""
