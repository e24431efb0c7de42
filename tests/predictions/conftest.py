"""Both ways to the gradient of an entropy."""

from __future__ import annotations

import pytest

from adaption import _closed_form


@pytest.fixture(params=["closed", "formula"])
def either_gradient(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a step of training, and that of autograd, as where more than one is asked for."""
    if request.param == "formula":
        monkeypatch.setattr(_closed_form, "_more_than_a_gradient", lambda _: True)
