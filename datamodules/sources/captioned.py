"""Captions for a source's images: the names of their classes, or texts beside their files."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from datamodules.files.captions import caption_of
from datamodules.files.decode import UnreadableImage
from datamodules.files.roles import roles_of, texts_beside
from datamodules.order.keys import Names
from datamodules.source import Sample, Source, Wrapper, prepare_within
from files.paths import read_bytes

log = logging.getLogger(__name__)


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
        self._texts = Names.of([])  # files of the captions

    def prepare(self, scale: float) -> None:
        """Find the images. Args as ``Source.prepare``.

        Raises:
            ValueError: If no image has a caption, or one has two, or as the source's ``prepare``.
        """
        prepare_within(self.source, self, scale)
        if self.by == "folder":
            self._folder(self.keys[0])
        if self.by == "file":
            texts = list(self._text_files())
            missing = texts.count("")
            if missing == len(texts):
                raise ValueError(
                    f"{self.path(0) or self.keys[0]} and all other images have no caption beside "
                    "them: write each into a file of the image's name that ends with .txt, or set "
                    "Captioned.by"
                )
            if missing:
                log.warning(
                    "Captioned: %d of %d images have no text beside them; their caption is empty",
                    *(missing, len(texts)),
                )
            self._texts = Names.of(texts)

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
            path = self._texts[index]
            try:
                text = caption_of(read_bytes(path)) if path else ""
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

    def _text_files(self) -> Iterator[str]:
        """Yield the file of each image's caption, or an empty path."""
        paths = [Path(self.source.path(index) or "") for index in range(len(self.keys))]
        for path, texts in zip(paths, texts_beside(paths), strict=True):
            try:
                suffix = roles_of(tuple(texts)).members.get("txt")
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
            yield texts[suffix] if suffix is not None else ""
