"""The run directory and the commands that use it.

Each `run_*` function takes its inputs from the arguments or from the run directory, calls the library, writes the
outputs and adds a record to `run.json`.
"""
