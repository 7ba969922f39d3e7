"""Versions of this tool and of the packages that its results depend on."""

from __future__ import annotations

import platform
from importlib.metadata import version

NAMES = ("torch", "torchvision", "numpy", "scipy")


def versions() -> dict[str, str]:
    """Return the versions of the packages, of `python` and of the compiled `core`, by name. Does not import torch."""
    import cfp_core

    core: dict[str, object] = dict(cfp_core.build_info())
    facts = ", ".join(str(core[key]) for key in ("profile", "simd") if key in core)
    return {
        "python": platform.python_version(),
        # Package and core are one distribution, so they have one version.
        "cfp": str(core["version"]),
        "core": f"{core['version']} ({facts})",
        **{n: version(n) for n in NAMES},
    }
