"""BSP against singular value decompositions, coinciding singular values, and dead features."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from adaption import _spectrum
from adaption.functional import batch_spectral_penalization

pytestmark = pytest.mark.usefixtures("either_way")


def reference(source: Tensor, target: Tensor, k: int) -> Tensor:
    """Chen et al. 2019, equation (6)."""
    values = [torch.linalg.svd(part.double(), full_matrices=False).S for part in (source, target)]
    return sum((s[:k].square().sum() for s in values), torch.zeros(()).double())


@pytest.mark.parametrize("k", [1, 2, 9])
@pytest.mark.parametrize(("n", "m", "d"), [(4, 4, 6), (8, 3, 5), (1, 7, 4), (6, 5, 1), (150, 300, 200)])
def test_equals_the_paper(n: int, m: int, d: int, k: int) -> None:
    source, target = torch.randn(n, d).double(), torch.randn(m, d).double()
    value = batch_spectral_penalization(source, target, num_singular_values=k)
    torch.testing.assert_close(value, reference(source, target, k))


@pytest.mark.parametrize("shape", [(4, 6), (6, 4)])
def test_gradcheck(shape: tuple[int, int]) -> None:
    leaves = torch.randn(shape).double().requires_grad_(), torch.randn(shape).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda s, t: batch_spectral_penalization(s, t, num_singular_values=2), leaves)


def test_gradient_stays_finite_when_singular_values_coincide() -> None:
    """Orthogonal features: every singular value is 3, and the gradient of the two largest has norm 2 * 3 * sqrt(2)."""
    features = (3 * torch.linalg.qr(torch.randn(5, 5)).Q).requires_grad_()
    value = batch_spectral_penalization(features, torch.zeros(5, 5), num_singular_values=2)
    value.backward()
    assert value.item() == pytest.approx(18, rel=1e-5)
    assert features.grad is not None
    assert features.grad.norm().item() == pytest.approx(6 * 2**0.5, rel=1e-5)


SPECTRA = {
    "noise": lambda i: 1 + torch.rand(len(i)),
    "one direction": lambda i: torch.where(i == 0, 100.0, 1.0 / (i + 1)),
    "a close second": lambda i: torch.where(i < 2, 2 - 1e-2 * i, torch.rand(len(i))),
    "two alike": lambda i: torch.where(i < 2, 2.0, torch.rand(len(i))),
    "all alike": torch.ones_like,
    "one ahead of equals": lambda i: 1 + 1e-3 * (i == 0),
    "alike to five digits": lambda i: 1 + 1e-5 * torch.rand(len(i)),
    "decaying": lambda i: 0.9**i,
    "three alone": lambda i: torch.where(i < 3, 3 - i, 0.0),
    "nothing": torch.zeros_like,
}


@pytest.mark.parametrize("shape", [(150, 200), (300, 160)])
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_large_batches_of_any_spectrum(
    shape: tuple[int, int], spectrum: str, dtype: torch.dtype, tolerance: float
) -> None:
    """The value is the square of the largest singular value, and the gradient twice a pair of its vectors times it."""
    singular = SPECTRA[spectrum](torch.arange(float(min(shape)))).double()
    left, right = (torch.linalg.qr(torch.randn(size, len(singular)).double()).Q for size in shape)
    features = ((left * singular) @ right.T).to(dtype).requires_grad_()
    value = batch_spectral_penalization(features, torch.zeros(1, shape[1], dtype=dtype))
    value.backward()
    largest = singular.max().item()
    assert features.grad is not None
    assert value.item() == pytest.approx(largest**2, rel=tolerance)
    gradient = features.grad.double()
    assert gradient.norm().item() == pytest.approx(2 * largest, rel=tolerance)
    assert (gradient * features.detach()).sum().item() == pytest.approx(2 * largest**2, rel=tolerance)
    if "alike" not in spectrum:
        expected = 2 * largest * torch.outer(left[:, singular.argmax()], right[:, singular.argmax()])
        torch.testing.assert_close(gradient, expected, rtol=0, atol=100 * tolerance * largest)


@pytest.mark.parametrize("rectified", [False, True])
def test_the_search_seldom_fails(rectified: bool) -> None:
    """Then all eigenvectors are computed: as right, and slower."""
    found = 0
    for _ in range(20):
        features = torch.randn(150, 30) @ torch.randn(30, 200) if rectified else torch.randn(150, 200)
        features = torch.relu(features) if rectified else features
        found += _spectrum._leading_vector(_spectrum.gram_matrix(features)) is not None
    assert found >= 18


def test_a_search_led_astray_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start at the second eigenvector, where the residual is nothing, is not taken for the first."""
    monkeypatch.setattr(_spectrum, "_ritz_vector", lambda gram: torch.linalg.eigh(gram).eigenvectors[:, -2])
    features = torch.randn(150, 200).double()
    value = batch_spectral_penalization(features, features)
    torch.testing.assert_close(value, reference(features, features, 1), rtol=1e-10, atol=0)


def test_zero_features_give_zero() -> None:
    features = torch.zeros(3, 4, requires_grad=True)
    value = batch_spectral_penalization(features, features)
    value.backward()
    assert value == 0
    assert features.grad is not None
    assert (features.grad == 0).all()


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_tiny_and_huge_features(scale: float) -> None:
    features = torch.randn(6, 4)
    value = batch_spectral_penalization((scale * features), scale * features)
    torch.testing.assert_close(value.double(), reference(scale * features, scale * features, 1), rtol=1e-5, atol=0)


def test_dead_features_do_not_underflow_to_nan() -> None:
    """Rectified features of low rank with dead units, on which LAPACK's float32 eigensolver has given NaN."""
    for _ in range(300):
        n, d, rank = (int(torch.randint(low, high, ())) for low, high in ((1, 130), (1, 130), (1, 10)))
        features = torch.relu(torch.randn(n, rank) @ torch.randn(rank, d)) * (torch.rand(d) < 0.4)
        features = features * 10.0 ** torch.randint(-8, 3, (d,))
        value = batch_spectral_penalization(features, features)
        torch.testing.assert_close(value.double(), reference(features, features, 1), rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_non_finite_features_give_nan(bad: float) -> None:
    features = torch.randn(4, 3)
    features[1, 2] = bad
    assert batch_spectral_penalization(features, torch.randn(4, 3)).isnan()
    assert batch_spectral_penalization(torch.randn(4, 3), features).isnan()


def test_second_derivatives_are_refused() -> None:
    features = torch.randn(4, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(batch_spectral_penalization(features, features), features, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives"):
        gradient.sum().backward()


def test_compiles_whole() -> None:
    features = torch.randn(4, 3, requires_grad=True)
    value = torch.compile(batch_spectral_penalization, fullgraph=True, backend="aot_eager")(features, features)
    expected = batch_spectral_penalization(features, features)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(torch.autograd.grad(value, features), torch.autograd.grad(expected, features))


def test_bad_input_is_a_sentence() -> None:
    features = torch.rand(4, 3)
    with pytest.raises(ValueError, match="`num_singular_values` must be at least 1, but got 0"):
        batch_spectral_penalization(features, features, num_singular_values=0)
    with pytest.raises(ValueError, match="`target_features` must have as many columns"):
        batch_spectral_penalization(features, torch.rand(4, 2))
    with pytest.raises(ValueError, match="`source_features` must not be empty"):
        batch_spectral_penalization(features[:0], features)
