"""Files that someone damaged: each is refused in words, or read; and what is read can be drawn, run, saved and
read again. See `damage`.

Some hundred of each kind are tried here, always the same ones; `make fuzz` tries a hundred thousand, under limits
of time and memory.
"""

# lane: here

import random
from collections import Counter

import pytest

from damage import Checkpoints, Configurations, Traces, recorded
from test_trace import sample


def traces():
    return Traces([sample().to_json(), *recorded()])


@pytest.mark.parametrize("make, many", [(traces, 400), (Configurations, 300), (Checkpoints, 150)])
def test_damaged(make, many):
    target = make()
    seen = Counter(target.attempt(random.Random(seed)) for seed in range(many))
    assert min(seen["refused"], seen["read"]) > many / 20
