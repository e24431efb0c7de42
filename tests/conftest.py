"""Every test starts from the same seed and leaves the global random state, grad mode and threads as it found them."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from adaption import _host

settings.register_profile("ci", deadline=None, max_examples=25, derandomize=True)
settings.register_profile("thorough", deadline=None, max_examples=1000)
settings.load_profile("ci")


@pytest.fixture(params=["host", "device"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once as the host decides by values, once as on an accelerator, which nobody asks."""
    monkeypatch.setattr(_host, "_NEVER_ASKS", request.param == "device")


@pytest.fixture(autouse=True)
def _clean_slate() -> Iterator[None]:
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(0)
    yield
    assert torch.is_grad_enabled(), "a test left gradients off"
