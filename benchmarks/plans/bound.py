"""Upper bound of the gain from the best plan of each image over the best plan of all.

Of several noisy draws the best one is above their mean, whatever the plans. So three numbers
belong together: the gain of picking the best plan of an image; that of picking the best of as many
draws of one plan, the control; and that of the plan that was best in other draws, which contains
no luck.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.miniature.measure import HALVES, NORMAL, short
from benchmarks.plans.photos import squares
from callbacks.metrics.consistency import LRConsistency
from callbacks.metrics.pixels import PSNR
from callbacks.metrics.swd import SWD
from callbacks.results.compare import mean_interval
from lightning_modules.casarbi import CasArbi, Order, Stages

if TYPE_CHECKING:
    from datamodules.base import Batch

FIXED = (1.5, 2.0, 3.0)
LR_SIDE, SQUARE, PER_PHOTO, SEEDS = 16, 192, 1, 3
SWD_OF = SWD(levels=1, patches=64, directions=64)
Numbers = NDArray[np.float64]
Candidate = tuple[Stages, range]


def plans(side: int, target: int) -> dict[str, Stages]:
    """Return the plans that divide an enlargement differently, by the sides of their stages.

    Args:
        side: Side of LR in pixels.
        target: Side of the output.
    """
    found: dict[str, Stages] = {}
    for stages in (Stages(fixed, order) for fixed in FIXED for order in get_args(Order)):
        sides = [size[0] for size in stages.sizes((side, side), (target, target))]
        found.setdefault(" ".join(map(str, [side, *sides])), stages)
    return found


def picked(values: Numbers, by: Numbers) -> Numbers:
    """Return what each image has if the first dimension is picked for it: (images,), mean of draws.

    Args:
        values: (candidates, draws, images).
        by: The same; the candidate with the highest number is picked, in each draw.
    """
    return np.take_along_axis(values, by.argmax(0)[None], 0)[0].mean(0)


def others(values: Numbers) -> Numbers:
    """Return the mean of all other draws for each draw, of (candidates, draws, images)."""
    return (values.sum(1, keepdims=True) - values) / (values.shape[1] - 1)


def of_photographs(gain: Numbers) -> dict[str, Any]:
    """Return the mean of (images,) and its interval over photographs, in JSON's digits."""
    photographs = gain.reshape(-1, PER_PHOTO).mean(1)
    return {"gain": short(gain.mean()), "interval": [*map(short, mean_interval(photographs))]}


class Draws(NamedTuple):
    """Numbers of the candidates' outputs: (candidates, draws, images), and patches of SWD.

    psnr: PSNR-Y in dB.
    lr: LR-consistency in dB.
    own: SWD of the image alone, with the sign that makes a higher number the better one.
    patches: (candidates, draws, images, 1, patches, 49).
    """

    psnr: Numbers
    lr: Numbers
    own: Numbers
    patches: Tensor


def draw(model: CasArbi, batch: Batch, hr: Tensor, candidates: list[Candidate]) -> Draws:
    """Enlarge a batch by each candidate, with each of its seeds.

    Args:
        model: A trained cascade.
        batch: From ``squares``.
        hr: Patches of its HR.
        candidates: Plans and seeds; as many seeds each.
    """
    near, consistent = PSNR(border=0), LRConsistency()
    psnr, lr, own, patches = [], [], [], []
    for model.division, seeds in candidates:
        for seed in seeds:
            model.set_noise_seed(seed)
            sr = model.enlarge(batch)["sr"]
            psnr.append(near.compute(sr, batch["hr"], batch))
            lr.append(consistent.compute(sr, batch["hr"], batch))
            patches.append(SWD_OF.features(sr, batch).double())
            pairs = zip(patches[-1], hr, strict=True)
            own.append(torch.tensor([-SWD_OF.distance(a[None], b[None]) for a, b in pairs]))

    def of_candidates(found: list[Tensor]) -> Tensor:
        return torch.stack(found).unflatten(0, (len(candidates), -1))

    scores = [of_candidates(found).numpy() for found in (psnr, lr, own)]
    return Draws(scores[0], scores[1], scores[2], of_candidates(patches))


