"""`medsd export`: a checkpoint as a plain folder, with a model card. Of a task run it is its library's
network (networks/export.py); of a diffusion model a diffusers pipeline, once its images were checked for
copies.

The gate: a model whose U-Net or text encoder was trained makes images, which may be copies of patients'
images. Its folder is written only with the report of an evaluation of this very model whose memorisation
check passed, or with a reason in words, which the model card keeps. A run that trained the VAE alone made
nothing that generates: no gate.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsd_ray.addresses import shown
from medsd_ray.console import stage
from medsd_ray.errors import InputError
from medsd_ray.models.card import as_yaml, manifest_of, named, origin
from medsd_ray.models.drift_card import drift_section
from medsd_ray.models.networks.task_run import find_task_run
from medsd_ray.models.resolve import find_checkpoint, model_fingerprint, resolve
from medsd_ray.runs.checkpoints import describe_checkpoint, trained
from medsd_ray.runs.chosen import about_checkpoint
from medsd_ray.runs.names import REPORT_DATA
from medsd_ray.spec.shown_addresses import without_local_paths
from medsd_ray.storage import Storage, open_storage
from medsd_ray.storage.outputs import is_empty

if TYPE_CHECKING:
    from medsd_ray.models.methods.adaptation import Files

LEAST_WORDS = 3


def export(
    checkpoint: str,
    dest: str,
    *,
    report: str | None = None,
    without_memorisation_check: str | None = None,
    raw: bool = False,
) -> None:
    """Writes a checkpoint as a plain folder with its model card, the COMPLETE mark last.

    Args:
        checkpoint: A run's output (its chosen checkpoint) or one checkpoint.
        dest: An empty folder or `s3://` address.
        report: The report.json of an evaluation of this model, whose memorisation check passed.
        without_memorisation_check: In place of a report, why none is needed, in a few words for the card.
        raw: Exports the trained weights themselves, and not their moving averages (EMA).

    Raises:
        InputError: `checkpoint` is none, `dest` is not empty, or the memorisation check is missing, of
            another model or not passed; or the checkpoint is of a task run and an option that its export has
            no use for is given.
    """
    source = find_checkpoint(checkpoint)
    if source is None:
        raise InputError(
            f"{checkpoint}: not a run's output and no checkpoint; a pipeline folder needs no export"
        )
    run = find_task_run(checkpoint)
    if run:
        _refuse_for_tasks(run.task, report, without_memorisation_check, raw)
    store = open_storage(dest)
    if not is_empty(store):
        raise InputError(f"{dest}: not empty; choose another DEST or remove this one")
    if run:
        stage(f"loading {checkpoint}")
        from medsd_ray.models.networks.export import export_task

        return export_task(run, store, f"medsd export {shown(checkpoint)} {shown(dest)}")
    descriptions = [describe_checkpoint(s) for s in resolve(checkpoint).checkpoints]
    descriptions = [
        d | {"model": shown(d["model"]), "spec": without_local_paths(d.get("spec", {}))} for d in descriptions
    ]
    fingerprint = model_fingerprint(checkpoint, raw=raw)
    generates = any(set(trained(d)) - {"vae"} for d in descriptions)
    check = memorisation_check(report, without_memorisation_check, fingerprint, generates)
    stage(f"loading {checkpoint}")
    from safetensors.torch import save_file

    from medsd_ray.models.conditions_card import conditions_section
    from medsd_ray.models.load import load_components
    from medsd_ray.models.save import save_pipeline
    from medsd_ray.models.swapped_encoder import SwappedEncoder

    components, used = load_components(checkpoint, raw=raw), about_checkpoint(source, checkpoint)
    with tempfile.TemporaryDirectory(prefix="medsd-") as folder:
        save_pipeline(components, Path(folder))
        # A method's own file says nothing of the conditions that it was trained with.
        files = method_files(source, raw) if components.conditions is None else {}
        for name, tensors in files.items():
            save_file(
                {key: value.contiguous() for key, value in tensors.items()},
                Path(folder, name),
                metadata={"format": "pt"},
            )
        command = f"medsd export {shown(checkpoint)} {shown(dest)}" + (" --raw" if raw else "")
        card = model_card(descriptions, manifest_of(source), fingerprint, check, raw, command, used["why"])
        swapped = isinstance(components.text_encoder, SwappedEncoder)
        latents = (components.unet.config["in_channels"], *components.sample_size)
        if components.conditions is not None:
            card += conditions_section(components.conditions.settings, latents)
        else:
            card += usage(swapped, sorted(files), descriptions[-1]["model"])
            predicted = components.scheduler.config["prediction_type"]
            card += drift_section(components.drift, predicted, latents, swapped)
        Path(folder, "README.md").write_text(card, encoding="utf-8")
        store.upload_tree(Path(folder))
    which = f"the checkpoint of step {used['step']} ({used['why']})"
    print(f"{dest}: exported {which}; memorisation check: {check}")


def _refuse_for_tasks(task: str, report: str | None, reason: str | None, raw: bool) -> None:
    given = {"--report": report, "--without-memorisation-check": reason, "--raw": raw or None}
    if wrong := next((option for option, value in given.items() if value is not None), None):
        why = "its weights are those that medsd predict uses" if raw else "it makes no images"
        raise InputError(f"{wrong} is of the export of a diffusion model, and this is a {task}: {why}")


def method_files(checkpoint: Storage, raw: bool) -> Files:
    """What the methods of a checkpoint's own run export beside the pipeline: file name -> tensors."""
    from medsd_ray.models.methods.registry import adaptation, recorded_settings
    from medsd_ray.runs.checkpoint_reader import load_weights

    description, found = describe_checkpoint(checkpoint), {}
    for name, weights in load_weights(checkpoint, raw=raw).items():
        settings = recorded_settings(description, name)
        for file, tensors in adaptation(name, settings).files(name, settings, weights).items():
            found.setdefault(file, {}).update(tensors)  # the LoRA of U-Net and text encoder share one
    return found


