"""What the losses accept, and the wording of every error: argument, requirement, actual value, likely fix.

A check returns nothing and raises `TypeError` for a wrong type, `ValueError` for a wrong shape or value. Values are
read on the CPU only: on an accelerator that would wait for the device, and break the graph of `torch.compile`.
"""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from adaption._host import readable


def shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


# Those that torch computes in everywhere. Narrower ones, of 8 bits and fewer, are for storage.
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)

# Up to so many entries all of them are read in less time than a sample is taken out.
_SMALL = 2**14


def _plain(name: str, value: object) -> None:
    """A tensor that holds a number at each of its places."""
    if not isinstance(value, Tensor):
        several = isinstance(value, (list, tuple)) and any(isinstance(item, Tensor) for item in value)
        join = f"Join batches with `torch.cat({name})`, and call the loss once for each layer."
        repair = join if several else "Convert it with `torch.as_tensor`."
        msg = f"`{name}` must be a tensor, but got {type(value).__name__}. {repair}"
        raise TypeError(msg)
    if value.layout != torch.strided:
        msg = f"`{name}` must be a dense tensor, but has layout {value.layout}. Convert it with `{name}.to_dense()`."
        raise TypeError(msg)
    not_meta(name, value)


def not_meta(name: str, value: Tensor) -> None:
    """A tensor with data."""
    if value.is_meta:
        msg = (
            f"`{name}` must hold numbers, but is on the meta device, where tensors have only a shape. "
            "Compute it on another device."
        )
        raise ValueError(msg)


def tensor(name: str, value: object) -> None:
    """A floating-point tensor with at least one element along every dimension."""
    _plain(name, value)
    value = cast("Tensor", value)
    if value.dtype not in _FLOATS:
        labels = value.dtype in INTEGERS and "features" in name and value.ndim < 2
        repair = "These look like labels: pass features." if labels else f"Convert it with `{name}.float()`."
        msg = f"`{name}` must be a floating-point tensor, but got {value.dtype}. {repair}"
        raise TypeError(msg)
    if value.numel() == 0:
        msg = f"`{name}` must not be empty, but got shape {shape(value)}. Skip the batches that hold no samples."
        raise ValueError(msg)


def matrix(name: str, value: object, columns: str = "features") -> None:
    """A floating-point tensor of shape ``(N, columns)``."""
    tensor(name, value)
    value = cast("Tensor", value)
    if value.ndim != 2:
        wide = f"Flatten or pool it first, e.g. with `{name}.flatten(1)`."
        repair = f"Add the missing dimension, e.g. with `{name}.unsqueeze(1)`." if value.ndim < 2 else wide
        msg = f"`{name}` must have shape (N, {columns}), but got shape {shape(value)}. {repair}"
        raise ValueError(msg)


def batch(name: str, value: object) -> None:
    """A floating-point tensor of shape ``(N, ..)``."""
    tensor(name, value)
    if cast("Tensor", value).ndim < 2:
        msg = (
            f"`{name}` must have shape (N, ..), but got shape {shape(cast('Tensor', value))}. "
            f"Add the missing dimension, e.g. with `{name}.unsqueeze(-1)`."
        )
        raise ValueError(msg)


def same_layer(source_name: str, source: Tensor, target_name: str, target: Tensor) -> None:
    """Both domains' tensors agree in everything but the number of samples."""
    if source.shape[1:] != target.shape[1:]:
        expected = source.shape[1] if source.ndim == 2 else tuple(source.shape[1:])
        what = "as many columns" if source.ndim == target.ndim == 2 else "the same shape after the first dimension"
        source_of = "logits of the same network" if source_name.endswith("logits") else "features of the same layer"
        msg = (
            f"`{target_name}` must have {what} as `{source_name}` ({expected}), but got shape {shape(target)}. "
            f"Pass {source_of} for both domains."
        )
        raise ValueError(msg)
    same_device(source_name, source, target_name, target)


def same_rank(source_name: str, source: Tensor, target_name: str, target: Tensor) -> None:
    """Both domains' tensors have the same number of dimensions; the number of places, such as pixels, may differ."""
    if source.ndim != target.ndim:
        msg = (
            f"`{target_name}` must have as many dimensions as `{source_name}` {shape(source)}, but got shape "
            f"{shape(target)}. Pass features of the same layer for both domains."
        )
        raise ValueError(msg)
    same_device(source_name, source, target_name, target)


def same_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    if value.device != other.device:
        msg = (
            f"`{other_name}` must be on the device of `{name}` ({value.device}), but is on {other.device}. "
            f"Move it with `{other_name}.to({name}.device)`."
        )
        raise ValueError(msg)


