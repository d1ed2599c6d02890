"""Interrupted at any moment: the trace function, hooks, methods, modes and what the model answers are as before.

A hundred moments are tried here; `make promises` tries a thousand.
"""

# lane: here

import pytest

from faults import CONFIGS, interrupted

MANY = 33


@pytest.mark.parametrize("method", CONFIGS)
def test_interrupted_at_any_moment(method):
    assert interrupted(method, MANY)["interrupted"] > MANY / 4
