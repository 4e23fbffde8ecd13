"""Every part can be found, read and configured: its name, its parameters, its documentation."""

from __future__ import annotations

import importlib
import inspect

import pytest
from pydantic import ValidationError

from ham_core.averaging.base import Averaging
from ham_core.calibration.base import Calibration
from ham_core.mining.base import Mining
from ham_core.objectives.base import Objective
from ham_core.parts import build, find
from tests.ham_core.contract.helpers import parts

BASES = {"objectives": Objective, "mining": Mining, "calibration": Calibration, "averaging": Averaging}

every_part = pytest.mark.parametrize(
    ("kind", "name"), parts(), ids=[f"{kind}-{name}" for kind, name in parts()]
)


@every_part
def test_a_part_has_the_name_that_it_is_found_by(kind, name):
    part = find(kind, name)
    assert issubclass(part, BASES[kind])
    assert part.name == name


@every_part
def test_a_part_is_valid_by_its_name_alone_and_survives_being_written_down(kind, name):
    part = build(kind, name)
    written = part.model_dump(mode="json")
    assert written["name"] == name
    assert build(kind, written) == part


@every_part
def test_a_part_refuses_unknown_keys(kind, name):
    with pytest.raises(ValidationError, match="Extra inputs"):
        build(kind, {"name": name, "no_such_key": 1})


@every_part
def test_a_part_cannot_be_changed(kind, name):
    part = build(kind, name)
    for field in type(part).model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, field, getattr(part, field))


@every_part
def test_a_part_says_where_it_comes_from_and_what_it_costs(kind, name):
    part = find(kind, name)
    module = importlib.import_module(part.__module__)
    assert module.__doc__ and len(module.__doc__.splitlines()) > 1, (
        "the formula stands at the top of the file"
    )
    assert "doc" not in part.__dict__ and inspect.getdoc(part) != inspect.getdoc(BASES[kind])
    assert part.source and part.cost
    assert all(isinstance(need, str) and need for need in part.needs)


@every_part
def test_every_number_of_a_part_has_a_description(kind, name):
    part = find(kind, name)
    for key, field in part.model_fields.items():
        if field.annotation in (int, float):
            assert field.description, f"{name}.{key}"


@every_part
def test_epochs_of_a_part_scale_with_the_length_of_the_training(kind, name):
    part = find(kind, name)
    for key in part.model_fields:
        assert not key.endswith("epoch") or key in part.epoch_fields, key
    assert part.epoch_fields <= set(part.model_fields)
