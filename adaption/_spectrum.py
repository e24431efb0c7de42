"""Gram matrices: all of their eigenvectors, the leading ones without a decomposition, and what LAPACK is given."""

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
    """``rows @ rows'``, of which little more than the lower triangle is multiplied."""
    n = len(rows)
    gram = rows.new_empty(n, n)
    height = max(_STRIP, n // 8)
    for first in range(0, n, height):
        last = min(first + height, n)
        torch.mm(rows[first:last], rows[:last].T, out=gram[first:last, :last])
        gram[:first, first:last] = gram[first:last, :first].T
    return gram


def finite(matrix: Tensor) -> Tensor:
    """For LAPACK, which raises on NaN and infinity: the caller adds :func:`poison` to its result."""
    return matrix.nan_to_num(posinf=0.0, neginf=0.0)


def poison(*matrices: Tensor) -> Tensor:
    """What makes the result NaN by addition where a matrix has NaN or infinity, and 0 elsewhere."""
    return 0 * torch.stack([matrix.sum() for matrix in matrices]).sum()


class Spectrum:
    """Eigenvalues from the largest on, ``(width,)``, 0 where they are rounding, and leading eigenvectors in columns."""

    def __init__(self, values: Tensor, vectors: Tensor, width: int) -> None:
        values = F.pad(values.flip(0).clamp(min=0), (0, width - len(values)))
        self.rounding = width * torch.finfo(values.dtype).eps * values[0]
        self.values = values.where(values > self.rounding, 0.0)
        self.vectors = vectors.flip(1)


def spectrum_of_matrix(matrix: Tensor, width: int) -> Spectrum:
    """That of a symmetric matrix, whose eigenvalues are those of a larger one, but for zeros."""
    values, vectors = torch.linalg.eigh(finite(matrix))
    return Spectrum(values, vectors, width)


def spectrum_of_rows(rows: Tensor) -> Spectrum:
    """That of ``rows' @ rows``, from the smaller matrix of products."""
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
    """Leading eigenvectors of ``rows @ rows'`` for the rows of each matrix, without a value that the host reads.

    The powers of a Gram matrix tend to them. Thirty squarings raise it to a power of a billion, and so tell two
    eigenvalues apart that agree in eight digits; where they agree in more, the eigenvalue is right all the same. The
    matrices are taken at once, the smaller ones filled up with zeros. A vector is 0 where its eigenvalue is rounding.
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
    """A multiple of the Gram matrix in float64. Only squares of features in float64 can leave its range."""
    rows = rows / power_of_two(rows, rows.dtype) if rows.dtype == torch.float64 else rows.double()
    return rows @ rows.T


def _padded(gram: Tensor, width: int) -> Tensor:
    missing = width - len(gram)
    return F.pad(gram, (0, missing, 0, missing)) if missing else gram


def _traces(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=1, dim2=2).sum(1).view(-1, 1, 1)


def _leading_vector(gram: Tensor) -> Tensor | None:
    """The leading eigenvector, for a fraction of the time of all; none where the search is not sure of it.

    An estimate comes with a residual, which some eigenvalue is no further away than. A Cholesky factorization of the
    matrix shifted by that much exists only if no eigenvalue lies above. Solving with it then magnifies the leading
    vector more than all others, so that the next residual is smaller by orders of magnitude. For a multiple eigenvalue
    the result is some vector of its space: what a subgradient needs.
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
    """What the method of Lanczos knows of the leading eigenvector after a few steps."""
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
