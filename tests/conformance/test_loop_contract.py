"""Every model keeps our own contract: what asyncio programs rely on and CPython does not test.

The scenarios stand in `contract_*.py`. The stock loop is among the subjects, so that a
scenario which asks too much fails by itself.
"""

from __future__ import annotations

import pytest

from .conftest import Batches, judge
from .subjects import Subject


# The first item of a subject waits for the whole batch, whose tests have limits of their own.
@pytest.mark.timeout(900)
@pytest.mark.background
def test_model_keeps_the_contract(subject: Subject, contract_test: str, batches: Batches) -> None:
    judge(batches, subject, contract_test)
