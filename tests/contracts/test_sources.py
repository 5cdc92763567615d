"""Every Source of the package, and of `--plugin`, keeps its contract."""

from __future__ import annotations

import functools

import pytest

from datamodules.shards.shards import Shards
from datamodules.shards.stream import Stream
from datamodules.source import Source
from datamodules.sources.clips import ClipSource
from datamodules.sources.crops import Crops, OneLR
from datamodules.sources.folder import Folder, Inputs
from datamodules.sources.latents import Latents
from datamodules.sources.mix import Mix
from datamodules.sources.paired import Paired
from datamodules.sources.photos import Photos
from datamodules.sources.prompts import Prompts, Seeds
from datamodules.sources.triplets import Triplets
from datamodules.sources.videos import Videos
from tests.contracts import discovery
from tests.contracts.arguments import build
from tests.contracts.source_contract import SourceContract, SourceExample
from tests.datamodules.image_files import encoded, pixels, write_tar


def png(width, height, seed):
    return encoded(pixels((width, height), seed))


def write(folder, scale=1, damaged=False):
    """Three images of 20x17 pixels times the scale, one in a subfolder; the first may be cut."""
    for seed, name in enumerate(("a.png", "b.png", "sub/c.png")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = png(20 * scale, 17 * scale, seed)
        path.write_bytes(data[: len(data) // 2] if damaged and seed == 0 else data)
    return str(folder)


def folder(tmp_path, kind=Folder):
    good = write(tmp_path / "good")
    bad = write(tmp_path / "bad", damaged=True)
    return SourceExample(
        functools.partial(kind, root=good),
        functools.partial(kind, root=bad),
        functools.partial(kind, root=f"{tmp_path}/none"),
    )


def paired(tmp_path):
    hr = write(tmp_path / "hr", scale=2)
    lr = write(tmp_path / "lr")
    bad = write(tmp_path / "bad", damaged=True)
    return SourceExample(
        lambda: Paired(hr, lr),
        lambda: Paired(hr, bad),
        lambda: Paired(hr, f"{tmp_path}/none"),
    )


def shards(tmp_path):
    """Two tars with three images and texts; the first image of the bad ones is cut off."""
    first, second, third = (png(20, 17, seed) for seed in range(3))
    text = b"the sea"
    for name, begin in (("good", first), ("bad", first[: len(first) // 2])):
        members = {"0.png": begin, "0.txt": text, "1.png": second, "1.txt": text}
        write_tar(tmp_path / f"{name}-0.tar", members)
        write_tar(tmp_path / f"{name}-1.tar", {"2.png": third, "2.txt": text})
    return SourceExample(
        lambda: Shards(f"{tmp_path}/good-*.tar"),
        lambda: Shards(f"{tmp_path}/bad-*.tar"),
        lambda: Shards(f"{tmp_path}/none-*.tar"),
    )


def photos():
    return Photos(["rocket", "coins"])


def around_a_folder(wrap):
    def example(tmp_path):
        inner = folder(tmp_path)
        return SourceExample(
            lambda: wrap(inner.make()), lambda: wrap(inner.broken()), lambda: wrap(inner.absent())
        )

    return example


# A line for each class of ours: how to make one in an empty folder.
EXAMPLES = {
    Crops: around_a_folder(lambda source: Crops(source, size=16, per_image=2)),
    Folder: folder,
    Inputs: functools.partial(folder, kind=Inputs),
    Mix: around_a_folder(lambda source: Mix({"tree": source, "photos": photos()})),
    OneLR: around_a_folder(lambda source: OneLR(source, (8, 10))),
    Paired: paired,
    Photos: lambda tmp_path: SourceExample(photos),
    Shards: shards,
}


def pytest_generate_tests(metafunc):
    discovery.parametrize(metafunc, "source_class", Source, "datamodules")


class TestSources(SourceContract):
    @pytest.fixture
    def example(self, source_class, tmp_path):
        if source_class is Stream:
            pytest.skip("read in the order of its tars, without keys: see test_stream.py")
        if source_class is Videos:
            pytest.skip("decoded frame by frame, without LR: see callbacks/predict/test_videos.py")
        if issubclass(source_class, (ClipSource, Latents, Prompts, Seeds, Triplets)):
            pytest.skip("gives no HR and LR: see test_clips.py and test_latents.py")
        if source_class in EXAMPLES:
            return EXAMPLES[source_class](tmp_path)
        return SourceExample(lambda: build(source_class, {}, f"EXAMPLES in {__name__}"))
