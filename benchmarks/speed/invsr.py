"""Seconds and memory of InvSR for 128 to 512 pixels: `python -m benchmarks.speed.invsr`.

Networks have random weights: the autoencoder and the U-Net the shapes of SD-Turbo, the predictor
that of the release, each as wide as `--width` says: 1, the default on a GPU, is all of it. On a CPU
the default is 0.1, with which a run takes less than three minutes on one core. Widths are rounded
to multiples of 32, the prompt's stays as it is.

Each row is a process of its own that makes one image several times: median seconds of it and of
its parts (`encode`, `predictor`, `unet`, `decode`), the share of the time in which none of these
runs, and the most memory that it took, on a CPU with all that was imported; with torch's own choice
of a kernel for attention, and with the plain one. With one thread, the default, seconds are CPU
time. After each row prints JSON, and writes it to benchmarks/results/invsr.json, of a GPU to
invsr_cuda.json beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.report import write_report
from lightning_modules.backbone import prompt
from lightning_modules.backbone.condition import FixedPrompt
from lightning_modules.backbone.denoiser import UNet2D
from lightning_modules.backbone.library import Flags
from lightning_modules.backbone.space import KLSpace
from lightning_modules.methods.invsr import InvSR, Sampling
from lightning_modules.networks.noise_predictor import NoisePredictor

SIDE = 128  # of the LR image
UNIT = 32  # of widths
TOKENS, TEXT = 77, 1024
UNET = (320, 640, 1280, 1280)
VAE = (128, 256, 512, 512)
PREDICTOR = (256, 512)


@dataclass(frozen=True)
class Case:
    """What a row measures.

    Args:
        name: Of the row.
        steps: Of sampling.
        plain: Whether attention is computed by torch's plain kernel, which keeps the whole matrix.
        bf16: Whether networks compute in bfloat16, the frozen U-Net's weights among them.
        compiled: Whether networks are compiled; ``graphs``: the U-Net as a CUDA graph.
    """

    name: str
    steps: int = 1
    plain: bool = False
    bf16: bool = False
    compiled: bool | Literal["graphs"] = False


CASES = (
    Case("1 step"),
    Case("5 steps", steps=5),
    Case("plain attention", plain=True),
)
ON_GPU = {
    Case("bf16", bf16=True): "most CPUs emulate bfloat16: its times say nothing of a GPU's",
    Case("bf16, compiled", bf16=True, compiled=True): (
        "compiling takes minutes on a core, and gains what a GPU loses on launches"
    ),
    Case("bf16, graphs", bf16=True, compiled="graphs"): "a CPU has no CUDA graphs",
}


# ------------------------------------------------------------------------------------------ models
def scaled(width: int, by: float) -> int:
    """A width of the release, made smaller: a multiple of ``UNIT``."""
    return max(UNIT, round(width * by / UNIT) * UNIT)


def build(case: Case, width: float, patch: int = SIDE) -> InvSR:
    """InvSR with random weights.

    Args:
        case: Steps, and how networks run.
        width: Share of the release's widths.
        patch: Of ``InvSR``.
    """
    unet = [scaled(w, width) for w in UNET]
    vae = [scaled(w, width) for w in VAE]
    flags = Flags(
        frozen=True,
        dtype="bfloat16" if case.bf16 else "float32",
        compile=case.compiled,
    )
    network: dict[str, Any] = {
        "block_out_channels": unet,
        "attention_head_dim": [w // min(64, unet[0]) for w in unet],
        "cross_attention_dim": TEXT,
        "use_linear_projection": True,
    }
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(vae),
        up_block_types=("UpDecoderBlock2D",) * len(vae),
        block_out_channels=tuple(vae),
        layers_per_block=2,
    )
    widths = [scaled(w, width) for w in PREDICTOR]
    predictor = NoisePredictor(widths=widths, head_width=min(64, widths[0]))
    model = InvSR(
        4.0,
        predictor,
        UNet2D(network, null_token="none", flags=flags),
        KLSpace(autoencoder),
        prompt=_prompt(),
        sampling=Sampling(steps=case.steps),
        patch=patch,
    )
    if case.compiled:
        predictor.compile()
        autoencoder.encoder.compile()
        autoencoder.decoder.compile()
    return model.eval()


def _prompt() -> FixedPrompt:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "prompt.safetensors")
        prompt.write(file, lambda _: torch.randn(1, TOKENS, TEXT), {"prompt": "any"})
        return FixedPrompt(file)


def parameters(model: InvSR) -> dict[str, int]:
    """Numbers of parameters of the three networks."""
    parts = {"predictor": model.predictor, "unet": model.denoiser, "autoencoder": model.space}
    return {
        name: sum(p.numel() for p in part.parameters())
        for name, part in parts.items()
        if part is not None
    }


# ---------------------------------------------------------------------------------------- measuring
class Parts:
    """Seconds within each network.

    Args:
        model: Its networks are watched from now on.
        clock: Seconds, of all that was started before.
    """

    def __init__(self, model: InvSR, clock: Callable[[], float]) -> None:
        self.clock, self.seconds = (
            clock,
            dict.fromkeys(("encode", "predictor", "unet", "decode"), 0.0),
        )
        vae: Any = model.space.vae
        self._watch("encode", vae, "encode")
        self._watch("predictor", model.predictor, "forward")
        self._watch("unet", model.denoiser.unet, "forward")
        self._watch("decode", vae, "decode")

    def _watch(self, name: str, owner: Any, method: str) -> None:
        function = getattr(owner, method)

        def watched(*args: Any, **kwargs: Any) -> Any:
            start = self.clock()
            found = function(*args, **kwargs)
            self.seconds[name] += self.clock() - start
            return found

        setattr(owner, method, watched)


def clock_of(device: str) -> Callable[[], float]:
    """Seconds: of this process where one thread computes, else on the wall; a GPU is waited for."""
    if device != "cpu":

        def waited() -> float:
            torch.cuda.synchronize()
            return time.perf_counter()

        return waited
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def measure(
    case: Case, width: float, side: int = SIDE, repeats: int = 3, device: str = "cpu"
) -> dict[str, Any]:
    """One row.

    Args:
        case: What.
        width: Share of the release's widths.
        side: Of the LR image.
        repeats: Images that are timed, after one that is not.
        device: ``cpu`` or ``cuda``.

    Returns:
        Seconds an image, of its parts and as a share outside of them; megabytes.
    """
    with torch.device(device):  # weights are made there: on a CPU that takes minutes
        model = build(case, width, patch=side)
    model.to(device)
    batch: Any = {
        "lr": torch.rand(1, 3, side, side, device=device),
        "size": (4 * side, 4 * side),
        "key": ["a"],
        "seed": torch.tensor([0]),
    }
    clock = clock_of(device)
    parts, start_mb = Parts(model, clock), megabytes(device)
    found: list[dict[str, float]] = []
    with torch.inference_mode(), _as(case, device):
        for repeat in range(repeats + 1):
            parts.seconds = dict.fromkeys(parts.seconds, 0.0)
            start = clock()
            model.enlarge(batch)
            if repeat:
                found.append({"seconds": clock() - start, **parts.seconds})
    median = {name: statistics.median(row[name] for row in found) for name in found[0]}
    outside = [1 - sum(row[name] for name in parts.seconds) / row["seconds"] for row in found]
    return {
        **{name: round(seconds, 5) for name, seconds in median.items()},
        "outside_networks": round(statistics.median(outside), 5),
        "start_mb": start_mb,
        "peak_mb": megabytes(device),
        "parameters": parameters(model),
    }


@contextlib.contextmanager
def _as(case: Case, device: str) -> Iterator[None]:
    # As Lightning's bf16-mixed, which keeps no copies of weights.
    kernel = sdpa_kernel(SDPBackend.MATH) if case.plain else contextlib.nullcontext()
    with kernel, torch.autocast(device, torch.bfloat16, case.bf16, cache_enabled=False):
        yield


def megabytes(device: str) -> float:
    """The most memory that this process took so far, on a GPU there."""
    if device != "cpu":
        return round(torch.cuda.max_memory_allocated() / 1e6, 1)
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


# ------------------------------------------------------------------------------------- the command
def main() -> None:
    """Measure, print, write."""
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description="Time InvSR's sampling, 128 to 512 pixels.")
    parser.add_argument(
        "--width",
        type=float,
        default=1.0 if gpu else 0.1,
        help="share of the release's widths (default: 1 on a GPU, 0.1 on a CPU)",
    )
    parser.add_argument("--side", type=int, default=SIDE, help="side of the LR image")
    parser.add_argument("--repeats", type=int, default=10 if gpu else 2, help="timed images")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and images")
    parser.add_argument("--float32", action="store_true", help="leave out what is in bfloat16")
    parser.add_argument("--one", type=json.loads, help="one row, for a process of its own")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    device = "cuda" if gpu else "cpu"
    if options.one is not None:
        row = measure(Case(**options.one), options.width, options.side, options.repeats, device)
        sys.stdout.write(json.dumps(row))
        return
    results: dict[str, Any] = {
        "lr": [options.side] * 2,
        "hr": [4 * options.side] * 2,
        "width": options.width,
        "device": device,
        "rows": {},
    }
    if not gpu:
        results["not_run"] = {case.name: f"on a GPU alone: {why}" for case, why in ON_GPU.items()}
    for case in [*CASES, *(ON_GPU if gpu and not options.float32 else ())]:
        row = _in_a_process(case, options)
        results["parameters"] = row.pop("parameters")
        results["rows"][case.name] = row
        write_report("invsr", results, options.seed, device=device)


def _in_a_process(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    given = {k: v for k, v in vars(options).items() if k not in ("one", "float32")}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    command = [
        sys.executable,
        "-m",
        "benchmarks.speed.invsr",
        *words,
        "--one",
        json.dumps(asdict(case)),
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
