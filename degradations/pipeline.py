"""Pipeline: stages one after the other, then the exact LR size and 8-bit rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from degradations.base import Canvas, Degradation, Stage, quantize_8bit
from degradations.bicubic import resize
from degradations.compose import Stages, name_stages
from degradations.draws import Draws, Params, split_params
from degradations.stages.noise import hashed_fields
from degradations.stages.resize import shrink_canvas

Executor = Literal["auto", "images", "canvas"]
_MOST_KINDS = 4  # batch shapes that are compiled; torch stops compiling after 8


class Pipeline(Degradation):
    """Apply stages in order, clamp the result, and resize it to the LR size.

    Each stage draws from a stream of its name, so adding, removing or moving a stage does not
    change the draws of the others. A stage in a list is named by its class, with a number from the
    second of that class on (`GaussianNoise`, `GaussianNoise#2`); in a dictionary its key is the
    name.

    Args:
        scale: How many times smaller the LR is; any positive number. Linked to
            data.init_args.scale.
        stages: The steps, first to last, in a list or by name, at the size of the HR unless they
            resize. An empty list gives the bicubic degradation.
        quantize: Round the LR to 8 bits, like an 8-bit file.
        executor: How stages run: ``images`` one image after the other, ``canvas`` all at once on
            one padded canvas without waiting for the device; ``auto`` is the faster one:
            ``images`` on a CPU, ``canvas`` elsewhere.
        compile: Compile the canvas executor with torch.compile: takes about a minute for each of
            the first four batch shapes, and a fraction of the launches from then on; further
            shapes, such as those of whole images in validation, are not compiled.

    Raises:
        TypeError: An entry of `stages` is not a stage.
        ValueError: `executor` is unknown, or a stage cannot be compiled.
    """

    def __init__(
        self,
        scale: float,
        stages: Stages,
        quantize: bool = True,
        executor: Executor = "auto",
        compile: bool = False,
    ) -> None:
        super().__init__(scale)
        self.stages = nn.ModuleDict(name_stages(stages))
        self.quantize = quantize
        if executor not in ("auto", "images", "canvas"):
            raise ValueError(f"executor is {executor!r}; expected auto, images or canvas")
        if compile:
            self._check_compiles()
        self.executor, self.compile_canvas = executor, compile
        self._compiled: Callable[..., Tensor] | None = None
        self._kinds: set[tuple[torch.Size, bool]] = set()

    def _check_compiles(self) -> None:
        filled, waiting, alone = True, [], []
        for name, stage in self.named_stages():
            if stage.waits:
                waiting.append(name)
            elif stage.alone and (stage.resizes or not filled):
                alone.append(name)
            filled = stage.unites or (filled and not stage.resizes)
        if waiting:
            raise ValueError(
                f"compile is true, but {', '.join(waiting)} always work on the CPU and cannot be "
                "compiled: remove them, or set compile to false"
            )
        if alone:
            raise ValueError(
                f"compile is true, but {', '.join(alone)} get images of differing sizes one by one "
                "and cannot be compiled: set `pixelwise = True` in a class whose pixels do not "
                "depend on others, write its on_canvas, or set compile to false"
            )

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw one entry per stage, under the name of its stream."""
        return {name: stage.draw(draws.fold(name), shape) for name, stage in self.named_stages()}

    def degrade(self, hr: Tensor, params: Params) -> Tensor:
        """Run the stages and resize: (B, 3, H, W) to (B, 3, *lr_size((H, W)))."""
        on_canvas = (
            hr.device.type != "cpu" if self.executor == "auto" else (self.executor == "canvas")
        )
        if not on_canvas:
            return self._by_images(hr, params)
        with hashed_fields():  # on a CPU, too: their values do not depend on the canvas
            if not self.compile_canvas:
                return self._on_canvas(hr, params)
            kind = (hr.shape, torch.is_grad_enabled())  # each is compiled separately
            if kind not in self._kinds and len(self._kinds) == _MOST_KINDS:
                return self._on_canvas(hr, params)
            self._kinds.add(kind)
            if self._compiled is None:
                self._compiled = torch.compile(self._on_canvas, fullgraph=True, dynamic=False)
            return self._compiled(hr, params)

    def named_stages(self) -> list[tuple[str, Stage]]:
        """Return the stages with the names of their streams, first to last."""
        stages = cast("Iterable[Stage]", self.stages.values())  # ModuleDict forgets the type
        return list(zip(self.stages, stages, strict=True))

    def _prepared(self, params: Params) -> Params:
        return {name: stage.prepare(params[name]) for name, stage in self.named_stages()}

    def _by_images(self, hr: Tensor, params: Params) -> Tensor:
        size = self.lr_size(hr.shape[-2:])
        images = list(hr.chunk(len(hr)))
        params_of = split_params(self._prepared(params), len(hr))
        # Stage by stage, which keeps the code and buffers of one stage in the cache: takes five
        # sixths of the time of image by image.
        for name, stage in self.named_stages():
            for i, (before, own) in enumerate(zip(images, params_of, strict=True)):
                images[i] = x = stage(before, own[name])
                self.check_output(name, x, 1)
                if not stage.resizes and x.shape[-2:] != before.shape[-2:]:
                    raise TypeError(
                        f"{name} changed the size of its images from {(*before.shape[-2:],)} to "
                        f"{(*x.shape[-2:],)}: set `resizes = True` in its class (and write "
                        "on_canvas, for a GPU)"
                    )
        lr = []
        for x in images:
            x = x.clamp(0.0, 1.0)
            lr.append(x if x.shape[-2:] == size else resize(x, size))
        batch = torch.cat(lr)
        return quantize_8bit(batch) if self.quantize else batch

    def _on_canvas(self, hr: Tensor, params: Params) -> Tensor:
        size = self.lr_size(hr.shape[-2:])
        canvas, prepared = Canvas.of(hr), self._prepared(params)
        resized = False
        for name, stage in self.named_stages():
            canvas = stage.run_on_canvas(canvas, prepared[name])
            # After a stage that unites sizes, images fill their canvas again.
            resized = not stage.unites and (resized or stage.resizes)
            if not torch.compiler.is_compiling():
                self.check_output(name, canvas.pixels, len(hr))
        canvas = canvas.with_pixels(canvas.pixels.clamp(0.0, 1.0))
        if resized:
            lr = shrink_canvas(canvas, size)
        elif canvas.pixels.shape[-2:] != size:
            lr = resize(canvas.pixels, size)
        else:
            lr = canvas.pixels
        return quantize_8bit(lr) if self.quantize else lr

    def __getstate__(self) -> dict[str, Any]:
        """Drop the compiled form, which cannot be pickled."""
        return {**self.__dict__, "_compiled": None, "_kinds": set()}
