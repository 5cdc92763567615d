"""Write what ``predict`` makes: one file a picture, named after its input."""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.base import output_image
from callbacks.image_file import EIGHT_BIT, OPAQUE, Format, Pixels, write_image
from degradations.bicubic import resize

log = logging.getLogger(__name__)

THREADS = 2
GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L")  # Pillow's modes
LUMA = (0.299, 0.587, 0.114)  # BT.601 in full range, as Pillow's convert("L") has it


class Writer(Callback):
    """Write the enlarged pictures of ``predict``; what an earlier run has written is skipped.

    Files are ``<folder>/<key><suffix>.<format>``, the key being the input's path below its root
    without the extension. Alpha, 16 bit (``png``, ``tiff``), colour profile and grey are kept. A
    picture that cannot be read is reported and counted. Files appear whole or not at all, so an
    interrupted run can be started again. Encoding runs beside the model in threads.

    Args:
        folder: Where to write; by default ``predict`` in the run's directory.
        suffix: Added to each name, e.g. ``_x2``.
        format: Kind of file.
        overwrite: Write anew what exists already. An input is never overwritten.
        quality: Of ``jpg`` and ``webp``, 1 to 100.

    Raises:
        ValueError: A setting out of range, or an output in the place of an input.
    """

    def __init__(
        self,
        folder: str | None = None,
        suffix: str = "",
        format: Format = "png",
        overwrite: bool = False,
        quality: int = 95,
    ) -> None:
        super().__init__()
        if "/" in suffix or os.sep in suffix:
            raise ValueError(f"writer.suffix is {suffix!r}; it is part of a file's name: no /")
        if not 1 <= quality <= 100:
            raise ValueError(f"writer.quality is {quality}; expected 1 to 100")
        self.folder, self.suffix, self.format = folder, suffix, format
        self.overwrite, self.quality = overwrite, quality
        self.written, self.skipped, self.unreadable = 0, 0, 0  # of this process, in this run
        self._root = Path()
        self._lost: Counter[str] = Counter()
        self._pool: ThreadPoolExecutor | None = None
        self._pending: deque[Future[None]] = deque()

    # ------------------------------------------------------------------------- Lightning's hooks

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look at what is to be written before any work is done.

        Raises:
            ValueError: An output would take the place of an input.
        """
        if stage != "predict":
            return
        self.written, self.skipped, self.unreadable = 0, 0, 0
        self._lost.clear()
        self._root = self._output_folder(trainer)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="writer")
        datamodule: Any = getattr(trainer, "datamodule", None)
        if not hasattr(datamodule, "predict_keys"):
            return  # a plain DataLoader: looked at picture by picture
        inputs = {os.path.realpath(path) for path in getattr(datamodule, "predict_paths", ())}
        targets = {key: self._target(key) for key in datamodule.predict_keys}
        for key, target in targets.items():
            self._check_target(key, target, inputs)
        if not self.overwrite:
            done = {key for key, target in targets.items() if target.exists()}
            self.skipped = len(done)
            datamodule.skip_in_predict(done)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Hand the pictures of one batch to the threads that write."""
        for reason in batch.get("error", ()):
            self.unreadable += 1
            log.warning("unreadable, left out: %s", reason)
        if "error" in batch:
            return
        images = output_image(outputs)
        metas = batch.get("meta") or [{} for _ in batch["key"]]
        prefix = f"{_dataset_name(trainer, dataloader_idx)}/"
        for key, image, meta in zip(batch["key"], images, metas, strict=True):
            self._submit(key.removeprefix(prefix), image, meta)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wait for the last files and say what was done."""
        if stage != "predict" or self._pool is None:
            return
        while self._pending:
            self._pending.popleft().result()
        self._close()
        for what, count in self._lost.items():
            log.warning("%d pictures lost their %s: %s cannot hold it", count, what, self.format)
        log.log(
            logging.WARNING if self.unreadable else logging.INFO,
            "%s: %d pictures written, %d skipped (done before), %d unreadable",
            *(self._root, self.written, self.skipped, self.unreadable),
        )

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Drop what was not begun; a next run writes it."""
        self._close()

    # ---------------------------------------------------------------------------------- the work

    def _output_folder(self, trainer: Trainer) -> Path:
        if self.folder is None:
            return Path(trainer.default_root_dir, "predict").absolute()
        folder = os.path.expandvars(self.folder)
        if "$" in folder:
            raise ValueError(
                f"writer.folder is {self.folder!r}, which names an environment variable that is "
                "not set; set it, or write the path itself"
            )
        return Path(folder).expanduser().absolute()

    def _target(self, key: str) -> Path:
        if PurePosixPath(key).is_absolute() or ".." in PurePosixPath(key).parts:
            raise ValueError(f"the key {key!r} leads out of the folder {self._root}")
        return self._root / f"{key}{self.suffix}.{self.format}"

    def _check_target(self, key: str, target: Path, inputs: set[str]) -> None:
        if inputs and os.path.realpath(target) in inputs:
            raise ValueError(
                f"the output of {key!r} would overwrite the input {target}; set another "
                "writer.folder, or a writer.suffix"
            )

    def _submit(self, key: str, image: Tensor, meta: dict[str, Any]) -> None:
        target = self._target(key)
        if "path" in meta:
            self._check_target(key, target, {os.path.realpath(meta["path"])})
        if not self.overwrite and target.exists():
            self.skipped += 1
            return
        meta = dict(meta)
        if meta.get("bit_depth") == 16 and self.format in EIGHT_BIT:
            self._lost["16 bit"] += 1
            meta["bit_depth"] = 8
        if meta.get("alpha") is not None and self.format in OPAQUE:
            self._lost["transparency"] += 1
            meta["alpha"] = None
        if self._pool is None:
            raise RuntimeError("Writer got a picture before `setup` or after `teardown`")
        image = luma(image) if meta.get("mode") in GREY else image
        pixels = to_pixels(image, meta.get("bit_depth", 8))
        self._pending.append(self._pool.submit(self._write, target, pixels, meta))
        # A few pictures may wait, no more: they are large. `result` raises what the thread did.
        while len(self._pending) > 2 * THREADS or (self._pending and self._pending[0].done()):
            self._pending.popleft().result()
        self.written += 1

    def _write(self, target: Path, pixels: Pixels, meta: dict[str, Any]) -> None:
        if meta.get("alpha") is not None:
            alpha = enlarge_alpha(meta["alpha"], pixels)
            pixels = np.concatenate([pixels, alpha], axis=2)
        write_image(target, pixels, meta.get("icc"), self.format, self.quality)

    def _close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool = None
        self._pending.clear()


