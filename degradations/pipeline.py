"""Pipeline: stages one after the other, then the exact LR size and 8-bit rounding."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from degradations.base import Canvas, Degradation, Stage, quantize_8bit
from degradations.bicubic import resize
from degradations.compiling import Shapes, allow_kinds
from degradations.compose import Stages, items_of, name_stages
from degradations.draws import Draws, Packed, Params
from degradations.stages.noise import hashed_fields
from degradations.stages.resize import shrink_canvas

log = logging.getLogger(__name__)
Executor = Literal["auto", "images", "canvas"]


class Pipeline(Degradation):
    """Apply stages in order, clamp the result, and resize it to the LR size.

    Each stage draws from a stream of its name, so adding, removing or moving a stage does not
    change the draws of the others. A stage in a list is named by its class, with a number from the
    second of that class on (`GaussianNoise`, `GaussianNoise#2`), which changes if the first one is
    removed; in a dictionary its key is the name: use one if a class occurs twice.

    Args:
        scale: How many times smaller the LR is; any positive number. Linked to
            data.init_args.scale.
        stages: The steps, first to last, in a list or by name, at the size of the HR unless they
            resize. An empty list gives the bicubic degradation.
        quantize: Round the LR to 8 bits, like an 8-bit file.
        executor: How stages run: ``images`` one image after the other, ``canvas`` all at once on
            one padded canvas without waiting for the device; ``auto`` is the faster one:
            ``images`` on a CPU, ``canvas`` elsewhere.
        compile: Compile the canvas executor with torch.compile: takes a minute or more for each of
            the first four batch shapes of training, and of validation, and one launch, that of a
            CUDA graph, from then on; further shapes, such as those of whole images in validation,
            are not compiled. By default training batches on a CUDA device are compiled, unless that
            fails or the run is shorter than 2,000 steps.
    """

    def __init__(
        self,
        scale: float,
        stages: Stages,
        quantize: bool = True,
        executor: Executor = "auto",
        compile: bool | None = None,
    ) -> None:
        super().__init__(scale)
        self.stages = nn.ModuleDict(name_stages(stages))
        self.quantize = quantize
        self.executor = executor
        self.compile_canvas = compile
        self._compiled: tuple[Params, Callable[..., Tensor]] | None = None
        self._shapes = Shapes()

    def _can_be_compiled(self) -> bool:
        """Whether no stage works on the CPU, or cuts images out of a canvas."""
        filled = True  # whether images fill their canvas
        for _, stage in self.named_stages():
            # To cut images out, the host must know their sizes.
            needs_sizes = stage.alone and (stage.resizes or not filled)
            if stage.waits or needs_sizes:
                return False
            filled = stage.unites or (filled and not stage.resizes)
        return True

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw one entry per stage, under the name of its stream."""
        params: Params = {}
        for name, stage in self.named_stages():
            params[name] = stage.draw(draws.fold(name), shape)
        return params

    def degrade(self, hr: Tensor, params: Params) -> Tensor:
        """Run the stages and resize: (B, 3, H, W) to (B, 3, *lr_size((H, W)))."""
        if not self._uses_canvas(hr):
            return self._by_images(hr, params)
        with hashed_fields():  # on a CPU, too: their values do not depend on the canvas
            return self._on_canvas(hr, params)

    def _uses_canvas(self, hr: Tensor) -> bool:
        """Return whether stages run on one canvas, not image by image."""
        if self.executor == "auto":
            return hr.device.type != "cpu"
        return self.executor == "canvas"

    def _should_compile(self, hr: Tensor) -> bool:
        """Whether a batch like this is compiled, if there is a place for its shape."""
        if not self._uses_canvas(hr):
            return False
        if self.compile_canvas is not None:
            return self.compile_canvas
        # Only training's: whole images of validation have too many shapes.
        is_training = hr.device.type == "cuda" and torch.is_grad_enabled()
        return is_training and self._can_be_compiled()

    def _degrade_packed(
        self,
        hr: Tensor,
        packed: Packed,
        rows: Tensor,
    ) -> Tensor:
        """Degrade, by the compiled function if this shape is compiled."""
        is_compiled = self._shapes.known(hr)
        if not (self._should_compile(hr) and self._shapes.take(hr)):
            return self.degrade(hr, packed.unpacked(rows))
        with hashed_fields():
            if not is_compiled:
                return self._compile_and_run(hr, packed, rows)
            return self._compiled_run(packed)(hr, rows)

    def _compiled_run(self, packed: Packed) -> Callable[..., Tensor]:
        """Return the compiled function of (hr, rows), on a GPU a CUDA graph."""
        if self._compiled is None or self._compiled[0] != packed.layout:
            allow_kinds()  # of all pipelines together

            def run(hr: Tensor, rows: Tensor) -> Tensor:
                return self._on_canvas(hr, packed.unpacked(rows))

            compiled = torch.compile(run, fullgraph=True, dynamic=False, mode="reduce-overhead")
            self._compiled = (packed.layout, compiled)
        return self._compiled[1]

    def _compile_and_run(
        self,
        hr: Tensor,
        packed: Packed,
        rows: Tensor,
    ) -> Tensor:
        """Compile by the first batch of its shape; by default, go on without if that fails."""
        name = type(self).__name__
        start = time.perf_counter()
        # Once without compiling: checks name the stage whose output is wrong, and constants get
        # their copies on the device.
        self._on_canvas(hr, packed.unpacked(rows))
        log.info("compiling %s for batches of %s", name, tuple(hr.shape))
        try:
            with warnings.catch_warnings():  # spectra are multiplied by torch's own kernel
                warnings.filterwarnings("ignore", ".*code generation for complex operators")
                lr = self._compiled_run(packed)(hr, rows)
        except Exception as error:
            if self.compile_canvas:
                raise
            self.compile_canvas = False
            message = str(error).strip() or type(error).__name__
            first_line = message.splitlines()[0]
            log.warning("%s is not compiled, so it takes more launches: %s", name, first_line)
            return self.degrade(hr, packed.unpacked(rows))
        seconds = time.perf_counter() - start
        log.info("compiled %s in %.0f s; its compile: false does without", name, seconds)
        return lr

    def named_stages(self) -> list[tuple[str, Stage]]:
        """Return the stages with the names of their streams, first to last."""
        return items_of(self.stages)

    def _prepared(self, params: Params) -> Params:
        """Return the prepared parameters of each stage."""
        prepared: Params = {}
        for name, stage in self.named_stages():
            prepared[name] = stage.prepare(params[name])
        return prepared

    def _by_images(self, hr: Tensor, params: Params) -> Tensor:
        """Run each stage on one image after the other."""
        images = list(torch.split(hr, 1))
        prepared = self._prepared(params)
        # Stage by stage, which keeps the code and buffers of one stage in the cache: takes five
        # sixths of the time of image by image.
        for name, stage in self.named_stages():
            functions = stage.image_functions(prepared[name], hr)
            for i, image in enumerate(images):
                images[i] = functions[i](image)
                self.check_output(name, images[i])
        size = self.lr_size(hr.shape[-2:])
        lr = []
        for image in images:
            if image.shape[-2:] != size:
                image = resize(image.clamp(0.0, 1.0), size)
            lr.append(image)
        batch = torch.cat(lr).clamp(0.0, 1.0)
        return quantize_8bit(batch) if self.quantize else batch

    def _on_canvas(self, hr: Tensor, params: Params) -> Tensor:
        """Run each stage on all images at once."""
        canvas = Canvas.of(hr)
        prepared = self._prepared(params)
        sizes_differ = False  # or may: the host does not know
        for name, stage in self.named_stages():
            canvas = stage.run_on_canvas(canvas, prepared[name])
            # After a stage that unites sizes, images fill their canvas again.
            sizes_differ = not stage.unites and (sizes_differ or stage.resizes)
            if not torch.compiler.is_compiling():
                self.check_output(name, canvas.pixels)
        size = self.lr_size(hr.shape[-2:])
        pixels = canvas.pixels.clamp(0.0, 1.0)
        if sizes_differ:
            pixels = shrink_canvas(canvas.with_pixels(pixels), size)
        elif pixels.shape[-2:] != size:
            pixels = resize(pixels, size)
        return quantize_8bit(pixels) if self.quantize else pixels

    def __getstate__(self) -> dict[str, Any]:
        """Drop the compiled form, which cannot be pickled."""
        return {**self.__dict__, "_compiled": None, "_shapes": Shapes()}