def same_size(source_name: str, source: Tensor, target_name: str, target: Tensor, why: str) -> None:
    """Both domains have equally many samples, where the formula pairs them."""
    if len(source) != len(target):
        msg = (
            f"`{target_name}` must have as many samples as `{source_name}` ({len(source)}) for {why}, which pairs "
            f"source sample i with target sample i, but got {len(target)}. Drop the surplus samples or use the mean."
        )
        raise ValueError(msg)


def same_shape(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Two outputs for the same samples, entry by entry."""
    if value.shape != other.shape:
        msg = (
            f"`{other_name}` must have the shape of `{name}` {shape(value)}, but got shape {shape(other)}. "
            "Pass two outputs for the same batch."
        )
        raise ValueError(msg)
    same_device(name, value, other_name, other)


def probabilities(name: str, value: object) -> None:
    """Shape ``(N, C, ..)`` with at least two classes, nothing negative, and sum 1 over the classes."""
    batch(name, value)
    value = cast("Tensor", value)
    repair = "Give a sigmoid's p its second class: `torch.cat([1 - p, p], 1)`."
    _at_least_two(name, value, "probabilities", repair)
    if not readable(value):
        return
    value = value.detach()
    smallest, (low, high) = value.min().item(), map(Tensor.item, value.sum(1).aminmax())
    # rounding to half precision moves a sum by less than 0.01; comparisons with NaN are false and let it pass
    if smallest < 0 or low < 0.99 or high > 1.01:
        msg = (
            f"`{name}` must hold probabilities, none negative and with sum 1 over the classes, but its smallest entry "
            f"is {smallest:g} and its sums lie between {low:g} and {high:g}. "
            "Turn logits into probabilities with `.softmax(1)`."
        )
        raise ValueError(msg)


def logits(name: str, value: object) -> None:
    """Shape ``(N, C, ..)`` with at least two classes, and not recognisable as probabilities."""
    batch(name, value)
    not_probabilities(name, cast("Tensor", value))


def flat_logits(name: str, value: object, columns: str = "classes") -> None:
    """The same, of shape ``(N, C)``."""
    matrix(name, value, columns)
    not_probabilities(name, cast("Tensor", value))


def not_probabilities(name: str, value: Tensor) -> None:
    """Logits of at least two classes, by their values."""
    repair = "Give a single logit z its second class: `torch.cat([torch.zeros_like(z), z], 1)`."
    _at_least_two(name, value, "logits", repair)
    if not readable(value):
        return
    # something is negative in nearly all logits, in the first sample already
    some = value.detach() if value.numel() <= _SMALL else value.detach()[0]
    if not some.min().item() >= 0:
        return
    sums = value.sum(1)
    # the logits of a single sample may have sum 1 by chance
    if sums.numel() > 1 and bool(((sums - 1).abs() < 1e-5).all() and (value >= 0).all()):
        msg = (
            f"`{name}` must hold logits, but no entry is negative and all sums over the classes are 1, as those of "
            f"probabilities. Pass what comes before the softmax."
        )
        raise ValueError(msg)


def _at_least_two(name: str, value: Tensor, what: str, repair: str) -> None:
    if value.shape[1] < 2:
        msg = f"`{name}` must hold the {what} of at least 2 classes, but got shape {shape(value)}. {repair}"
        raise ValueError(msg)


def classes_of_before(name: str, value: Tensor, before: int) -> None:
    """The number of classes is that of the first batch of the epoch."""
    if value.shape[1] != before:
        msg = (
            f"`{name}` must have as many classes as the batches before ({before}), but got shape {shape(value)}. Call "
            "`reset()` before another task."
        )
        raise ValueError(msg)


def weights(name: str, value: object, samples: Tensor) -> None:
    """One finite, non-negative weight for each of `samples`, of shape ``(N,)`` or ``(N, 1)``."""
    tensor(name, value)
    value = cast("Tensor", value)
    if value.shape != samples.shape[:1] and value.shape != (len(samples), 1):
        msg = (
            f"`{name}` must hold one weight per sample, shape ({len(samples)},) or ({len(samples)}, 1), but got shape "
            f"{shape(value)}. Pass the weights of the same batch as the samples."
        )
        raise ValueError(msg)
    same_device("samples", samples, name, value)
    if readable(value) and bool((value < 0).any()):
        msg = (
            f"`{name}` must not be negative, but its smallest entry is {value.min().item():g}. "
            "Clamp the weights, e.g. with `.clamp(min=0)`."
        )
        raise ValueError(msg)


def weights_or_none(name: str, value: object, samples: Tensor) -> None:
    if value is not None:
        weights(name, value, samples)


def weights_or_ones(name: str, value: Tensor | None, samples: Tensor) -> Tensor:
    """The weights of `samples` as a vector, by default ones."""
    if value is None:
        return samples.new_ones(len(samples))
    weights(name, value, samples)
    return value.flatten()


def iterable(name: str, value: object, what: str) -> None:
    """An iterable that is not text."""
    # an array or tensor without dimensions has the method that makes an iterable, and raises in it
    scalar = getattr(value, "ndim", None) == 0
    if scalar or isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        kind = "a scalar" if scalar else type(value).__name__
        msg = f"`{name}` must be iterable, but got {kind}. Pass {what}."
        raise TypeError(msg)


def option(name: str, value: object, allowed: Sequence[str]) -> None:
    if isinstance(value, str) and value in allowed:
        return
    words = ", ".join(f'"{word}"' for word in allowed)
    if not isinstance(value, str):
        msg = f"`{name}` must be one of {words}, but got {type(value).__name__}. Pass a string."
        raise TypeError(msg)
    likely = difflib.get_close_matches(value.lower(), allowed, 1)
    repair = f'Did you mean "{likely[0]}"?' if likely else "Check the spelling."
    msg = f"`{name}` must be one of {words}, but got {value!r}. {repair}"
    raise ValueError(msg)


def number(
    name: str,
    value: object,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    repair: str = "Look for a division by zero or a typo.",
) -> None:
    """A finite real number within its bounds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        msg = f"`{name}` must be a number, but got {type(value).__name__}. Pass a Python int or float."
        raise TypeError(msg)
    if not (-sys.float_info.max <= value <= sys.float_info.max and above < value and at_least <= value <= at_most):
        bound = f" above {above:g}" if above > -math.inf else f" of at least {at_least:g}" * (at_least > -math.inf)
        bound += f" and at most {at_most:g}" * (at_most < math.inf)
        msg = f"`{name}` must be a finite number{bound}, but got {value!r}. {repair}"
        raise ValueError(msg)


def positive(name: str, value: object) -> None:
    """A finite number above 0 that is not 0 in float32."""
    number(name, value, above=0)
    smallest = torch.finfo(torch.float32).tiny
    if cast("float", value) < smallest:
        msg = (
            f"`{name}` must be at least {smallest:g}, float32's smallest normal number, but got {value!r}. "
            "In float32 it would count as 0: pass a larger number."
        )
        raise ValueError(msg)


def scalar(name: str, value: Tensor) -> None:
    """A real number as a tensor."""
    _plain(name, value)
    if value.dtype not in (*_FLOATS, *INTEGERS):
        msg = f"`{name}` must be a real number, but got {value.dtype}. Convert it with `{name}.float()`."
        raise TypeError(msg)
    if value.ndim:
        msg = f"`{name}` must be a single number, but got shape {shape(value)}. Reduce it, e.g. with `.mean()`."
        raise ValueError(msg)


def count(name: str, value: object, *, at_least: int = 1, at_most: int = 2**31 - 1) -> None:
    """An integer within its bounds."""
    if isinstance(value, bool) or not isinstance(value, int):
        msg = f"`{name}` must be an integer, but got {type(value).__name__}. Pass a Python int."
        raise TypeError(msg)
    if value < at_least:
        msg = f"`{name}` must be at least {at_least}, but got {value}. Pass a larger number."
        raise ValueError(msg)
    if value > at_most:
        msg = f"`{name}` must be at most {at_most}, but got {value}. Pass a smaller number."
        raise ValueError(msg)


def flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        msg = f"`{name}` must be True or False, but got {value!r}. Pass a bool."
        raise TypeError(msg)


def function(name: str, value: object, repair: str = "Pass an instance.") -> None:
    if not callable(value) or isinstance(value, type):
        what = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        msg = f"`{name}` must be a Module or another callable, but got {what}. {repair}"
        raise TypeError(msg)


def reversal(name: str, value: object) -> None:
    """A layer that reverses the gradient, or None for the default."""
    if value is not None:
        factor = repr(value) if isinstance(value, (int, float)) else "1.0"
        function(name, value, f"Pass `GradientReversalLayer({factor})`.")


def module(name: str, value: object) -> None:
    if not isinstance(value, nn.Module):
        what = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        msg = f"`{name}` must be a Module, but got {what}. Pass an instance, or wrap a function in a Module."
        raise TypeError(msg)


def device(name: str, value: object) -> None:
    """A device that tensors can be made on."""
    if not isinstance(value, (str, torch.device)):
        msg = f'`{name}` must be a device or its name, but got {type(value).__name__}. Pass e.g. "cpu" or "cuda:0".'
        raise TypeError(msg)
    try:
        torch.empty(0, device=value)
    except (RuntimeError, AssertionError) as error:
        msg = f'`{name}` must be a device of this machine, but got {str(value)!r}. Pass e.g. "cpu".'
        raise ValueError(msg) from error


def columns(name: str, value: Tensor, expected: int, setting: str, repair: str) -> None:
    """A matrix of the width that a setting requires."""
    if value.shape[1] != expected:
        msg = f"`{name}` must have {expected} columns, as `{setting}` says, but got shape {shape(value)}. {repair}"
        raise ValueError(msg)


# What takes as many columns as an attribute says: by its own `forward`, for a subclass with another may take anything.
WIDTHS: dict[Callable[..., Tensor], str] = {nn.Linear.forward: "in_features"}
# The same for channels, with the axes that follow them.
CHANNELS: dict[Callable[..., Tensor], str] = {
    nn.Conv1d.forward: "L",
    nn.Conv2d.forward: "HW",
    nn.Conv3d.forward: "DHW",
}


def _first_layer(network: object) -> nn.Module | None:
    """The first layer of a network, where it is certain."""
    if not isinstance(network, nn.Module) or network._forward_pre_hooks or "forward" in vars(network):  # noqa: SLF001 - a hook may change what it takes
        return None
    if isinstance(network, nn.Sequential) and type(network).forward is nn.Sequential.forward:
        return _first_layer(network[0]) if len(network) else None
    return network


def input_width(network: object) -> int | None:
    """The number of columns that a network takes, where it is certain."""
    layer = _first_layer(network)
    width = getattr(layer, WIDTHS.get(type(layer).forward, ""), None) if layer is not None else None
    return width if isinstance(width, int) else None


def fits(name: str, value: Tensor, network_name: str, network: object) -> None:
    """The columns, or the channels and the axes after them, fit the network, where its input size is known."""
    layer = _first_layer(network)
    if layer is not None and type(layer).forward in CHANNELS:
        places = CHANNELS[type(layer).forward]
        channels = getattr(layer, "in_channels", 0) or "C"  # a lazy layer says 0
        if value.ndim != 2 + len(places) or channels not in {value.shape[1], "C"}:
            msg = (
                f"`{name}` must have the shape (N, {', '.join([str(channels), *places])}) that `{network_name}` takes, "
                f"but got shape {shape(value)}. Build `{network_name}` for the layer it looks at."
            )
            raise ValueError(msg)
    expected = input_width(network)
    if expected is not None and value.shape[-1] != expected:
        msg = (
            f"`{name}` must have the {expected} columns that `{network_name}` takes, but got shape {shape(value)}. "
            f"Build `{network_name}` for the width of the layer it looks at."
        )
        raise ValueError(msg)


def same_batch(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Two views of the same samples, on one device."""
    if len(value) != len(other):
        msg = (
            f"`{other_name}` must have as many samples as `{name}` ({len(value)}), but got shape {shape(other)}. "
            "Pass both of one and the same batch."
        )
        raise ValueError(msg)
    same_device(name, value, other_name, other)


def labels(name: str, value: object, num_classes: int | None = None) -> None:
    """Integer class labels of shape ``(N,)`` or ``(N, 1)``, at least 0 and below `num_classes`."""
    _plain(name, value)
    value = cast("Tensor", value)
    if value.dtype not in INTEGERS:
        msg = f"`{name}` must hold integers, but got {value.dtype}. Convert it with `{name}.long()`."
        raise TypeError(msg)
    if value.ndim not in {1, 2} or value.shape[1:].numel() != 1 or not len(value):
        msg = (
            f"`{name}` must hold one class per sample, shape (N,) or (N, 1), but got shape {shape(value)}. "
            "Turn one-hot labels into classes with `.argmax(1)`."
        )
        raise ValueError(msg)
    if not readable(value):
        return
    low, high = (int(bound) for bound in value.aminmax())
    if low < 0 or (num_classes is not None and high >= num_classes):
        bound = "must not be negative" if num_classes is None else f"must lie between 0 and {num_classes - 1}"
        msg = (
            f"`{name}` {bound}, but got labels from {low} to {high}. "
            "Leave out the samples without a label, or look for a class too many."
        )
        raise ValueError(msg)
