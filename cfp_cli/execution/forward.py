"""Errors that the code of a network raises, as errors that name the images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cfp_cli.foundation.errors import CfpError
from cfp_cli.foundation.failures import first_line, outside_cause

ADVICE = "check its code, --input-size and the number of channels"


@contextmanager
def forward_errors(shape: Sequence[int], kind: type[CfpError] = CfpError, advice: str = ADVICE) -> Iterator[None]:
    """Explain errors of a forward pass, since a network is code of the user and can raise anything.

    Errors that `cfp` explains by itself pass through, as do those with a cause outside of the network, such as too
    little memory.

    Args:
        shape: shape of the images, [n, channels, H, W].
        kind: the class of the error.
        advice: what to do.

    Raises:
        CfpError: the network failed; the message has its error and the size of the images.
    """
    try:
        yield
    except CfpError:
        raise
    except Exception as error:
        if outside_cause(error) is not None:
            raise
        size = " x ".join(map(str, shape[1:]))
        raise kind(f"the network fails on images of {size} ({first_line(error)}); {advice}") from error
