"""Virtual adversarial training: predictions that small perturbations of a sample do not change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adaption import _checks
from adaption._directions import Directions
from adaption._metric import AdditiveMetric, Statistics
from adaption._modes import outside_modes, unwrapped
from adaption._passes import constants, exact_products, passed, spare_buffers, unmoved_generators
from adaption._precision import HALF, as_parameters, autocasts, full_precision
from adaption._states import sum_dtype

Ask = Callable[[Tensor], Tensor]


class VirtualAdversarialLoss(AdditiveMetric):
    r"""Virtual adversarial training (VAT): predictions should not change under the worst small perturbation.

    The network minimises it; the adversary is not a network but a small perturbation of each sample, computed at each
    step. On the target it moves the boundaries between classes away from the samples; VADA uses it on both domains,
    together with DANN and the entropy of the target.

    .. math::
        L = \frac1m \sum_{i=1}^m \mathrm{KL} \bigl( p(x_i) \,\Vert\, p(x_i + r_i) \bigr), \qquad
        r_i = \varepsilon \frac{g_i}{|g_i|}, \qquad
        g_i = \nabla_r \, \mathrm{KL} \bigl( p(x_i) \,\Vert\, p(x_i + r) \bigr) \Big|_{r = \xi d_i}

    with the softmax `p` of the model's logits, held constant at the sample itself, and a random unit vector `d`. The
    gradient of the divergence is 0 at :math:`r = 0`, so :math:`g` is about the product of its Hessian with
    :math:`\xi d`: one step of the power iteration towards the direction in which the prediction changes most. Further
    steps start from :math:`g / |g|`. If the gradient is 0, `d` is kept. No gradient goes through `r`.

    The model is called three times: at the sample, near it for the gradient, and at the perturbed sample. There are no
    side effects on gradients, mode, buffers and random generators. In training mode, batch normalisation uses the
    statistics of each batch without updating the running ones, and dropout has the same masks in each pass. The search
    for `r` is in float32 at least, also for a model in half precision and under autocast, where :math:`\xi d` would be
    lost in rounding. It works under ``torch.no_grad`` too, so that `update` can log.

    In training every sample has a new direction at each step. In evaluation all samples have the same one, so that
    `compute`, the mean over all samples of the epoch, does not depend on their order or their batches. Directions are
    computed from the number of batches, a buffer.

    Inputs of `update` and `forward`:
        - `inputs`: :math:`(m, d_1, ..)`, samples as the model takes them
        - `logits`: :math:`(m, C)` or :math:`(m, C, d_1, ..)`, optional: the model's output for exactly these `inputs`.
          It saves a pass; leave it out if the model has dropout, whose masks were different

    Output: scalar, at least 0.

    Args:
        model: the network, from samples to logits :math:`(m, C)`, or :math:`(m, C, d_1, ..)` for dense predictions.
        epsilon: the length of the perturbation, in the units of the inputs.
        xi: the distance at which the gradient is taken, in the same units. Much smaller values are lost to rounding in
            float32.
        num_iterations: the number of steps of the power iteration, each with a forward and a backward pass.
        kwargs: ``nan_strategy`` and those of :class:`torchmetrics.Metric`.

    Raises:
        TypeError: for inputs that are not floating-point tensors, a model that is not a Module or does not return one
            tensor, and settings that are not numbers.
        ValueError: for empty batches, `logits` that do not fit `inputs`, a model that does not return logits or has no
            gradient for its inputs, `epsilon` or `xi` that are not positive, and `num_iterations` below 1.

    References:
        T. Miyato, S. Maeda, M. Koyama, S. Ishii: Virtual Adversarial Training: A Regularization Method for Supervised
        and Semi-Supervised Learning. IEEE Transactions on Pattern Analysis and Machine Intelligence 2018.
        https://arxiv.org/abs/1704.03976

        R. Shu, H. H. Bui, H. Narui, S. Ermon: A DIRT-T Approach to Unsupervised Domain Adaptation. ICLR 2018.
        https://arxiv.org/abs/1802.08735

    Example:
        The logits differ by the first number of a sample, and the worst perturbation of length 1 changes it from 0 to 1
        or -1: the probabilities change from 0.5 and 0.5 to 0.73 and 0.27.

        >>> import torch
        >>> from adaption import VirtualAdversarialLoss
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
        >>> vat = VirtualAdversarialLoss(model, epsilon=1.0)
        >>> vat(torch.zeros(1, 2)).detach()
        tensor(0.1201)
    """

    plot_lower_bound = 0.0

    def __init__(
        self, model: nn.Module, epsilon: float = 3.5, *, xi: float = 1e-3, num_iterations: int = 1, **kwargs: Any
    ) -> None:
        _checks.module("model", model)
        _checks.positive("epsilon", epsilon)
        _checks.positive("xi", xi)
        _checks.count("num_iterations", num_iterations)
        super().__init__(**kwargs)
        self.model = model
        self.epsilon = epsilon
        self.xi = xi
        self.num_iterations = num_iterations
        self.directions = Directions()
        self._keep_sums("divergence", "num_samples")

    def update(self, inputs: Tensor, logits: Tensor | None = None) -> None:
        """Add a batch to the epoch value."""
        self._accumulate(self._statistics(inputs, logits))

    def _statistics(self, inputs: Tensor, logits: Tensor | None = None) -> Statistics:
        _checks.batch("inputs", inputs)
        _checks.fits("inputs", inputs, "model", self.model)
        if logits is not None:
            _checks.logits("logits", logits)
            _checks.same_batch("inputs", inputs, "logits", logits)
        prediction, change = self._worst(inputs, logits)
        changed = self._ask(spare_buffers(self.model), as_parameters(self.model, inputs + change))
        _checks.same_shape("logits", prediction, "model(x)", changed)
        return _divergence(prediction, changed)

    def _value(self, *statistics: Tensor) -> Tensor:
        total, number = statistics
        return total / number

    def _ask(self, tensors: dict[str, Tensor], samples: Tensor) -> Tensor:
        """The model's logits with these tensors in place of its own, without side effects."""
        with unmoved_generators(self.model, samples):
            logits = passed(self.model, tensors, samples)
        if not isinstance(logits, Tensor):
            msg = (
                f"`model` must return its logits as one tensor, but returned {type(logits).__name__}. "
                "Wrap it in a Module that returns the logits alone."
            )
            raise TypeError(msg)
        _checks.logits("model(x)", logits)
        _checks.same_batch("inputs", samples, "model(x)", logits)
        return logits

    @torch.no_grad()
    def _worst(self, inputs: Tensor, logits: Tensor | None) -> tuple[Tensor, Tensor]:
        """The logits that are held constant, and the worst perturbation of each sample."""
        usable = logits
        if logits is not None and (
            autocasts(inputs.device.type) or any(t.dtype in HALF for t in (logits, *self.model.parameters()))
        ):
            usable = None  # in half precision, rounding moves the logits by more than a step of xi does
        with outside_modes(), exact_products(inputs.device):
            samples = _constant(as_parameters(self.model, inputs))
            fixed = {name: _constant(tensor) for name, tensor in constants(self.model).items()}

            def ask(moved: Tensor) -> Tensor:
                buffers = {name: _constant(tensor) for name, tensor in spare_buffers(self.model).items()}
                return self._ask({**fixed, **buffers}, moved)

            clean = ask(samples) if usable is None else _constant(usable)
            number = len(samples) if self.directions.training else 1
            direction = self.directions(samples[0].numel(), number, samples).T.expand(len(samples), -1)
            for _ in range(self.num_iterations):
                gradient = _gradient(ask, samples + self.xi * direction.view_as(samples), clean)
                direction = _unit(gradient.flatten(1), direction)
        return clean if logits is None else logits.detach(), self.epsilon * direction.reshape(inputs.shape)


