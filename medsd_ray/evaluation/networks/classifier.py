"""A DenseNet that learns the labels of the real training images, then judges held-out and generated ones.

Its features (the last layer before the decision) also serve FID and the memorisation check. The network is
made small for images up to 128 px so that two CPU cores train it in about a minute.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import DenseNet

from medsd_ray.evaluation.inputs import ImageSet
from medsd_ray.evaluation.messages import Say, print_line
from medsd_ray.evaluation.networks.batches import device, in_batches

SMALL = {"growth_rate": 12, "block_config": (4, 4, 4), "num_init_features": 24}
LARGE = {"growth_rate": 32, "block_config": (6, 12, 24, 16), "num_init_features": 64}  # DenseNet-121
LARGE_FROM = 224  # px
SMALL_UP_TO = 128  # px; larger images are shrunk to it for the small network
BATCH = 32
PASSES = 15_000  # training images seen, whatever their number: it sets the epochs
MIN_PER_CLASS = 5


@dataclass(frozen=True)
class Classifier:
    """A trained network with its classes and its input's size and brightness scale."""

    network: DenseNet
    name: str
    classes: list[str]
    size: int
    mean: float
    std: float
    epochs: int
    best_epoch: int
    validation_loss: float | None
    seconds: float

    def _batches(self, pixels: np.ndarray, forward: Callable[[Tensor], Tensor]) -> np.ndarray:
        self.network.eval()
        prepare = lambda batch: _three(_input(batch, self.size, self.mean, self.std))
        return in_batches(pixels, lambda batch: forward(prepare(batch)).double().cpu(), size=64).numpy()

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """(N, H, W, C) uint8 -> (N, classes) float64, each row summing to 1."""
        return self._batches(pixels, lambda x: self.network(x).double().softmax(1))

    def features(self, pixels: np.ndarray) -> np.ndarray:
        """(N, H, W, C) uint8 -> (N, D) float64: the pooled activations that the decision is made from."""
        return self._batches(pixels, lambda x: functional.relu(self.network.features(x)).mean((2, 3)))

    @property
    def dimensions(self) -> int:
        return self.network.classifier.in_features


def _input(pixels: np.ndarray, size: int, mean: float, std: float) -> Tensor:
    """(N, H, W, C) uint8 -> (N, C, size, size) float32, standardised."""
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    if len(x) and x.shape[-2:] != (size, size):
        x = functional.interpolate(x, size=(size, size), mode="bilinear", antialias=True)
    return (x - mean) / std


def _three(x: Tensor) -> Tensor:
    """The network's three channels, on its device; channels last is a quarter faster on CPUs."""
    return x.to(device()).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def usable_classes(labels: list[str | None]) -> list[str]:
    """Labels with enough training images to learn, sorted; others are left out of training and scoring."""
    counts = Counter(label for label in labels if label is not None)
    return sorted(label for label, count in counts.items() if count >= MIN_PER_CLASS)


def train_classifier(
    train: ImageSet, validation: ImageSet | None, seed: int, say: Say = print_line
) -> Classifier:
    """Trains on the labelled images of `train` and keeps the epoch with the lowest validation loss (the last
    without one).

    Loss: cross-entropy with each class weighted by the inverse of its share. Augmentation: shifts and
    exposure; never a mirror image, as left and right mean something in the body. The same seed gives the same
    network on one machine. Raises ValueError where the labels name fewer than two usable classes.
    """
    classes = usable_classes(train.labels)
    if len(classes) < 2:
        raise ValueError(
            f"the training images name {len(classes)} label(s) with {MIN_PER_CLASS} images or more; a "
            "classifier needs two"
        )
    x, y = _labelled(train, classes)
    held = _labelled(validation, classes) if validation else (x[:0], y[:0])
    large = x.shape[1] >= LARGE_FROM and device().type == "cuda"
    size = x.shape[1] if large else min(x.shape[1], SMALL_UP_TO)
    mean, std = float(x.mean()), float(x.std() + 1e-3)
    epochs = int(np.clip(round(PASSES / len(x)), 4, 40))
    started = time.monotonic()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = DenseNet(**(LARGE if large else SMALL), num_classes=len(classes)).to(device())
        images, held_images = (_input(pixels, size, mean, std) for pixels in (x, held[0]))
        best_epoch, loss = _fit(network, images, y, held_images, held[1], epochs, say)
    network.eval()
    name = "DenseNet-121" if large else "small DenseNet (3 blocks of 4 layers, growth 12)"
    return Classifier(
        network, name, classes, size, mean, std, epochs, best_epoch, loss, time.monotonic() - started
    )


def _labelled(images: ImageSet, classes: list[str]) -> tuple[np.ndarray, Tensor]:
    number = {label: i for i, label in enumerate(classes)}
    known = [(i, number[label]) for i, label in enumerate(images.labels) if label in number]
    return images.pixels[[i for i, _ in known]], torch.tensor([c for _, c in known], dtype=torch.long)


def _fit(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    held_x: Tensor,
    held_y: Tensor,
    epochs: int,
    say: Say,
) -> tuple[int, float | None]:
    """Trains in place and loads the best epoch's weights; (best epoch from 1, its validation loss or
    None).
    """
    weights = (len(y) / (y.bincount() * len(y.bincount()))).float().to(device())
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05)
    steps = epochs * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps, pct_start=0.2)
    best: tuple[float, int, dict] | None = None
    for epoch in range(1, epochs + 1):
        network.train()
        total = 0.0
        for chosen in torch.randperm(len(x)).split(BATCH):
            if len(chosen) > 1:  # batch norm cannot learn from one image
                logits = network(_three(_augment(x[chosen])))
                loss = functional.cross_entropy(logits, y[chosen].to(device()), weights, label_smoothing=0.05)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item() * len(chosen)
            schedule.step()
        line = f"classifier: epoch {epoch}/{epochs}, loss {total / len(x):.3f}"
        if len(held_x):
            held = _loss(network, held_x, held_y, weights)
            line += f", validation loss {held:.3f}"
            if best is None or held < best[0]:
                best = held, epoch, {name: value.clone() for name, value in network.state_dict().items()}
        if epoch % max(1, epochs // 5) == 0 or epoch == epochs:
            say(line)
    if best is None:
        return epochs, None
    network.load_state_dict(best[2])
    return best[1], best[0]


def _loss(network: nn.Module, x: Tensor, y: Tensor, weights: Tensor) -> float:
    network.eval()
    with torch.inference_mode():
        logits = torch.cat([network(_three(part)) for part in x.split(64)])
        return functional.cross_entropy(logits, y.to(device()), weights).item()


def _augment(x: Tensor) -> Tensor:
    """Each image shifted by up to 6% each way (the border repeated) and its contrast and brightness changed
    by up to 10%.
    """
    count, _, height, width = x.shape
    reach = max(1, round(0.06 * width))
    padded = functional.pad(x, (reach,) * 4, mode="replicate")
    rows = torch.randint(0, 2 * reach + 1, (count, 1, 1)) + torch.arange(height)[None, :, None]
    columns = torch.randint(0, 2 * reach + 1, (count, 1, 1)) + torch.arange(width)[None, None, :]
    shifted = padded[torch.arange(count)[:, None, None], :, rows, columns].permute(0, 3, 1, 2)
    contrast, brightness = (0.1 * (2 * torch.rand(count, 1, 1, 1) - 1) for _ in range(2))
    return shifted * (1 + contrast) + brightness
