"""Training loaders that `benchmarks.speed.streaming` compares: the limit, ours, and the peers'.

Each gives batches of random crops out of the same JPEG files. All but the stock one decode with the
same decoder and turn a crop into a tensor in the same way, so that what differs is the loader. Each
lives in a process of its own, for some have threads that go on when nobody asks for a batch.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import resource
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from simplejpeg import decode_jpeg
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from datamodules.base import CropSettings, SRDataModule
from datamodules.pack import command as pack
from datamodules.shards.shards import Shards
from datamodules.shards.stream import Stream
from datamodules.source import Source

CROP, BATCH = 256, 16
COPIES = 4  # times that every file is taken in a turn
SHARD = 50  # samples a shard
Bytes = NDArray[np.uint8]


class Loader(NamedTuple):
    """A loader that is ready.

    batches: Gives an epoch for a number of workers.
    images: The tensor of crops in a batch.
    """

    batches: Callable[[int], Iterable[Any]]
    images: Callable[[Any], Tensor]


class Turn(NamedTuple):
    """Microseconds an image."""

    cpu: float
    wall: float


def cut(data: bytes) -> Bytes:
    """Decode a file; a random crop of it, (CROP, CROP, 3)."""
    image = decode_jpeg(data)
    top = int((image.shape[0] - CROP + 1) * random.random())
    left = int((image.shape[1] - CROP + 1) * random.random())
    return image[top : top + CROP, left : left + CROP]


def crop(data: bytes) -> Tensor:
    """(CROP, CROP, 3) uint8, of one file: a copy, or a batch would keep the images in memory."""
    return torch.from_numpy(cut(data).copy())


def together(crops: list[Tensor]) -> Tensor:
    """(B, 3, CROP, CROP): stacked as PyTorch's loader does it, in a worker in shared memory."""
    stacked: Tensor = default_collate(crops)
    return stacked.permute(0, 3, 1, 2)


def read_files(images: Path) -> list[bytes]:
    """All JPEG files of a folder.

    Raises:
        ValueError: There are none.
    """
    files = [path.read_bytes() for path in sorted(images.rglob("*.jpg"))]
    if not files:
        raise ValueError(f"{images} holds no .jpg files")
    return files


def shards(images: Path, place: Path) -> str:
    """Pack a folder, unless that is done; gives the pattern of the shards' names.

    Raises:
        RuntimeError: The packer refused some.
    """
    out = place / "tars"
    if not out.exists() and pack.main([str(images), str(out), "--images-per-shard", str(SHARD)]):
        raise RuntimeError(f"not all of {images} could be packed")
    return str(out / "shard-*.tar")


# --------------------------------------------------------------------------------------- the limit
class InMemory(Dataset[Tensor]):
    """Files that are in memory: nothing is left but decoding and cropping.

    Args:
        files: Their bytes.
    """

    def __init__(self, files: Sequence[bytes]) -> None:
        self.files = files

    def __len__(self) -> int:
        """Number of samples in a turn."""
        return len(self.files) * COPIES

    def __getitems__(self, indices: list[int]) -> Tensor:
        """A batch."""
        batch = _empty(len(indices))
        for index, out in zip(indices, batch.numpy(), strict=True):
            out[...] = cut(self.files[index % len(self.files)])
        return batch.permute(0, 3, 1, 2)


def _empty(count: int) -> Tensor:
    size = (count, CROP, CROP, 3)
    if get_worker_info() is None:
        return torch.empty(size, dtype=torch.uint8)
    # Shared already: a worker's other tensors are copied when they are sent.
    memory = torch.UntypedStorage._new_shared(int(np.prod(size)))
    return torch.empty(0, dtype=torch.uint8).set_(memory).view(size)


def limit(images: Path, place: Path) -> Loader:
    """The same decoder over bytes that are in memory, cropped, as a tensor."""
    dataset = InMemory(read_files(images))

    def batches(workers: int) -> Iterable[Any]:
        return DataLoader(dataset, BATCH, True, num_workers=workers, collate_fn=_same)

    return Loader(batches, _same)


def _same(batch: Any) -> Any:
    return batch


# ------------------------------------------------------------------------------------------- ours
def ours(images: Path, place: Path) -> Loader:
    """The training loader of `SRDataModule` over `Shards`."""
    return _ours(Shards(shards(images, place)), COPIES)


def _ours(source: Source, crops_per_image: int) -> Loader:
    data = SRDataModule(
        4,
        train=source,
        batch_size=BATCH,
        crop_size=CROP,
        crops=CropSettings(per_image=crops_per_image, flips=False),
        seed=0,
    )
    data.setup("fit")

    def batches(workers: int) -> Iterable[Any]:
        data.workers = workers
        return data.train_dataloader()

    return Loader(batches, lambda batch: batch["hr"])


def ours_stream(images: Path, place: Path) -> Loader:
    """The same over `Stream`, which reads the tars as often as the webdataset pipelines do."""
    urls, samples = shards(images, place), COPIES * len(read_files(images))
    return _ours(Stream(samples, urls, shuffle=100), 1)


