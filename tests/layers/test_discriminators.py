"""Discriminators: shapes, logits, the last batch of size 1, and images from 32 pixels on."""

import pytest
import torch
from torch import nn

from adaption.layers import DomainDiscriminator, SegmentationDiscriminator


@pytest.mark.parametrize("batch_norm", [True, False])
def test_gives_one_logit_per_sample(batch_norm: bool) -> None:
    discriminator = DomainDiscriminator(4, 8, batch_norm=batch_norm)
    logits = torch.cat([discriminator(10 * torch.randn(64, 4)) for _ in range(4)])
    assert logits.shape == (256, 1)
    assert isinstance(discriminator.layers[-1], torch.nn.Linear)  # no sigmoid, no softmax


def test_a_single_sample() -> None:
    discriminator = DomainDiscriminator(4, 8)
    with pytest.raises(ValueError, match="`features` must hold at least 2 samples while training with `batch_norm"):
        discriminator(torch.randn(1, 4))
    assert discriminator.eval()(torch.randn(1, 4)).shape == (1, 1)
    assert DomainDiscriminator(4, 8, batch_norm=False)(torch.randn(1, 4)).shape == (1, 1)


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match="`in_feature` must be at least 1"):
        DomainDiscriminator(0, 8)
    with pytest.raises(TypeError, match="`hidden_size` must be an integer"):
        DomainDiscriminator(4, 8.0)  # type: ignore[arg-type] # the point of the test


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(32, 32, (1, 1)), (33, 63, (1, 1)), (64, 95, (2, 2)), (128, 257, (4, 8))],
)
def test_every_32_pixels_have_a_logit(height: int, width: int, expected: tuple[int, int]) -> None:
    logits = SegmentationDiscriminator(3, ndf=2)(torch.rand(2, 3, height, width))
    assert logits.shape == (2, 1, *expected)


def test_convolutions_are_those_of_the_paper() -> None:
    convolutions = [m for m in SegmentationDiscriminator(19).modules() if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == [
        (19, 64),
        (64, 128),
        (128, 256),
        (256, 512),
        (512, 1),
    ]
    assert all((c.kernel_size, c.stride, c.padding) == ((4, 4), (2, 2), (1, 1)) for c in convolutions)


def test_bad_images_are_refused() -> None:
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
