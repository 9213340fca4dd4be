"""report.json and report.html: figures with their reasons, cautions in plain words, one page without a
network.
"""

from __future__ import annotations

from medsd_ray.evaluation.estimates import TOO_FEW
from medsd_ray.evaluation.report.format import number, percent
from medsd_ray.evaluation.report.template import render_template

FORMAT = "medsd-report/1"


def cautions(report: dict) -> list[str]:
    """What limits these figures, in sentences, from the figures themselves."""
    said = list(report["notes"])
    fid, classifier, counts = report["fid"], report["classifier"], report["counts"]
    for name, one in fid["by_extractor"].items():
        if one["generated"] is not None and min(one["samples"], one["reference_samples"]) < one["dimensions"]:
            few, dims = min(one["samples"], one["reference_samples"]), one["dimensions"]
            said.append(
                f"FID ({name}): {few} images are fewer than its {dims} features, so the covariances are "
                "incomplete and the value is too high. It serves to compare sets of equal size within "
                "this report, not to compare with other papers."
            )
        elif one["generated"] is not None and min(one["samples"], one["reference_samples"]) < 2048:
            said.append(
                f"FID ({name}) from {one['samples']} images is biased upwards; compare it within this "
                "report only."
            )
    if fid["extractor"] == "classifier":
        said.append(
            "The main FID uses the features of this report's own classifier, as no Inception or "
            "torchxrayvision weights were given: it sees what tells the labels apart, and says less about "
            "other aspects of realism. It learned from the training images, so even they differ from "
            "held-out ones in its features: the floor is above zero."
        )
    if few := withheld(report):
        said.append(f"Intervals by resampling and the AUROC are withheld, {few}.")
    heldout = classifier["real_heldout_accuracy"]
    if heldout is not None:
        low = (classifier.get("real_heldout_auroc_interval") or [1.0])[0]
        if low < 0.5:
            said.append(
                "The classifier may be no better than chance on held-out images, so its accuracies say "
                "little."
            )
        elif heldout < 0.9:
            said.append(
                f"The classifier itself is right on {heldout:.0%} of the held-out real images: read the "
                "accuracy on generated images beside that. A value above it means that they show the "
                "finding more plainly than real images do."
            )
    captions = counts["captions"]
    if captions is not None and captions <= 20:
        said.append(
            f"The real images carry only {captions} distinct captions: nothing here shows how the model "
            "follows other prompts."
        )
    if report["memorisation"]["passed"] is not None:
        said.append(
            "The memorisation check finds near-copies of whole training images. It cannot show that no "
            "detail of a patient's image was learned."
        )
    return said


def withheld(report: dict) -> str | None:
    """Why the report has no intervals by resampling and no AUROC, where too few images judge."""
    places = ((report["classifier"], "real_heldout_accuracy"), (report["fid"], "generated"))
    reasons = (section.get(f"{name}_interval_reason") for section, name in places)
    return next((reason for reason in reasons if reason and reason.startswith(TOO_FEW)), None)


def render(report: dict, view: dict) -> bytes:
    """The page. `view` holds data: URIs from plots.py."""
    return render_template("medsd_ray.evaluation.report", "report.html.j2", report=report, **view)


def summary(report: dict) -> str:
    """A few lines for the terminal."""
    fid, kid, ssim, classifier = (report[name] for name in ("fid", "kid", "ms_ssim", "classifier"))
    names = ("real", "generated", "base")
    accuracies = ("real_heldout_accuracy", "generated_accuracy", "base_accuracy")
    rows = [
        ("", ["real", "generated", "before"]),
        (f"FID ({fid['extractor'] or 'none'})", [number(fid[n]) for n in names]),
        ("KID", [number(kid[n]) for n in names]),
        ("MS-SSIM", [number(ssim[n]) for n in names]),
        ("classifier accuracy", [percent(classifier[n]) for n in accuracies]),
    ]
    lines = [f"{name:<22}" + "".join(f"{value:>12}" for value in values) for name, values in rows]
    check = report["memorisation"]
    passed = {True: "passed", False: f"FAILED: {len(check['flagged'])} near-copies", None: "not done"}[
        check["passed"]
    ]
    few = withheld(report)
    return "\n".join(
        [*lines, f"memorisation check: {passed}", *([f"no intervals and no AUROC, {few}"] if few else [])]
    )
