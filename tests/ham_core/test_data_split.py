"""Splits, limits and statistics: exact, seeded, and without a trace in torch's generator."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from ham_core.data import Facts, Tensors, load
from ham_core.data.split import Dataset, Split, divide, first_per_class, held_out, statistics
from ham_core.errors import RequestError


def made(labels: list[int], test_labels: list[int] | None = None) -> Tensors:
    """Image i is filled with i, so that a picture tells where it came from."""
    train, test = torch.tensor(labels), torch.tensor(labels if test_labels is None else test_labels)
    images = [
        torch.arange(len(y), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()
        for y in (train, test)
    ]
    return Tensors(images[0], train, images[1], test)


def told(**changes: object) -> Facts:
    values: dict[str, object] = {
        "name": "made", "label": "made", "classes": ("a", "b", "c"), "shape": (1, 2, 2), "train_digest": "1",
        "test_digest": "2", "crop": 0, "flip": False, "validation": 0.1, "source": "nowhere", "images": (0, 0),
    }  # fmt: skip
    return Facts(**{**values, **changes})  # type: ignore[arg-type]


def divided(labels: list[int], **settings: object) -> Dataset:
    return divide(made(labels), told(), **{"validation": 0.0, "split_seed": 0, **settings})  # type: ignore[arg-type]


def origin(split: Split) -> list[int]:
    return split.images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize(
    ("fraction", "counts"), [(0.0, [0, 0, 0]), (0.01, [1, 1, 1]), (0.25, [3, 2, 2]), (0.5, [5, 4, 3])]
)
def test_the_held_out_split_takes_the_ceiling_of_the_fraction_of_each_class(
    fraction: float, counts: list[int]
) -> None:
    labels = torch.tensor([0] * 10 + [1] * 8 + [2] * 5)
    mask = held_out(labels, fraction, seed=3)
    assert [int(mask[labels == c].sum()) for c in range(3)] == counts


def test_a_fraction_that_is_a_whole_number_of_images_is_not_rounded_up() -> None:
    assert 0.07 * 100 > 7  # in floating point
    assert int(held_out(torch.zeros(100, dtype=torch.int64), 0.07, 0).sum()) == 7


@pytest.mark.parametrize("wanted", [1, 3, 3.0])
def test_a_number_from_one_on_is_that_many_images_of_each_class(wanted: float) -> None:
    labels = torch.tensor([0] * 10 + [1] * 8 + [2] * 5)
    mask = held_out(labels, wanted, seed=3)
    assert [int(mask[labels == c].sum()) for c in range(3)] == [wanted] * 3


def test_a_number_and_the_share_that_means_as_many_hold_out_the_same_images() -> None:
    labels = torch.tensor([0, 1] * 50)
    assert torch.equal(held_out(labels, 5, 0), held_out(labels, 0.1, 0))


def test_the_record_of_a_split_is_the_digest_of_the_indices_held_out() -> None:
    """Image i is filled with i, so its pixels are its index in the data set."""
    data = divided([0, 1, 2] * 20, validation=2, train_limit=30)
    index = np.array(origin(data.validation), dtype="<i8")
    assert data.held_out == hashlib.sha256(index.tobytes()).hexdigest()
    assert len(index) == 6
    assert divided([0, 1, 2] * 20, validation=2, train_limit=30, split_seed=1).held_out != data.held_out


def test_the_splits_are_disjoint_complete_and_in_the_original_order() -> None:
    data = divided([0, 1, 2] * 20, validation=0.2)
    kept, out = origin(data.train), origin(data.validation)
    assert kept == sorted(kept)
    assert out == sorted(out)
    assert sorted(kept + out) == list(range(60))
    assert data.train.labels.tolist() == [i % 3 for i in kept]


def test_the_split_seed_alone_chooses_the_held_out_images() -> None:
    labels = torch.tensor([0, 1] * 50)
    torch.manual_seed(1)
    first = held_out(labels, 0.1, 0)
    torch.manual_seed(2)
    np.random.seed(5)
    assert torch.equal(first, held_out(labels, 0.1, 0))
    assert not torch.equal(first, held_out(labels, 0.1, 1))


def test_loading_leaves_the_global_generators_as_found() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    load("digits", validation=0.1, split_seed=0)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])  # type: ignore[index]


def test_limits_keep_the_first_images_of_each_class() -> None:
    labels = [0, 0, 0, 1, 2, 1, 2, 1, 2]
    assert first_per_class(torch.tensor(labels), 5).tolist() == [0, 1, 3, 4, 5, 6]  # ceil(5/3) = 2 of each
    assert first_per_class(torch.tensor(labels), None).tolist() == list(range(9))
    data = divided(labels, train_limit=5, test_limit=1)
    assert origin(data.train) == [0, 1, 3, 4, 5, 6]
    assert origin(data.test) == [0, 3, 4]


def test_the_limit_is_applied_before_the_held_out_split() -> None:
    data = divided([0, 1, 2] * 20, train_limit=30, validation=0.5)
    assert sorted(origin(data.train) + origin(data.validation)) == list(range(30))
    assert len(data.validation) == 15


def test_statistics_are_those_of_all_training_images_before_limit_and_split() -> None:
    labels = [0, 1, 2] * 20
    pixels = made(labels).train_images.double() / 255
    for data in (divided(labels), divided(labels, train_limit=6, validation=0.5)):
        assert data.mean == pytest.approx((pixels.mean().item(),), rel=1e-12)
        assert data.std == pytest.approx((pixels.std(correction=0).item(),), rel=1e-12)


def test_statistics_are_per_channel_and_survive_a_channel_without_contrast() -> None:
    images = torch.zeros(3000, 2, 2, 2, dtype=torch.uint8)
    images[::2, 0] = 255
    images[:, 1] = 51
    mean, std = statistics(images)
    assert mean == (0.5, 0.2)
    assert std == (0.5, 1 / 255)


def test_published_statistics_win_over_computed_ones() -> None:
    data = divide(made([0, 1, 2]), told(mean=(0.4,), std=(0.2,)), validation=0.0, split_seed=0)
    assert (data.mean, data.std) == ((0.4,), (0.2,))


@pytest.mark.parametrize(
    ("settings", "key"),
    [({"validation": 1.5}, "whole number"), ({"validation": -0.1}, "validation"), ({"validation": 3}, "holds out all 3"),
      ({"validation": 0.9}, "holds out all"),
     ({"train_limit": 0}, "train_limit"), ({"test_limit": -1}, "test_limit")],
)  # fmt: skip
def test_a_split_that_leaves_nothing_is_refused_with_a_sentence(
    settings: dict[str, object], key: str
) -> None:
    with pytest.raises(RequestError, match=key):
        divided([0, 1, 2] * 3, **settings)


def test_pixels_that_are_not_what_the_facts_promise_are_refused_all_at_once() -> None:
    with pytest.raises(RequestError) as refused:
        divide(made([0, 1, 2], [0, 1, 1]), told(shape=(3, 2, 2)), validation=0.0, split_seed=0)
    assert [p.split(" of ")[0] for p in refused.value.problems] == [
        "data: the train images", "data: the test images", "data: the test labels"]  # fmt: skip


def test_digits_are_the_images_of_scikit_learn_in_a_fixed_split() -> None:
    from sklearn.datasets import load_digits

    data = load("digits", validation=0.0, split_seed=0)
    bunch = load_digits()
    threes = bunch.images[bunch.target == 3]
    expected = np.rint(threes[3::4] * 255 / 16).astype(np.uint8)[:, None]
    assert np.array_equal(data.test.images[data.test.labels == 3].numpy(), expected)
    assert (len(data.train), len(data.validation), len(data.test)) == (1352, 0, 445)
    assert len(data.train) + len(data.test) == len(bunch.target)
    assert data.classes == tuple("0123456789")


def test_digits_that_cannot_be_read_are_refused_with_their_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for content in (None, b"", b"no gzip", gzip.compress(b"1,2,3\n" * 100)[:20], gzip.compress(b"a,b\n")):
        place = tmp_path / "datasets" / "data" / "digits.csv.gz"
        place.parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            place.write_bytes(content)
        monkeypatch.setattr("ham_core.data.digits._package", lambda: tmp_path)
        with pytest.raises(RequestError, match="digits cannot be read") as refused:
            load("digits", validation=0.1, split_seed=0)
        assert str(place) in str(refused.value)


def test_changed_digits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ham_core.data.digits.TEST_DIGEST", "0" * 64)
    with pytest.raises(RequestError, match="differ"):
        load("digits", validation=0.1, split_seed=0)
