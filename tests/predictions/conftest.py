"""Both ways to the gradient of an entropy."""

from __future__ import annotations

import pytest

from adaption.predictions import _entropy


@pytest.fixture(params=[0, 2**62], ids=["closed", "formula"])
def either_gradient(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the size of the batch."""
    monkeypatch.setattr(_entropy.entropies_and_probabilities, "pays_from", request.param)
