"""What plain PyTorch reaches with each lever of a U-Net's training step: `python bench/limit.py --device
cuda`.

A random U-Net, random latents and embeddings on the device, nothing else in the step: the distance of
`train_step.py` to these figures is what medsd costs. Each arm adds a lever to one before it. A result is
printed and saved as its arm ends, so a run that is cut short keeps what it measured.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable
from typing import Any

import subject
import torch
from common import Row, row, save
from torch import Tensor, nn

PACKAGES = ("torch", "diffusers")
SHAPES = {"small": (8, 96, 16), "sd1": (64, 768, 77), "sd2": (64, 1024, 77)}
"""Latent's side, width of an embedding, tokens."""
ARMS: dict[str, dict[str, bool]] = {
    "float32 weights, bf16 autocast": {"autocast": True},
    "bf16 weights, float32 masters": {},
    "... channels_last": {"channels_last": True},
    "... blocks compiled": {"channels_last": True, "blocks": True},
    "... U-Net compiled": {"channels_last": True, "compiled": True},
    "... U-Net compiled, whole step a CUDA graph": {"channels_last": True, "compiled": True, "graph": True},
}
SHORT = ("autocast", "masters", "channels_last", "blocks", "compiled", "graph")


class Step:
    """One training step on fixed inputs: AdamW (fused) on float32 masters, the norm clipped on the device."""

    def __init__(self, unet: Any, layout: str, batch: int, device: str, settings: dict[str, bool]):
        side, width, tokens = SHAPES[layout]
        self.autocast, self.device = settings.get("autocast", False), device
        dtype = torch.float32 if self.autocast else torch.bfloat16
        unet = unet.to(device, torch.float32)
        self.parameters: list[Tensor] = list(unet.parameters())
        self.masters: list[Tensor] = (
            self.parameters if self.autocast else [p.detach().clone() for p in self.parameters]
        )
        unet.to(dtype)
        if settings.get("channels_last"):
            unet.to(memory_format=torch.channels_last)
        unet.train()
        if settings.get("compiled"):
            unet.compile(dynamic=False)
        if settings.get("blocks"):
            unet.compile_repeated_blocks(dynamic=False)  # type: ignore[operator]
        self.unet = unet
        self.adam = torch.optim.AdamW(self.masters, lr=1e-6, fused=True, capturable=device == "cuda")
        layout_format = torch.channels_last if settings.get("channels_last") else torch.contiguous_format
        noisy, wanted = (
            torch.randn(batch, unet.config["in_channels"], side, side, device=device) for _ in range(2)
        )
        self.noisy = noisy.to(dtype).contiguous(memory_format=layout_format)
        self.wanted = wanted
        self.timesteps = torch.randint(0, 1000, (batch,), device=device)
        self.condition = torch.randn(batch, tokens, width, device=device).to(dtype)

    def __call__(self) -> Tensor:
        context = torch.autocast(self.device, torch.bfloat16) if self.autocast else contextlib.nullcontext()
        with context:
            prediction = self.unet(self.noisy, self.timesteps, self.condition, return_dict=False)[0]
        loss = nn.functional.mse_loss(prediction.float(), self.wanted)
        loss.backward()
        with torch.no_grad():
            gradients: list[Tensor] = [p.grad for p in self.parameters if p.grad is not None]
            if self.masters is not self.parameters:
                fresh = [torch.empty_like(master) for master in self.masters]
                torch._foreach_copy_(fresh, gradients)
                for master, gradient in zip(self.masters, fresh, strict=True):
                    master.grad = gradient
            norm = nn.utils.get_total_norm([m.grad for m in self.masters if m.grad is not None])
            nn.utils.clip_grads_with_norm_(self.masters, 1.0, norm)
            self.adam.step()
            if self.masters is not self.parameters:
                torch._foreach_copy_(self.parameters, self.masters)
            for tensor in (*self.parameters, *self.masters):
                tensor.grad = None
        return loss.detach()


def graphed(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The step as one CUDA graph, after warm-up on a side stream."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()

    def replay() -> Tensor:
        graph.replay()
        return loss

    return replay


def measured(step: Callable[[], Tensor], device: str, steps: int, warm: int = 3) -> float:
    """Seconds of a step."""
    synchronize = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    for _ in range(warm):
        step()
    synchronize()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    synchronize()
    return (time.perf_counter() - began) / steps


def profile(step: Callable[[], Tensor]) -> None:
    """Prints the kernels that a step spends its time in."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    with profiler(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
        for _ in range(3):
            step()
        torch.cuda.synchronize()
    kernels: dict[str, list[float]] = {}
    for event in found.events() or ():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            kernels.setdefault(event.name[:110], []).append(event.device_time / 3)
    total = sum(map(sum, kernels.values()))
    for name, times in sorted(kernels.items(), key=lambda kernel: -sum(kernel[1]))[:40]:
        print(f"  {sum(times) / 1000:8.2f} ms {100 * sum(times) / total:5.1f}% {len(times) // 3:5d}x {name}")
    print(f"  {total / 1000:8.2f} ms in all", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--layout", choices=tuple(SHAPES), default=None, help="sd2 on a GPU, else small")
    parser.add_argument(
        "--batch", type=int, action="append", help="again for more; 32 and 64 on a GPU, else 4"
    )
    parser.add_argument("--arm", choices=SHORT, action="append", help="again for more; all where absent")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--profile", action="store_true", help="also print where the last arm's time goes")
    given = parser.parse_args()
    layout = given.layout or ("sd2" if given.device == "cuda" else "small")
    for batch in given.batch or ([32, 64] if given.device == "cuda" else [4]):
        for short, (name, settings) in zip(SHORT, ARMS.items(), strict=True):
            if (given.arm and short not in given.arm) or (settings.get("graph") and given.device == "cpu"):
                continue
            save("limit", [arm(name, settings, layout, batch, given)])


def arm(name: str, settings: dict[str, bool], layout: str, batch: int, given: Any) -> Row:
    torch.compiler.reset()
    with torch.device(given.device):
        unet = subject.unet(layout)
    began = time.perf_counter()
    step: Callable[[], Tensor] = Step(unet, layout, batch, given.device, settings)
    step()
    if settings.get("graph"):
        step = graphed(step)
    ready = time.perf_counter() - began
    seconds = measured(step, given.device, given.steps)
    memory = torch.cuda.max_memory_reserved() / 2**30 if given.device == "cuda" else 0.0
    print(f"{layout} batch {batch}, {name}: {batch / seconds:.1f} images/s, {1000 * seconds:.1f} ms a step, "
          f"{memory:.1f} GiB, ready in {ready:.0f} s", flush=True)  # fmt: skip
    if given.profile:
        profile(step)
    del step, unet
    if given.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    side = SHAPES[layout][0] * 8
    return row(
        f"{layout} {side} px, batch {batch}: {name}", batch / seconds, None, "images/s", given.device, None,
        PACKAGES, batch=batch, memory_gib=round(memory, 1), ready_s=round(ready),
    )  # fmt: skip


if __name__ == "__main__":
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    main()