# ------------------------------------------------------------------------------------------ peers
def webdataset_bare(images: Path, place: Path) -> Loader:
    """A webdataset pipeline with nothing that costs time: our decoder, our crop."""
    import webdataset as wds

    pattern = Path(shards(images, place))
    urls = sorted(map(str, pattern.parent.glob(pattern.name))) * COPIES

    def batches(workers: int) -> Iterable[Any]:
        data = wds.WebDataset(urls, shardshuffle=100).shuffle(100)
        data = data.map(lambda sample: crop(sample["jpg"])).batched(BATCH, together)
        return wds.WebLoader(data, batch_size=None, num_workers=workers)

    return Loader(batches, _same)


def litdata(images: Path, place: Path) -> Loader:
    """Chunks of JPEG bytes as litdata writes them, shuffled; our decoder."""
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming.cache import Cache

    cache = Cache(str(place / "litdata"), chunk_bytes="64MB")
    for index, data in enumerate(read_files(images) * COPIES):
        cache[index] = {"jpg": data}
    cache.done()
    cache.merge()

    class Crops(StreamingDataset):
        def __getitem__(self, index: Any) -> Tensor:
            return crop(super().__getitem__(index)["jpg"])

    dataset = Crops(str(place / "litdata"), shuffle=True)

    def batches(workers: int) -> Iterable[Any]:
        return StreamingDataLoader(
            dataset, batch_size=BATCH, num_workers=workers, collate_fn=together
        )

    return Loader(batches, _same)


def mosaicml_streaming(images: Path, place: Path) -> Loader:
    """Shards of JPEG bytes as mosaicml-streaming writes them, shuffled; our decoder."""
    from streaming import MDSWriter, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    out = str(place / "mosaicml")
    with MDSWriter(out=out, columns={"jpg": "bytes"}) as writer:
        for data in read_files(images) * COPIES:
            writer.write({"jpg": data})

    class Crops(StreamingDataset):
        def __getitem__(self, index: Any) -> Tensor:
            return crop(super().__getitem__(index)["jpg"])

    def batches(workers: int) -> Iterable[Any]:
        clean_stale_shared_memory()  # one dataset cannot have two numbers of workers: it waits
        dataset = Crops(local=out, shuffle=True, batch_size=BATCH)
        return DataLoader(dataset, BATCH, num_workers=workers, collate_fn=together)

    return Loader(batches, _same)


# -------------------------------------------------------------------------------------- a turn each
LOADERS: dict[str, tuple[Callable[[Path, Path], Loader], str]] = {  # and the package it needs
    "limit": (limit, "simplejpeg"),
    "ours": (ours, "simplejpeg"),
    "ours_stream": (ours_stream, "webdataset"),
    "webdataset_bare": (webdataset_bare, "webdataset"),
    "litdata": (litdata, "litdata"),
    "mosaicml_streaming": (mosaicml_streaming, "mosaicml-streaming"),
}


class Runner:
    """A loader in a process of its own, which gives an epoch when it is asked.

    Args:
        name: Of `LOADERS`.
        images: Folder of JPEG files.
        place: Folder for what is made of them.
        device: Where batches are brought.
    """

    def __init__(self, name: str, images: Path, place: Path, device: str = "cpu") -> None:
        self.name = name
        context = multiprocessing.get_context("fork")
        self._pipe, other = context.Pipe()
        given = (other, name, images, place, device)
        self._process = context.Process(target=_serve, args=given)
        self._process.start()
        other.close()

    def turn(self, workers: int) -> Turn:
        """Time an epoch.

        Raises:
            RuntimeError: It failed; the traceback was printed.
        """
        try:
            self._pipe.send(workers)
            return Turn(*self._pipe.recv())
        except (EOFError, OSError) as error:
            raise RuntimeError(f"the process of {self.name} ended") from error

    def stop(self) -> None:
        """End the process."""
        with suppress(OSError):  # it has ended already
            self._pipe.send(None)
        self._process.join()


def installed() -> dict[str, str]:
    """Loaders whose packages are there, with their versions."""
    there = {distribution.name: distribution.version for distribution in distributions()}
    return {
        name: f"{package} {there[package]}"
        for name, (_, package) in LOADERS.items()
        if package in there
    }


def _serve(pipe: Any, name: str, images: Path, place: Path, device: str) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    loader = LOADERS[name][0](images, place)
    cores = os.sched_getaffinity(0)
    while (workers := pipe.recv()) is not None:
        _pin(cores if workers else {max(cores)})
        pipe.send(_turn(loader, workers, name, device))


def _pin(cores: set[int]) -> None:
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), cores)


def _turn(loader: Loader, workers: int, name: str, device: str) -> Turn:
    gc.collect()
    batches = loader.batches(workers)
    count = 0
    own_before = _cpu_seconds(resource.RUSAGE_SELF)
    workers_before = _cpu_seconds(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    for batch in batches:
        images = loader.images(batch).to(device)  # waits until it is there
        if images.shape[1:] != (3, CROP, CROP):
            raise RuntimeError(f"{name} gave images of the shape {tuple(images.shape)}")
        count += len(images)
    wall = time.perf_counter() - begun
    own = _cpu_seconds(resource.RUSAGE_SELF) - own_before
    del batch, images, batches
    gc.collect()  # workers that stay between epochs end with their loader
    for child in multiprocessing.active_children():
        child.join()
    of_workers = _cpu_seconds(resource.RUSAGE_CHILDREN) - workers_before
    return Turn((own + of_workers) / count * 1e6, wall / count * 1e6)


def _cpu_seconds(processes: int) -> float:
    """User and system time of this process, or of its children that have ended."""
    usage = resource.getrusage(processes)
    return usage.ru_utime + usage.ru_stime