def luma(image: Tensor) -> Tensor:
    """(1, H, W) of a (3, H, W) image in [0, 1], in the same range."""
    return (image * image.new_tensor(LUMA).view(3, 1, 1)).sum(0, keepdim=True)


def to_pixels(image: Tensor, bit_depth: int) -> Pixels:
    """Round an image to whole levels; this waits for the device.

    Args:
        image: (C, H, W) in [0, 1].
        bit_depth: 8 or 16.

    Returns:
        (H, W, C) uint8 or uint16.
    """
    levels = (image.float().clamp(0, 1) * (2**bit_depth - 1)).round().permute(1, 2, 0)
    if bit_depth == 8:
        return levels.to(torch.uint8).cpu().numpy()
    return levels.to(torch.int32).cpu().numpy().astype(np.uint16)


def enlarge_alpha(alpha: Pixels | Tensor, pixels: Pixels) -> Pixels:
    """(h, w) alpha of the input, bicubic to the size and type of ``pixels``: (H, W, 1)."""
    # torch's own collate makes tensors of arrays; ours does not.
    alpha = alpha.cpu().numpy() if isinstance(alpha, Tensor) else alpha
    small = torch.from_numpy(alpha.astype(np.float32) / np.iinfo(alpha.dtype).max)
    large = resize(small[None, None], pixels.shape[:2])[0]
    return to_pixels(large, 8 * pixels.dtype.itemsize)


def _dataset_name(trainer: Trainer, index: int) -> str:
    loaders: Any = trainer.predict_dataloaders
    loader = loaders[index] if isinstance(loaders, list | tuple) else loaders
    return getattr(getattr(loader, "dataset", None), "name", "")