def bound(model: CasArbi, scale: float) -> dict[str, Any]:
    """Return the gains at one scale, for JSON.

    Args:
        model: A trained cascade.
        scale: From LR of ``LR_SIDE`` pixels.
    """
    batch = squares(SQUARE, LR_SIDE, scale, PER_PHOTO)
    hr = SWD_OF.features(batch["hr"], batch).double()
    every = plans(LR_SIDE, batch["size"][0])
    names = list(every)
    drawn = draw(model, batch, hr, [(stages, range(SEEDS)) for stages in every.values()])
    table = [_row(drawn, hr, plan) for plan in range(len(every))]
    nearest = max(range(len(every)), key=lambda plan: table[plan]["psnr"])
    finest = min(range(len(every)), key=lambda plan: table[plan]["swd"])
    repeats = {}  # as many draws of one plan as there are plans, with seeds that no plan had
    for plan in {nearest, finest}:
        seeds = [range(SEEDS + number, SEEDS + number + 1) for number in range(len(every))]
        repeats[plan] = draw(model, batch, hr, [(every[names[plan]], seed) for seed in seeds])
    return {
        "photographs": len(hr),
        "draws": SEEDS,
        "plans": {
            name: {"fixed": stages.fixed, "order": stages.order, **row}
            for (name, stages), row in zip(every.items(), table, strict=True)
        },
        "psnr": {"best plan": names[nearest], **_psnr(drawn, nearest, repeats[nearest])},
        "swd": {"best plan": names[finest], **_swd(drawn, finest, repeats[finest], hr)},
    }


def _row(drawn: Draws, hr: Tensor, plan: int) -> dict[str, Any]:
    return {
        "psnr": short(drawn.psnr[plan].mean()),
        "psnr_std": short(drawn.psnr[plan].std(0, ddof=1).mean()),
        "lr_psnr": short(drawn.lr[plan].mean()),
        "swd": short(_swd_of(drawn.patches[plan], hr)),
    }


def _psnr(drawn: Draws, best: int, repeats: Draws) -> dict[str, Any]:
    def gain(by: Numbers) -> Numbers:
        return picked(drawn.psnr, by) - drawn.psnr[best].mean(0)

    def luck(by: Numbers) -> Numbers:
        return picked(repeats.psnr, by) - repeats.psnr.mean((0, 1))

    oracle, control = gain(drawn.psnr), luck(repeats.psnr)
    consistent, by_luck = gain(drawn.lr), luck(repeats.lr)
    return {
        "best of each image": of_photographs(oracle),
        "best repeat of one plan": of_photographs(control),
        "best of each image, beyond repeats": of_photographs(oracle - control),
        "best in other draws": of_photographs(gain(others(drawn.psnr))),
        "most consistent": of_photographs(consistent),
        "most consistent repeat of one plan": of_photographs(by_luck),
    }


def _swd(drawn: Draws, best: int, repeats: Draws, hr: Tensor) -> dict[str, Any]:
    # SWD is of sets: each image's plan is picked by the SWD of that image alone, and the gain is
    # that of the set of what was picked.
    plain, lucky = drawn.patches[best], repeats.patches[:, 0]

    def gain(of: Draws, by: Numbers, over: Tensor) -> dict[str, Any]:
        chosen = torch.from_numpy(by.argmax(0))
        draws = torch.arange(len(chosen))[:, None]
        return _set_gain(of.patches[chosen, draws, torch.arange(chosen.shape[1])], over, hr)

    return {
        "best of each image": gain(drawn, drawn.own, plain),
        "best repeat of one plan": gain(repeats, repeats.own, lucky),
        "best in other draws": gain(drawn, others(drawn.own), plain),
        "most consistent": gain(drawn, drawn.lr, plain),
    }


def _set_gain(sets: Tensor, over: Tensor, hr: Tensor) -> dict[str, Any]:
    # By how much SWD falls; the interval is from random halves of the photographs, as in Cars.
    draws, gains = np.random.default_rng(0), []
    images = np.arange(len(hr)).reshape(-1, PER_PHOTO)
    for _ in range(HALVES):
        half = draws.choice(len(images), len(images) // 2, replace=False)
        at = torch.from_numpy(images[half].ravel())
        gains.append(_swd_of(over[:, at], hr[at]) - _swd_of(sets[:, at], hr[at]))
    value, reach = _swd_of(over, hr) - _swd_of(sets, hr), NORMAL * float(np.std(gains, ddof=1))
    return {"gain": short(value), "interval": [short(value - reach), short(value + reach)]}


def _swd_of(sets: Tensor, hr: Tensor) -> float:
    """Return the mean over draws of SWD: sets (draws, images, ...) from (images, ...)."""
    return float(np.mean([SWD_OF.distance(sr, hr) for sr in sets]))
