from __future__ import annotations

import pytest

from cfp_cli.foundation.errors import UsageError
from cfp_cli.pruning.rates import parse_rates

NAMES = ["stem", "layer1.0", "layer1.1", "layer2.0"]


def test_the_published_syntax_gives_one_rate_a_set() -> None:
    rates = parse_rates("[0.]+[0.25]*2+[.5]", NAMES)
    assert rates == {"stem": 0.0, "layer1.0": 0.25, "layer1.1": 0.25, "layer2.0": 0.5}


def test_patterns_leave_the_rest_whole_and_the_last_match_counts() -> None:
    rates = parse_rates("layer*=0.5, layer2.*=0.7", NAMES)
    assert rates == {"stem": 0.0, "layer1.0": 0.5, "layer1.1": 0.5, "layer2.0": 0.7}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[0.5]*3", "3 rates but the network has 4"),
        ("[0.5]*5", "5 rates"),
        ("0.5", "not like"),
        ("[1.0]*4", "not in"),
        ("layer1.*=1.5", "not in"),
        ("layer9.*=0.5", "matches no channel set"),
        ("layer1.*=", "not in"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_rates(text, NAMES)
