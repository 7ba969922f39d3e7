"""`cfp shrink` says on what its losses were measured."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cfp_cli.commands.shrink_figures import compared_images


@pytest.mark.parametrize(
    ("views", "text"), [(1, "the 192 validation images"), (9, "9 views of each of the 192 validation images")]
)
def test_the_views_are_named(views: int, text: str) -> None:
    assert compared_images(SimpleNamespace(views=views, val=SimpleNamespace(images=192))) == text
