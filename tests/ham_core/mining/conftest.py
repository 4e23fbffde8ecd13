"""The attack that most tests of mining share."""

from __future__ import annotations

import pytest

from tests.ham_core.mining.helpers import Attacked, fifty


@pytest.fixture
def batch() -> Attacked:
    return fifty()
