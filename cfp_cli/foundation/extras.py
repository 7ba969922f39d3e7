"""Optional packages: whether they are installed, and one line if they are missing or broken."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence

from cfp_cli.foundation.errors import MissingExtraError


def is_installed(package: str) -> bool:
    """Return whether a package is installed. It is not imported, so it may be broken."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def require_packages(purpose: str, packages: Sequence[str]) -> None:
    """Import optional packages.

    Args:
        purpose: what needs them, for the message.
        packages: names of the packages, which are also their names on the package index.

    Raises:
        MissingExtraError: a package is missing or fails when it is imported; the message says how to install it.
    """
    missing = [name for name in packages if not is_installed(name)]
    if missing:
        raise MissingExtraError(f"{purpose} needs {', '.join(missing)}; run pip install {' '.join(missing)}")
    for name in packages:
        try:
            importlib.import_module(name)
        except Exception as error:
            # A package that was installed partly, or for another system, fails with errors of any kind.
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise MissingExtraError(
                f"{purpose} needs {name}, which cannot be imported ({reason}); run pip install --force-reinstall {name}"
            ) from error
