"""The measurements, each to be taken in a process of its own."""

from __future__ import annotations

import ctypes
import functools
import resource
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from benchmarks.contestants import (
    CONTESTANTS,
    SHIMS,
    Step,
    convolutions,
    floor,
    leaves,
    plain_mmd,
    plain_vat_step,
    step,
    vat_step,
)
from benchmarks.launches import launches
from torch.utils.benchmark import Timer
from torchmetrics import Metric

import adaption
from adaption import functional

GIGABYTE = 2**30
ADDRESS_SPACE = 12 * GIGABYTE  # so that a peer fails on its own, and not the machine with it


def status(field: str) -> float:
    """A line of the kernel's account of this process, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return float(line.split()[1]) * 1024


def peak_above(take: Step) -> float:
    """The largest memory during a step, above what is held before it."""
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    take()
    return max(status("VmHWM") - before, 0.0)


def cost(loss: str, library: str, n: int, d: int, seconds: float) -> dict[str, Any]:
    """Time and peak memory of a step."""
    build = CONTESTANTS[loss, library]
    build(4, d)()  # what is loaded at first use is not the loss's own memory
    take = build(n, d)
    memory = peak_above(take)
    begin = time.perf_counter()
    take()
    once = time.perf_counter() - begin
    if once < seconds:
        timer = Timer("take()", globals={"take": take}, num_threads=torch.get_num_threads())
        once = timer.blocked_autorange(min_run_time=seconds).median
    return {"seconds": once, "memory": memory, "shims": list(dict.fromkeys(SHIMS))}


def in_turn(ours: Step, other: Step, *, number: int, block: float = 0.05) -> Iterator[tuple[float, float]]:
    """Pairs of times of the two, taken right after each other, in blocks long enough to be timed."""
    timers = [Timer("take()", globals={"take": take}, num_threads=torch.get_num_threads()) for take in (ours, other)]
    repeats = [max(1, round(block / timer.timeit(2).mean)) for timer in timers]
    for _ in range(number):
        first, second = (timer.timeit(repeat).mean for timer, repeat in zip(timers, repeats, strict=True))
        yield first, second


def ratio(ours: Step, other: Step) -> float:
    """Ratio of the medians."""
    first, second = zip(*in_turn(ours, other, number=25), strict=True)
    return float(statistics.median(first) / statistics.median(second))


def with_own_forward(cls: type[Any]) -> type[Any]:
    """The same Metric with torchmetrics' own `forward`, a plain count, and states that keep the graph as it needs."""

    def accumulate(self: Any, statistics: tuple[Any, ...]) -> None:
        for name, statistic in zip(self._statistic_names, statistics, strict=True):
            setattr(self, name, getattr(self, name) + statistic)

    own = {name: getattr(Metric, name) for name in ("forward", "_wrap_update", "_wrap_compute")}
    return type(f"{cls.__name__}WithOwnForward", (cls,), {**own, "_accumulate": accumulate, "_update_count": 0})


def over_own_forward(cls: type[Any], *, twice: bool, **settings: Any) -> float:
    """`metric(...)` over the same with torchmetrics' own forward, which by default runs `update` twice."""
    source, target = leaves(32, 256)
    other = with_own_forward(cls)
    other.full_state_update = None if twice else False
    ours, theirs = cls(**settings), other(**settings)
    theirs(source, target).backward()  # it can
    return ratio(lambda: ours(source, target), lambda: theirs(source, target))


def against_plain(n: int) -> float:
    batch = leaves(n, 256)
    return ratio(step(functional.maximum_mean_discrepancy, *batch), step(plain_mmd, *batch))


def against_floor(n: int) -> float:
    batch = leaves(n, 256)
    pairs = in_turn(step(functional.maximum_mean_discrepancy, *batch), lambda: floor(*batch), number=9)
    return statistics.median(ours / other for ours, other in pairs)


def against_svdvals() -> float:
    batch = leaves(256, 2048)
    decomposed = [features.detach() for features in batch]
    return ratio(
        step(functional.batch_spectral_penalization, *batch),
        lambda: [torch.linalg.svdvals(features) for features in decomposed],
    )


def exact_memory() -> None:
    """Return each large piece of memory as soon as it is free.

    The C library would keep some, a different number in every run, which are not in use.
    """
    ctypes.CDLL(None).mallopt(-3, 2**17)  # the size from which a piece of memory is a mapping of its own


def memory_of_a_step(n: int) -> float:
    exact_memory()
    step(functional.maximum_mean_discrepancy, *leaves(500, 256))()
    return peak_above(step(functional.maximum_mean_discrepancy, *leaves(n, 256))) / 1e6


