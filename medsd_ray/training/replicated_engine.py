"""ZeRO stage 0: every worker holds all weights and moments; gradients are averaged once a step.

Nothing in a step waits for the device. The norm, the clipping, fp16's loss scale, and whether a step is left
out are tensors, so a whole step can be one CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from medsd_ray.spec.run import RunSpec
from medsd_ray.training.cuda_graph import StepGraph
from medsd_ray.training.engine import Engine, LossScale, ParameterRange, component_of

BUCKET = 100_000_000
"""Elements of the gradient that are sent at once."""


class ReplicatedEngine(Engine):
    """See `Engine`. In half precision the parameters are half; the masters are float32 copies of the trained
    ones.
    """

    def __init__(self, module: nn.Module, run: RunSpec, peaks: dict[str, float], device: torch.device):
        super().__init__(module, run, peaks, device)
        self._module = module
        named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        self.parameters: list[Tensor] = [p for _, p in named]

        # In half precision the masters are of the float32 weights; then the parameters become half, frozen
        # ones too.
        self.masters, self.gradients = self.parameters, []
        if self.dtype is not torch.float32:
            self.masters = [p.detach().clone(memory_format=torch.contiguous_format) for p in self.parameters]
            self.gradients = [torch.zeros_like(master) for master in self.masters]
            for parameter in module.parameters():
                if parameter.is_floating_point():
                    parameter.data = parameter.data.to(self.dtype)

        # One group of masters a component, as each has its own learning rate, which is a tensor for the
        # graph.
        on_gpu = device.type == "cuda"
        groups = [
            {
                "params": [
                    m for (n, _), m in zip(named, self.masters, strict=True) if component_of(n) == component
                ],
                "lr": torch.tensor(peak, device=device),
            }
            for component, peak in peaks.items()
        ]
        training = self.training
        self.adam = torch.optim.AdamW(
            groups,
            betas=training.adam_betas,
            weight_decay=training.weight_decay,
            fused=True,
            capturable=on_gpu,
        )
        self.ranges = [
            ParameterRange(name, 0, master.numel(), master, 0)
            for (name, _), master in zip(named, self.masters, strict=True)
        ]

        # State of the loop, on the device.
        self.scaled = training.precision == "fp16"
        self.loss_scale = LossScale(training, device)
        self._updates, self._skipped = (torch.zeros((), dtype=torch.int64, device=device) for _ in range(2))
        # What may be captured: one worker's step of fixed shapes. The text encoder's batches have as many
        # rows as there are different captions.
        self._graph = (
            StepGraph(self._whole_step)
            if on_gpu and self.world_size == 1 and training.compile and "text_encoder" not in peaks
            else None
        )

    @property
    def module(self) -> nn.Module:
        return self._module

    @property
    def graphed(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._graph is not None and self._graph.captured

    def __call__(self, batch: dict[str, Tensor]) -> Tensor:
        return self._module(batch)

    def step(self, micro_batches: Sequence[dict[str, Tensor]], factor: float) -> Tensor:
        for group, peak in zip(self.adam.param_groups, self.peaks.values(), strict=True):
            group["lr"].fill_(peak * factor)
        losses, self.norm = (self._graph or self._whole_step)(micro_batches)
        return losses

    def _whole_step(self, micro_batches: Sequence[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
        """The losses (micro batches,) and the gradient's norm. All in here is done on the device alone."""
        losses = []
        for parameter in self.parameters:
            parameter.grad = None  # what a capture that failed may have left
        for number, batch in enumerate(micro_batches):
            loss = self._module(batch)
            (loss * self.loss_scale.scale if self.scaled else loss).backward()
            losses.append(loss.detach())
            self._add_gradients(first=number == 0)
        with torch.no_grad():
            gradients = self.gradients or [p.grad for p in self.parameters if p.grad is not None]
            if self.world_size > 1:
                self._average(gradients, len(micro_batches))
            norm = self._update(gradients, len(micro_batches))
        return torch.stack(losses), norm

    def _add_gradients(self, first: bool) -> None:
        """In half precision: one micro batch's gradient to the float32 sum. A parameter that the loss does
        not reach has a gradient of zeros, as in ZeRO.
        """
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if not self.gradients:
            return
        fresh: list[Tensor] = [p.grad for p in self.parameters if p.grad is not None]
        if first:
            torch._foreach_copy_(self.gradients, fresh)
        else:
            torch._foreach_add_(self.gradients, [gradient.float() for gradient in fresh])
        for parameter in self.parameters:
            parameter.grad = None

    def _average(self, gradients: list[Tensor], micro_batches: int) -> None:
        """Over the workers. What is sent has the run's precision, or float32 where it is a sum of micro
        batches.
        """
        dtype = self.dtype if micro_batches == 1 else torch.float32
        bucket: list[Tensor] = []
        for index, gradient in enumerate(gradients):
            bucket.append(gradient)
            if index + 1 < len(gradients) and sum(g.numel() for g in bucket) < BUCKET:
                continue
            flat = _flatten_dense_tensors([g / self.world_size for g in bucket]).to(dtype)
            dist.all_reduce(flat)
            torch._foreach_copy_(bucket, list(_unflatten_dense_tensors(flat, bucket)))
            bucket = []

    def _update(self, gradients: list[Tensor], micro_batches: int) -> Tensor:
        """Clips, lets Adam move the masters unless the gradient is not finite, and copies them to the
        parameters.
        """
        divisor = self.loss_scale.scale * micro_batches
        norm = nn.utils.get_total_norm(gradients) / divisor
        found_inf = (~torch.isfinite(norm)).float()
        clipping = self.training.gradient_clipping
        if clipping:
            divisor = divisor / torch.clamp(clipping / (norm + 1e-6), max=1.0)
        for master, gradient in zip(self.masters, gradients, strict=True):
            master.grad = gradient
        # AdamW divides by one and does nothing where the other is 1, as for torch.amp.GradScaler.
        self.adam.grad_scale, self.adam.found_inf = divisor.float(), found_inf  # type: ignore[attr-defined]
        self.adam.step()
        if self.masters is not self.parameters:
            torch._foreach_copy_(self.parameters, self.masters)
        for tensor in (*self.masters, *self.parameters):
            tensor.grad = None
        applied = 1 - found_inf
        self._updates += applied.long()
        self._skipped.add_(1).mul_(found_inf.long())
        if self.scaled:
            self.loss_scale.update(found_inf)
        return norm

    def updates(self) -> int:
        return int(self._updates.item())

    def skipped(self) -> int:
        return int(self._skipped.item())

    def _set_updates(self, updates: int) -> None:
        self._updates.fill_(updates)

    def has_masters(self) -> bool:
        return self.masters is not self.parameters
