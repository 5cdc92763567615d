"""Judged triplets: a reference image, two distortions of it, and which one is nearer to it.

The layout is that of the data set BAPPS (Zhang et al., CVPR 2018; arXiv 1801.03924): folders `ref`,
`p0` and `p1` of images with equal names, and `judge` with a `.npy` of one number for each: the
share of people who found `p1` nearer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from datamodules.files.members import parse_array, parse_file
from datamodules.samples import Images, SampleDraws, TrainingImages
from datamodules.source import Sample, Source
from files.images.decode import UnreadableImage, read_image
from files.paths import expand_path, images_below, walk
from files.words import first_of

PARTS = ("ref", "p0", "p1")


class Triplets(Source):
    """Judged triplets, for ``lightning_modules.LatentPerceptual`` only.

    The three images of a triplet are cropped and flipped alike.

    Args:
        root: Folder with ``ref``, ``p0``, ``p1`` and ``judge``, or with such folders below it at
            any depth. May contain environment variables.
    """

    def __init__(self, root: str) -> None:
        super().__init__()
        self.root = root
        self._places: list[tuple[str, dict[str, Path]]] = []

    def prepare(self, scale: float) -> None:
        """Find the files. Args as ``Source.prepare``.

        Raises:
            ValueError: If there is no such folder, or a triplet is incomplete.
        """
        root = Path(expand_path(self.root, "Triplets.root"))
        folders = []
        for folder, below, _ in walk(root) if root.is_dir() else ():
            if {*PARTS, "judge"} <= set(below):
                folders.append(folder)
                below.clear()  # not searched further
        triplets: dict[str, dict[str, Path]] = {}
        for folder in sorted(folders):
            for name, files in _triplets_in(folder).items():
                triplets[(folder.relative_to(root) / name).as_posix()] = files
        if not triplets:
            raise ValueError(
                f"Triplets.root {str(root)!r} has no images in folders ref, p0, p1 and judge: set "
                "it to a folder of BAPPS's 2afc, such as 2afc/train"
            )
        self._places = list(triplets.items())

    @property
    def keys(self) -> list[str]:
        """Path of each reference below the root, without ``ref`` and its extension."""
        return [key for key, _ in self._places]

    def read(self, index: int) -> Sample:
        """Return the triplet ``keys[index]``.

        Raises:
            UnreadableImage: If an image or the number is broken, or sizes differ.
        """
        key, files = self._places[index]
        images = {part: read_image(files[part], self.srgb).rgb for part in PARTS}
        sizes = {image.shape for image in images.values()}
        if len(sizes) > 1:
            raise UnreadableImage(f"{key}: ref, p0 and p1 have the shapes {sorted(sizes)}")
        judgement = parse_file(_parse_judgement, files["judge"])
        return cast(Sample, {**images, "judge": judgement})


class TripletImages(Images):
    """Dataset of ``Triplets`` for evaluation; args as ``Images``."""

    needed = ("ref",)


class TrainingTriplets(TrainingImages):
    """Dataset of ``Triplets`` for training; args as ``TrainingImages``."""

    needed = ("ref",)

    def _read_and_crop(self, index: int, draws: SampleDraws) -> Sample:
        """Return the same random crop of all three images."""
        sample: Any = self.read(index)
        size = sample["ref"].shape[:2]
        top, left, orientation = self._draw_place(size, self.crop_size, index, draws)
        for part in PARTS:
            sample[part] = self._cut_crop(sample[part], top, left, self.crop_size, orientation)
        return cast(Sample, sample)


Triplets.evaluation_dataset, Triplets.training_dataset = TripletImages, TrainingTriplets


def _triplets_in(folder: Path) -> dict[str, dict[str, Path]]:
    """Return the files of the triplets of one folder, by name."""
    parts = {part: images_below(folder / part, part) for part in PARTS}
    parts["judge"] = {path.stem: path for path in (folder / "judge").glob("*.npy")}
    names = sorted(set().union(*parts.values()))
    incomplete = [name for name in names if any(name not in files for files in parts.values())]
    if incomplete:
        raise ValueError(
            f"{len(incomplete)} triplets of {folder} are not in all of ref, p0, p1 and judge: "
            f"{first_of(incomplete)}: unpack the data set again"
        )
    return {name: {part: files[name] for part, files in parts.items()} for name in names}


def _parse_judgement(data: bytes) -> float:
    """Return the share of people who found ``p1`` nearer, from the bytes of a ``.npy``."""
    judgement = float(parse_array(data).item())
    if not 0 <= judgement <= 1:
        raise ValueError(f"it holds {judgement}; expected a number from 0 to 1")
    return judgement