def pooled(n: int) -> float:
    """The memory of `compute` over an epoch above its features, in MB."""
    exact_memory()
    metric = adaption.MaximumMeanDiscrepancyLoss(pooled=True)
    for _ in range(n // 250):
        metric.update(torch.randn(250, 256), torch.randn(250, 256))
    return peak_above(metric.compute) / 1e6


def beside(other: str, loss: str, n: int, width: int) -> float:
    """Our step over that of another; for losses of logits the width is that of classes."""
    return ratio(*(CONTESTANTS[loss, library](n, width) for library in ("adaption", other)))


def beside_plain(loss: str, n: int, width: int) -> float:
    """Our step over that of the formula as one writes it down."""
    return beside("plain autograd", loss, n, width)


def without_gradient(metric: Any, mmd: Any) -> float:
    """`update` of a metric over `forward` of an MMD on the same batch."""
    source, target = (features.detach() for features in leaves(256, 256))
    return ratio(lambda: metric.update(source, target), lambda: mmd(source, target))


def linear() -> torch.nn.Module:
    return torch.nn.Linear(256, 1)


MMD, DANN = adaption.MaximumMeanDiscrepancyLoss, adaption.DomainAdversarialLoss
# What was promised: a sentence, the most it may be, a unit, and how it is measured.
PROMISES: dict[str, tuple[float, str, Callable[[], float]]] = {
    "MMD, n = m = 32: time over plain autograd with cdist": (0.75, "", lambda: against_plain(32)),
    "MMD, n = m = 64: time over plain autograd with cdist": (0.55, "", lambda: against_plain(64)),
    "MMD, n = m = 256: time over plain autograd with cdist": (0.5, "", lambda: against_plain(256)),
    "MMD, n = m = 2,048: time over plain autograd with cdist": (0.12, "", lambda: against_plain(2048)),
    "MMD, n = m = 2,048: time over the floor, median of 9 pairs": (1.8, "", lambda: against_floor(2048)),
    "MMD, n = m = 64: launches on an accelerator": (
        45,
        " launches",
        lambda: launches(CONTESTANTS["MMD", "adaption"](64, 256)),
    ),
    "BSP, 256 x 512: launches on an accelerator": (
        80,
        " launches",
        lambda: launches(CONTESTANTS["BSP", "adaption"](256, 512)),
    ),
    "MMD, n = m = 6,000: peak memory above inputs and gradients": (200, " MB", lambda: memory_of_a_step(6000)),
    "MMD pooled, 20,000 + 20,000: peak memory above the features": (1000, " MB", lambda: pooled(20_000)),
    "two-sample test, n = m = 256: `update` over a forward of the unbiased MMD without gradient": (
        1.3,
        "",
        lambda: without_gradient(adaption.MaximumMeanDiscrepancyTest(), MMD(estimator="unbiased")),
    ),
    "MMD of 1,024 random features, n = m = 256: `update` over a forward of the MMD without gradient": (
        1.0,
        "",
        lambda: without_gradient(MMD(bandwidth=500.0, pooled="random_features"), MMD()),
    ),
    **{
        f"{loss}, n = m = {n}, {what}: time over plain autograd": (
            most,
            "",
            functools.partial(beside_plain, loss, n, width),
        )
        for loss, width, what, most in (
            ("JMMD", 256, "two layers of 256", 0.7),
            ("DANN", 256, "d = 256", 1.1),
            ("CDAN", 256, "d = 256", 1.1),
            ("MDD", 10, "10 classes", 1.4),
            ("MDD", 256, "256 classes", 1.4),
        )
        for n in (32, 128, 512)
    },
    "BSP, 256 x 2,048: time over torch.linalg.svdvals": (0.15, "", against_svdvals),
    "LMMD, n = m = 128, d = 256, 10 classes: time over plain autograd with cdist": (
        0.6,
        "",
        lambda: beside_plain("LMMD", 128, 256),
    ),
    "CDD, n = m = 128, d = 256, 10 classes: time over plain autograd with cdist": (
        0.8,
        "",
        lambda: beside_plain("CDD", 128, 256),
    ),
    "CORAL, 64 x 2,048: time over plain autograd with covariances": (0.1, "", lambda: beside_plain("CORAL", 64, 2048)),
    "CORAL, 256 x 256: time over plain autograd with covariances": (1.0, "", lambda: beside_plain("CORAL", 256, 256)),
    "CMD, 128 x 256: time over plain autograd": (1.1, "", lambda: beside_plain("CMD", 128, 256)),
    "HoMM, 128 x 64: time over plain autograd with moment tensors": (0.2, "", lambda: beside_plain("HoMM", 128, 64)),
    "HoMM, 128 x 256: time over plain autograd of products in float32": (
        1.3,
        "",
        lambda: beside("products in float32", "HoMM", 128, 256),
    ),
    "sliced Wasserstein, 256 x 256, 128 directions: time over POT": (
        1.0,
        "",
        lambda: beside("POT", "sliced Wasserstein", 256, 256),
    ),
    "sliced Wasserstein, 256 x 256, 128 directions: time over plain autograd": (
        1.1,
        "",
        lambda: beside_plain("sliced Wasserstein", 256, 256),
    ),
    "AFN, n = m = 128, d = 256: time over plain autograd": (1.1, "", lambda: beside_plain("AFN", 128, 256)),
    "JDOT, n = m = 128, d = 256, 10 classes: time over skada with POT": (
        1.0,
        "",
        lambda: beside("skada, POT", "JDOT", 128, 256),
    ),
    "JDOT, n = m = 128, d = 256, 10 classes: time over plain autograd": (
        1.1,
        "",
        lambda: beside_plain("JDOT", 128, 256),
    ),
    "Sinkhorn, n = m = 256, d = 256: time over geomloss at the same regularisation": (
        1.0,
        "",
        lambda: beside("geomloss", "Sinkhorn", 256, 256),
    ),
    "Sinkhorn, n = m = 256, d = 256: time over plain autograd": (1.1, "", lambda: beside_plain("Sinkhorn", 256, 256)),
    "Fréchet, 128 x 256: time over plain autograd with eigenvalues": (
        1.1,
        "",
        lambda: beside_plain("Fréchet", 128, 256),
    ),
    "DARE-GRAM, 128 x 256: time over plain autograd with pseudoinverses": (
        1.1,
        "",
        lambda: beside_plain("DARE-GRAM", 128, 256),
    ),
    "RSD, 128 x 256: time over plain autograd in float32": (1.8, "", lambda: beside_plain("RSD", 128, 256)),
    "MCC, 128 x 31: time over plain autograd": (0.9, "", lambda: beside_plain("MCC", 128, 31)),
    "MCC, 128 x 345: time over plain autograd": (0.3, "", lambda: beside_plain("MCC", 128, 345)),
    "entropy, 128 x 31: time over plain autograd": (1.1, "", lambda: beside_plain("entropy", 128, 31)),
    "entropy, 128 x 345: time over plain autograd": (1.1, "", lambda: beside_plain("entropy", 128, 345)),
    "DANCE, 128 x 31: time over plain autograd": (1.1, "", lambda: beside_plain("DANCE", 128, 31)),
    "DANCE, 128 x 345: time over plain autograd": (1.1, "", lambda: beside_plain("DANCE", 128, 345)),
    "OVANet, source, 128 x 31: time over plain autograd": (1.1, "", lambda: beside_plain("OVANet, source", 128, 31)),
    "OVANet, source, 128 x 345: time over plain autograd": (1.1, "", lambda: beside_plain("OVANet, source", 128, 345)),
    "OVANet, target, 128 x 31: time over plain autograd": (1.1, "", lambda: beside_plain("OVANet, target", 128, 31)),
    "OVANet, target, 128 x 345: time over plain autograd": (1.1, "", lambda: beside_plain("OVANet, target", 128, 345)),
    "information maximisation, 128 x 31: time over plain autograd": (
        1.1,
        "",
        lambda: beside_plain("information", 128, 31),
    ),
    "information maximisation, 128 x 345: time over plain autograd": (
        1.1,
        "",
        lambda: beside_plain("information", 128, 345),
    ),
    "VAT, 128 x 256, a network of two hidden layers: time over plain autograd": (
        1.1,
        "",
        lambda: beside_plain("VAT", 128, 256),
    ),
    "VAT, 64 images of 3 x 32 x 32, two convolutions: time over plain autograd": (
        1.1,
        "",
        lambda: ratio(*(make(convolutions(), 64, 3 * 32 * 32) for make in (vat_step, plain_vat_step))),
    ),
    "mutual information, 128 x 31: time over plain autograd": (
        1.1,
        "",
        lambda: beside_plain("mutual information", 128, 31),
    ),
    "mutual information, 128 x 345: time over plain autograd": (
        1.1,
        "",
        lambda: beside_plain("mutual information", 128, 345),
    ),
    "nuclear norm, 256 x 100: time over `torch.linalg.matrix_norm`": (
        1.0,
        "",
        lambda: beside_plain("nuclear norm", 256, 100),
    ),
    "DALN, 256 x 100: time over two of `torch.linalg.matrix_norm`": (
        1.0,
        "",
        lambda: beside_plain("DALN", 256, 100),
    ),
    "WDGRL, n = m = 128, d = 256: time over plain autograd": (1.1, "", lambda: beside_plain("WDGRL", 128, 256)),
    "DANN, batch of 32: metric(..) over torchmetrics' own forward": (
        0.5,
        "",
        lambda: over_own_forward(DANN, twice=True, domain_disc=linear()),
    ),
    "MMD, batch of 32: metric(..) over torchmetrics' own forward": (0.5, "", lambda: over_own_forward(MMD, twice=True)),
    "DANN, batch of 32: the same with `full_state_update=False`": (
        0.5,
        "",
        lambda: over_own_forward(DANN, twice=False, domain_disc=linear()),
    ),
    "MMD, batch of 32: the same with `full_state_update=False`": (
        0.5,
        "",
        lambda: over_own_forward(MMD, twice=False),
    ),
}


def promise(name: str) -> dict[str, Any]:
    """One of the promises, measured."""
    return {"value": PROMISES[name][2]()}


def answer(pipe: Connection, request: dict[str, Any]) -> None:
    """Take the measurement that is asked for and send it; what fails says how."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    try:
        pipe.send(promise(**request) if "name" in request else cost(**request))
    except (MemoryError, RuntimeError, ImportError, AttributeError) as error:
        out_of_memory = isinstance(error, MemoryError) or "allocate memory" in str(error)
        pipe.send({"failure": f"> {ADDRESS_SPACE // GIGABYTE} GB" if out_of_memory else type(error).__name__})
