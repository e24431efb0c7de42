"""The abstract base of all metrics: additive statistics, the epoch value, and a `forward` for training.

A loss is a pure `value(*statistics)` of statistics that add up over samples, batches and ranks. `update` adds the
detached statistics of a batch to the states, `compute` is the value of the states, `forward` the value of this batch
with gradient. The epoch value, the value over ranks and the merged value are therefore exact by construction.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torchmetrics.utilities import rank_zero_warn

from adaption import _checks, _settings
from adaption._distributed import SyncedMetric
from adaption._modes import AS_IS, outside_modes, unwrapped, way_out
from adaption._precision import tensors_in
from adaption._signature import LikeUpdate, like_update, named
from adaption._states import Value, each, sum_dtype
from adaption._unmoved import Held, hold, put_back, recomputing

# tensors, or Python numbers where the shapes alone tell the statistic
Statistics = tuple[Any, ...]

V = TypeVar("V", bound=Value)

_NAN_STRATEGIES = ("disable", "error", "warn", "ignore")


def _forward(self: AdditiveMetric, *args: Any, **kwargs: Any) -> Value:
    """Return the loss of this batch, with gradient, and add the batch to the epoch.

    torchmetrics' own `forward` resets the states and calls `update` to fill them again. An error in between loses the
    epoch, and leaves gradients on and synchronisation off; gradients are on even under `no_grad`; and the value is kept
    with its graph, which cannot be copied. This version avoids that; `tests/test_upstream.py` checks that both
    otherwise behave the same.
    """
    return cast("Value", self._guarded(self._step, args, kwargs))


class AdditiveMetric(SyncedMetric, ABC):
    """A loss over additive statistics.

    A subclass names its states in its constructor with `_keep_sums`, `_keep_vectors` and `_keep_samples`, and writes
    three methods: the pure `_statistics` of a batch, in the order of the states; the pure `_value` of statistics; and
    `update` with an explicit signature, which is ``self._accumulate(self._statistics(...))``. Each constructor argument
    is kept in an attribute of the same name. A loss whose value is a dict of scalars names them in `_scalars`; the
    first decides whether a batch is finite.

    Args:
        nan_strategy: what to do with a batch whose value is not finite. ``"disable"``: nothing, the epoch value becomes
            NaN too; ``"error"``: raise, nothing is accumulated; ``"warn"`` and ``"ignore"``: leave the batch out of
            the epoch value and count it in `num_ignored`, with or without a warning. `forward` returns the batch's
            own value in all cases. All but ``"disable"`` read the value on the host at every step.
        kwargs: see :class:`torchmetrics.Metric`. ``dist_sync_on_step`` is refused: it scales gradients by 1 / world
            size.
    """

    is_differentiable = True
    higher_is_better: bool | None = False
    full_state_update = False
    _held: Held = []  # noqa: RUF012 - replaced, never changed
    _known_shapes: list[torch.Size] | None = None
    _scalars: tuple[str, ...] = ()

    forward: LikeUpdate
    __call__: LikeUpdate  # to a type checker, calling a Module gives Any

    def __init__(self, *, nan_strategy: str = "disable", **kwargs: Any) -> None:
        # given by those who read the arguments off another metric, by the names in the signature
        kwargs |= kwargs.pop("kwargs", {})
        nan_strategy = kwargs.pop("nan_strategy", nan_strategy)
        _checks.option("nan_strategy", nan_strategy, _NAN_STRATEGIES)
        if kwargs.get("dist_sync_on_step", False) is True:
            msg = (
                "`dist_sync_on_step` must be False, because the gradient of a value synchronised inside `forward` is "
                "scaled by 1 / world size, but got True. Drop it: `compute()` is exact over all ranks."
            )
            raise ValueError(msg)
        _settings.check_names(type(self), kwargs)
        super().__init__(**kwargs)
        self.nan_strategy = nan_strategy

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._statistics = named(cls._statistics, cls, "forward")  # type: ignore[method-assign]
        cls.update = named(cls.update, cls, "update")  # type: ignore[method-assign]
        if not cls.is_differentiable:  # a score, which nobody trains: a graph would keep its inputs for nothing
            cls._step = torch.no_grad()(cls._step)  # type: ignore[method-assign]
        if "forward" not in vars(cls):
            cls.forward = like_update(_forward, cls)
        # TorchScript passes by all of a loss, in a model that holds one and never calls it
        cls.__jit_unused_properties__ = [name for name in dir(cls) if isinstance(getattr(cls, name, None), property)]

    @property
    def __jit_ignored_attributes__(self) -> list[str]:  # type: ignore[override] # of each object its own
        """What TorchScript should ignore."""
        return ["device", *self.__dict__, *self._modules]

    @abstractmethod
    def _statistics(self, *args: Any, **kwargs: Any) -> Statistics:
        """Check a batch and return its statistics, with gradient and without side effects on the metric."""

    @abstractmethod
    def _value(self, *statistics: Any) -> Value:
        """Return the loss of statistics, of a batch or of an epoch."""

    def _batch_value(self, *statistics: Any) -> Value:
        """Return the loss of the statistics of a batch, with gradient.

        A loss with a better formula for a batch than for sums overrides this, and lets `_statistics` return what it
        needs after the statistics that have a state. Both formulas must agree up to rounding.
        """
        return self._value(*statistics)

    def _step(self, *args: Any, **kwargs: Any) -> Value:
        statistics = self._statistics(*args, **kwargs)
        value = self._batch_value(*statistics)
        self._accumulate(statistics, value)
        return value

    def _guarded(self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call, and restore the modules inside if the batch is refused, left out or was seen before.

        Running statistics and schedules change before a value is known. They are copied where a batch may be refused:
        at each call if this depends on its value, otherwise only for shapes other than those of the last call.
        """
        self._refuse_while_synced("a batch is added")
        if not self._modules or (torch.compiler.is_compiling() and self.nan_strategy == "disable"):
            return call(*args, **kwargs)
        again, shapes = recomputing(), [tensor.shape for tensor in tensors_in((*args, *kwargs.values()))]
        known = shapes == self._known_shapes and self.nan_strategy == "disable" and not again
        held = self.__dict__["_held"] = [] if known else hold(self.children())
        try:
            result = call(*args, **kwargs)
        except BaseException:
            put_back(held)
            raise
        finally:
            self.__dict__["_held"] = []
        if again:
            put_back(held)
        self.__dict__["_known_shapes"] = shapes
        return result

    def compute(self) -> Tensor:
        """Return the loss over everything seen since the last `reset`, over all ranks; NaN before the first batch."""
        states = [getattr(self, name) for name in self._statistic_names]
        if any(isinstance(state, list) and not state for state in states):
            nothing = torch.full((), torch.nan, dtype=sum_dtype(self.device), device=self.device)
            return cast("Tensor", dict.fromkeys(self._scalars, nothing) if self._scalars else nothing)
        value = self._value(*(torch.cat(state) if isinstance(state, list) else state for state in states))
        return cast("Tensor", each(lambda part: part.to(sum_dtype(part.device)), value))

    def _accumulate(self, statistics: Statistics, value: Value | None = None) -> None:
        """Add a batch to the states, once, and keep its value: the last step of every call."""
        if recomputing():
            return
        add = self._add
        if torch.compiler.is_compiling():
            keeps_samples = any(isinstance(default, list) for default in self._defaults.values())
            if keeps_samples or self.nan_strategy != "disable":
                # a list would be compiled anew for each length, and a graph cannot ask whether a value is finite
                add = torch.compiler.disable(add)
        add(statistics, value)

    def _add(self, statistics: Statistics, value: Value | None) -> None:
        """Change the states. No other part of a step does."""
        way = way_out()
        if way is not None:
            statistics = tuple(unwrapped(type(self).__name__, statistic) for statistic in statistics)
            value = None if value is None else each(lambda part: unwrapped(type(self).__name__, part), value)
        if self.num_ignored.is_meta:
            self._materialise(next(part.device for part in statistics if isinstance(part, Tensor)))
        states = self.__dict__  # past Module.__setattr__, which costs as much as an addition
        samples: list[tuple[list[Tensor], Tensor]] = []
        with way or AS_IS, torch.no_grad():
            changed: dict[str, Any] = {"num_updates": self.num_updates + 1, "_computed": None}
            if self.nan_strategy != "disable" and self._left_out(statistics, value):
                changed["num_ignored"] = self.num_ignored + 1
                put_back(self._held)
            else:
                names, added = self._statistic_names, {}
                for name, statistic in zip(names, statistics[: len(names)], strict=True):
                    state = states[name]
                    if isinstance(statistic, int):
                        added[name] = statistic
                    elif isinstance(state, list):
                        samples.append((state, self._sample(name, state, statistic)))
                    else:
                        self._check_device(statistic)
                        # a scalar takes the precision of the state, but a vector would take its own
                        added[name] = statistic.to(state.dtype) if statistic.ndim else statistic
                changed |= self._together(states, added)
            if value is not None:
                changed["_forward_cache"] = each(torch.clone, value)  # of its own memory, and without its graph
        states.update(changed)
        for kept, sample in samples:
            kept.append(sample)

    def _check_device(self, statistic: Tensor) -> None:
        if statistic.device != self.num_ignored.device:
            msg = (
                f"the inputs of {type(self).__name__} must be on the device of the metric ({self.device}), but are on "
                f"{statistic.device}. Move the metric with `.to({str(statistic.device)!r})`."
            )
            raise ValueError(msg)

    def _sample(self, name: str, kept: list[Tensor], statistic: Tensor) -> Tensor:
        """The samples of a batch to keep: never the caller's memory, which may change before `compute`."""
        self._check_device(statistic)
        if kept and kept[0].shape[1:] != statistic.shape[1:]:
            shape = ", ".join(map(str, ("N", *kept[0].shape[1:])))
            msg = (
                f"`{name}` must have shape ({shape}) as in the batches before, because `compute` looks at all of them, "
                f"but got shape {_checks.shape(statistic)}. Pass samples of the same layer and size, or call `reset()` "
                "before another task."
            )
            raise ValueError(msg)
        return statistic.to("cpu", copy=True) if self.compute_on_cpu else statistic.clone()

    def _left_out(self, statistics: Statistics, value: Value | None) -> bool:
        """Whether `nan_strategy` keeps this batch out of the epoch."""
        value = self._batch_value(*statistics) if value is None else value
        if bool(torch.isfinite(value[self._scalars[0]] if isinstance(value, dict) else value).all()):
            return False
        msg = f"the value of this batch is not finite in {type(self).__name__}"
        if self.nan_strategy == "error":
            repair = "Look for NaN or infinity in its inputs, or choose another `nan_strategy`."
            raise ValueError(f"{msg}. {repair}")
        if self.nan_strategy == "warn":
            rank_zero_warn(f"{msg}, and is left out of the epoch value.", UserWarning)
        return True

    def _wrap_update(self, update: Callable[..., None]) -> Callable[..., None]:
        # torchmetrics raises the update count and drops the cached value before `update` has checked anything.
        @functools.wraps(update)
        def wrapped(*args: Any, **kwargs: Any) -> None:
            with torch.no_grad():
                self._guarded(update, args, kwargs)

        return wrapped

    def _wrap_compute(self, compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
        # torchmetrics squeezes a value of shape (1,), the losses of a single sample, to a scalar.
        @functools.wraps(compute)
        def wrapped() -> Tensor:
            if not self.update_called:
                rank_zero_warn(
                    f"The ``compute`` method of metric {type(self).__name__} was called before the ``update`` method "
                    "which may lead to errors, as metric states have not yet been updated.",
                    UserWarning,
                )
            ranks, trusted = self._agreed()
            if trusted:
                return cast("Tensor", self._computed)
            value = self._of_all_ranks(compute)
            if self.compute_with_cache:
                self._computed, self._computed_over = value, ranks
            return value

        return wrapped

    def _of_all_ranks(self, value: Callable[[], V]) -> V:
        """Return `value` of the states of all ranks."""
        context = self.sync_context(
            dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync, should_unsync=self._should_unsync
        )
        with outside_modes(), torch.no_grad(), context:
            return each(torch.clone, value())

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot one value or several, by default the epoch value so far; see :meth:`torchmetrics.Metric.plot`."""
        return self._plot(val, ax)

    @property
    def kwargs(self) -> dict[str, Any]:
        """The constructor's additional keyword arguments: `nan_strategy` and those of torchmetrics.

        So every argument is an attribute of the same name, for checkpoints and for rebuilding the metric.
        """
        return _settings.keywords(self)

    def extra_repr(self) -> str:
        """Return the settings: every constructor argument that is not a module, which are shown below it."""
        settings = _settings.settings(self)
        if self.nan_strategy == "disable":
            del settings["nan_strategy"]
        return ", ".join(f"{k}={_settings.shown(v)}" for k, v in settings.items() if not isinstance(v, nn.Module))
