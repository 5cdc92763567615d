"""NSARM's miniature: what is trained, tested, compared and claimed.

The tokenizer is the ceiling, so it stands first, and each row's gap to it beside the tables. The
paper's claim is robustness: scores vary less over images, and few of them are low. It is not
tested here in the paper's sense, the variance of the scores themselves: they come from networks
that judge images without a reference, and none exist for 64 pixels. What is measured is
the variance of how much PSNR-Y a row gains over bicubic of the same LR, from which no verdict on
the claim follows; pages say so (`miniature_numbers.shown`).
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path

from benchmarks.miniature_numbers import SPREAD
from benchmarks.miniature_spec import BICUBIC, Claim, Method, Row, Table, Training
from callbacks.per_image import load_images

_DEGRADED = ("--degradation", "configs/degradation/real_esrgan_light.yaml")
_SPACE = ("--model.init_args.space_weights", "{tokenizer}")
_READS = (*_SPACE, "--data.init_args.train.init_args.urls", "{latents}/*.tar")
_ENCODED = (
    *("--encode.crop", "64", "--encode.crops_per_image", "48"),
    *("--encode.flips", "true", "--encode.pairs", "true"),
)
_STARTS = (
    *("--model.init_args.mapper_weights", "{stage1}"),
    *("--model.init_args.transformer_weights", "{base}"),
)
_WHOLE = ("--model.init_args.train_mapper", "true")
_PICTURES = ("--data", "configs/data/nsarm_mini.yaml", *_DEGRADED)
_EIGHT = ("--data.init_args.batch_size", "8")  # about half the time of base and both stages
_COLORS = ("--model.init_args.color_fix", "adain_wavelet")
_LAST = ("--checkpoint.keep_best", "0")
_STRENGTHS = "configs/data/nsarm_mini_strengths.yaml"
_JUDGED = ("psnr", "ssim", "swd")
POOR, COLLAPSED = -1.0, -3.0  # dB of PSNR-Y against bicubic
_ROBUST = {
    "nsarm": "NSARM",
    "colors": "NSARM, colours of LR",
    "resshift": "ResShift",
    "control": "regression",
}
_IN_BITS = {
    "stage1": "stage 1 alone",
    "frozen": "stage 1, base as it was",
    "nsarm": "NSARM",
    "whole": "NSARM, mapper trained too",
}
_CEILING = "ceiling"
_HEADLINE = "scores vary less over images than ResShift's"


def _round_trip(name: str, label: str, of: str) -> Row:
    model = (
        *("--model", "lightning_modules.round_trip.RoundTrip", "--model.init_args.of", of),
        *("--model.init_args.space", "configs/backbone/nsarm_mini.yaml", *_SPACE, *_DEGRADED),
    )
    return Row(name, label, None, None, ("tokenizer",), model)


def _nsarm(
    name: str, label: str, *options: str, data: str | None = None, weights: str = "stage2"
) -> Row:
    needs = ("tokenizer", "base", "stage1")
    given = (*_SPACE, *_STARTS, *_DEGRADED, *options)
    return Row(name, label, "stage2", weights, needs, given, control="control", data=data)


def _resshift(name: str, label: str, data: str | None = None) -> Row:
    config = "resshift/pixel"
    return Row(name, label, config, "resshift", (), _DEGRADED, control="control", data=data)


def _control(name: str, label: str, data: str | None = None) -> Row:
    return Row(name, label, "control", "control", (), _DEGRADED, data=data)


def tables(run_of: Callable[[str], Path]) -> dict[str, Table]:
    """Gaps to the ceiling, bits by scale, and robustness.

    Args:
        run_of: Gives the folder of a row's run by the row's name.
    """
    below = gaps(run_of)
    limited = below["bicubic"]["below"] < 0
    ceiling = "Gap to the tokenizer's round trip of HR, PSNR-Y, dB"
    return {
        f"{ceiling} (tokenizer-limited: it is below bicubic)" if limited else ceiling: below,
        "Right bits by scale, of what the scales before left out of HR": bits(run_of),
        "PSNR-Y of what is decoded after each scale, dB": decoded(run_of),
        "Robustness: gain of PSNR-Y over bicubic of the same LR": robustness(run_of),
        "The same gain, dB, at five strengths of degradation (training has the third)": strengths(
            run_of
        ),
    }


def gaps(run_of: Callable[[str], Path]) -> Table:
    """How far each row is below the ceiling."""
    listed = {row.name: row.label for row in NSARM.rows if row.data is None}
    means = {name: _mean(_psnr(run_of(name))) for name in listed}
    ceiling = means.pop(_CEILING)
    return {listed[name]: {"below": ceiling - mean} for name, mean in means.items()}


def bits(run_of: Callable[[str], Path]) -> Table:
    """Share of the right bits of each scale; scales of which nothing is said are left out."""
    return {
        label: _of_scales(run_of(name) / "samples" / "scales-test.json", "bit_accuracy")
        for name, label in _IN_BITS.items()
    }


def decoded(run_of: Callable[[str], Path]) -> Table:
    """PSNR-Y of what is decoded after each scale; stages without the others say nothing more."""
    return {
        label: _of_scales(run_of(name) / "samples" / "scales-test.json", "psnr")
        for name, label in _IN_BITS.items()
    }


def facts(trained: Callable[[str], Path]) -> dict[str, float | str]:
    """How much of HR the tokenizer's own bits say, scale by scale."""
    found = sorted((trained("tokenizer") / "samples").glob("scales-val-*.json"))
    if not found:  # rows were asked for that need none
        return {}
    path = found[-1]
    said = ", ".join(f"{value:.1f}" for value in _of_scales(path, "psnr").values())
    return {"The tokenizer's bits of HR, decoded after each scale, validation, PSNR-Y, dB": said}


