"""Random crops and flips are plain slices of the padded image."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from ham_core.data.augment import Padding, augment, shift, to_float

MODES: dict[Padding, str] = {"zeros": "constant", "reflect": "reflect"}


def pictures(batch: int, channels: int = 3, height: int = 4, width: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, channels, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
@pytest.mark.parametrize("crop", [0, 1, 2, 3])
def test_every_offset_and_flip_equals_the_plain_slice(padding: Padding, crop: int) -> None:
    choices = list(itertools.product(range(2 * crop + 1), range(2 * crop + 1), (0, 1)))
    images = pictures(len(choices))
    top, left, flipped = torch.tensor(choices).T
    result = shift(images, top, left, flipped, crop=crop, padding=padding)
    for image, (y, x, f), got in zip(images.numpy(), choices, result.numpy(), strict=True):
        padded = np.pad(image, ((0, 0), (crop, crop), (crop, crop)), mode=MODES[padding])  # type: ignore[call-overload]
        padded = padded[:, :, ::-1] if f else padded
        assert np.array_equal(got, padded[:, y : y + 4, x : x + 5])


def test_without_crop_and_flip_it_is_to_float_and_draws_nothing() -> None:
    images, generator = pictures(7), torch.Generator().manual_seed(1)
    before = generator.get_state()
    assert torch.equal(augment(images, crop=0, flip=False, generator=generator), to_float(images))
    assert torch.equal(before, generator.get_state())


def test_pixels_become_exact_fractions_of_255() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    expected = torch.arange(256, dtype=torch.float32) / 255
    assert torch.equal(to_float(images).flatten(), expected)
    assert images.dtype == torch.uint8  # the data set itself stays as it is


def test_the_generator_alone_decides() -> None:
    images = pictures(50)
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed + 17)
        state = torch.get_rng_state()
        results.append(augment(images, crop=2, flip=True, generator=torch.Generator().manual_seed(seed)))
        assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_offsets_and_flips_are_uniform_and_differ_between_images() -> None:
    image = torch.zeros(1, 1, 5, 5, dtype=torch.uint8)
    image[0, 0, 2, 2] = 1  # lands on (3, 3) - offset; the flip shows by the second mark
    image[0, 0, 2, 1] = 2
    batch = image.expand(18_000, -1, -1, -1)
    result = augment(batch, crop=1, flip=True, generator=torch.Generator().manual_seed(0)) * 255
    position = (result.round() == 1).flatten(1).float().argmax(1)
    right = (result.round() == 2).flatten(1).float().argmax(1) > position
    counts = torch.stack(
        [((position == p) & (right == f)).sum() for p in position.unique() for f in (False, True)]
    )
    assert len(counts) == 18  # 3 x 3 offsets, flipped or not
    assert int(counts.sum()) == 18_000
    assert (
        float(((counts - 1000.0) ** 2 / 1000).sum()) < 40.8
    )  # chi-squared, 17 degrees of freedom, p = 0.001


def test_a_flip_alone_mirrors_about_half_of_the_images() -> None:
    images = pictures(400)
    result = augment(images, crop=0, flip=True, generator=torch.Generator().manual_seed(0))
    plain, mirrored = to_float(images), to_float(images.flip(3))
    is_plain = (result == plain).flatten(1).all(1)
    is_mirrored = (result == mirrored).flatten(1).all(1)
    assert bool((is_plain ^ is_mirrored).all())
    assert 160 < int(is_mirrored.sum()) < 240


def test_reflection_needs_a_crop_smaller_than_the_image() -> None:
    with pytest.raises(ValueError, match="reflect by less than"):
        augment(pictures(2), crop=4, flip=False, generator=torch.Generator(), padding="reflect")


@pytest.mark.cuda
def test_every_device_sees_the_same_pictures() -> None:
    images = pictures(64, height=32, width=32)
    cpu, gpu = (
        augment(images.to(device), crop=4, flip=True, generator=torch.Generator().manual_seed(3))
        for device in ("cpu", "cuda")
    )
    assert torch.equal(cpu, gpu.cpu())
