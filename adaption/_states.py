"""The states of a metric: how they are kept, joined, reset, moved, saved and copied.

A state is a sum, which begins at 0, or a list of samples. It is never changed in place, so references to it stay valid.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, KeysView
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection, MetricTracker
from torchmetrics.utilities import rank_zero_warn
from torchmetrics.utilities.exceptions import TorchMetricsUserError

from adaption import _settings
from adaption._modes import outside_modes

State = Tensor | list[Tensor]
Value = Tensor | dict[str, Tensor]
V = TypeVar("V", bound=Value)

# those who copy a metric for its states, and get its networks with them
_COPYING = {
    MetricTracker.increment.__code__: "MetricTracker.increment()",
    MetricCollection.clone.__code__: "MetricCollection.clone()",
}


class StatefulMetric(Metric):
    """A metric whose states are sums over samples, and lists of samples."""

    num_updates: Tensor
    num_ignored: Tensor
    nan_strategy: str
    _computed: Any
    _forward_cache: Any

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # A MetricCollection would let two losses share states as soon as those are equal once, for example both 0.
        self._defaults: dict[str, State] = _Ungrouped()
        self._statistic_names: tuple[str, ...] = ()
        self._lengths: dict[str, int | None] = {}
        for name in ("num_updates", "num_ignored"):
            self._keep(name, (), torch.int64)

    def _keep(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        with outside_modes():
            self.add_state(name, torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum")

    def _keep_sums(self, *names: str) -> None:
        """Keep the named statistics as sums over samples, in float64 wherever the device has it."""
        for name in names:
            self._keep(name, (), sum_dtype(self.device))
        self._statistic_names += names

    def _keep_vectors(self, *names: str, length: int | None = None) -> None:
        """Keep the named statistics as sums of vectors; without a length, the first batch determines it."""
        for name in names:
            # a scalar zero adds to any shape
            self._keep(name, () if length is None else (length,), sum_dtype(self.device))
            self._lengths[name] = length
        self._statistic_names += names

    def _keep_samples(self, *names: str) -> None:
        """Keep the named statistics sample by sample; memory grows with the epoch."""
        for name in names:
            self.add_state(name, [], dist_reduce_fx="cat")
        self._statistic_names += names

    @property
    def _update_count(self) -> int:
        """The number of updates; as an int, as in torchmetrics, each value would recompile a compiled step."""
        return 0 if self.num_updates.is_meta else int(self.num_updates)

    @_update_count.setter
    def _update_count(self, count: int) -> None:
        self.num_updates = torch.tensor(count, device=self.device)

    # ---- joining ------------------------------------------------------------------------------------------------

    def _joined(self, states: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
        """The joint states of two sets of samples: of two metrics, of two ranks, of the windows of `Running`."""
        for name in self._defaults:
            _check_shapes(name, states[name], others[name])
        return self._together(states, {name: others[name] for name in self._defaults})

    def _together(self, states: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
        """`states` joined with `others`: sums are added, and lists of samples concatenated.

        All joins use this: the epoch and a batch, two metrics, two ranks, the windows of `Running`. A metric whose
        statistics are not plain sums overrides it. Those of a batch may be Python numbers.
        """
        return {name: states[name] + other for name, other in others.items()}

    def _set(self, states: dict[str, Any]) -> None:
        """Change states, and discard what was computed from the old ones."""
        self.__dict__.update(states)
        self._computed = None

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        with outside_modes(), torch.no_grad():
            self._set(self._joined(self.metric_state, incoming_state))

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add the epoch of another metric of the same loss and settings, or the states of one as a dict.

        Raises:
            TypeError: if it is neither a dict nor a metric of this class.
            ValueError: if its settings differ, or a state is missing or unknown. Nothing is merged then.
        """
        self._refuse_while_synced("another epoch is merged")
        incoming = self._incoming(incoming_state)
        missing = [name for name in self._defaults if name not in incoming]
        if missing:
            msg = f"`incoming_state` must hold {missing}, but has only {sorted(incoming)}. Pass a whole `metric_state`."
            raise ValueError(msg)
        errors = self._misfits({name: incoming[name] for name in self._defaults})
        if errors:
            msg = f"`incoming_state` must be the states of a {type(self).__name__}, but: {' '.join(errors)}"
            raise ValueError(msg)
        # torchmetrics keeps the value it has cached, which is that of before
        self._reduce_states({name: self._copied(name, incoming[name]) for name in self._defaults})

    def _incoming(self, incoming_state: dict[str, Any] | Metric) -> dict[str, Any]:
        """The states to merge, if they come from a metric of this class and these settings."""
        if isinstance(incoming_state, dict):
            return incoming_state
        if not isinstance(incoming_state, Metric):
            msg = (
                f"`incoming_state` must be a dict or a {type(self).__name__}, but got {type(incoming_state).__name__}. "
                "Pass the other metric or its `metric_state`."
            )
            raise TypeError(msg)
        alike = type(incoming_state) is type(self)
        names = _settings.differing(self, incoming_state) if alike else []
        if names or not alike:
            which = f", whose {', '.join(f'`{name}`' for name in names)} differs" * bool(names)
            msg = f"`incoming_state` must be a {self!r}, but got {incoming_state!r}{which}. Merge like with like."
            raise (ValueError if alike else TypeError)(msg)
        return incoming_state.metric_state

    def _refuse_while_synced(self, what: str) -> None:
        if self._is_synced:
            msg = (
                f"the states must not be synced while {what}, but they are, and it would be lost. Call `unsync()` "
                "first."
            )
            raise TorchMetricsUserError(msg)

    # ---- resetting and moving -----------------------------------------------------------------------------------

    def reset(self) -> None:
        """See :meth:`torchmetrics.Metric.reset`; lists of samples are replaced.

        torchmetrics empties the lists in place, also for others who hold them: `Running` would lose its window.
        """
        for name, default in self._defaults.items():
            if isinstance(default, list):
                setattr(self, name, [])
        with outside_modes():
            super().reset()

    def reset_parameters(self) -> None:
        """Reset the states: frameworks call this for each module whose memory they have just allocated."""
        self.reset()

    def _apply(  # type: ignore[override] # of nn.Module
        self,
        fn: Callable[[Tensor], Tensor],
        recurse: bool = True,  # noqa: FBT001, FBT002 - the signature of nn.Module
    ) -> nn.Module:
        """Move the states with the module, but keep their precision whatever dtype it is cast to.

        torchmetrics moves the defaults by the same function, so they have no value on the meta device, and arbitrary
        values after ``to_empty``.
        """
        nn.Module._apply(self, fn, recurse)  # noqa: SLF001 - past torchmetrics' own
        with outside_modes():
            probe = _probe(fn, torch.zeros(0, dtype=self._dtype, device=self.num_ignored.device))
            self._begin_on(probe.device)
            for name, default in self._defaults.items():
                if not (self.compute_on_cpu and isinstance(default, list)):
                    setattr(self, name, _moved(fn, getattr(self, name), probe.device))
            self._dtype = probe.dtype
            for name in ("_computed", "_forward_cache"):
                setattr(self, name, _moved_value(fn, getattr(self, name), probe.device))
        return self

    def _begin_on(self, device: torch.device) -> None:
        """Create the initial states on a device. On the meta device they had no value."""
        self._device = device
        for name, default in self._defaults.items():
            if isinstance(default, Tensor) and default.device != device:
                self._defaults[name] = torch.zeros_like(default, device=device)

    def _materialise(self, device: torch.device) -> None:
        """Give a metric on the meta device states on the device of its data; no framework does that."""
        with outside_modes():
            self._begin_on(device)
        for name, default in self._defaults.items():
            setattr(self, name, default)
        self.reset()

    # torchmetrics turns these into no-ops to guard its states. Ours guard themselves, so that a cast reaches the
    # discriminators, maps and heads inside, as it does in any other module.
    float = nn.Module.float
    double = nn.Module.double
    half = nn.Module.half
    type = nn.Module.type

    # ---- saving and loading -------------------------------------------------------------------------------------

    def _copy_state_dict(self) -> dict[str, State]:
        """The states themselves: none is changed in place, so no copies are needed during a synchronisation."""
        return {name: list(state) if isinstance(state, list) else state for name, state in self.metric_state.items()}

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
        """Load an epoch completely or not at all, and report errors as torch does for parameters.

        torchmetrics accepts values of any shape, and does not report missing states.
        """
        found = {name: state_dict.pop(prefix + name) for name in self._defaults if prefix + name in state_dict}
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if not found and not any(self._persistent.values()):
            return
        missing = [prefix + name for name in self._defaults if name not in found]
        errors = self._misfits(found, prefix)
        missing_keys.extend(missing)
        error_msgs.extend(errors)
        if missing or errors:
            return
        if self.num_updates.is_meta:
            self._materialise(found["num_updates"].device)
        self._set({name: self._copied(name, value) for name, value in found.items()})

    def _misfits(self, values: dict[str, Any], prefix: str = "") -> list[str]:
        """Explain why external values cannot be the states of this metric, if so."""
        errors = [error for name, value in values.items() if (error := self._misfit(name, prefix + name, value))]
        if errors or not {"num_updates", "num_ignored"} <= values.keys():
            return errors
        number = int(values["num_updates"] - values["num_ignored"])
        kept = {name: len(value) for name, value in values.items() if isinstance(value, list)}
        if kept and {bool(number)} != {bool(length) for length in kept.values()}:
            # as from a framework that restores only what the states to be restored hold already
            keys = ", ".join(f'"{prefix}{name}" of {length}' for name, length in kept.items())
            errors.append(f"{number} batches were added, but their samples are missing: {keys}.")
        return errors

    def _misfit(self, name: str, key: str, value: Any) -> str | None:
        """Explain why an external value cannot be this state, if so."""
        default = self._defaults[name]
        if isinstance(default, list):
            tensors = isinstance(value, list) and all(isinstance(item, Tensor) and item.ndim for item in value)
            if tensors and len({item.shape[1:] for item in value}) <= 1:
                return None
            got = [tuple(item.shape) for item in value] if tensors else type(value).__name__
            return f'While copying the state named "{key}", expected a list of tensors of equal width, but got {got}.'
        if not isinstance(value, Tensor):
            return f'While copying the state named "{key}", expected a tensor, but got {type(value).__name__}.'
        shape = default.shape
        if name in self._lengths and self._lengths[name] is None and (value.ndim or value != 0):
            shape = value.shape[:1]  # no batch has told the length; a scalar is that of a metric without any
        if value.shape == shape:
            return None
        return f"size mismatch for {key}: got shape {tuple(value.shape)}, but the state has shape {tuple(shape)}."

    def _copied(self, name: str, value: Any) -> State:
        """Return an external value as a state of this metric: on its device, sums in their own precision."""
        default = self._defaults[name]
        with outside_modes(), torch.no_grad():
            if isinstance(default, Tensor):
                return cast("Tensor", value).to(default, copy=True)
            return [item.to("cpu" if self.compute_on_cpu else self.device, copy=True) for item in value]

    # ---- copying ------------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        if any(parameter.requires_grad for parameter in self.parameters()) and (caller := _copier()):
            rank_zero_warn(
                f"{caller} copies the networks inside {type(self).__name__} too, and no optimizer knows those of the "
                "copy: its values are those of a network that is not trained. Share one network: pass a plain "
                "function that calls it.",
                UserWarning,
            )
        return super().__getstate__()

    # torchmetrics' own changes with the states, and a dict or a set loses what it holds
    __hash__ = nn.Module.__hash__


