"""Time of sampling by CasArbi and ResShift, and its share outside their networks.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.sampling

Networks are those of the small configurations under configs/experiment/mini, with random weights;
the base of a cascade is one of them. `methods` makes images of 192 x 192, one at a time: images
per second, the share of the time in which no network runs, and the operations that torch
dispatched, views among them. `ddim` is our sampling with a U-Net of diffusers against a plain loop
over diffusers' DDIM scheduler with the same U-Net, `residual_shift` ours against a plain loop over
that process's formulas with the same network; they run in turns, and a ratio above 1 says that ours
is quicker; `itself` is ours against ours, measured alike, so that one sees what a ratio is worth.
`compiled`, by default on a GPU alone, is ours with the network compiled, and with CUDA graphs,
against ours as it is.
With one thread, the default, what counts is CPU time, on which other programs have
little influence; with several it is elapsed time. Prints JSON, and writes it to
benchmarks/results/sampling.json, of a GPU to sampling_cuda.json beside it.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
import yaml
from diffusers import DDIMScheduler
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import report
from benchmarks.memory import peak_mib
from lightning_modules.backbone.denoiser import UNet2D
from lightning_modules.backbone.schedule import Schedule
from lightning_modules.backbone.shifting import ResidualShift
from lightning_modules.backbone.space import PixelSpace
from lightning_modules.base import ImageModel
from lightning_modules.casarbi import CasArbi
from lightning_modules.diffusion import Diffusion
from lightning_modules.networks.liif import LIIF
from lightning_modules.networks.sft_unet import SFTUNet
from lightning_modules.networks.swin_unet import SwinUNet
from lightning_modules.noise import Noise
from lightning_modules.resshift import ResShift
from lightning_modules.sampling.solvers import Sampler

CONFIGS = Path(__file__).resolve().parents[2] / "configs/experiment/mini"
CPU = torch.device("cpu")
SIDE = 192  # of what is made
SCALES = (4, 8, 12)
SHORT = {"steps": 4, "min_noise": 0.2}  # ResShift's process of four steps, as its authors set it
BETAS: Literal["squaredcos_cap_v2"] = "squaredcos_cap_v2"
PREDICTION: Literal["v_prediction"] = "v_prediction"
UNET = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [48, 64, 64],
    "layers_per_block": 1,
    "norm_num_groups": 16,
    "down_block_types": ["DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
    "attention_head_dim": 4,
    "cross_attention_dim": 32,
}
MODES = {"compiled": "default", "CUDA graphs": "reduce-overhead"}
Call = Callable[[], Any]


def clock() -> float:
    """Seconds of this process where one thread computes, else on the wall, when a GPU is done."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


# ----------------------------------------------------------------------------------- measurements
class Networks:
    """Knows when a network runs: how often, and for how long.

    Args:
        parts: Objects, and the names of those of their methods that are networks.
    """

    def __init__(self, *parts: tuple[object, str]) -> None:
        self.calls, self.depth, self.seconds = 0, 0, 0.0
        for owner, name in parts:
            setattr(owner, name, self._watched(getattr(owner, name)))

    def _watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.depth += 1
            start = clock()
            try:
                return function(*args, **kwargs)
            finally:
                self.depth -= 1
                if not self.depth:  # or what it called would count twice
                    self.seconds += clock() - start
                    self.calls += 1

        return watched


class Operations(TorchDispatchMode):
    """Count what torch dispatches, within networks and elsewhere.

    Args:
        networks: Know when one runs.
    """

    def __init__(self, networks: Networks) -> None:
        super().__init__()
        self.networks, self.all, self.outside = networks, 0, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Count it, and do it."""
        self.all += 1
        self.outside += not self.networks.depth
        return func(*args, **(kwargs or {}))


def taken(call: Call, networks: Networks, repeats: int) -> dict[str, Any]:
    """Time, network calls and operations of one image; medians over the repeats."""
    call()  # warm-up
    seconds, shares = [], []
    for _ in range(repeats):
        networks.calls, networks.seconds = 0, 0.0
        start = clock()
        call()
        seconds.append(clock() - start)
        shares.append(1 - networks.seconds / seconds[-1])
    calls = networks.calls
    with Operations(networks) as operations:
        call()
    return {
        "network_calls": calls,
        "images_per_s": 1 / statistics.median(seconds),
        "outside_networks": statistics.median(shares),
        "operations": operations.all,
        "operations_outside_networks": operations.outside,
    }


def in_turns(ours: Call, plain: Call, repeats: int) -> dict[str, float]:
    """Median seconds of both, called in turns so that a busy machine hits both, and their ratio."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        turns = list(zip((ours, plain), seconds, strict=True))
        for function, collected in turns[:: -1 if repeat % 2 else 1]:  # the second is quicker
            start = clock()
            function()
            if repeat:  # the first call of each is a warm-up
                collected.append(clock() - start)
    ratios = [of_plain / of_ours for of_ours, of_plain in zip(*seconds, strict=True)]
    ours_s, plain_s = map(statistics.median, seconds)
    return {"ours_s": ours_s, "plain_s": plain_s, "ratio": statistics.median(ratios)}


