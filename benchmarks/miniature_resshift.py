"""ResShift's miniature: what is trained, tested, compared and claimed.

The papers compare ResShift with other methods; their claims that a miniature can speak of are that
the diffusion gives what a regression of the same network does not, and that few steps are enough.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from benchmarks.miniature_chain import CHAINED, FILE, MIXED, START
from benchmarks.miniature_spec import BICUBIC, Claim, Method, Row, Table, Training

_SCALES = (4.0,)
_DEGRADATION = ("--degradation", "configs/degradation/bicubic.yaml")
_ENCODED = (
    *("--encode.crop", "128", "--encode.crops_per_image", "128"),
    *("--encode.flips", "true", "--encode.pairs", "true"),
)
_READS = (
    *("--data.init_args.crops.per_image", "1"),
    *("--data.init_args.train", "datamodules.latents.Latents"),
    *("--data.init_args.train.init_args.urls", "{latents}/*.tar"),
)
_FOUR_OF_15 = ("--model.init_args.timesteps", "[14,9,4,0]")
_SHOWN = ("14", "11", "8", "5", "2", "0")  # timesteps
_CHAINS = {"pixel": "pixels", "taef2": "latents", "taef2_long": "latents, trained longer"}
_FIRST = ("--model.init_args.timesteps", "[14]")  # HR as it is predicted from the most noise


def _round_trip(name: str, label: str, of: str, control: str) -> Row:
    model = ("--model", "configs/model/taef2_round_trip.yaml", "--model.init_args.of", of)
    return Row(name, label, None, None, (), (*model, *_DEGRADATION), _SCALES, control)


def _trained(name: str, label: str, training: str, control: str, *options: str) -> Row:
    return Row(name, label, training, training, (), options, _SCALES, control)


def tables(run_of: Callable[[str], Path]) -> dict[str, Table]:
    """What the diffusion takes HR for on its way.

    Args:
        run_of: Gives the folder of a row's run by the row's name.
    """
    found: Table = {}
    for row, label in _CHAINS.items():
        errors = json.loads((run_of(row) / FILE).read_text(encoding="utf-8"))
        for name, what in ((MIXED, "of HR with noise, as in training"), (CHAINED, "of the chain")):
            at = {str(len(errors[name]) - 1 - n): error for n, error in enumerate(errors[name])}
            shown = {f"t = {t}": at[t] for t in _SHOWN}
            found[f"{label}, {what}"] = {"enlarged LR": errors[START][0], **shown}
    return {"Mean squared error of HR as it is predicted, in the diffusion's space": found}


RESSHIFT = Method(
    trainings=(
        Training("pixel"),
        Training("pixel_control"),
        Training("latents", options=_ENCODED, verb="encode", config="taef2"),
        Training("taef2", ("latents",), _READS),
        Training("taef2_control", ("latents",), _READS),
        Training("taef2_long", ("latents",), _READS, config="taef2", steps=4000),
    ),
    rows=(
        Row(
            *(BICUBIC, "bicubic", None, None, ()),
            ("--model", "configs/model/bicubic.yaml", *_DEGRADATION),
            _SCALES,
        ),
        _trained("pixel_control", "pixels: regression", "pixel_control", BICUBIC),
        _trained("pixel", "pixels: ResShift, 15 steps", "pixel", "pixel_control"),
        _trained("pixel_4", "pixels: ResShift, 4 of 15", "pixel", "pixel_control", *_FOUR_OF_15),
        _trained("pixel_1", "pixels: its first prediction", "pixel", "pixel_control", *_FIRST),
        _round_trip("ae_hr", "TAEF2 of HR", "hr", BICUBIC),
        _round_trip("ae_bicubic", "TAEF2 of bicubic", "bicubic", BICUBIC),
        _trained("taef2_control", "latents: regression", "taef2_control", "ae_bicubic"),
        _trained("taef2", "latents: ResShift, 15 steps", "taef2", "taef2_control"),
        _trained("taef2_4", "latents: ResShift, 4 of 15", "taef2", "taef2_control", *_FOUR_OF_15),
        _trained("taef2_1", "latents: its first prediction", "taef2", "taef2_control", *_FIRST),
        Row(
            *("taef2_long", "latents: ResShift, four times the training", "taef2", "taef2_long"),
            scales=_SCALES,
            control="taef2_control",
        ),
    ),
    claims=(
        Claim("in pixels, ResShift beats a regression", "pixel", "pixel_control"),
        Claim("in latents, ResShift beats a regression", "taef2", "taef2_control"),
        Claim("in latents, ResShift beats its starting point", "taef2", "ae_bicubic"),
        Claim("in pixels, 4 of 15 steps beat all of them", "pixel_4", "pixel"),
        Claim("in latents, 4 of 15 steps beat all of them", "taef2_4", "taef2"),
        Claim("latents beat pixels", "taef2", "pixel"),
    ),
    headline="in latents, ResShift beats a regression",
    data="configs/data/mini_test.yaml",
    batches=7,
    shown=(BICUBIC, "pixel_control", "pixel", "ae_hr", "taef2_control", "taef2"),
    shown_scales=_SCALES,
    tables=tables,
    metrics="configs/callbacks/mini_chain.yaml",
    note="The round trip of HR is what a method in latents cannot be better than. A regression "
    "that wins PSNR and loses SWD is what theory expects: it gives the mean of all that could be. "
    "Each network was trained once: the seeds are those of sampling.",
)
