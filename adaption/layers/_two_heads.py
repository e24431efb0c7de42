"""A network with two heads."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from adaption import _checks


def check_parts(finetune: object, grl: object = None, grl_name: str = "grl", **parts: object) -> None:
    """Check the parts of a network before it is built."""
    for name, part in parts.items():
        _checks.module(name, part)
    if grl is not None:
        _checks.function(grl_name, grl)
    _checks.flag("finetune", finetune)


class TwoHeads(nn.Module):
    """Backbone and bottleneck, the main head, and, after a layer that changes the gradient, the adversarial head.

    Args:
        grl: the layer that changes the gradient of the adversarial head for the bottleneck.
        finetune: whether the backbone is pretrained and learns at a tenth of the rate.
    """

    def __init__(
        self,
        backbone: nn.Module,
        bottleneck: nn.Module,
        head: nn.Module,
        adv_head: nn.Module,
        grl: nn.Module,
        *,
        finetune: bool,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.bottleneck = bottleneck
        self.head = head
        self.adv_head = adv_head
        self.grl = grl
        self.finetune = finetune

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the outputs of both heads in training mode, that of the main head in eval mode."""
        features = self.bottleneck(self.backbone(x))
        output: Tensor = self.head(features)
        return (output, self.adv_head(self.grl(features))) if self.training else output

    def step(self) -> None:
        """Advance the schedule before the adversarial head; call it after every training step.

        A schedule is a layer with a method ``step``, also inside a Sequential, unless it advances automatically.
        """
        _step(self.grl)

    def get_parameters(self, base_lr: float = 1.0) -> list[dict[str, Any]]:
        """Return parameter groups for an optimizer, the backbone's with a tenth of `base_lr` if it is finetuned."""
        _checks.number("base_lr", base_lr, above=0)
        backbone_lr = 0.1 * base_lr if self.finetune else base_lr
        parts = (self.backbone, backbone_lr), (self.bottleneck, base_lr), (self.head, base_lr), (self.adv_head, base_lr)
        return [{"params": list(part.parameters()), "lr": lr} for part, lr in parts]


def _step(layer: object) -> None:
    step = getattr(layer, "step", None)
    if callable(step):
        if not getattr(layer, "auto_step", False):
            step()
    elif isinstance(layer, nn.Module):
        for child in layer.children():
            _step(child)
