"""The discriminator of ADVENT: any image size from 32 on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from adaption.layers import SegmentationDiscriminator


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(32, 32, (1, 1)), (33, 63, (1, 1)), (64, 95, (2, 2)), (128, 257, (4, 8))],
)
def test_every_32_pixels_have_a_logit(height: int, width: int, expected: tuple[int, int]) -> None:
    logits = SegmentationDiscriminator(3, ndf=2)(torch.rand(2, 3, height, width))
    assert logits.shape == (2, 1, *expected)


def test_layers_are_those_of_the_paper() -> None:
    convolutions = [m for m in SegmentationDiscriminator(19).modules() if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == [
        (19, 64),
        (64, 128),
        (128, 256),
        (256, 512),
        (512, 1),
    ]
    assert all((c.kernel_size, c.stride, c.padding) == ((4, 4), (2, 2), (1, 1)) for c in convolutions)


def test_bad_input_is_refused() -> None:
    discriminator = SegmentationDiscriminator(3, ndf=2)
    for size in ((31, 64), (64, 31), (1, 1)):
        with pytest.raises(ValueError, match=r"`maps` must be at least 32 x 32.* Enlarge the logits"):
            discriminator(torch.rand(1, 3, *size))
    for shape in ((1, 4, 32, 32), (3, 32, 32)):
        with pytest.raises(ValueError, match=r"`maps` must have shape \(N, 3, H, W\)"):
            discriminator(torch.rand(shape))
    with pytest.raises(ValueError, match="`ndf` must be at least 1"):
        SegmentationDiscriminator(3, 0)
    with pytest.raises(TypeError, match="`num_classes` must be an integer"):
        SegmentationDiscriminator("3")  # type: ignore[arg-type]