def _constant(tensor: Tensor) -> Tensor:
    """A tensor of the caller, in float32 at least, that autograd can save in any mode."""
    constant = tensor.detach()
    if not torch.compiler.is_compiling():
        constant = unwrapped("VirtualAdversarialLoss", constant)
        constant = constant.clone() if constant.is_inference() else constant
    return constant.float() if constant.dtype in HALF else constant


def _gradient(ask: Ask, samples: Tensor, clean: Tensor) -> Tensor:
    """The gradient with respect to the samples of the divergence of the model's predictions from `clean`.

    With respect to the logits it is the difference of both predictions, computed in float64, because nearly certain
    ones differ only in the last digits.
    """

    def apart(logits: Tensor) -> Tensor:
        _checks.same_shape("logits", clean, "model(x)", logits)
        exact = sum_dtype(logits.device)
        return (logits.detach().to(exact).softmax(1) - clean.to(exact).softmax(1)).to(logits.dtype)

    if torch.compiler.is_compiling():  # which traces the derivatives of torch.func
        logits, pull = cast("tuple[Tensor, Any]", torch.func.vjp(ask, samples))
        gradient: Tensor = pull(apart(logits))[0]
        return gradient
    with torch.enable_grad():
        logits = ask(samples.requires_grad_())
    if not logits.requires_grad:
        msg = "`model` must have a gradient by its inputs, but has none. Pass the network that is trained itself."
        raise ValueError(msg)
    return torch.autograd.grad(logits, samples, apart(logits))[0]


def _unit(rows: Tensor, otherwise: Tensor) -> Tensor:
    """Rows scaled to length 1, even if their squares underflow."""
    largest = torch.linalg.vector_norm(rows, torch.inf, dim=1, keepdim=True)
    scaled = rows / largest
    unit = scaled / torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return torch.where(largest == 0, otherwise.to(rows.dtype), unit)


@full_precision
def _divergence(prediction: Tensor, changed: Tensor) -> Statistics:
    """The sum over samples and positions of the divergence of the perturbed prediction, and their number."""
    exact = sum_dtype(changed.device)
    log_p, log_q = (F.log_softmax(logits.to(exact), dim=1) for logits in (prediction, changed))
    losses = (log_p.exp() * (log_p - log_q)).sum(1)
    return losses.sum().to(changed.dtype), losses.numel()
