"""Samples/s and time to the first batch from S3, against other loaders: `python bench/data.py`.

The server is versitygw, behind a proxy that adds latency. All read the same samples (images as PNG, VAE
moments as float32) to the end, each from shards of its own format, decoded to batches of 32, into an empty
local cache and again from a full one. The raw link is a plain parallel download of our shards. Peers live in
environments of their own.
"""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import subject
from common import ROOT, THREADS, Arm, Row, alternate, arguments, environment, row, save, serve
from data_peers import BATCH, CHUNK, samples
from slow_link import slow_link

sys.path.insert(0, str(ROOT / "tests"))
PACKAGES = ("torch", "boto3")
PEERS = {
    "webdataset": ["torch==2.13.0", "numpy==2.4.6", "pillow", "webdataset==1.0.2"],
    "litdata": ["torch==2.13.0", "numpy==2.4.6", "pillow", "litdata==0.2.76", "boto3"],
    "mosaic": ["torch==2.13.0", "pillow", "mosaicml-streaming==0.13.0"],
    "ray": ["torch==2.13.0", "numpy==2.4.6", "pillow", "ray[data,train]==2.60.0", "webdataset==1.0.2"],
}
COPIES = 8
LATENT_SHARDS, LATENT_ROWS = 48, 57
INDEX_SAMPLES = 10_000_000


def main() -> None:
    parser = arguments(__doc__, repetitions=3)
    parser.add_argument("--part", choices=("index", "link"), help="one of the two alone")
    parser.add_argument(
        "--latency", type=int, nargs="*", default=[0, 20, 100], help="ms added to a round trip"
    )
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--kinds", nargs="*", choices=("image", "latent"), default=["image", "latent"])
    parser.add_argument("--peers", nargs="*", choices=tuple(PEERS), default=list(PEERS))
    given = parser.parse_args()
    if given.arm:
        return arm(json.loads(given.arm))
    if given.part != "link":
        with tempfile.TemporaryDirectory() as folder:
            write_large_index(folder)
            one = Arm("index", {"folder": folder})
            save("data", index_rows(alternate([one], given.repetitions, alive=False)["index"]))
    if given.part != "index":
        for kind in given.kinds:
            link(kind, given)


# --- an index of 10 million samples


def index_rows(found: list[dict]) -> list[Row]:
    opens, memory = (statistics.median(answer[key] for answer in found) for key in ("seconds", "megabytes"))
    name, shards = f"an index of {INDEX_SAMPLES:,} samples", found[0]["shards"]
    return [
        row(f"{name}: to the first sample's place", opens, None, "s", "cpu", "ours < 2", shards=shards),
        row(f"{name}: memory of the process", memory, None, "MB", "cpu", "ours < 1000", shards=shards),
    ]


