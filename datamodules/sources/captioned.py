"""Captions for a source's images: the names of their classes, or texts beside their files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from datamodules.files.captions import CAPTIONS, caption_of
from datamodules.files.decode import UnreadableImage
from datamodules.source import Sample, Source, Wrapper, prepare_within


class Captioned(Wrapper):
    """Images of another source, with a caption each: ``batch["text"]``.

    Args:
        source: Source of the images; its own captions are replaced, except by ``source``.
        by: Where a caption is from. ``folder``: the first folder of the key, which is the class in
            ``Torchvision`` and in a folder of classes. ``file``: the text beside the image's file,
            ``a.txt`` beside ``a.jpg``, as ``main.py pack`` reads it. ``source``: the source.
        names: What stands for a folder's name, such as ``{n02123045: tabby cat}``.
        template: The caption, with ``{}`` for that text, such as ``"{}, photo-realistic"``.

    Raises:
        ValueError: If ``template`` has no ``{}``, or ``names`` is set and not used.
    """

    def __init__(
        self,
        source: Source,
        by: Literal["folder", "file", "source"] = "folder",
        names: Mapping[str, str] | None = None,
        template: str = "{}",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if template.count("{}") != 1:
            raise ValueError(f"Captioned.template is {template!r}; expected one {{}} in it")
        if names and by != "folder":
            raise ValueError(f"Captioned.names stand for folders, and by is {by}: unset one")
        self.source, self.by, self.template = source, by, template
        self.names = dict(names or {})

    def prepare(self, scale: float) -> None:
        """Find the images. Args as ``Source.prepare``.

        Raises:
            ValueError: If an image has no caption, or as the source's ``prepare``.
        """
        prepare_within(self.source, self, scale)
        if self.by == "folder":
            self._folder(self.keys[0])
        if self.by == "file":
            for index, key in enumerate(self.keys):
                if self._text_file(index) is None:
                    raise ValueError(
                        f"{self.path(index) or key} has no caption beside it: write it into a file "
                        f"of this name that ends with {CAPTIONS[0]}, or set Captioned.by"
                    )

    def size(self, index: int) -> tuple[int, int] | None:
        """Return (H, W) of the image ``keys[index]``, if the source knows it."""
        return self.source.size(index)

    def read(self, index: int) -> Sample:
        """Return the image ``keys[index]`` with its caption.

        Raises:
            UnreadableImage: If the image or its caption is broken.
            ValueError: If the source has no captions, and they are to be used.
        """
        return self._captioned(index, self.source.read(index))

    def read_crop(self, index: int, top: int, left: int, height: int, width: int) -> Sample:
        """Return a part of it with its caption. Args and errors as ``Source.read_crop``."""
        return self._captioned(index, self.source.read_crop(index, top, left, height, width))

    def _captioned(self, index: int, sample: Sample) -> Sample:
        text, key = sample.get("text"), self.keys[index]
        if self.by == "folder":
            folder = self._folder(key)
            text = self.names.get(folder, folder)
        elif self.by == "file":
            try:
                text = caption_of(Path(self._text_file(index) or "").read_bytes())
            except (OSError, ValueError) as error:
                raise UnreadableImage(f"{key}: {error}") from error
        elif text is None:
            raise ValueError(f"{key} has no caption: set Captioned.by to folder or file")
        captioned = sample.copy()
        captioned["text"] = self.template.format(text)
        return captioned

    @staticmethod
    def _folder(key: str) -> str:
        folder, _, within = key.partition("/")
        if not within:
            raise ValueError(
                f"{key} lies in no folder that names its class: set Captioned.by to file or "
                "source, or the source's root to the folder above"
            )
        return folder

    def _text_file(self, index: int) -> Path | None:
        path = self.source.path(index)
        if path is None:
            return None
        image = Path(path)
        names = [
            name for end in CAPTIONS for name in (image.with_suffix(end), Path(f"{path}{end}"))
        ]
        return next((name for name in names if name.is_file()), None)
