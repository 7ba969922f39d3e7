"""The command line does not search the same objects again and again while it imports."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import atexit, gc, os, sys
from cfp_cli.main import main

atexit.register(lambda: os.write(2, f"{'torch' in sys.modules} {gc.get_stats()[2]['collections']}".encode()))
sys.argv = ["cfp", "inspect", "no-such-file.pt"]
main()
"""


def test_an_import_of_torch_needs_no_full_collection() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "True 0"
