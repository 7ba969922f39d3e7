"""The steps of a run: each resolves its inputs from the run directory, calls the library, writes and records."""