def compared(ours: Call, plain: Call, repeats: int) -> dict[str, float]:
    """As ``in_turns``, and the ratio that ours has to itself."""
    found = in_turns(ours, plain, repeats)
    return {**found, "itself": in_turns(ours, ours, repeats)["ratio"]}


# ----------------------------------------------------------------------------------------- models
def settings(config: str) -> dict[str, Any]:
    """``init_args`` of the model of a configuration."""
    found = yaml.safe_load((CONFIGS / f"{config}.yaml").read_text(encoding="utf-8"))
    return cast(dict[str, Any], found["model"]["init_args"])


def casarbi(scale: float) -> CasArbi:
    """The small cascade."""
    found = settings("casarbi/cascade")
    base = partial(LIIF, **found["base"]["init_args"])
    network = SFTUNet(**found["network"]["init_args"])
    model = CasArbi(scale, base, network=network).eval()
    model.sigma_r.fill_(0.1)
    return model


def resshift(scale: float, **process: Any) -> ResShift:
    """The small ResShift in pixels, of so many steps."""
    found = settings("resshift/pixel")
    network = SwinUNet(**found["network"]["init_args"])
    shift = ResidualShift(**{**found["process"]["init_args"], **process})
    return ResShift(scale, network, PixelSpace(), process=shift).eval()


def diffusion(steps: int) -> Diffusion:
    """An unconditional diffusion of small images."""
    schedule = Schedule(betas=BETAS, prediction=PREDICTION)
    denoiser, sampler = UNet2D(UNET), Sampler(steps, "trailing", clamp=1.0)
    return Diffusion(1.0, denoiser, schedule=schedule, sampler=sampler).eval()


def batch(scale: float, side: int, device: torch.device) -> Any:
    """One LR image and the size that is wanted of it."""
    lr = torch.rand(1, 3, *[round(side / scale)] * 2).to(device)
    return {"lr": lr, "size": (side, side), "key": ["a"], "seed": torch.tensor([1])}


def parameters(model: ImageModel) -> int:
    """Number of parameters, frozen ones among them."""
    return sum(parameter.numel() for parameter in model.parameters())


# ------------------------------------------------------------------------------------- the parts
def measure_methods(side: int, repeats: int, device: torch.device = CPU) -> list[dict[str, Any]]:
    """CasArbi at three scales and ResShift of 15 and of 4 steps."""
    models: list[tuple[str, float, CasArbi | ResShift]] = [
        *(("CasArbi", scale, casarbi(scale)) for scale in SCALES),
        ("ResShift-15", 4, resshift(4)),
        ("ResShift-4", 4, resshift(4, **SHORT)),
    ]
    rows = []
    for name, scale, model in models:
        model.to(device)
        parts: list[tuple[object, str]] = [(model.network, "forward")]
        if isinstance(model, CasArbi):
            parts += [(model.base, "encode"), (model.base, "render")]
        given, networks = batch(scale, side, device), Networks(*parts)
        call = partial(_restored, model, given)
        sizes = {"lr": list(given["lr"].shape[-2:]), "hr": [side, side]}
        count = parameters(model)
        rows.append(
            {"method": name, "scale": scale, **sizes, "parameters": count}
            | taken(call, networks, repeats)
            | {"peak_mib": peak_mib(call, device)}
        )
    return rows


def _restored(model: CasArbi | ResShift, given: Any) -> Tensor:
    return model.restore(given, Noise(given["seed"], given["lr"].device))


