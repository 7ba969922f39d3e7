"""Makes `python -m cfp_cli` work, which `torchrun -m` needs."""

from __future__ import annotations

from cfp_cli.main import main

if __name__ == "__main__":
    main()
