"""Photographs of scikit-image and scikit-learn: data without a download."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from datamodules.source import Sample, Source
from files.images.decode import read_image

# Each was inspected. Left out from the two packages: drawings (the chessboards, color, horse, logo,
# phantom), a reconstructed phase (cell), multi-page test files, and photographs that are blurred or
# tiny and would teach a wrong prior (clock_motion, text, page, microaneurysms, GIF).
PHOTOS = {
    "astronaut": "skimage/data/astronaut.png",  # portrait, 512x512
    "brick": "skimage/data/brick.png",  # texture, grey, digitally tilted, 512x512
    "camera": "skimage/data/camera.png",  # man with a camera, grey, 512x512
    "chelsea": "skimage/data/chelsea.png",  # cat, 451x300
    "china": "sklearn/datasets/images/china.jpg",  # pavilion, 640x427
    "coffee": "skimage/data/coffee.png",  # cup on a table, 600x400
    "coins": "skimage/data/coins.png",  # old coins, grey, 384x303
    "flower": "sklearn/datasets/images/flower.jpg",  # dahlia, 640x427
    "grass": "skimage/data/grass.png",  # texture, grey, 512x512
    "gravel": "skimage/data/gravel.png",  # texture, grey, 512x512
    "hubble_deep_field": "skimage/data/hubble_deep_field.jpg",  # galaxies, noisy, 1000x872
    "ihc": "skimage/data/ihc.png",  # stained tissue, 512x512
    "moon": "skimage/data/moon.png",  # the Moon from its orbit, grey, soft, 512x512
    "motorcycle_left": "skimage/data/motorcycle_left.png",  # garage, 741x500
    "motorcycle_right": "skimage/data/motorcycle_right.png",  # its stereo partner: the same scene
    "retina": "skimage/data/retina.jpg",  # back of an eye, soft, 1411x1411
    "rocket": "skimage/data/rocket.jpg",  # launch pad at dusk, 640x427
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
        unknown = [name for name in self.names if name not in PHOTOS]
        if unknown:
            raise ValueError(f"Photos.names has {unknown}; expected some of {', '.join(PHOTOS)}")
        self._paths: list[str] = []
        self._decoded: dict[int, Sample] = {}  # 30 MB for all; decoding them for each crop is slow

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without pixels: each worker decodes its own."""
        return {**self.__dict__, "_decoded": {}}

    def prepare(self, scale: float) -> None:
        """Find the files. Args as ``Source.prepare``."""
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
    """Return the file of a photograph, without importing its package, which takes seconds."""
    package, _, below = PHOTOS[name].partition("/")
    [folder] = cast(ModuleSpec, find_spec(package)).submodule_search_locations or []
    return Path(folder, below)