class _Ungrouped(dict[str, Any]):
    """A dict whose keys are unique, so that `MetricCollection` does not let metrics share states."""

    def keys(self) -> KeysView[str]:  # type: ignore[override] # of another kind than dict_keys
        return _OwnKeys(self)


class _OwnKeys(KeysView[str]):
    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = KeysView.__hash__


def each(function: Callable[[Tensor], Tensor], value: V) -> V:
    """`function` of a value, or of each of its scalars."""
    if isinstance(value, dict):
        return cast("V", {name: function(scalar) for name, scalar in value.items()})
    return cast("V", function(cast("Tensor", value)))


def sum_dtype(device: torch.device) -> torch.dtype:
    """The precision of sums."""
    return torch.float32 if device.type == "mps" else torch.float64


def _check_shapes(name: str, state: State, other: State) -> None:
    """Two values of a state have the same shape of samples; a state without samples has no shape yet.

    Shapes are compared, because sums over 3 classes and over 1 would broadcast without an error.
    """
    shapes = [_shape(state), _shape(other)]
    if None not in shapes and shapes[0] != shapes[1]:
        msg = (
            f"`{name}` must have the same shape wherever it is joined, but has {shapes[0]} here and {shapes[1]} there. "
            "Join epochs of the same layer and number of classes only."
        )
        raise ValueError(msg)


