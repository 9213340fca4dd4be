"""`medsd encode`: image shards to latent shards, over Ray workers; stops and goes on shard by shard.

DEST/{split}/.progress   what an unfinished split is made of, and a note of each finished shard
DEST/{split}/index.json  written when the split is complete (see latents.py for what it says)
DEST/index.json          the splits, written last
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from medsd_ray.addresses import shown
from medsd_ray.console import ProgressLine, stage
from medsd_ray.data.index_schema import EncodedShard
from medsd_ray.data.shards import (
    FORMAT,
    INDEX,
    SPLITS,
    Index,
    list_splits,
    open_split,
    parse_index,
    parse_shard,
    write_index,
)
from medsd_ray.errors import InputError
from medsd_ray.generation.encode_tasks import NOTES, Task, note_name
from medsd_ray.gpus import use_gpus
from medsd_ray.models.inference import inference_settings
from medsd_ray.models.pixels import vae_scale_factor
from medsd_ray.models.resolve import model_fingerprint, resolve
from medsd_ray.models.tokens import (
    LongCaptions,
    cut_in_words,
    merged,
)
from medsd_ray.ray_cluster import check_address
from medsd_ray.ray_tasks import run_tasks
from medsd_ray.schemas import first_fault
from medsd_ray.storage import Storage, absolute, open_storage
from medsd_ray.storage.outputs import Complete, Foreign, New, claim

if TYPE_CHECKING:
    from medsd_ray.generation.encoder import Encoder

PLAN = f"{NOTES}/plan.json"
COMPILE_FROM = 20_000
"""Images that pay for a minute of compiling on a GPU."""
# What latents must agree in to be of one kind. Not the model's address, nor floats, which differ a little by
# machine.
IDENTITY = ("vae_fingerprint", "text_encoder_fingerprint", "text_embeddings", "scaling_factor", "precision")


def encode(
    shards: str,
    dest: str,
    *,
    model: str,
    text_embeddings: bool = True,
    batch_size: int = 32,
    num_workers: int = 1,
    use_gpu: bool | None = None,
    precision: str | None = None,
    compile: bool | None = None,
) -> None:
    """Encodes shards of images into shards of latents; what is complete in `dest` is left as it is.

    Args:
        shards: The folder or `s3://` address that prepare wrote, or one split of it.
        dest: Where the latents go, a folder or `s3://` address.
        model: The model whose VAE and text encoder encode, as `load_components` takes it.
        text_embeddings: Whether captions are stored as embeddings too, which a frozen text encoder's
            training needs.
        batch_size: Images of a forward pass. Like `num_workers`, it changes the latents by rounding alone.
        num_workers: Ray workers; 1 encodes in this process.
        use_gpu: Gives each worker a GPU; where None, if there are GPUs.
        precision: fp32, bf16 or fp16; where None, bf16 on a GPU and fp32 on a CPU.
        compile: Compiles the VAE; where None, on a GPU for COMPILE_FROM images or more. It changes latents by
            rounding alone.

    Raises:
        InputError: The shards have no images, or images that the VAE cannot halve evenly; `dest` holds other
            latents; or shards are corrupt, which is raised after all others were encoded.
        RunError: A worker died.
    """
    for name, value in (("batch_size", batch_size), ("num_workers", num_workers)):
        if value < 1:
            raise InputError(f"{name} is {value}; choose 1 or more")
    if num_workers > 1:
        check_address()
    out = absolute(open_storage(dest))
    splits = {split: open_split(shards, split) for split in list_splits(shards)}
    for store, index in splits.values():
        _check(store, index)
    resolve(model)
    on_gpu = use_gpus(use_gpu, num_workers)
    images = sum(index.samples for _, index in splits.values())
    how = inference_settings(on_gpu, precision, compile, images=images, compile_from=COMPILE_FROM)
    stage(f"loading the model {model}")
    from medsd_ray.generation.encoder import Encoder  # it imports torch
    from medsd_ray.models.load import load_components

    # The noise schedule too: a model that cannot be trained is refused before it has encoded anything.
    components = load_components(model, only=("vae", "text_encoder", "tokenizer", "scheduler"))
    factor = vae_scale_factor(components.vae)
    for store, index in splits.values():
        _check_size(store, index, factor)
    encoder = Encoder(components, text_embeddings, batch_size, how, {}, out)
    meta = _fingerprints(model, text_embeddings) | encoder.describe()
    tasks = []
    for split, (store, index) in splits.items():
        encoder.sources[split] = absolute(store)
        tasks += _left_to_do(out.child(split), split, index, meta)
    _run(encoder, tasks, num_workers)
    for split, (_, index) in splits.items():
        _finish(out.child(split), split, index, meta, index.meta["size"] // factor)
    _write_root(out, meta)
    for split in splits:
        index = parse_index(out.child(split).read_json(INDEX), f"{dest}/{split}")
        if said := cut_in_words(index.meta.get("captions", {})):
            print(f"{dest}/{split}: {said}")
    print(f"{dest}: {', '.join(f'{index.samples} {split}' for split, (_, index) in splits.items())}, encoded")


def _check(store: Storage, index: Index) -> None:
    if index.kind != "image":
        raise InputError(
            f"{store.url}: {index.kind} shards have no images to encode; give the image shards that prepare "
            "wrote"
        )
    if "size" not in index.meta:
        raise InputError(f"{store.url}/{INDEX}: no size of the images in it; run prepare again")


def _check_size(store: Storage, index: Index, factor: int) -> None:
    if index.meta["size"] % factor:
        raise InputError(
            f"{store.url}: {index.meta['size']} px images do not divide by the VAE's {factor}; prepare "
            "another --size"
        )


def _left_to_do(store: Storage, split: str, index: Index, meta: dict) -> list[Task]:
    """The shards of a split that are not encoded yet. Raises InputError where another model's latents are in
    the way.
    """
    plan = _identity(meta | {"sources": [shard.sha256 for shard in index.shards]})
    existing = claim(store, plan, INDEX, begun=PLAN, settings_of=_identity, within=())
    if isinstance(existing, Foreign):
        if existing.differing:
            raise InputError(
                f"{store.url}: holds other latents (model, shards or settings); choose another DEST or "
                "remove it"
            )
        raise InputError(f"{store.url}/{existing.record} is damaged; remove {store.url} and encode again")
    if isinstance(existing, Complete):
        return []
    if isinstance(existing, New):
        store.write_json(PLAN, plan)
    done = {key for key in store.list(NOTES + "/")}
    return [
        Task(split, number, shard)
        for number, shard in enumerate(index.shards)
        if note_name(number) not in done
    ]


def _identity(values: dict) -> dict:
    # An earlier version knew one precision.
    return {"precision": "fp32"} | {name: values[name] for name in (*IDENTITY, "sources") if name in values}


def _run(encoder: Encoder, tasks: list[Task], num_workers: int) -> None:
    """Encodes all that can be; raises InputError at the end where something could not."""
    wrong: dict[tuple[str, int], InputError] = {}
    with ProgressLine(sum(task.shard.samples for task in tasks), "images encoded") as progress:
        for task, result in run_tasks(encoder, tasks, num_workers, encoder.how.use_gpu):
            if isinstance(result, InputError):
                wrong[task.split, task.number] = result
            else:
                progress.add(result)
    if wrong:
        more = f" ({len(wrong) - 1} more shards are corrupt)" if len(wrong) > 1 else ""
        raise InputError(f"{wrong[min(wrong)]}{more}")


def _read_note(store: Storage, number: int) -> dict:
    note = store.read_json(note_name(number))
    if fault := first_fault(EncodedShard, note):
        raise InputError(
            f"{store.url}/{note_name(number)}: damaged ({fault}); remove {store.url} and encode again"
        )
    return note


def _finish(store: Storage, split: str, index: Index, meta: dict, size: int) -> None:
    """Writes the split's index; `size` is the latents' height and width."""
    if store.exists(INDEX):
        return
    notes = [_read_note(store, number) for number in range(len(index.shards))]
    own: dict[str, Any] = {
        "sources": [shard.sha256 for shard in index.shards],
        "sample_size": [size, size],
    }
    if all("captions" in note for note in notes):  # an earlier version began without them
        own["captions"] = merged(LongCaptions(**note["captions"]) for note in notes).counts
    if all(note.get("format") == FORMAT for note in notes):  # which began with labels, masks and domains
        own |= {
            name: index.meta[name]
            for name in ("fit", "labels", "masks", "domains", "by_domain")
            if name in index.meta
        }
    shards = tuple(
        replace(parse_shard(note["shard"]), domain=source.domain)
        for source, note in zip(index.shards, notes, strict=True)
    )
    write_index(store, Index("latent", split, shards, meta | own))
    store.delete_tree(NOTES)


def _write_root(out: Storage, meta: dict) -> None:
    """The root's index names all finished splits below it, those of earlier calls too."""
    finished = {split: out.child(split) for split in SPLITS if out.child(split).exists(INDEX)}
    indexes = {split: parse_index(store.read_json(INDEX), store.url) for split, store in finished.items()}
    splits = {split: {"samples": index.samples, "bytes": index.bytes} for split, index in indexes.items()}
    root = {
        "format": FORMAT,
        "kind": "latent",
        "splits": splits,
        **{name: meta[name] for name in ("model", "fingerprint")},
    }
    # What an earlier version wrote of the same latents stays as it is.
    if not out.exists(INDEX) or out.read_json(INDEX) | {"format": FORMAT} != root:
        out.write_json(INDEX, root)


def _fingerprints(model: str, text_embeddings: bool) -> dict:
    """The model's address and fingerprint, and those of the parts that the latents depend on."""
    return {
        "model": shown(model),
        "fingerprint": model_fingerprint(model),
        "vae_fingerprint": model_fingerprint(model, only=("vae",)),
        "text_encoder_fingerprint": model_fingerprint(model, only=("text_encoder",))
        if text_embeddings
        else None,
    }