def _of_scales(path: Path, key: str) -> dict[str, float]:
    # The mean over the images of all sets, of each scale that says something.
    sets = json.loads(path.read_text(encoding="utf-8")).values()
    images = sum(each["images"] for each in sets)
    return {
        "x".join(map(str, parts[0]["size"])): sum(
            scale[key] * each["images"] / images for scale, each in zip(parts, sets, strict=True)
        )
        for parts in zip(*(each["scales"] for each in sets), strict=True)
        if parts[0]["bits"]
    }


def robustness(run_of: Callable[[str], Path]) -> Table:
    """Over images: mean and variance of the gain, and how many are below the two thresholds."""
    found: Table = {}
    for name, label in _ROBUST.items():
        gains = _gains(run_of, name)
        found[label] = {
            "images": len(gains),
            "mean, dB": statistics.fmean(gains),
            "variance, dB^2": statistics.variance(gains),
            f"poor (below {POOR:g} dB)": sum(gain < POOR for gain in gains),
            f"collapsed (below {COLLAPSED:g} dB)": sum(gain < COLLAPSED for gain in gains),
        }
    return found


def strengths(run_of: Callable[[str], Path]) -> Table:
    """The mean gain at each strength."""
    found: Table = {}
    reference = run_of(f"{BICUBIC}_strengths")
    datasets = sorted({numbers["dataset"] for numbers in load_images(reference)})
    for name, label in _ROBUST.items():
        run = run_of(f"{name}_strengths")
        found[label] = {
            str(n): _mean(_psnr(run, dataset)) - _mean(_psnr(reference, dataset))
            for n, dataset in enumerate(datasets, 1)
        }
    return found


def strips(run_of: Callable[[str], Path], trained: Callable[[str], Path]) -> dict[str, Path]:
    """What is decoded after each scale: of the tokenizer, and of NSARM."""
    said = sorted((trained("tokenizer") / "samples").glob("scales-val-*.png"))
    return {
        "The tokenizer's bits of HR, decoded after each scale (validation)": said[-1],
        "NSARM's outputs, decoded after each scale (test)": run_of("nsarm")
        / "samples"
        / "scales-test.png",
    }


def _gains(run_of: Callable[[str], Path], name: str) -> list[float]:
    reference, own = _psnr(run_of(BICUBIC)), _psnr(run_of(name))
    return [own[key] - reference[key] for key in reference]


def _psnr(run: Path, dataset: str | None = None) -> dict[str, float]:
    # Of each image, the mean over seeds.
    values: dict[str, list[float]] = {}
    for numbers in load_images(run):
        if numbers["metric"] == "psnr" and dataset in (None, numbers["dataset"]):
            for key, value in numbers["values"].items():
                values.setdefault(key, []).append(value)
    return {key: statistics.fmean(found) for key, found in values.items()}


