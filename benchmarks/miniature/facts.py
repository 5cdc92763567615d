"""Facts, further tables and strips of single methods, which their files in configs/miniature name.

Each function reads the runs of a miniature that is done.
"""

from __future__ import annotations

import io
import json
import statistics
import tarfile
from pathlib import Path

import numpy as np
import yaml

from benchmarks.miniature.chain import CHAINED, FILE, MIXED, START
from benchmarks.miniature.jobs import REPOSITORY
from benchmarks.miniature.spec import BICUBIC, Folders, Table
from callbacks.results.files import load_images
from datamodules.sources.latents import ABOUT
from lightning_modules.backbone.schedule import Schedule

# InvSR
STARTS = (250, 200, 150, 100)
SPACE = "configs/backbone/taef2.yaml"
SAMPLED = 2000  # pairs of latents that the premise is measured on

# ResShift
SHOWN = ("14", "11", "8", "5", "2", "0")  # timesteps
CHAINS = {"pixel": "pixels", "taef2": "latents", "taef2_long": "latents, trained longer"}

# NSARM
POOR, COLLAPSED = -1.0, -3.0  # dB of PSNR-Y against bicubic
ROBUST = {
    "nsarm": "NSARM",
    "colors": "NSARM, colours of LR",
    "resshift": "ResShift",
    "control": "regression",
}
IN_BITS = {
    "stage1": "stage 1 alone",
    "frozen": "stage 1, base as it was",
    "nsarm": "NSARM",
    "whole": "NSARM, mapper trained too",
}
CEILING = "ceiling"


def invsr_premise(folder_of: Folders) -> dict[str, float | str]:
    """Return whether LR latents lie within the noise of a start around HR latents.

    Args:
        folder_of: Returns the folder of a training.
    """
    folder = folder_of("latents")
    if not (folder / ABOUT).is_file():  # not needed by the wanted rows
        return {}
    space = yaml.safe_load((REPOSITORY / SPACE).read_text(encoding="utf-8"))["init_args"]
    deviation = np.array(space["deviation"]).reshape(-1, 1, 1)
    squares: list[float] = []
    for shard in sorted(folder.glob("*.tar")):
        pairs: dict[str, list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]] = {}
        with tarfile.open(shard) as tar:
            for member in tar:
                key, _, kind = member.name.partition(".")
                if kind not in ("latent.npy", "lr_latent.npy"):
                    continue
                content = tar.extractfile(member)
                if content is not None:
                    latent = np.load(io.BytesIO(content.read())).astype(np.float64)
                    pairs.setdefault(key, []).append(latent / deviation)
        squares += [float(np.square(a - b).mean()) for a, b in pairs.values()]
        if len(squares) >= SAMPLED:
            break
    schedule, distance = Schedule(variance="exploding"), float(np.mean(squares) ** 0.5)
    sigmas = {f"Noise at start {t}": schedule.level(t - 1).sigma for t in STARTS}
    holds = distance <= max(sigmas.values())
    return {
        "Root mean square distance of LR's latents to HR's, standardised": distance,
        **sigmas,
        "The method's premise, that this distance lies within the noise of the earliest start": (
            "holds" if holds else "does not hold here, so the rows below are outside of it"
        ),
    }


def resshift_chain(run_of: Folders, _: dict[str, str]) -> dict[str, Table]:
    """Return the errors of the predicted HR along the diffusion.

    Args:
        run_of: Returns the folder of a row's run.
        _: Labels, which are not needed.
    """
    found: Table = {}
    for row, label in CHAINS.items():
        errors = json.loads((run_of(row) / FILE).read_text(encoding="utf-8"))
        for name, what in ((MIXED, "of HR with noise, as in training"), (CHAINED, "of the chain")):
            at = {str(len(errors[name]) - 1 - n): error for n, error in enumerate(errors[name])}
            shown = {f"t = {t}": at[t] for t in SHOWN}
            found[f"{label}, {what}"] = {"enlarged LR": errors[START][0], **shown}
    return {"Mean squared error of HR as it is predicted, in the diffusion's space": found}


