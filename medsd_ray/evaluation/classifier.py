"""A DenseNet that learns the labels of the real training images, then judges held-out and generated ones.

Its features (the last layer before the decision) also serve FID and the memorisation check. The network is made small for
images up to 128 px so that two CPU cores train it in about a minute.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.functional.classification import binary_auroc, multiclass_auroc
from torchvision.models import DenseNet

from medsd_ray.evaluation.distances import Estimate
from medsd_ray.evaluation.inputs import ImageSet

SMALL = {"growth_rate": 12, "block_config": (4, 4, 4), "num_init_features": 24}
LARGE = {"growth_rate": 32, "block_config": (6, 12, 24, 16), "num_init_features": 64}  # DenseNet-121
LARGE_FROM = 224  # px
SMALL_UP_TO = 128  # px; larger images are shrunk to it for the small network
BATCH = 32
PASSES = 15_000  # training images seen, whatever their number: it sets the epochs
MIN_PER_CLASS = 5
BOOTSTRAPS = 1000


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
        with torch.inference_mode():
            parts = [
                forward(_three(_input(pixels[i : i + 64], self.size, self.mean, self.std))).double().cpu().numpy()
                for i in range(0, len(pixels), 64)
            ]
        return np.concatenate(parts)

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


def train_classifier(train: ImageSet, validation: ImageSet | None, seed: int, say: Callable[[str], None] = print) -> Classifier:
    """Trains on the labelled images of `train` and keeps the epoch with the lowest validation loss (the last without one).

    Loss: cross-entropy with each class weighted by the inverse of its share. Augmentation: shifts and exposure; never a
    mirror image, as left and right mean something in the body. The same seed gives the same network on one machine.
    Raises ValueError where the labels name fewer than two usable classes.
    """
    classes = usable_classes(train.labels)
    if len(classes) < 2:
        raise ValueError(
            f"the training images name {len(classes)} label(s) with {MIN_PER_CLASS} images or more; a classifier needs two"
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
    return Classifier(network, name, classes, size, mean, std, epochs, best_epoch, loss, time.monotonic() - started)


def _labelled(images: ImageSet, classes: list[str]) -> tuple[np.ndarray, Tensor]:
    number = {label: i for i, label in enumerate(classes)}
    known = [(i, number[label]) for i, label in enumerate(images.labels) if label in number]
    return images.pixels[[i for i, _ in known]], torch.tensor([c for _, c in known], dtype=torch.long)


def _fit(
    network: nn.Module, x: Tensor, y: Tensor, held_x: Tensor, held_y: Tensor, epochs: int, say: Callable[[str], None]
) -> tuple[int, float | None]:
    """Trains in place and loads the best epoch's weights; (best epoch from 1, its validation loss or None)."""
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
    """Each image shifted by up to 6% each way (the border repeated) and its contrast and brightness changed by up to 10%."""
    count, _, height, width = x.shape
    reach = max(1, round(0.06 * width))
    padded = functional.pad(x, (reach,) * 4, mode="replicate")
    rows = torch.randint(0, 2 * reach + 1, (count, 1, 1)) + torch.arange(height)[None, :, None]
    columns = torch.randint(0, 2 * reach + 1, (count, 1, 1)) + torch.arange(width)[None, None, :]
    shifted = padded[torch.arange(count)[:, None, None], :, rows, columns].permute(0, 3, 1, 2)
    contrast, brightness = (0.1 * (2 * torch.rand(count, 1, 1, 1) - 1) for _ in range(2))
    return shifted * (1 + contrast) + brightness


@dataclass(frozen=True)
class HeldOutScore:
    count: int
    patients: int
    accuracy: Estimate
    auroc: Estimate | None  # None where the held-out images show one class only
    by_class: dict[str, tuple[int, int]]  # right answers, images


def score_held_out(classifier: Classifier, images: ImageSet, seed: int) -> HeldOutScore:
    """Accuracy and AUROC (binary; macro one-vs-rest for more classes) with 95% bootstrap intervals over patients.

    Patients are drawn with replacement, all images of each together. Raises ValueError without a labelled image.
    """
    known = [i for i, label in enumerate(images.labels) if label in classifier.classes]
    if not known:
        raise ValueError("no held-out image has one of the classifier's labels")
    some = images.take(known)
    truth = np.array([classifier.classes.index(label) for label in some.labels if label is not None])
    probabilities = classifier.probabilities(some.pixels)
    right = probabilities.argmax(1) == truth
    members = defaultdict(list)
    for index, patient in enumerate(some.groups):
        members[patient].append(index)
    rng = np.random.default_rng([seed, 29])
    accuracies, areas, blocks = [], [], list(members.values())
    for _ in range(BOOTSTRAPS):
        drawn = np.concatenate([blocks[i] for i in rng.integers(0, len(blocks), len(blocks))]).astype(int)
        accuracies.append(right[drawn].mean())
        area = auroc(probabilities[drawn], truth[drawn])
        if area is not None:
            areas.append(area)
    area = auroc(probabilities, truth)
    return HeldOutScore(
        count=len(some),
        patients=some.patients,
        accuracy=_interval(float(right.mean()), accuracies),
        auroc=_interval(area, areas) if area is not None and areas else None,
        by_class={c: (int(right[truth == i].sum()), int((truth == i).sum())) for i, c in enumerate(classifier.classes)},
    )


def auroc(probabilities: np.ndarray, truth: np.ndarray) -> float | None:
    """Area under the ROC curve; probabilities (N, C), truth (N,) ints. None where not every class occurs."""
    classes = probabilities.shape[1]
    if len(np.unique(truth)) < classes:
        return None
    p, t = torch.from_numpy(probabilities), torch.from_numpy(truth)
    if classes == 2:
        return float(binary_auroc(p[:, 1], t, validate_args=False))
    return float(multiclass_auroc(p, t, num_classes=classes, average="macro", validate_args=False))


def _interval(value: float, draws: list[float]) -> Estimate:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def prompt_labels(captions: list[str], labels: list[str | None], classes: list[str]) -> dict[str, str]:
    """What a prompt asks for: the commonest label among real training images with exactly that caption."""
    votes: dict[str, Counter] = defaultdict(Counter)
    for caption, label in zip(captions, labels, strict=True):
        if caption and label in classes:
            votes[caption][label] += 1
    return {caption: min(counts, key=lambda label: (-counts[label], label)) for caption, counts in votes.items()}


@dataclass(frozen=True)
class PromptScore:
    """Of generated images whose prompt asks for a known label: how many the classifier gives that label."""

    right: int
    count: int
    unknown: int  # images whose prompt is no caption of the training images
    by_class: dict[str, tuple[int, int]]


def score_prompts(classifier: Classifier, images: ImageSet, wanted: dict[str, str]) -> PromptScore:
    """Raises ValueError where no image's prompt is a caption of the real training images."""
    known = [i for i, prompt in enumerate(images.captions) if prompt in wanted]
    if not known:
        raise ValueError("no prompt of these images equals a caption of the real training images, so none names a label")
    some = images.take(known)
    given = [classifier.classes[i] for i in classifier.probabilities(some.pixels).argmax(1)]
    by_class = {c: (0, 0) for c in classifier.classes}
    for prompt, label in zip(some.captions, given, strict=True):
        right, count = by_class[wanted[prompt]]
        by_class[wanted[prompt]] = right + (label == wanted[prompt]), count + 1
    return PromptScore(
        sum(r for r, _ in by_class.values()),
        len(some),
        len(images) - len(some),
        {c: v for c, v in by_class.items() if v[1]},
    )