def _shape(state: State) -> tuple[int, ...] | None:
    """The shape of a sum or of one sample, None without any sample."""
    if isinstance(state, list):
        return tuple(state[0].shape[1:]) if state else None
    return tuple(state.shape) or None


def _probe(fn: Callable[[Tensor], Tensor], probe: Tensor) -> Tensor:
    """`fn` of an empty tensor."""
    try:
        return fn(probe)
    except NotImplementedError:  # `to` copies nothing from the meta device, and need not
        return fn(torch.zeros_like(probe, device="cpu"))


def _moved(fn: Callable[[Tensor], Tensor], state: Any, device: torch.device) -> Any:
    """`fn` applied to a state, except for a change of dtype."""
    if isinstance(state, list):
        return [_moved(fn, item, device) for item in state]
    if state.is_meta:
        return torch.zeros_like(state, device=device)
    moved = fn(state)
    return moved if moved.dtype == state.dtype else state.to(moved.device)


def _moved_value(fn: Callable[[Tensor], Tensor], value: Value | None, device: torch.device) -> Value | None:
    """`fn` applied to a cached value; None if it had no memory."""
    scalars = list(value.values()) if isinstance(value, dict) else [value]
    if value is None or any(scalar is None or scalar.is_meta for scalar in scalars):
        return None
    return each(lambda scalar: cast("Tensor", _moved(fn, scalar, device)), value)


def _copier() -> str | None:
    """The function that is copying the metric right now, if it needs only the states.

    Copies of a model that holds the metric, pickles, and explicit copies do not count. The caller of
    :func:`copy.deepcopy` decides, found above the frames of that module.
    """
    frame = sys._getframe(2)  # noqa: SLF001 - past __getstate__
    while frame.f_back is not None and frame.f_code.co_filename == copy.deepcopy.__code__.co_filename:
        frame = frame.f_back
    return _COPYING.get(frame.f_code)
