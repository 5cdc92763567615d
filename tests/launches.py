"""How many launches a compiled recipe takes, and what in it would make the host wait."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from degradations.draws import to_device
from degradations.pipeline import Pipeline
from degradations.stages.noise import hashed_fields

# What reads a value of the device, or a size that depends on values, back to the host.
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "bincount", "equal.default")


class Launches(NamedTuple):
    """kernels: generated kernels; library: calls of others, by name; lr: the result.

    On a CPU several kernels lie in one function, which a GPU would launch one by one: each counts.
    """

    kernels: int
    library: Counter[str]
    lr: Tensor

    @property
    def total(self) -> int:
        """All of them."""
        return self.kernels + self.library.total()


def count_launches(recipe: Pipeline, hr: Tensor, seeds: Tensor) -> Launches:
    """Compile the whole canvas executor (one graph, or an error) and count what it calls.

    Args:
        recipe: The recipe; it is compiled afresh.
        hr: (B, 3, H, W) in [0, 1].
        seeds: (B,) int64 on the CPU.
    """
    from torch._inductor import metrics
    from torch._inductor.utils import run_and_get_code

    torch.compiler.reset()
    metrics.reset()
    compiled = torch.compile(recipe._on_canvas, fullgraph=True, dynamic=False)
    params = to_device(recipe.params_of(seeds, hr.shape), len(hr), hr.device)
    with hashed_fields(), torch.no_grad():
        lr, code = run_and_get_code(compiled, hr, params)
    calls = "\n".join(part[part.index("def call") :] for part in code)
    library = Counter(re.findall(r"\b(extern_kernels\.\w+|(?:torch\.ops|aten)\.[\w.]+)\(", calls))
    return Launches(metrics.generated_kernel_count, library, lr)


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
