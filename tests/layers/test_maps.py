"""The maps against their formulas, and the random one against what random projections promise."""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch
from cases import elsewhere
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from adaption.layers import MultiLinearMap, RandomizedMultiLinearMap

seeds = st.integers(0, 2**31)
widths = st.integers(1, 6)


def doubles(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@given(seeds, st.integers(1, 4), widths, widths)
def test_outer_product_has_the_class_slowest(seed: int, n: int, width: int, classes: int) -> None:
    torch.manual_seed(seed)
    f, g = doubles(n, width), doubles(n, classes)
    mapped = MultiLinearMap()(f, g)
    assert mapped.shape == (n, classes * width)
    for i in range(n):
        for k in range(classes):
            for j in range(width):
                assert mapped[i, k * width + j] == g[i, k] * f[i, j]


@given(seeds, widths, widths, widths)
def test_random_map_is_its_formula(seed: int, width: int, classes: int, d: int) -> None:
    torch.manual_seed(seed)
    layer = RandomizedMultiLinearMap(width, classes, d).double()
    f, g = doubles(2, width), doubles(2, classes)
    mapped = layer(f, g)
    for n in range(2):
        for i in range(d):
            left = sum(float(layer.features_matrix[j, i] * f[n, j]) for j in range(width))
            right = sum(float(layer.predictions_matrix[k, i] * g[n, k]) for k in range(classes))
            assert mapped[n, i].item() == pytest.approx(left * right / math.sqrt(d), rel=1e-9, abs=1e-12)


def spread_of_one_coordinate(f: Tensor, g: Tensor) -> float:
    """The standard deviation of d T(f, g)_i T(f', g')_i, in closed form for normal matrices.

    With a = r'f and a' = r'f' jointly normal, E[a^2 a'^2] = |f|^2 |f'|^2 + 2 <f, f'>^2, and the same for g.
    """
    moments = [float(x[0] @ x[0] * (x[1] @ x[1]) + 2 * (x[0] @ x[1]) ** 2) for x in (f, g)]
    exact = float((f[0] @ f[1]) * (g[0] @ g[1]))
    return math.sqrt(moments[0] * moments[1] - exact**2)


@given(seeds, widths, widths, st.sampled_from([256, 1024, 4096]))
def test_random_map_keeps_inner_products_in_expectation(seed: int, width: int, classes: int, d: int) -> None:
    torch.manual_seed(seed)
    f, g = doubles(2, width), doubles(2, classes).softmax(1)
    mapped = RandomizedMultiLinearMap(width, classes, d)(f, g)
    exact = MultiLinearMap()(f, g)
    error = mapped[0] @ mapped[1] - exact[0] @ exact[1]
    assert error.abs() < 6 * spread_of_one_coordinate(f, g) / math.sqrt(d)


def test_error_falls_as_one_over_the_root_of_the_width() -> None:
    f, g = doubles(2, 5), doubles(2, 3).softmax(1)
    exact = MultiLinearMap()(f, g)
    maps = 1000
    for d in (16, 64, 256, 1024):
        # the coordinates are independent: one wide map is many narrow ones, but for the factor in front
        wide = RandomizedMultiLinearMap(5, 3, maps * d)(f, g).reshape(2, maps, d) * math.sqrt(maps)
        errors = (wide[0] * wide[1]).sum(1) - exact[0] @ exact[1]
        expected = spread_of_one_coordinate(f, g) / math.sqrt(d)
        assert errors.square().mean().sqrt().item() == pytest.approx(expected, rel=0.15)
        assert errors.mean().abs() < 5 * expected / math.sqrt(maps)


def test_gradients() -> None:
    f, g = doubles(3, 4).requires_grad_(), doubles(3, 2).requires_grad_()
    assert torch.autograd.gradcheck(MultiLinearMap(), (f, g))
    assert torch.autograd.gradcheck(RandomizedMultiLinearMap(4, 2, 5).double(), (f, g))


def test_random_matrices_are_buffers_for_life() -> None:
    layer = RandomizedMultiLinearMap(4, 2, 8)
    f, g = torch.randn(3, 4), torch.rand(3, 2)
    value = layer(f, g)
    assert not list(layer.parameters())
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    resumed = RandomizedMultiLinearMap(4, 2, 8)
    assert not torch.equal(resumed(f, g), value)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for same in (resumed, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), layer.train(), layer.eval()):
        assert torch.equal(same(f, g), value)
    assert layer.to(torch.float64).features_matrix.dtype == torch.float64
    assert layer(f, g).dtype == torch.float32, "the inputs decide in which dtype is computed"
    assert layer.to("meta").predictions_matrix.is_meta


def test_drawing_follows_the_seed_and_calls_draw_nothing() -> None:
    layers = []
    for _ in range(2):
        torch.manual_seed(3)
        layers.append(RandomizedMultiLinearMap(4, 2, 8))
    assert torch.equal(layers[0].features_matrix, layers[1].features_matrix)
    before = torch.get_rng_state()
    layers[0](torch.ones(1, 4), torch.ones(1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert "features_dim=4, num_classes=2, output_dim=8" in repr(layers[0])


@pytest.mark.parametrize("layer", [MultiLinearMap(), RandomizedMultiLinearMap(4, 2)], ids=["outer product", "random"])
def test_bad_input_is_refused(layer: nn.Module) -> None:
    f, g = torch.randn(3, 4), torch.rand(3, 2)
    with pytest.raises(ValueError, match=r"`predictions` must have as many samples as `features` \(3\), but got shape"):
        layer(f, g[:2])
    with pytest.raises(ValueError, match=r"`features` must have shape \(N, features\)"):
        layer(f[0], g)
    with pytest.raises(ValueError, match=r"`predictions` must have shape \(N, classes\)"):
        layer(f, g[:, 0])
    with pytest.raises(ValueError, match="`features` must not be empty"):
        layer(f[:0], g[:0])
    with pytest.raises(TypeError, match="`predictions` must be a floating-point tensor"):
        layer(f, g.long())
    with pytest.raises(ValueError, match="must be on the device of `features`"):
        layer(f, elsewhere(g))


def test_widths_are_those_of_the_settings() -> None:
    layer = RandomizedMultiLinearMap(4, 2)
    with pytest.raises(ValueError, match="`features` must have 4 columns, as `features_dim` says, but got shape"):
        layer(torch.randn(3, 5), torch.rand(3, 2))
    with pytest.raises(ValueError, match="`predictions` must have 2 columns, as `num_classes` says"):
        layer(torch.randn(3, 4), torch.rand(3, 3))
    with pytest.raises(ValueError, match="`output_dim` must be at least 1"):
        RandomizedMultiLinearMap(4, 2, 0)
    with pytest.raises(TypeError, match="`features_dim` must be an integer"):
        RandomizedMultiLinearMap(4.0, 2)  # type: ignore[arg-type]


def test_maps_compile_without_a_break() -> None:
    for layer in (MultiLinearMap(), RandomizedMultiLinearMap(4, 2, 8)):
        f, g = torch.randn(3, 4), torch.rand(3, 2)
        torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="eager")(f, g), layer(f, g))