def measure_ddim(side: int, steps: int, repeats: int, device: torch.device = CPU) -> dict[str, Any]:
    """Our unconditional sampling against a plain loop over diffusers' scheduler."""
    model, given = diffusion(steps).to(device), batch(1, side, device)
    scheduler = DDIMScheduler(
        beta_schedule=BETAS,
        prediction_type=PREDICTION,
        timestep_spacing="trailing",
        clip_sample=True,
    )
    denoiser = cast(UNet2D, model.denoiser)

    def ours() -> Tensor:
        return model.generate(given, Noise(given["seed"], device)) * 2 - 1

    def plain() -> Tensor:
        scheduler.set_timesteps(steps)
        x = Noise(given["seed"], device).normal((1, 3, side, side))
        text = denoiser.null_text(1)
        for t in scheduler.timesteps.to(device):
            raw = denoiser.unet(x, t, text).sample
            # What diffusers does not do by itself: noise that goes with the clipped prediction.
            x = scheduler.step(raw, t, x, use_clipped_model_output=True).prev_sample
        return x

    times = compared(ours, plain, repeats)  # before networks are watched, which waits for a GPU
    networks = Networks((denoiser.unet, "forward"))
    return {
        "sample": [side, side],
        "steps": steps,
        "parameters": parameters(model),
        **times,
        "largest_difference": (ours() - plain()).abs().max().item(),
        "outside_networks": taken(ours, networks, repeats)["outside_networks"],
        "plain_outside_networks": taken(plain, networks, repeats)["outside_networks"],
    }


def measure_residual_shift(side: int, repeats: int, device: torch.device = CPU) -> dict[str, Any]:
    """ResShift's 15 steps against its equations, written as plainly as they can be."""
    model, given = resshift(4).to(device), batch(4, side, device)
    process = model.process
    etas = [process.eta(step) for step in range(process.steps)]

    def plain() -> Tensor:
        noise, lr = Noise(given["seed"], device), given["lr"] * 2 - 1
        y = functional.interpolate(given["lr"], given["size"], mode="bicubic") * 2 - 1
        x = y + process.kappa * math.sqrt(etas[-1]) * noise.normal(y.shape)
        for step in reversed(range(process.steps)):
            scale = 3 * process.kappa * math.sqrt(etas[step]) + 1
            x0 = y - model.network(x / scale, torch.tensor([step], device=device), lr)
            if step == 0:
                return (x0 + 1) / 2
            now, then = etas[step], etas[step - 1]
            mean = then / now * x + (now - then) / now * x0
            deviation = process.kappa * math.sqrt(then / now * (now - then))
            x = mean + deviation * noise.normal(x.shape)
        return x

    ours = partial(_restored, model, given)
    return {
        "sample": [side, side],
        "steps": process.steps,
        **compared(ours, plain, repeats),
        "largest_difference": (ours() - plain()).abs().max().item(),
    }


def measure_compiled(
    side: int, repeats: int, device: torch.device = CPU, backend: str = "inductor"
) -> list[dict[str, Any]]:
    """Networks compiled, and as CUDA graphs, against the same ones as they are."""
    rows = []
    for name, model in (("CasArbi", casarbi(4)), ("ResShift-15", resshift(4))):
        given = batch(4, side, device)
        plain = partial(_restored, model.to(device), given)
        for how, mode in MODES.items():
            other = copy.deepcopy(model)
            network: Any = other.network
            forward = torch.compile(network.forward, dynamic=False, mode=mode, backend=backend)
            network.forward = _replayed(forward)
            ours = partial(_restored, other, given)
            peak = peak_mib(ours, device, times=3)  # it is compiled, recorded and warm then
            rows.append(
                {"method": name, "how": how, "scale": 4, "hr": [side, side]}
                | in_turns(ours, plain, repeats)
                | {"peak_mib": peak, "plain_peak_mib": peak_mib(plain, device)}
                | {"largest_difference": (ours() - plain()).abs().max().item()}
            )
    return rows


def _replayed(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A graph writes each result where its last one was: what is kept has to be a copy."""

    def replay(*args: Any, **kwargs: Any) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return forward(*args, **kwargs).clone()

    return replay


def measure(
    side: int, repeats: int, device: torch.device = CPU, compiled: bool = False
) -> dict[str, Any]:
    """All parts, without gradients."""
    with torch.inference_mode():
        return {
            "methods": measure_methods(side, repeats, device),
            "ddim": measure_ddim(side // 6, 25, repeats, device),
            "residual_shift": measure_residual_shift(side, repeats, device),
            **({"compiled": measure_compiled(side, repeats, device)} if compiled else {}),
        }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Time the sampling of the diffusion methods.")
    parser.add_argument("--side", type=int, default=SIDE, help="side of the images made")
    parser.add_argument("--repeats", type=int, default=5, help="timed images of each method")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--device", default=report.device(), help="by default what is there")
    parser.add_argument("--compile", action="store_true", help="compiled networks, on a CPU too")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and images")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    device = torch.device(arguments.device)
    compiled = arguments.compile or device.type == "cuda"
    found = measure(arguments.side, arguments.repeats, device, compiled)
    report.write_report("sampling", found, arguments.seed, device=device.type)


if __name__ == "__main__":
    main()