def memorisation_check(report: str | None, reason: str | None, fingerprint: str, generates: bool) -> str:
    """What the model card says of the check. Raises InputError where the gate stays shut."""
    if report and reason:
        raise InputError("give either --report or --without-memorisation-check, not both")
    if reason is not None:
        if len(reason.split()) < LEAST_WORDS:
            raise InputError(
                f"--without-memorisation-check {reason!r}: say in a few words why no check is needed"
            )
        return f"not checked: {' '.join(reason.split())}"
    if report is not None:
        return _passed(report, fingerprint)
    if generates:
        raise InputError(
            "this model makes images, so its memorisation check comes first: medsd generate, "
            f"medsd evaluate, then export with --report {REPORT_DATA} "
            "(or --without-memorisation-check REASON)"
        )
    return "not needed: only the VAE was trained"


def _passed(address: str, fingerprint: str) -> str:
    folder, _, name = address.rpartition("/")
    try:
        report = open_storage(folder or ("/" if address.startswith("/") else ".")).read_json(name)
        passed, of = report["memorisation"]["passed"], report["model_fingerprint"]
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise InputError(
            f"{address}: no such file; give the {REPORT_DATA} that medsd evaluate wrote"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{address}: not a report that medsd evaluate wrote") from error
    if of != fingerprint:
        raise InputError(
            f"{address}: this report is of another model ({of}, not {fingerprint}); generate and evaluate "
            "this one"
        )
    if passed is not True:
        outcome = "failed" if passed is False else "was not done"
        raise InputError(
            f"{address}: its memorisation check {outcome}; see the report, or give "
            "--without-memorisation-check REASON"
        )
    return f"passed, by {shown(address)}"


def model_card(
    descriptions: list[dict[str, Any]],
    manifest: dict[str, Any],
    fingerprint: str,
    check: str,
    raw: bool,
    command: str,
    why: str,
) -> str:
    """README.md of an exported folder; `descriptions` are the checkpoint.json of each run, the first one's
    base first. `why` says why that checkpoint.
    """
    last = descriptions[-1]
    spec = last.get("spec", {})
    runs = [
        f"- {', '.join(f'{name} ({method})' for name, method in trained(d).items())}: {d['step']} steps "
        f"from {named(d)}"
        for d in descriptions
    ]
    return f"""---
library_name: diffusers
pipeline_tag: text-to-image
tags: [medsd, research-use-only]
---
# {spec.get("name", "A model adapted with medsd")}

**Research use only.** Its images are generated: they show no patient and serve no diagnosis.

- Base model: {named(descriptions[0])}
- Checkpoint: of step {last["step"]}, {why}
- Weights: {"as trained" if raw or not last.get("ema") else "their moving average (EMA)"}
- Memorisation check: {check}
- Model fingerprint: `{fingerprint}`
{origin(spec, manifest)}
- Written by: `{command}`

What was adapted, run by run:

{chr(10).join(runs)}

## The last run

{as_yaml(spec)}
"""


_PLAIN = """
## Use

    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained("this folder")
    pipeline("a chest x-ray").images[0]
"""

_SWAPPED = """
## Use

Its text encoder is no CLIP, which diffusers' pipeline would need: it takes prompt embeddings.
`medsd generate "this folder"` does the same.

    import torch
    from diffusers import StableDiffusionPipeline
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer

    pipeline = StableDiffusionPipeline.from_pretrained("this folder", text_encoder=None, tokenizer=None)
    encoder = AutoModel.from_pretrained("this folder/text_encoder", trust_remote_code=False).eval()
    tokenizer = AutoTokenizer.from_pretrained("this folder/tokenizer", trust_remote_code=False)
    learnt = load_file("this folder/text_encoder/projection.safetensors")

    @torch.no_grad()
    def embed(text):
        tokens = tokenizer(text, padding="max_length", truncation=True, return_tensors="pt")
        hidden = encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        projected = hidden @ learnt["projection.weight"].T + learnt["projection.bias"]
        return torch.layer_norm(projected, projected.shape[-1:], learnt["norm.weight"], learnt["norm.bias"])

    pipeline(prompt_embeds=embed("a chest x-ray"), negative_prompt_embeds=embed("")).images[0]
"""

_ALONE = """
The pipeline has all that was learnt in it. What the last run learnt is also here by itself, for use over
`{base}`:

    pipeline = StableDiffusionPipeline.from_pretrained("the base model")
{lines}
"""


def usage(swapped: bool, files: list[str], base: str) -> str:
    """The card's section on use: how diffusers loads the folder, and the files of the methods over the base
    model.
    """
    load = {True: "load_lora_weights", False: "load_textual_inversion"}
    lines = [f'    pipeline.{load["lora" in file]}("this folder", weight_name="{file}")' for file in files]
    return (_SWAPPED if swapped else _PLAIN) + (
        _ALONE.format(base=base, lines="\n".join(lines)) if files else ""
    )
