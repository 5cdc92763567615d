"""Photographs of scikit-image and scikit-learn: data without a download."""

from __future__ import annotations

from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.source import Sample, Source
from files.images.decode import read_image

SKIMAGE, SKLEARN = "skimage/data", "sklearn/datasets/images"
DISTRIBUTIONS = {"skimage": "scikit-image", "sklearn": "scikit-learn"}


class Photo(NamedTuple):
    """Place and content of one image.

    Images of one ``scene`` show the same thing: keep them on one side of a split.
    """

    folder: str
    file: str
    scene: str
    content: str


# Each was inspected. Left out from the two packages: drawings (the chessboards, color, horse, logo,
# phantom), a reconstructed phase (cell), multi-page test files, and photographs that are blurred or
# tiny and would teach a wrong prior (clock_motion, text, page, microaneurysms, GIF).
PHOTOS = {
    "astronaut": Photo(SKIMAGE, "astronaut.png", "astronaut", "portrait, 512x512"),
    "brick": Photo(SKIMAGE, "brick.png", "brick", "texture, grey, digitally tilted, 512x512"),
    "camera": Photo(SKIMAGE, "camera.png", "camera", "man with a camera, grey, 512x512"),
    "chelsea": Photo(SKIMAGE, "chelsea.png", "chelsea", "cat, 451x300"),
    "china": Photo(SKLEARN, "china.jpg", "china", "pavilion, 640x427"),
    "coffee": Photo(SKIMAGE, "coffee.png", "coffee", "cup on a table, 600x400"),
    "coins": Photo(SKIMAGE, "coins.png", "coins", "old coins, grey, 384x303"),
    "flower": Photo(SKLEARN, "flower.jpg", "flower", "dahlia, 640x427"),
    "grass": Photo(SKIMAGE, "grass.png", "grass", "texture, grey, 512x512"),
    "gravel": Photo(SKIMAGE, "gravel.png", "gravel", "texture, grey, 512x512"),
    "hubble_deep_field": Photo(
        SKIMAGE, "hubble_deep_field.jpg", "hubble_deep_field", "galaxies, noisy, 1000x872"
    ),
    "ihc": Photo(SKIMAGE, "ihc.png", "ihc", "stained tissue, 512x512"),
    "moon": Photo(SKIMAGE, "moon.png", "moon", "the Moon from its orbit, grey, soft, 512x512"),
    "motorcycle_left": Photo(SKIMAGE, "motorcycle_left.png", "motorcycle", "garage, 741x500"),
    "motorcycle_right": Photo(SKIMAGE, "motorcycle_right.png", "motorcycle", "its stereo partner"),
    "retina": Photo(SKIMAGE, "retina.jpg", "retina", "back of an eye, soft, 1411x1411"),
    "rocket": Photo(SKIMAGE, "rocket.jpg", "rocket", "launch pad at dusk, 640x427"),
}


class Photos(Source):
    """Photographs of scikit-image and scikit-learn, by name.

    Args:
        names: Some of astronaut, brick, camera, chelsea, china, coffee, coins, flower, grass,
            gravel, hubble_deep_field, ihc, moon, motorcycle_left, motorcycle_right, retina, rocket;
            by default all. The motorcycles are a stereo pair: keep them on one side of a split.

    Raises:
        ValueError: If a name is unknown.
    """

    def __init__(self, names: list[str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.names = list(PHOTOS) if names is None else names
        for name in self.names:
            if name not in PHOTOS:
                near = get_close_matches(name, PHOTOS, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"Photos.names has the unknown name {name!r}{hint}")
        self._paths: list[str] = []
        self._decoded: dict[int, Sample] = {}  # 30 MB for all; decoding them for each crop is slow

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without pixels: each worker decodes its own."""
        return {**self.__dict__, "_decoded": {}}

    def prepare(self, scale: float) -> None:
        """Find the files. Args as ``Source.prepare``.

        Raises:
            ValueError: If the package or the file is missing.
        """
        self._paths = [str(photo_path(name)) for name in self.names]
        self._decoded = {}

    @property
    def keys(self) -> list[str]:
        """The names in the given order."""
        return self.names

    def read(self, index: int) -> Sample:
        """Return the image ``keys[index]``."""
        if index not in self._decoded:
            image = read_image(self._paths[index], self.srgb)
            image.rgb.setflags(write=False)  # later reads return the same array
            self._decoded[index] = {"hr": image.rgb, "meta": image.meta(self._paths[index])}
        return self._decoded[index].copy()


def photo_path(name: str) -> Path:
    """Return the file of a photograph, without importing its package, which takes seconds.

    Raises:
        ValueError: If the package is missing.
    """
    photo = PHOTOS[name]
    package, _, below = photo.folder.partition("/")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"photograph {name!r} is part of {DISTRIBUTIONS[package]}, which is not installed"
        )
    return Path(spec.submodule_search_locations[0], below, photo.file)
