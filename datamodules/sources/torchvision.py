"""Images of any dataset of torchvision, such as CIFAR-10, which torchvision can download."""

from __future__ import annotations

import inspect
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from PIL import Image

from datamodules.files.decode import UnreadableImage
from datamodules.source import Sample, Source
from files.paths import expand_path


class Torchvision(Source):
    """Images of a class of ``torchvision.datasets``, such as ``CIFAR10`` or ``ImageFolder``.

    A key is the number of the image in the whole dataset, behind its class where classes have
    names: ``automobile/00004``.

    Args:
        dataset: Name of the class in ``torchvision.datasets``.
        root: Folder of the dataset's files. May contain environment variables.
        train: Whether to use the part for training; None for a dataset without the argument.
        download: Whether torchvision may download missing files.
        options: Further arguments of the dataset's class, such as ``{split: test}``.

    """

    def __init__(
        self,
        dataset: str,
        root: str,
        train: bool | None = None,
        download: bool = False,
        options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataset, self.root = dataset, root
        self.train, self.download, self.options = train, download, options or {}
        self._keys: list[str] = []
        self._opened: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without pixels: each spawned worker opens the dataset itself."""
        return {**self.__dict__, "_opened": None}

    def prepare(self, scale: float) -> None:
        """Open the dataset, after a download where that is allowed. Args as ``Source.prepare``.

        Raises:
            ValueError: If torchvision has no such dataset or refuses its arguments, or its files
                are missing or broken.
        """
        self._opened = self._open(self.download)
        names, labels = list(getattr(self._opened, "classes", ())), self._labels()
        digits, self._keys = len(str(len(self._opened) - 1)), []
        for index in range(len(self._opened)):
            folder = f"{names[labels[index]]}/" if names and labels is not None else ""
            self._keys.append(f"{folder}{index:0{digits}}")

    @property
    def keys(self) -> list[str]:
        """Class and number of each image, in the dataset's order."""
        return self._keys

    def read(self, index: int) -> Sample:
        """Return the image ``keys[index]``.

        Raises:
            UnreadableImage: If its file is damaged.
            ValueError: If the dataset does not give images of Pillow.
        """
        if self._opened is None:
            self._opened = self._open(download=False)
        try:
            item = self._opened[index]
            image = item[0] if isinstance(item, tuple) else item
            if not isinstance(image, Image.Image):
                raise ValueError(
                    f"{self.dataset} gives {type(image).__name__} instead of an image: name "
                    "another class of torchvision.datasets as Torchvision.dataset"
                )
            return {"hr": np.array(image.convert("RGB"))}
        except (OSError, SyntaxError) as error:  # Pillow raises both for damaged files
            text = " ".join(str(error).split())
            raise UnreadableImage(f"{self.dataset}, {self._keys[index]}: {text}") from error

    def _labels(self) -> list[int] | None:
        """Return the class of each image, where the dataset tells it without reading images."""
        for name in ("targets", "labels"):
            found = getattr(self._opened, name, None)
            if found is not None and np.ndim(found) == 1 and len(found) == len(self._opened):
                return [int(label) for label in found]
        return None

    def _open(self, download: bool) -> Any:
        from torchvision import datasets  # here: it takes seconds to import

        known = [n for n, kind in vars(datasets).items() if inspect.isclass(kind)]
        if self.dataset not in known:
            near = get_close_matches(self.dataset, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "give the name of one of its classes"
            raise ValueError(
                f"Torchvision.dataset is {self.dataset!r}, which torchvision.datasets does not "
                f"have: {hint}"
            )
        root = Path(expand_path(self.root, "Torchvision.root"))
        given = {**self.options, **({} if self.train is None else {"train": self.train})}
        try:
            if not download:
                return getattr(datasets, self.dataset)(root, **given)
            root.mkdir(parents=True, exist_ok=True)
            with FileLock(root / ".download.lock"):  # processes of a run would write the same file
                return getattr(datasets, self.dataset)(root, **given, download=True)
        except TypeError as error:
            raise ValueError(
                f"torchvision.datasets.{self.dataset} refuses its arguments ({error}): change "
                "Torchvision.train, download or options"
            ) from error
        except (OSError, RuntimeError) as error:
            text = " ".join(str(error).split())
            raise ValueError(
                f"{self.dataset} cannot be read in Torchvision.root {str(root)!r}: {text}"
            ) from error
