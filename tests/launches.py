"""How many operators a recipe takes on a canvas; compiled, how many launches and bytes."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from degradations.pipeline import Pipeline
from degradations.stages.noise import hashed_fields

_VIEWS = r"aten\.(unsqueeze|view)\b"  # among calls of the library: they move nothing


class Launches(NamedTuple):
    """What a batch takes on a canvas.

    kernels: Generated kernels; library: calls of others, such as matrix products.
    bytes: What all of them read and write.
    """

    kernels: int
    library: int
    bytes: int


class _Operators(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


def count_operators(recipe: Pipeline, shape: tuple[int, ...]) -> int:
    """Count what the host calls for a batch (B, 3, H, W) that is not compiled, views included."""
    hr = torch.empty(shape, device="meta")
    packed = recipe.draw_ahead(torch.arange(len(hr)), hr.shape)
    recipe.skip_first_batch_checks()
    rows = packed.to(hr.device)
    recipe.degrade(hr, packed.unpacked(rows))  # copies the constants
    with _Operators() as operators:
        recipe.degrade(hr, packed.unpacked(rows))
    return operators.count


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
        library: list[Any] = [n for n in nodes if isinstance(n, ExternKernelSchedulerNode)]
        views = [node for node in library if re.search(_VIEWS, str(node.node.op_overload))]
        moved = sum(node.get_read_write_buffers_sizes() for node in nodes if node not in views)
        kernels = len(nodes) - len(library)
        found.append(Launches(kernels, len(library) - len(views), int(moved)))
        raise RuntimeError("counted")

    torch.compiler.reset()
    packed = recipe.draw_ahead(seeds, hr.shape)
    rows = packed.to(hr.device)

    def degrade(hr: Tensor, rows: Tensor) -> Tensor:
        return recipe._on_canvas(hr, packed.unpacked(rows))

    with hashed_fields(), torch.no_grad(), config.patch(_post_fusion_custom_pass=count):
        degrade(hr, rows)  # copies the constants
        try:
            torch.compile(degrade, fullgraph=True, dynamic=False)(hr, rows)
        except Exception:
            if not found:
                raise
    return found[0]
