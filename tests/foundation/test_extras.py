from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cfp_cli.foundation.errors import MissingExtraError
from cfp_cli.foundation.extras import is_installed, require_packages


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('bad\\nbuild')", "RuntimeError: bad build"),
        ("import no_such_module_at_all", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("raise OSError('libtbb.so: cannot open')", "OSError: libtbb.so: cannot open"),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise SystemError()", "SystemError:"),
    ],
)
def test_a_broken_package_is_named_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, reason: str
) -> None:
    (tmp_path / "broken_extra.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_extra", raising=False)
    assert is_installed("broken_extra")
    with pytest.raises(MissingExtraError, match=r"^the report needs broken_extra, which cannot be imported ") as caught:
        require_packages("the report", ("json", "broken_extra"))
    message = str(caught.value)
    assert f"({reason}" in message
    assert message.endswith("; run pip install --force-reinstall broken_extra")
    assert len(message.splitlines()) == 1


def test_missing_packages_are_named_together() -> None:
    with pytest.raises(MissingExtraError, match=r"^the page needs no_a, no_b; run pip install no_a no_b$"):
        require_packages("the page", ("json", "no_a", "no_b"))


def test_a_module_without_a_spec_counts_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "broken_extra", type(sys)("broken_extra"))
    assert not is_installed("broken_extra")
