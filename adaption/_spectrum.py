"""Gram matrices: all of their eigenvectors, the leading ones without a decomposition, and inputs for LAPACK."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn import functional as F

from adaption._precision import power_of_two

# The lower triangle of a Gram matrix is computed in strips of so many rows at least.
_STRIP = 64
# Smaller matrices are decomposed in less time than their leading vector is searched for.
_WORTH_SEARCHING = 128
_LANCZOS_STEPS = 32
_ATTEMPTS = 6
# So often a matrix is squared, and so often before the eigenvalues of thousands could leave the range of float64.
_SQUARINGS, _WITHIN_RANGE = 30, 6
_NOTHING = 1e-200  # beside any trace but 0


def gram_matrix(rows: Tensor) -> Tensor:
    """``rows @ rows'``, computing little more than the lower triangle."""
    n = len(rows)
    gram = rows.new_empty(n, n)
    height = max(_STRIP, n // 8)
    for first in range(0, n, height):
        last = min(first + height, n)
        torch.mm(rows[first:last], rows[:last].T, out=gram[first:last, :last])
        gram[:first, first:last] = gram[first:last, :first].T
    return gram


def finite(matrix: Tensor) -> Tensor:
    """The matrix for LAPACK, which raises on NaN and infinity: the caller adds :func:`poison` to its result."""
    return matrix.nan_to_num(posinf=0.0, neginf=0.0)


def poison(*matrices: Tensor) -> Tensor:
    """NaN where a matrix has NaN or infinity, otherwise 0; it is added to the result."""
    return 0 * torch.stack([matrix.sum() for matrix in matrices]).sum()


class Spectrum:
    """Descending eigenvalues ``(width,)``, 0 below rounding error, and the leading eigenvectors in columns."""

    def __init__(self, values: Tensor, vectors: Tensor, width: int) -> None:
        values = F.pad(values.flip(0).clamp(min=0), (0, width - len(values)))
        self.rounding = width * torch.finfo(values.dtype).eps * values[0]
        self.values = values.where(values > self.rounding, 0.0)
        self.vectors = vectors.flip(1)


def spectrum_of_matrix(matrix: Tensor, width: int) -> Spectrum:
    """The spectrum of a symmetric matrix, whose eigenvalues are those of a larger one, except for zeros."""
    values, vectors = torch.linalg.eigh(finite(matrix))
    return Spectrum(values, vectors, width)


def spectrum_of_rows(rows: Tensor) -> Spectrum:
    """The spectrum of ``rows' @ rows``, from the smaller Gram matrix."""
    number, width = rows.shape
    if number >= width:
        return spectrum_of_matrix(rows.T @ rows, width)
    spectrum = spectrum_of_matrix(rows @ rows.T, width)
    values = spectrum.values[:number]
    roots = torch.where(values > 0, values, 1).rsqrt() * (values > 0)
    spectrum.vectors = rows.T @ (spectrum.vectors * roots)
    return spectrum


def leading_vectors(gram: Tensor, number: int) -> Tensor:
    """Orthonormal vectors that span the `number` leading eigenvectors, as columns."""
    if number == 1 and len(gram) > _WORTH_SEARCHING:
        vector = _leading_vector(gram)
        if vector is not None:
            return vector[:, None]
    # Without the shift, which moves no eigenvector, LAPACK underflows on dead features and fails.
    gram = gram / (float(gram.trace()) or 1.0)
    gram.diagonal().add_(1e-3)
    vectors: Tensor = torch.linalg.eigh(gram).eigenvectors[:, -number:]
    return vectors


def queued_leading_vectors(matrices: Sequence[Tensor], number: int) -> list[Tensor]:
    """Leading eigenvectors of ``rows @ rows'`` for the rows of each matrix, without reading a value on the host.

    They are the limit of the powers of a Gram matrix. Thirty squarings raise it to a power of a billion, and so
    separate eigenvalues that agree in eight digits; if they agree in more, the eigenvalue is still right. All matrices
    are processed at once, the smaller ones padded with zeros. A vector is 0 where its eigenvalue is below rounding
    error.
    """
    width = max(map(len, matrices))
    rest = torch.stack([_padded(_whole_gram(rows), width) for rows in matrices])
    rounding = width * torch.finfo(rest.dtype).eps * _traces(rest)
    found = []
    for _ in range(min(number, width)):
        rest.diagonal(dim1=1, dim2=2).add_(_NOTHING)  # a matrix of zeros has a direction then, too
        power = rest
        for step in range(_SQUARINGS):
            if step % _WITHIN_RANGE == 0:
                power = power / _traces(power)
            power = power @ power
        largest = power.diagonal(dim1=1, dim2=2).argmax(1)
        column = power.gather(2, largest.view(-1, 1, 1).expand(-1, width, 1))
        vector = column / vector_norm(column, dim=1, keepdim=True)
        image = rest @ vector
        value = (vector * image).sum(1, keepdim=True)
        vector = vector.masked_fill(value <= rounding, 0)
        found.append(vector)
        if len(found) < number:
            rest = rest - image @ vector.mT
    return [
        vectors[: len(rows), : len(rows)].to(rows.dtype)
        for rows, vectors in zip(matrices, torch.cat(found, dim=2), strict=True)
    ]


def _whole_gram(rows: Tensor) -> Tensor:
    """A multiple of the Gram matrix in float64. The squares can overflow only for features that come in float64."""
    rows = rows / power_of_two(rows, rows.dtype) if rows.dtype == torch.float64 else rows.double()
    return rows @ rows.T


def _padded(gram: Tensor, width: int) -> Tensor:
    missing = width - len(gram)
    return F.pad(gram, (0, missing, 0, missing)) if missing else gram


def _traces(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=1, dim2=2).sum(1).view(-1, 1, 1)


def _leading_vector(gram: Tensor) -> Tensor | None:
    """The leading eigenvector, in a fraction of the time for all; None if the search is not certain.

    Some eigenvalue differs from the estimate by at most its residual. A Cholesky factorization of the matrix shifted by
    that much exists only if no eigenvalue is larger. Solving with it amplifies the leading vector more than all others,
    so that the next residual is smaller by orders of magnitude. For a multiple eigenvalue the result is one vector of
    the eigenspace, which is enough for a subgradient.
    """
    vector = _ritz_vector(gram)
    for attempt in range(_ATTEMPTS):
        image = gram @ vector
        value = float(image.dot(vector))
        residual = float(vector_norm(image - value * vector))
        rounding = 8 * torch.finfo(gram.dtype).eps * value
        if attempt > 0 and residual <= rounding:
            return vector
        shifted = -gram
        shifted.diagonal().add_(value + max(residual, 4 * rounding))
        factor, failed = torch.linalg.cholesky_ex(shifted)
        if failed:
            break
        for _ in range(3):
            solution = torch.cholesky_solve(vector[:, None], factor).squeeze(1)
            vector = solution / vector_norm(solution)
    return None


def _ritz_vector(gram: Tensor) -> Tensor:
    """The estimate of the leading eigenvector after a few Lanczos steps."""
    noise = torch.arange(len(gram), dtype=gram.dtype, device=gram.device).square().cos()  # the same each time
    basis, diagonal, beside = [noise / vector_norm(noise)], [], []
    image = gram @ basis[0]
    while True:
        diagonal.append(float(image.dot(basis[-1])))
        image = image.sub(basis[-1], alpha=diagonal[-1])
        length = float(vector_norm(image))
        if len(basis) == _LANCZOS_STEPS or length <= 1e-6 * diagonal[0]:
            break
        beside.append(length)
        basis.append(image / length)
        image = torch.addmv(basis[-2], gram, basis[-1], beta=-length)
    tridiagonal = gram.new_tensor(diagonal).diag() + gram.new_tensor(beside).diag(-1)
    mixture = torch.linalg.eigh(tridiagonal).eigenvectors[:, -1]
    vector: Tensor = mixture @ torch.stack(basis)
    vector /= vector_norm(vector)
    return vector
