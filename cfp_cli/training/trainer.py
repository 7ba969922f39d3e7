"""Makes optimiser steps on a network: forward pass, loss, gradient, optimiser and moving average."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cfp_cli.execution.distributed import Workers
from cfp_cli.execution.forward import forward_errors
from cfp_cli.execution.outputs import tensors_of
from cfp_cli.measuring.predictions import require_logits
from cfp_cli.models.forward_pass import Flattened
from cfp_cli.training.ema import Ema
from cfp_cli.training.loss import Batch, Objective
from cfp_cli.training.memory_format import memory_format
from cfp_cli.training.options import TrainOptions
from cfp_cli.training.precision import autocast_dtype
from cfp_cli.training.training_mode import set_training_mode


class Trainer:
    """Makes optimiser steps on one network, and holds all state that a step changes.

    Args:
        model: the network; it is moved to the device and to the memory format of `memory_format`.
        options: optimiser, moving average, clipping, precision and compilation.
        device: the device of the computation.
        workers: the processes that share each batch.
        images: two training images float32 [2, C, H, W], on which the memory format is tried.
        student: the network learns from teachers.
        all_outputs: the loss reads the list of all outputs, not logits.

    Raises:
        TrainingError: the device does not support the requested precision.
    """

    def __init__(
        self,
        model: nn.Module,
        options: TrainOptions,
        device: torch.device,
        workers: Workers,
        images: Tensor,
        *,
        student: bool = False,
        all_outputs: bool = False,
    ) -> None:
        self._memory_format = memory_format(model, device, images)
        self.model = model.to(device).to(memory_format=self._memory_format)
        self.options, self.device, self.world_size = options, device, workers.world_size
        self._dtype = autocast_dtype(options.amp, device)
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._dtype == torch.float16)
        self._optimizer = _optimizer(self.model, options)
        self._ema = Ema(self.model, options.ema) if options.ema else None
        self._student, self._all_outputs = student, all_outputs
        self._forward = workers.wrap(Flattened(self.model) if all_outputs else self.model, device)
        if options.compile:
            self._forward = torch.compile(self._forward)  # type: ignore[assignment]

    @property
    def candidate(self) -> nn.Module:
        """The network to evaluate and save: the moving average of the weights if there is one, else the network."""
        return self._ema.model if self._ema else self.model

    def train_step(
        self, images: Tensor, batch: Batch, objective: Objective, *, share: float, step: int, lr: float, seed: int
    ) -> Tensor:
        """Make one optimiser step.

        Args:
            images: float32 [n, 3, H, W], the part of the batch that this process computes.
            batch: indices and labels of these images.
            objective: the loss.
            share: n divided by the size of the full batch.
            step: index of the step, from 0 over all epochs.
            lr: learning rate of the step.
            seed: seed of random layers, such as dropout.

        Returns:
            The output of the objective, float64 [3].
        """
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        torch.manual_seed(seed)
        set_training_mode(self.model, student=self._student, freeze_norm=self.options.freeze_norm)
        with torch.autocast(self.device.type, dtype=self._dtype, enabled=self._dtype is not None):
            with forward_errors(images.shape):
                output = self._forward(images.to(self.device, memory_format=self._memory_format))
            read = tensors_of(output) if self._all_outputs else require_logits(output)
        losses = objective([each.float() for each in read] if isinstance(read, list) else read.float(), batch)
        self._optimizer.zero_grad(set_to_none=True)
        # DDP averages gradients over the processes. This factor turns the average into the mean over the full batch.
        self._scaler.scale(losses[0] * (share * self.world_size)).backward()  # type: ignore[no-untyped-call]
        if self.options.clip_norm:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._ema:
            self._ema.update(self.model, step)
        return losses.detach().double()

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters that the optimiser changes, in its order."""
        return [parameter for group in self._optimizer.param_groups for parameter in group["params"]]

    def state(self) -> dict[str, Any]:
        """All state that the next step depends on, for `restore`."""
        return {
            "model": self.model.state_dict(),
            "ema": self._ema.model.state_dict() if self._ema else None,
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from the output of `state`."""
        self.model.load_state_dict(state["model"])
        if self._ema:
            self._ema.model.load_state_dict(state["ema"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])


def _optimizer(model: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    # A fused step updates all tensors in one call. A small student has many small tensors, and a call for each costs
    # more than its update.
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if options.optimizer == "sgd":
        return torch.optim.SGD(parameters, options.lr, momentum=0.9, weight_decay=options.weight_decay, fused=True)
    kind = torch.optim.Adam if options.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, options.lr, weight_decay=options.weight_decay, fused=True)
