"""The one abstract Metric base: additive statistics, the epoch value, and a `forward` fit for training.

A loss is a pure `value(*statistics)` of statistics that add up over samples, batches and ranks. `update` adds the
detached statistics of a batch to the states, `compute` is the value of the states, `forward` the value of this batch
with gradient. The epoch value, the value over ranks and the merged value are therefore exact by construction.
"""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, KeysView, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import rank_zero_warn
from torchmetrics.utilities.distributed import gather_all_tensors
from torchmetrics.utilities.exceptions import TorchMetricsUserError

from adaption import _checks
from adaption._distributed import gather
from adaption._precision import tensors_in
from adaption._unmoved import Held, hold, put_back, recomputing

# tensors, or Python numbers where the shapes alone tell the statistic
Statistics = tuple[Any, ...]

_NAN_STRATEGIES = ("disable", "error", "warn", "ignore")
_AS_IS = nullcontext()


class AdditiveMetric(Metric, ABC):
    """A loss over additive statistics.

    A subclass names its states in its constructor with `_keep_sums`, `_keep_vectors` and `_keep_samples`, and writes
    three methods: the pure `_statistics` of a batch, in the order of the states; the pure `_value` of statistics; and
    `update` with an explicit signature, which is ``self._accumulate(self._statistics(...))``. Each constructor argument
    is kept in an attribute of its own name.

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

    __call__: Callable[..., Tensor]  # to a type checker, calling a Module gives Any
    num_updates: Tensor
    num_ignored: Tensor
    _computed: Any
    _forward_cache: Any
    _held: Held = []  # noqa: RUF012 - replaced, never changed
    _known_shapes: list[torch.Size] | None = None

    def __init__(self, *, nan_strategy: str = "disable", **kwargs: Any) -> None:
        _checks.option("nan_strategy", nan_strategy, _NAN_STRATEGIES)
        if kwargs.get("dist_sync_on_step", False) is True:
            msg = (
                "`dist_sync_on_step` must be False, because the gradient of a value synchronised inside `forward` is "
                "scaled by 1 / world size, but got True. Drop it: `compute()` is exact over all ranks. "
                f"See {_checks.CONVENTIONS}#torchmetrics."
            )
            raise ValueError(msg)
        super().__init__(**kwargs)
        self.nan_strategy = nan_strategy
        # A MetricCollection would let two losses share states as soon as those are equal once, say both 0.
        self._defaults: dict[str, Tensor | list[Tensor]] = _Ungrouped()
        self._statistic_names: tuple[str, ...] = ()
        self._lengths: dict[str, int | None] = {}
        for name in ("num_updates", "num_ignored"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def _keep_sums(self, *names: str) -> None:
        """Keep the named statistics as sums over samples, in float64 wherever the device has it."""
        dtype = _sum_dtype(self.device)
        for name in names:
            self.add_state(name, torch.zeros((), dtype=dtype), dist_reduce_fx="sum")
        self._statistic_names += names

    def _keep_vectors(self, *names: str, length: int | None = None) -> None:
        """Keep the named statistics as sums of vectors; where no length is given, the first batch tells it."""
        self._keep_sums(*names)  # scalar zeros at first, which add to any shape
        self._lengths |= dict.fromkeys(names, length)

    def _keep_samples(self, *names: str) -> None:
        """Keep the named statistics sample by sample; memory grows with the epoch."""
        for name in names:
            self.add_state(name, [], dist_reduce_fx="cat")
        self._statistic_names += names

    @abstractmethod
    def _statistics(self, *args: Any, **kwargs: Any) -> Statistics:
        """Check a batch and return its statistics, with gradient and without a side effect on the metric."""

    @abstractmethod
    def _value(self, *statistics: Any) -> Tensor:
        """Return the loss of statistics, of a batch or of an epoch."""

    def _batch_value(self, *statistics: Any) -> Tensor:
        """Return the loss of the statistics of a batch, with gradient.

        A loss that has a better formula for a batch than for sums lets `_statistics` return what that needs after the
        statistics that have a state, and overrides this. Both formulas must agree to rounding.
        """
        return self._value(*statistics)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss of this batch, with gradient, and add the batch to the epoch.

        torchmetrics' own `forward` resets the states and lets `update` fill them anew. An error on the way loses the
        epoch, and leaves gradients on and synchronisation off for good; gradients are on even under `no_grad`; and the
        value is kept with its graph, which cannot be copied. None of it is needed here: `tests/test_upstream.py` holds
        both to the same laws.
        """
        return cast("Tensor", self._guarded(self._step, args, kwargs))

    def _step(self, *args: Any, **kwargs: Any) -> Tensor:
        statistics = self._statistics(*args, **kwargs)
        value = self._batch_value(*statistics)
        self._accumulate(statistics, value)
        # detached, or no copy could be made; past Module.__setattr__, which costs as much as an addition
        self.__dict__["_forward_cache"] = value.detach()
        return value

    def _guarded(self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call, and leave the modules inside as they were where the batch is refused, left out or seen before.

        Running statistics and schedules move before a value is known. Copies of them are made where a batch may be
        refused: at each call if its value decides, else only for shapes other than those of the last call.
        """
        if self._is_synced:
            msg = (
                "the states must not be synced while a batch is added, but they are, and the batch would be lost. "
                "Call `unsync()` first."
            )
            raise TorchMetricsUserError(msg)
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
            return torch.full((), torch.nan, dtype=_sum_dtype(self.device), device=self.device)
        value = self._value(*(torch.cat(state) if isinstance(state, list) else state for state in states))
        return value.to(_sum_dtype(value.device))

    def _accumulate(self, statistics: Statistics, value: Tensor | None = None) -> None:
        """Add a batch to the states, once: the last step of every call."""
        if recomputing():
            return
        add = self._add
        if torch.compiler.is_compiling():
            keeps_samples = any(isinstance(default, list) for default in self._defaults.values())
            if keeps_samples or self.nan_strategy != "disable":
                # a list would be compiled anew for each length, and a graph cannot ask whether a value is finite
                add = torch.compiler.disable(add)
        add(statistics, value)

    def _add(self, statistics: Statistics, value: Tensor | None) -> None:
        """Change the states. The only place that does."""
        states = self.__dict__
        with _outside_inference_mode(), torch.no_grad():
            changed = {"num_updates": self.num_updates + 1}
            if self.nan_strategy != "disable" and self._left_out(statistics, value):
                changed["num_ignored"] = self.num_ignored + 1
                put_back(self._held)
            else:
                names = self._statistic_names
                for name, statistic in zip(names, statistics[: len(names)], strict=True):
                    changed[name] = self._added(states[name], statistic)
        for name, new in changed.items():
            if isinstance(states[name], list):
                states[name].append(new)
            else:
                states[name] = new
        states["_computed"] = None

    def _added(self, state: Tensor | list[Tensor], statistic: Tensor | int) -> Tensor:
        """Return the new sum, or the new item of a list of samples."""
        if isinstance(statistic, int):
            return cast("Tensor", state) + statistic
        if statistic.device != self.num_ignored.device:
            msg = (
                f"the inputs of {type(self).__name__} must be on the device of the metric ({self.device}), but are on "
                f"{statistic.device}. Move the metric with `.to({str(statistic.device)!r})`."
            )
            raise ValueError(msg)
        if isinstance(state, Tensor):
            # a scalar takes the precision of the state, but a vector would take its own
            return state + (statistic.to(state.dtype) if statistic.ndim else statistic)
        return statistic.detach().cpu() if self.compute_on_cpu else statistic.detach().clone()

    def _left_out(self, statistics: Statistics, value: Tensor | None) -> bool:
        """Whether `nan_strategy` keeps this batch out of the epoch."""
        value = self._batch_value(*statistics) if value is None else value
        if bool(torch.isfinite(value).all()):
            return False
        msg = f"the value of this batch is not finite in {type(self).__name__}"
        if self.nan_strategy == "error":
            repair = "Look for NaN or infinity in its inputs, or choose another `nan_strategy`."
            raise ValueError(f"{msg}. {repair} See {_checks.CONVENTIONS}#nan.")
        if self.nan_strategy == "warn":
            rank_zero_warn(f"{msg}, and is left out of the epoch value.", UserWarning)
        return True

    @property
    def _update_count(self) -> int:
        """What torchmetrics counts in an int: for each of its values a compiled step would be compiled anew."""
        return int(self.num_updates)

    @_update_count.setter
    def _update_count(self, count: int) -> None:
        self.num_updates = torch.tensor(count, device=self.device)

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
            if self._computed is not None:
                return cast("Tensor", self._computed)
            value = self._over_ranks(compute)
            if self.compute_with_cache:
                self._computed = value
            return value

        return wrapped

    def _over_ranks(self, value: Callable[[], Tensor]) -> Tensor:
        """Return what `value` makes of the states of all ranks."""
        with self.sync_context(
            dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync, should_unsync=self._should_unsync
        ):
            return value().clone()

    def reset(self) -> None:
        """See :meth:`torchmetrics.Metric.reset`; lists of samples are replaced.

        torchmetrics empties the lists themselves, also for those who hold them: `Running` would lose its window.
        """
        for name, default in self._defaults.items():
            if isinstance(default, list):
                setattr(self, name, [])
        super().reset()

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add the epoch of another metric of the same loss and settings, or the states of one as a dict.

        Raises:
            TypeError: if it is neither a dict nor a metric of this class.
            ValueError: if its settings differ or a state is missing. Nothing is merged then.
        """
        if isinstance(incoming_state, Metric):
            if type(incoming_state) is not type(self) or incoming_state.extra_repr() != self.extra_repr():
                msg = f"`incoming_state` must be a {self!r}, but got {incoming_state!r}. Merge like with like."
                raise (ValueError if type(incoming_state) is type(self) else TypeError)(msg)
            incoming: dict[str, Any] = incoming_state.metric_state
        elif isinstance(incoming_state, dict):
            incoming = incoming_state
        else:
            msg = (
                f"`incoming_state` must be a dict or a {type(self).__name__}, but got {type(incoming_state).__name__}. "
                "Pass the other metric or its `metric_state`."
            )
            raise TypeError(msg)
        missing = [name for name in self._defaults if name not in incoming]
        if missing:
            msg = f"`incoming_state` must hold {missing}, but has only {sorted(incoming)}. Pass a whole `metric_state`."
            raise ValueError(msg)
        # torchmetrics keeps the value it has cached, which is that of before
        merged = {name: getattr(self, name) + _on(self.device, incoming[name]) for name in self._defaults}
        for name, state in merged.items():
            setattr(self, name, state)
        self._computed = None

    def _sync_dist(self, dist_sync_fn: Callable[..., Any] = gather_all_tensors, process_group: Any = None) -> None:
        """Replace each state by its sum, or its samples, over all ranks.

        A rank that has seen nothing yet holds a scalar zero, which adds to any shape, or an empty list.
        """
        exchange = gather if dist_sync_fn is gather_all_tensors else dist_sync_fn
        group = process_group or self.process_group
        synced: dict[str, Tensor | list[Tensor]] = {}
        for name in self._defaults:
            state = getattr(self, name)
            if isinstance(state, list):
                samples = torch.cat(state).to(self.device) if state else torch.empty(0, device=self.device)
                parts = [part for part in exchange(samples, group=group) if len(part)]
                synced[name] = [part.cpu() for part in parts] if self.compute_on_cpu else parts
            else:
                synced[name] = functools.reduce(torch.add, exchange(state, group=group))
        for name, value in synced.items():
            setattr(self, name, value)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """See :meth:`torchmetrics.Metric.sync`; an error while ranks talk leaves the local states as they were."""
        # torchmetrics leaves its copy of them behind, which every pickle would drag along
        try:
            super().sync(*args, **kwargs)
        finally:
            if not self._is_synced:
                self._cache = None

    @contextmanager
    def sync_context(self, *args: Any, should_unsync: bool = True, **kwargs: Any) -> Iterator[None]:
        """See :meth:`torchmetrics.Metric.sync_context`; an error inside gives the local states back."""
        self.sync(*args, **kwargs)
        try:
            yield
        finally:
            self.unsync(should_unsync=self._is_synced and should_unsync)

    def _apply(self, fn: Callable[[Tensor], Tensor], _exclude_state: Sequence[str] = "") -> nn.Module:
        """Move the states with the module, but keep their precision whatever dtype it is cast to."""
        computed, self._computed = self._computed, None
        super()._apply(fn, exclude_state=tuple(self._defaults))
        before = self.num_ignored.device
        for name, default in self._defaults.items():
            self._defaults[name] = _moved(fn, default)
            if not (self.compute_on_cpu and isinstance(default, list)):
                setattr(self, name, _moved(fn, getattr(self, name)))
        self._computed = computed if computed is None else _moved(fn, computed)
        self._device = self.num_ignored.device if self.num_ignored.device != before else self._device
        return self

    # torchmetrics turns these into no-ops to guard its states. Ours guard themselves, so that a cast reaches the
    # discriminators, maps and heads inside, as it does in any other module.
    float = nn.Module.float
    double = nn.Module.double
    half = nn.Module.half
    type = nn.Module.type

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,  # noqa: FBT001 - the signature of nn.Module
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Take an epoch over whole or not at all, and report what is amiss as torch does for parameters.

        torchmetrics' own takes values of any shape, and says nothing of states that are missing.
        """
        found = {name: state_dict.pop(prefix + name) for name in self._defaults if prefix + name in state_dict}
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        self._computed = None  # it may depend on the modules inside
        if not found and not any(self._persistent.values()):
            return
        missing = [prefix + name for name in self._defaults if name not in found]
        errors = [error for name, value in found.items() if (error := self._misfit(name, prefix + name, value))]
        missing_keys.extend(missing)
        error_msgs.extend(errors)
        if missing or errors:
            return
        for name, value in found.items():
            setattr(self, name, self._copied(name, value))

    def _misfit(self, name: str, key: str, value: Any) -> str | None:
        """Say why a saved value cannot be this state, if so."""
        if isinstance(self._defaults[name], list):
            tensors = isinstance(value, list) and all(isinstance(item, Tensor) and item.ndim for item in value)
            if tensors and len({item.shape[1:] for item in value}) <= 1:
                return None
            got = [tuple(item.shape) for item in value] if tensors else type(value).__name__
            return f'While copying the state named "{key}", expected a list of tensors of equal width, but got {got}.'
        if not isinstance(value, Tensor):
            return f'While copying the state named "{key}", expected a tensor, but got {type(value).__name__}.'
        fitting = [(), (self._lengths[name] or value.numel(),)] if name in self._lengths else [()]
        if value.shape in fitting:
            return None
        return f"size mismatch for {key}: got shape {tuple(value.shape)}, but the state has shape {fitting[-1]}."

    def _copied(self, name: str, value: Any) -> Tensor | list[Tensor]:
        """Return a saved value as a state of this metric: on its device, sums in their own precision."""
        default = self._defaults[name]
        if isinstance(default, Tensor):
            return cast("Tensor", value).to(default, copy=True)
        return [item.to("cpu" if self.compute_on_cpu else self.device, copy=True) for item in value]

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot one value or several, by default the epoch value so far; see :meth:`torchmetrics.Metric.plot`."""
        return self._plot(val, ax)

    def extra_repr(self) -> str:
        """Return the settings: every constructor argument that is no module, which are shown below it."""
        names = [n for n, p in inspect.signature(type(self).__init__).parameters.items() if p.kind != p.VAR_KEYWORD][1:]
        settings = {name: getattr(self, name) for name in names}
        if self.nan_strategy != "disable":
            settings["nan_strategy"] = self.nan_strategy
        return ", ".join(f"{k}={_shown(v)}" for k, v in settings.items() if not isinstance(v, nn.Module))


class _Ungrouped(dict[str, Any]):
    """A dict whose keys equal no other's, by which `MetricCollection` recognises metrics that could share states."""

    def keys(self) -> KeysView[str]:  # type: ignore[override] # of another kind than dict_keys
        return _OwnKeys(self)


class _OwnKeys(KeysView[str]):
    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = KeysView.__hash__


def _outside_inference_mode() -> AbstractContextManager[Any]:
    """States made in inference mode could not be used outside of it. A compiled step asks no such question."""
    inside = not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()
    return torch.inference_mode(mode=False) if inside else _AS_IS


def _sum_dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def _moved(fn: Callable[[Tensor], Tensor], state: Any) -> Any:
    """`fn` applied to a state, but for a change of dtype."""
    if isinstance(state, list):
        return [_moved(fn, item) for item in state]
    moved = fn(state)
    return moved if moved.dtype == state.dtype else state.to(moved.device)


def _on(device: torch.device, state: Any) -> Any:
    if isinstance(state, list):
        return [item.to(device) for item in state]
    return torch.as_tensor(state, device=device)


def _shown(value: object) -> str:
    if isinstance(value, functools.partial):  # its own repr holds an address, which differs from process to process
        settings = [*map(_shown, value.args), *(f"{name}={_shown(item)}" for name, item in value.keywords.items())]
        return f"{_shown(value.func)}({', '.join(settings)})"
    return value.__name__ if inspect.isroutine(value) else repr(value)
