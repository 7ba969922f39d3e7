"""A network together with what an optimiser step changes: its weights, their running mean, moments and loss scale."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cfp_cli.execution.distributed import Workers
from cfp_cli.measuring.metrics import require_logits
from cfp_cli.training.ema import Ema
from cfp_cli.training.layout import memory_format
from cfp_cli.training.loss import Draw, Objective
from cfp_cli.training.options import TrainOptions
from cfp_cli.training.precision import autocast_dtype


class Learner:
    """A network in training.

    Args:
        model: moved to the device and into the order of memory that suits it.
        options: optimiser, running mean, clipping, precision and compilation.
        device: where to compute.
        workers: processes that share each batch.

    Raises:
        TrainingError: the device does not compute in the precision asked for.
    """

    def __init__(self, model: nn.Module, options: TrainOptions, device: torch.device, workers: Workers) -> None:
        self._layout = memory_format(model, device)
        self.model = model.to(device).to(memory_format=self._layout)
        self.options, self.device, self.world_size = options, device, workers.world_size
        self._dtype = autocast_dtype(options.amp, device)
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._dtype == torch.float16)
        self._optimizer = _optimizer(self.model, options)
        self._ema = Ema(self.model, options.ema) if options.ema else None
        self._forward = workers.wrap(self.model, device)
        if options.compile:
            self._forward = torch.compile(self._forward)  # type: ignore[assignment]

    @property
    def candidate(self) -> nn.Module:
        """What is evaluated and kept: the running mean of the weights where there is one, else the weights."""
        return self._ema.model if self._ema else self.model

    def learn(self, images: Tensor, draw: Draw, objective: Objective, *, share: float, step: int, seed: int) -> Tensor:
        """Make one optimiser step.

        Args:
            images: float32 [n, 3, H, W], this process's part of the batch.
            draw: what is known of them.
            objective: what to minimise.
            share: n over the size of the whole batch.
            step: number of the step, from 0 over all epochs.
            seed: of what the network draws itself, such as dropout.

        Returns:
            What the objective gave, float64 [3].
        """
        for group in self._optimizer.param_groups:
            group["lr"] = self.options.learning_rate(draw.epoch)
        torch.manual_seed(seed)
        self.model.train()
        with torch.autocast(self.device.type, dtype=self._dtype, enabled=self._dtype is not None):
            logits = require_logits(self._forward(images.to(self.device, memory_format=self._layout)))
        losses = objective(logits.float(), draw)
        self._optimizer.zero_grad(set_to_none=True)
        # DDP takes the mean over the processes: weigh each by its images, so that the sum is the mean over the batch.
        self._scaler.scale(losses[0] * (share * self.world_size)).backward()  # type: ignore[no-untyped-call]
        if self.options.clip_norm:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._ema:
            self._ema.update(self.model, step)
        return losses.detach().double()

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "model": self.model.state_dict(),
            "ema": self._ema.model.state_dict() if self._ema else None,
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        self.model.load_state_dict(state["model"])
        if self._ema:
            self._ema.model.load_state_dict(state["ema"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])


def _optimizer(model: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    # One fused step over all tensors: a small student has many, and each would cost more to visit than to update.
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if options.optimizer == "sgd":
        return torch.optim.SGD(parameters, options.lr, momentum=0.9, weight_decay=options.weight_decay, fused=True)
    kind = torch.optim.Adam if options.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, options.lr, weight_decay=options.weight_decay, fused=True)
