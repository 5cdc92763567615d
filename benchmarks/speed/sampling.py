"""Time of sampling by CasArbi and ResShift, and its share outside their networks.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.sampling

Networks are those of the small configurations under configs/experiment/mini, with random weights;
the base of a cascade is one of them. `methods` makes images of 192 x 192, one at a time: images
per second, and the share of the time in which no network runs. `compiled`, by default on a GPU
alone, is sampling with the network compiled, and with CUDA graphs, against the network as it is, in
turns. With one thread, the default, what counts is CPU time, on which other programs have
little influence; with several it is elapsed time. Prints JSON, and writes it to
benchmarks/results/sampling.json, of a GPU to sampling_cuda.json beside it.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from torch import Tensor

from benchmarks import report
from benchmarks.memory import peak_mib
from benchmarks.timing import clock, in_turns, ratio, seconds
from lightning_modules.backbone.shifting import ResidualShift
from lightning_modules.backbone.space import PixelSpace
from lightning_modules.methods.casarbi import CasArbi
from lightning_modules.methods.resshift import ResShift
from lightning_modules.networks.liif import LIIF
from lightning_modules.networks.sft_unet import SFTUNet
from lightning_modules.networks.swin_unet import SwinUNet
from lightning_modules.noise import Noise

CONFIGS = Path(__file__).resolve().parents[2] / "configs/experiment/mini"
CPU = torch.device("cpu")
SIDE = 192  # of what is made
SCALES = (4, 8, 12)
SHORT = {"steps": 4, "min_noise": 0.2}  # ResShift's process of four steps, as its authors set it
MODES = {"compiled": "default", "CUDA graphs": "reduce-overhead"}


class Networks:
    """Knows for how long networks run, and how often.

    Args:
        parts: Objects, and the names of those of their methods that are networks; none calls
            another one.
    """

    def __init__(self, *parts: tuple[object, str]) -> None:
        self.calls, self.seconds = 0, 0.0
        for owner, name in parts:
            setattr(owner, name, self._watched(getattr(owner, name)))

    def _watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            start = clock()
            result = function(*args, **kwargs)
            self.seconds += clock() - start
            self.calls += 1
            return result

        return watched


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


def batch(scale: float, side: int, device: torch.device) -> Any:
    """One LR image and the size that is wanted of it."""
    lr = torch.rand(1, 3, *[round(side / scale)] * 2).to(device)
    return {"lr": lr, "size": (side, side), "key": ["a"], "seed": torch.tensor([1])}


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
        call()  # warm-up
        taken, shares = [], []
        for _ in range(repeats):
            networks.calls, networks.seconds = 0, 0.0
            taken.append(seconds(call))
            shares.append(1 - networks.seconds / taken[-1])
        rows.append(
            {
                "method": name,
                "scale": scale,
                "lr": list(given["lr"].shape[-2:]),
                "hr": [side, side],
                "parameters": sum(p.numel() for p in model.parameters()),
                "network_calls": networks.calls,
                "images_per_s": 1 / statistics.median(taken),
                "outside_networks": statistics.median(shares),
                "peak_mib": peak_mib(call, device),
            }
        )
    return rows


def _restored(model: CasArbi | ResShift, given: Any) -> Tensor:
    return model.restore(given, Noise(given["seed"], given["lr"].device))


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
            calls = {"ours": ours, "plain": plain}
            timed = {key: lambda _, call=call: seconds(call) for key, call in calls.items()}
            times = in_turns(timed, repeats)
            rows.append(
                {
                    "method": name,
                    "how": how,
                    "scale": 4,
                    "hr": [side, side],
                    **{f"{key}_s": statistics.median(taken) for key, taken in times.items()},
                    "ratio": ratio(times["plain"], times["ours"]),
                    "peak_mib": peak,
                    "plain_peak_mib": peak_mib(plain, device),
                    "largest_difference": (ours() - plain()).abs().max().item(),
                }
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
            **({"compiled": measure_compiled(side, repeats, device)} if compiled else {}),
        }


def main() -> None:
    """Measure, print, write."""
    parser = report.parser(__doc__, timed=True)
    parser.add_argument("--side", type=int, default=SIDE, help="side of the images made")
    parser.add_argument("--repeats", type=int, default=5, help="timed images of each method")
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