def _mean(values: dict[str, float]) -> float:
    return statistics.fmean(values.values())


NSARM = Method(
    trainings=(
        Training("tokenizer", (), _LAST),
        Training("latents", ("tokenizer",), (*_SPACE, *_ENCODED), verb="encode"),
        Training("base", ("latents",), _READS),
        Training("stage1", ("latents",), _READS),
        Training("stage2", ("latents", "base", "stage1"), (*_READS, *_STARTS)),
        Training(
            *("whole", ("latents", "base", "stage1"), (*_READS, *_STARTS, *_WHOLE)),
            config="nsarm/stage2",
        ),
        Training("control"),
        Training("resshift", (), (*_PICTURES, *_EIGHT, *_LAST), config="resshift/pixel"),
    ),
    rows=(
        _round_trip(_CEILING, "tokenizer of HR, the ceiling", "hr"),
        Row(
            *(BICUBIC, "bicubic", None, None, ()),
            ("--model", "configs/model/bicubic.yaml", *_DEGRADED),
        ),
        _round_trip("floor", "tokenizer of bicubic", "bicubic"),
        _control("control", "regression"),
        _resshift("resshift", "ResShift, 15 steps"),
        Row(
            *("stage1", "stage 1 alone, decoded", "stage1", "stage1", ("tokenizer",)),
            (*_SPACE, *_DEGRADED),
            control="floor",
        ),
        Row(
            *("frozen", "stage 1, base as it was", "stage2", None, ("tokenizer", "base", "stage1")),
            (*_SPACE, *_STARTS, *_DEGRADED),
            control="stage1",
        ),
        _nsarm("nsarm", "NSARM"),
        _nsarm("whole", "NSARM, mapper trained too", *_WHOLE, weights="whole"),
        _nsarm("greedy", "NSARM, greedy", "--model.init_args.bits.tau", "0"),
        _nsarm("colors", "NSARM, colours of LR", *_COLORS),
        Row(
            *("bicubic_strengths", "bicubic", None, None, ()),
            ("--model", "configs/model/bicubic.yaml"),
            data=_STRENGTHS,
        ),
        _control("control_strengths", "regression", _STRENGTHS),
        _resshift("resshift_strengths", "ResShift", _STRENGTHS),
        _nsarm("nsarm_strengths", "NSARM", data=_STRENGTHS),
        _nsarm("colors_strengths", "NSARM, colours of LR", *_COLORS, data=_STRENGTHS),
    ),
    claims=(
        Claim(_HEADLINE, "nsarm", "resshift", (SPREAD,)),
        Claim("and so they do with the colours of LR", "colors", "resshift", (SPREAD,)),
        Claim("the ceiling is above bicubic", _CEILING, BICUBIC, ("psnr",)),
        Claim("the later scales bring what stage 1 lacks", "nsarm", "stage1", _JUDGED),
        Claim("fine-tuning beats the base as it was", "nsarm", "frozen", _JUDGED),
        Claim("training the mapper too beats leaving it", "whole", "nsarm", _JUDGED),
        Claim("NSARM looks more natural than a regression", "nsarm", "control", ("swd",)),
        Claim("and than ResShift", "nsarm", "resshift", ("swd",)),
        Claim("which costs PSNR", "control", "nsarm", ("psnr",)),
        Claim(
            "drawing bits looks more natural than the likelier ones", "nsarm", "greedy", ("swd",)
        ),
    ),
    headline=_HEADLINE,
    data="configs/data/nsarm_mini.yaml",
    side=64,
    tables=tables,
    strips=strips,
    facts=facts,
    metrics="configs/callbacks/mini_bits.yaml",
    shown=(_CEILING, BICUBIC, "control", "resshift", "stage1", "frozen", "nsarm"),
    shown_scales=(4.0,),
    pictures=("set14/img_012/0", "set14/img_014/0", "kodak/kodim05/0", "kodak/kodim23/0"),
    note="No method in the tokenizer's bits can be better than its round trip of HR. Outputs keep "
    "the tokenizer's colours but in the row that says so. Each network was trained once: the seeds "
    "are those of sampling.",
)