def write_large_index(folder: str) -> None:
    """The index.json of as many samples, 1,000 a shard, without the shards."""
    import hashlib

    from medsd_ray.data.shards import Index, Shard, write_index
    from medsd_ray.storage import open_storage

    names = [f"shard-{number:05d}.tar" for number in range(INDEX_SAMPLES // 1000)]
    shards = tuple(Shard(name, 1000, CHUNK, hashlib.sha256(name.encode()).hexdigest()) for name in names)
    write_index(open_storage(f"{folder}/train"), Index("image", "train", shards, {}))


def open_large_index(folder: str) -> dict[str, Any]:
    """Reads the index and finds the place of a sample in the middle of an epoch; the memory is the whole
    process's, its libraries included.
    """
    from medsd_ray.data.order import Order
    from medsd_ray.data.shards import open_split

    began = time.perf_counter()
    _, index = open_split(folder, "train")
    order = Order(tuple(shard.samples for shard in index.shards), seed=0)
    order.sample_at(INDEX_SAMPLES // 2)
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "shards": len(index.shards),
    }


# --- from S3


def link(kind: str, given: Any) -> None:
    from s3_server import s3_server

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = write_ours(kind, folder)
        (folder / "s3").mkdir()
        with s3_server(folder / "s3") as server:
            server.client().create_bucket(Bucket="bench")
            upload(server, folder / "ours", "ours")
            for peer in given.peers:
                write = Arm(
                    f"{peer} writes", {"folder": name, "kind": peer}, python=python(peer), script=script()
                )
                write.ask(write=True, source=str(source), out=str(folder / peer))
                write.close()
                upload(server, folder / peer, peer)
            where = urlsplit(server.endpoint)
            for latency in given.latency:
                with slow_link(str(where.hostname), int(where.port or 80), latency / 1000) as port:
                    env = server.environment | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
                    for workers in given.workers:
                        save("data", cell(kind, latency, workers, given, folder, env))


def python(peer: str) -> str:
    return environment(peer, PEERS[peer])


def script() -> str:
    return str(Path(__file__).with_name("data_peers.py"))


def cell(kind: str, latency: int, workers: int, given: Any, folder: Path, env: dict[str, str]) -> list[Row]:
    """All loaders on one link, each repetition with a cache of its own, cold and then warm."""
    options = {"folder": str(folder), "workers": workers}
    arms: dict[str, list[Arm]] = {
        "ours": [
            Arm(f"ours {rank}", options | {"rank": rank, "kind": kind}, **env) for rank in range(workers)
        ],
        "raw": [Arm("raw link", options, **env)],
    }
    if kind == "image":
        arms["pillow"] = [Arm(f"pillow {rank}", options | {"rank": rank}) for rank in range(workers)]
    for peer in given.peers:
        url = urls(peer, folder, env)
        arms[peer] = [
            Arm(peer, options | {"kind": peer, "url": url}, python=python(peer), script=script(), **env)
        ]
    found: dict[str, list[dict]] = {}
    for number in range(given.repetitions):
        for name, members in arms.items():
            cache = folder / "cache" / f"{name}-{latency}-{workers}-{number}"
            for state in ("cold",) if name in ("raw", "pillow", "ray") else ("cold", "warm"):
                for one in members:
                    one.tell(cache=str(cache))
                answers = [one.answer() for one in members]
                seconds = max(a["seconds"] for a in answers)
                whole = {
                    "speed": sum(a["samples"] for a in answers) / seconds,
                    "first": max(a["first"] for a in answers),
                }
                # Cores in use, of our own processes: a peer's are its children's too.
                found.setdefault(f"{name} {state}", []).append(
                    whole | {"cores": sum(a.get("cpu", 0) for a in answers) / seconds}
                )
            shutil.rmtree(cache, ignore_errors=True)
    if "ray cold" in found:  # it keeps no cache
        found["ray warm"] = found["ray cold"]
    for members in arms.values():
        for one in members:
            one.close()
    return compare(f"{kind} shards, {latency} ms, {workers} workers", found, given.peers)


def compare(where: str, found: dict[str, list[dict]], peers: list[str]) -> list[Row]:
    def middle(name: str, key: str) -> float:
        return statistics.median(answer[key] for answer in found[name])

    def line(name: str, ours: float, peer: float, unit: str, goal: str | None = None, **notes: Any) -> Row:
        return row(f"{where}, {name}", ours, peer, unit, "cpu", goal, PACKAGES, **notes)

    rows = []
    for state in ("cold", "warm"):
        speeds = {peer: round(middle(f"{peer} {state}", "speed")) for peer in peers}
        firsts = {peer: round(middle(f"{peer} {state}", "first"), 3) for peer in peers}
        best, soonest = max(speeds, key=lambda p: speeds[p]), min(firsts, key=lambda p: firsts[p])
        ours = middle(f"ours {state}", "speed")
        rows.append(
            line(
                f"{state}: over the fastest peer", ours, speeds[best], "samples/s", "ratio >= 1", peers=speeds
            )
        )
        first = middle(f"ours {state}", "first")
        rows.append(
            line(
                f"{state}: first batch, over the soonest peer",
                first,
                firsts[soonest],
                "s",
                None,
                peers=firsts,
            )
        )
    speeds, cores = (
        {name: middle(f"{name} cold", key) for name in ("ours", "raw")} for key in ("speed", "cores")
    )
    in_use = {name: round(value, 2) for name, value in cores.items()}
    rows.append(
        line(
            "cold: over the raw link",
            speeds["ours"],
            speeds["raw"],
            "samples/s",
            "ratio >= 0.9",
            cores=in_use,
        )
    )
    if "pillow cold" in found:
        decoding = middle("pillow cold", "speed")
        rows.append(
            line("warm: over Pillow's decoding alone", middle("ours warm", "speed"), decoding, "samples/s")
        )
    return rows


def urls(peer: str, folder: Path, env: dict[str, str]) -> list[str]:
    if peer not in ("webdataset", "ray"):
        return [f"s3://bench/{peer}"]
    keys = [f"{peer}/{path.name}" for path in sorted((folder / peer).glob("*.tar"))]
    if peer == "ray":
        return [f"s3://bench/{key}" for key in keys]
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "s3",
        endpoint_url=env["AWS_ENDPOINT_URL"],
        region_name=env["AWS_REGION"],
        config=Config(signature_version="s3v4"),
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
    )
    return [
        client.generate_presigned_url("get_object", {"Bucket": "bench", "Key": key}, ExpiresIn=86_400)
        for key in keys
    ]


def upload(server: Any, folder: Path, prefix: str) -> None:
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        server.client().upload_file(str(path), "bench", f"{prefix}/{path.relative_to(folder).as_posix()}")


def write_ours(kind: str, folder: Path) -> Path:
    """Our shards in folder/ours; returns a folder of tar files with the same samples, for the peers."""
    import numpy as np
    import torch

    from medsd_ray.data.latents import to_bytes
    from medsd_ray.data.shards import Index, Shard, ShardWriter, iter_samples, write_index
    from medsd_ray.storage import open_storage, sha256_file

    store = open_storage(str(folder / "ours" / "train"))
    if kind == "image":
        writer = ShardWriter(store, CHUNK, "image", "train", size=256)
        samples = list(iter_samples(subject.shards(256, 256), "train"))
        for copy in range(COPIES):
            for sample in samples:  # without masks: Mosaic wants the same fields in each
                sample.key, sample.masks = f"{copy}-{sample.key.rpartition('-')[2]}", {}
                writer.write(sample)
        writer.finish()
        return folder / "ours" / "train"
    tars, rng, shards = folder / "latent-tars", np.random.default_rng(0), []
    tars.mkdir()
    for number in range(LATENT_SHARDS):
        moments = {
            name: rng.standard_normal((LATENT_ROWS, 4, 32, 32), np.float32) for name in ("mean", "logvar")
        }
        keys = [f"{number}-{row}" for row in range(LATENT_ROWS)]
        tensors = {name: torch.from_numpy(values) for name, values in moments.items()}
        data = to_bytes(tensors, keys, ["a chest x-ray"] * LATENT_ROWS)
        store.write(name := f"shard-{number:05d}.safetensors", data)
        path = folder / "ours" / "train" / name
        shards.append(Shard(name, LATENT_ROWS, len(data), sha256_file(path)))
        _tar(tars / f"shard-{number:05d}.tar", keys, moments)
    write_index(store, Index("latent", "train", tuple(shards), {}))
    return tars


def _tar(path: Path, keys: list[str], moments: dict[str, Any]) -> None:
    import tarfile

    import numpy as np

    with tarfile.open(path, "w") as tar:
        for row_number, key in enumerate(keys):
            for name, values in moments.items():
                buffer = io.BytesIO()
                np.save(buffer, values[row_number])
                info = tarfile.TarInfo(f"{key}.{name}.npy")
                info.size = buffer.tell()
                tar.addfile(info, io.BytesIO(buffer.getvalue()))


# --- our own processes


def arm(options: dict[str, Any]) -> None:
    if options["name"] == "index":
        return serve(lambda _: open_large_index(options["folder"]))
    if options["name"].startswith("pillow"):
        images = [fields["png"] for fields in samples(Path(options["folder"]) / "ours" / "train")]
        return serve(lambda _: decode_all(images[options["rank"] :: options["workers"]]))
    import boto3  # noqa: F401 - an import is no part of reading, here and in data_peers.py
    import torch

    import medsd_ray.data.loader  # noqa: F401

    torch.set_num_threads(THREADS)
    if options["name"] == "raw link":
        return serve(lambda question: download_all(Path(question["cache"])))
    serve(lambda question: read_all(question["cache"], options["rank"], options["workers"]))


def read_all(cache: str, rank: int, workers: int) -> dict[str, Any]:
    """An epoch of one worker's batches, as training gets them."""
    from medsd_ray.data.dataset import ShardedDataset
    from medsd_ray.data.loader import batches

    began, cpu = time.perf_counter(), time.process_time()
    dataset = ShardedDataset("s3://bench/ours", "train", seed=0, cache_dir=cache)
    steps = dataset.samples // (BATCH * workers)
    count, first = 0, 0.0
    for (batch,) in batches(
        dataset,
        first_step=0,
        last_step=steps,
        global_batch_size=BATCH * workers,
        micro_batch_size=BATCH,
        rank=rank,
        world_size=workers,
    ):
        count += len(batch["positions"])
        first = first or time.perf_counter() - began
    return {
        "samples": count,
        "first": first,
        "seconds": time.perf_counter() - began,
        "cpu": time.process_time() - cpu,
    }


def decode_all(images: list[bytes]) -> dict[str, Any]:
    """PNG files to pixels, without a loader, a link or tensors."""
    import numpy as np
    from PIL import Image

    began = time.perf_counter()
    for data in images:
        np.asarray(Image.open(io.BytesIO(data)))
    seconds = time.perf_counter() - began
    return {"samples": len(images), "first": seconds, "seconds": seconds}


def download_all(folder: Path) -> dict[str, Any]:
    """The bytes alone, by as many threads as our own cache has."""
    from medsd_ray.data.cache import FETCH_THREADS
    from medsd_ray.data.shards import open_split

    folder.mkdir(parents=True)
    began, cpu = time.perf_counter(), time.process_time()
    store, index = open_split("s3://bench/ours", "train")
    with ThreadPoolExecutor(FETCH_THREADS) as pool:
        list(
            pool.map(
                lambda shard: store.download(shard.name, folder / shard.name, parallel=False), index.shards
            )
        )
    seconds = time.perf_counter() - began
    return {"samples": index.samples, "first": seconds, "seconds": seconds, "cpu": time.process_time() - cpu}


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
