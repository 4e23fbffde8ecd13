"""A training that is broken between any two epochs goes on bit for bit; the same trial twice is the same training."""

from __future__ import annotations

import pytest

from ham_core.parts import find
from ham_core.training import Training
from tests.ham_core.contract.helpers import cases, continued, equal, images, saved, timeless

EPOCHS = 4
late = [
    case for case in cases() if case.kind != "averaging" and "start_epoch" in find(*case.part).model_fields
]


@pytest.mark.parametrize("case", cases(), ids=str)
def test_a_training_broken_between_any_two_epochs_equals_an_unbroken_one(case):
    """The part begins in epoch 1, so that the breaks lie before its start, at it, and twice within."""
    one = case.trial(start_epoch=1, epochs=EPOCHS, selection={"steps": 1})
    unbroken = Training(one, images())
    states, results = [saved(unbroken)], []
    for result in unbroken:
        results.append(result)
        states.append(saved(unbroken))
    assert len(results) == EPOCHS or unbroken.finished
    end = unbroken.state()
    for done, state in enumerate(states):
        resumed = continued(one, state)
        rest = list(resumed)
        assert [timeless(result) for result in rest] == [timeless(result) for result in results[done:]]
        assert all(equal(ours.kept, theirs.kept) for ours, theirs in zip(rest, results[done:], strict=True))
        assert equal(resumed.state(), end), f"broken after {done} epochs"


@pytest.mark.parametrize("case", late, ids=str)
def test_a_part_that_starts_after_the_end_changes_nothing(case):
    objective = case.settings.get("base", "at") if case.kind == "objectives" else None
    without = {"objective": objective} if objective else {case.kind: None}
    one = case.trial(99, epochs=2)
    never, plain = (
        Training(one, images()),
        Training(case.trial(epochs=2, method=without), images()),
    )
    assert [timeless(result) for result in never] == [timeless(result) for result in plain]
    assert equal(never.model.state_dict(), plain.model.state_dict())
