"""How many launches a compiled recipe takes, and what in it would make the host wait."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from degradations.pipeline import Pipeline
from degradations.stages.noise import hashed_fields

_VIEWS = r"aten\.(unsqueeze|view)\b"  # among calls of the library: they move nothing
# What reads a value of the device, or a size that depends on values, back to the host.
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "bincount", "equal.default")


class Launches(NamedTuple):
    """What a batch takes on a canvas.

    kernels: Generated kernels; library: calls of others, such as matrix products.
    bytes: What all of them read and write.
    """

    kernels: int
    library: int
    bytes: int


def count_launches(recipe: Pipeline, hr: Tensor, seeds: Tensor) -> Launches:
    """Let the compiler plan the canvas executor (one graph, or an error), and count.

    No code is made, which would take minutes. What a GPU fuses otherwise is not known here.

    Args:
        recipe: The recipe.
        hr: (B, 3, H, W) in [0, 1].
        seeds: (B,) int64 on the CPU.
    """
    from torch._inductor import config
    from torch._inductor.scheduler import ExternKernelSchedulerNode, NopKernelSchedulerNode

    found: list[Launches] = []

    def count(nodes: list[Any]) -> Any:
        nodes = [node for node in nodes if not isinstance(node, NopKernelSchedulerNode)]
        library = [node for node in nodes if isinstance(node, ExternKernelSchedulerNode)]
        views = [node for node in library if re.search(_VIEWS, str(node.node.op_overload))]
        moved = sum(node.get_read_write_buffers_sizes() for node in nodes if node not in views)
        kernels = len(nodes) - len(library)
        found.append(Launches(kernels, len(library) - len(views), int(moved)))
        raise RuntimeError("counted")

    torch.compiler.reset()
    packed = recipe.draw_ahead(seeds, hr.shape)

    def degrade(hr: Tensor, rows: Tensor) -> Tensor:
        return recipe._on_canvas(hr, packed.unpacked(rows))

    with hashed_fields(), torch.no_grad(), config.patch(_post_fusion_custom_pass=count):
        try:
            torch.compile(degrade, fullgraph=True, dynamic=False)(hr, packed.to(hr.device))
        except Exception:
            if not found:
                raise
    return found[0]


class Waits(TorchDispatchMode):
    """Count the operations that would make the host wait for a device.

    On a CPU nothing waits, so the names of the operations stand for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()
        self.calls = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.calls += 1
        name = str(func)
        if any(word in name for word in WAITING):
            self.seen[name] += 1
        if "index" in name and any(
            isinstance(part, Tensor) and part.dtype == torch.bool
            for arg in args
            if isinstance(arg, list | tuple)
            for part in arg
        ):
            self.seen[f"{name} by a mask"] += 1
        return func(*args, **(kwargs or {}))
