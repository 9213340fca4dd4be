"""What `medsd evaluate` is asked for, as one object."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from medsd_ray.evaluation.protocols import ProtocolOptions

TITLE = "Generated medical images: evaluation"


@dataclass(frozen=True)
class EvaluationOptions:
    """What `medsd evaluate` is asked for. Addresses are paths or s3://.

    Attributes:
        real: Image shards that `prepare` wrote, or a folder of images.
        generated: A folder that `generate` wrote, or one of images.
        out: Where report.json and report.html go.
        base: Images of the model before adaptation.
        label: The field of the shards' labels that the classifier learns.
        inception: Weight file of FID's Inception, of torch-fidelity.
        xrv: Weight file of a torchxrayvision DenseNet-121.
        clip: Folder of a CLIP model.
        run: Output of the training run.
        vae: Model whose VAE's reconstructions are measured.
        lpips: Weight file of torchvision's AlexNet, for LPIPS of `vae`.
        protocol: A protocol of the field, computed in a section of its own.
        seed: Of the classifier and the resampling.
        held_out: The splits that distances refer to.
        title: Of the page.
    """

    real: str
    generated: str
    out: str
    base: str | None = None
    label: str = "finding"
    inception: str | None = None
    xrv: str | None = None
    clip: str | None = None
    run: str | None = None
    vae: str | None = None
    lpips: str | None = None
    protocol: ProtocolOptions | None = None
    seed: int = 0
    held_out: tuple[str, ...] = ("test",)
    title: str = TITLE

    def command(self) -> str:
        """The command line that asks for the same figures."""
        arguments = {name: getattr(self, name) for name in ("real", "generated", "out", "label", "seed")}
        optional = {
            name: getattr(self, name) for name in ("base", "inception", "xrv", "clip", "run", "vae", "lpips")
        }
        if self.protocol:
            optional |= {
                "protocol": self.protocol.name,
                "rad-dino": self.protocol.rad_dino,
                "alignment": self.protocol.alignment,
                "siamese": self.protocol.siamese,
                "reidentify": self.protocol.reidentify,
            }
        arguments |= {name: value for name, value in optional.items() if value}
        words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
        return shlex.join(["medsd", "evaluate", *words])
