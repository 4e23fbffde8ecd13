"""Cost grows in proportion: over a factor of 8 in epochs and in images, counted passes are exactly linear."""

from __future__ import annotations

import pytest

from ham_core.training import Training
from tests.builders import dataset, trial

PASSES = ("forward", "input_gradient", "weight_gradient")


def counted(epochs: int, images: int) -> tuple[list[int], int]:
    """(passes by kind of a whole training on digits, images trained on per epoch)."""
    one = trial("at", epochs=epochs, data={"train_limit": images}, selection={"steps": 0}, batch_size=16)
    training = Training(one, dataset(one))
    results = list(training)
    counts = [sum(int(result.metrics[f"train/passes/{kind}"]) for result in results) for kind in PASSES]
    return counts, len(training.dataset.train)


@pytest.mark.parametrize(
    ("epochs", "images"), [(1, 100), (2, 100), (4, 100), (8, 100), (1, 200), (1, 400), (1, 800)]
)
def test_passes_are_in_proportion_to_epochs_and_images(epochs, images):
    """K = 4 steps: 5 forward passes, 4 to the pixels and one to the weights, of each image in each epoch."""
    counts, trained = counted(epochs, images)
    assert trained == 9 * images // 10  # the tenth is held out
    assert counts == [n * epochs * trained for n in (5, 4, 1)]