def nsarm_tables(run_of: Folders, labels: dict[str, str]) -> dict[str, Table]:
    """Return gaps to the ceiling, bits by scale, and robustness.

    Args:
        run_of: Returns the folder of a row's run.
        labels: Of the rows that the main table lists, by name.
    """
    below = gaps(run_of, labels)
    limited = below["bicubic"]["below"] < 0
    ceiling = "Gap to the tokenizer's round trip of HR, PSNR-Y, dB"
    return {
        f"{ceiling} (tokenizer-limited: it is below bicubic)" if limited else ceiling: below,
        "Right bits by scale, of what the scales before left out of HR": by_scale(
            run_of, "bit_accuracy"
        ),
        "PSNR-Y of what is decoded after each scale, dB": by_scale(run_of, "psnr"),
        "Robustness: gain of PSNR-Y over bicubic of the same LR": robustness(run_of),
        "The same gain, dB, at five strengths of degradation (training has the third)": strengths(
            run_of
        ),
    }


def gaps(run_of: Folders, labels: dict[str, str]) -> Table:
    """How far each row is below the ceiling."""
    means = {name: _mean(_psnr(run_of(name))) for name in labels}
    ceiling = means.pop(CEILING)
    return {labels[name]: {"below": ceiling - mean} for name, mean in means.items()}


def by_scale(run_of: Folders, key: str) -> Table:
    """A number of each scale that has bits of its own."""
    return {
        label: _of_scales(run_of(name) / "samples" / "scales-test.json", key)
        for name, label in IN_BITS.items()
    }


def tokenizer_bits(trained: Folders) -> dict[str, float | str]:
    """How much of HR the tokenizer's own bits say, scale by scale."""
    found = sorted((trained("tokenizer") / "samples").glob("scales-val-*.json"))
    if not found:  # not needed by the wanted rows
        return {}
    path = found[-1]
    said = ", ".join(f"{value:.1f}" for value in _of_scales(path, "psnr").values())
    return {"The tokenizer's bits of HR, decoded after each scale, validation, PSNR-Y, dB": said}


def _of_scales(path: Path, key: str) -> dict[str, float]:
    # The mean over the images of all sets, of each scale that has bits of its own.
    sets = json.loads(path.read_text(encoding="utf-8")).values()
    images = sum(each["images"] for each in sets)
    return {
        "x".join(map(str, parts[0]["size"])): sum(
            scale[key] * each["images"] / images for scale, each in zip(parts, sets, strict=True)
        )
        for parts in zip(*(each["scales"] for each in sets), strict=True)
        if parts[0]["bits"]
    }


def robustness(run_of: Folders) -> Table:
    """Over images: mean and variance of the gain, and how many are below the two thresholds."""
    found: Table = {}
    for name, label in ROBUST.items():
        gains = _gains(run_of, name)
        found[label] = {
            "images": len(gains),
            "mean, dB": statistics.fmean(gains),
            "variance, dB^2": statistics.variance(gains),
            f"poor (below {POOR:g} dB)": sum(gain < POOR for gain in gains),
            f"collapsed (below {COLLAPSED:g} dB)": sum(gain < COLLAPSED for gain in gains),
        }
    return found


def strengths(run_of: Folders) -> Table:
    """The mean gain at each strength."""
    found: Table = {}
    reference = run_of(f"{BICUBIC}_strengths")
    datasets = sorted({numbers["dataset"] for numbers in load_images(reference)})
    for name, label in ROBUST.items():
        run = run_of(f"{name}_strengths")
        found[label] = {
            str(n): _mean(_psnr(run, dataset)) - _mean(_psnr(reference, dataset))
            for n, dataset in enumerate(datasets, 1)
        }
    return found


def nsarm_strips(run_of: Folders, trained: Folders) -> dict[str, Path]:
    """What is decoded after each scale: of the tokenizer, and of NSARM."""
    said = sorted((trained("tokenizer") / "samples").glob("scales-val-*.png"))
    return {
        "The tokenizer's bits of HR, decoded after each scale (validation)": said[-1],
        "NSARM's outputs, decoded after each scale (test)": run_of("nsarm")
        / "samples"
        / "scales-test.png",
    }


def _gains(run_of: Folders, name: str) -> list[float]:
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
