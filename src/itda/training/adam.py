"""Adam and AdamW as torch has them (fused, on a CPU), without what they look up again for each parameter at each step.

Updates, state and checkpoints are torch's own, bit for bit. A step in which they would do anything else (the first
one, a parameter without a gradient, another device) is theirs, and they are the slow twins of all others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Lists(NamedTuple):
    """What the fused kernel takes of a group of parameters, in their order."""

    params: list[Tensor]
    averages: list[Tensor]
    squares: list[Tensor]
    steps: list[Tensor]
    counts: Tensor  # what `steps` are views of, so that one call counts for all


class _Direct(torch.optim.Optimizer):
    """Calls the kernel on lists that were made once."""

    kernel: Callable[..., None]
    _lists: list[Lists] | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a state over; its tensors are others."""
        super().__setstate__(state)
        self._lists = None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters."""
        super().add_param_group(param_group)
        self._lists = None

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        if not set_to_none:
            super().zero_grad(set_to_none)
            return
        for group in self.param_groups:
            for param in group["params"]:
                param.grad = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move all parameters."""
        grads = [[param.grad for param in group["params"]] for group in self.param_groups]
        if closure or any(grad is None for some in grads for grad in some):
            return super().step(closure)
        if self._lists is None and all(param in self.state for group in self.param_groups for param in group["params"]):
            self._lists = self._collect()
        if not self._lists:
            return super().step()
        for group, lists, own in zip(self.param_groups, self._lists, grads, strict=True):
            lists.counts.add_(1.0)
            beta1, beta2 = group["betas"]
            type(self).kernel(
                lists.params, own, lists.averages, lists.squares, [], lists.steps, lr=group["lr"], beta1=beta1,
                beta2=beta2, weight_decay=group["weight_decay"], eps=group["eps"], amsgrad=False, maximize=False,
            )  # fmt: skip
        return None

    # To be measured by torch's profiler under a name, and to run hooks that nobody here registers, would cost a tenth
    # of a small update.
    step.hooked = True  # type: ignore[attr-defined]

    def _collect(self) -> list[Lists]:
        """The lists of each group; none at all where the kernel is not the one for the CPU, or not told enough."""
        kinds = {(param.device.type, param.dtype) for group in self.param_groups for param in group["params"]}
        plain = [group["fused"] and not (group["amsgrad"] or group["maximize"]) for group in self.param_groups]
        if len(kinds) > 1 or ("cpu", torch.float32) not in kinds or not all(plain):
            return []
        return [self._lists_of(group["params"]) for group in self.param_groups]

    def _lists_of(self, params: list[Tensor]) -> Lists:
        states = [self.state[param] for param in params]
        counts = torch.stack([state["step"] for state in states])
        for state, count in zip(states, counts.unbind(), strict=True):
            state["step"] = count
        averages, squares, steps = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
        return Lists(list(params), averages, squares, steps, counts)


class Adam(_Direct, torch.optim.Adam):
    """Adam (Kingma and Ba 2015, arXiv 1412.6980)."""

    kernel = staticmethod(torch._fused_adam_)


class AdamW(_Direct, torch.optim.AdamW):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101)."""

    kernel = staticmethod(torch._fused_adamw_)
