"""What drawn parameters mean: in words with their units, and the ranges they are drawn from.

A stage that is not named here is described by the names of its parameters, and a parameter's range
is taken from the stage's argument of the same name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from torch import Tensor

from degradations.base import Degradation, Stage
from degradations.params import Params

Drawn: TypeAlias = Mapping[str, Any]  # Python numbers, by the parameters' names


class Bounds(NamedTuple):
    """What a parameter may be: from `low` to `high`, and only one of `values` if there are any."""

    low: float
    high: float
    values: tuple[float, ...] = ()


_FAMILIES = (
    "Gaussian, round",
    "Gaussian, elongated",
    "generalised Gaussian, round",
    "generalised Gaussian, elongated",
    "plateau, round",
    "plateau, elongated",
)


def words_of(stage: Stage | None, params: Params) -> list[str]:
    """The parameters of one image in words, e.g. ``["quality 43", "chroma 4:2:0"]``.

    Args:
        stage: What they were drawn for; None for a whole degradation, of which only what it drew
            besides its stages is told.
        params: As drawn, or as applied, for a batch of one image.
    """
    drawn = {name: _number(value) for name, value in own_of(params).items()}
    for cls in type(stage).__mro__:
        if cls.__name__ in _WORDS:
            try:
                return _WORDS[cls.__name__](drawn)
            except (KeyError, IndexError):  # a stage of a user's own, which has that name
                break
    if isinstance(drawn.get("which"), int):
        inner = [name for name, value in params.items() if isinstance(value, dict)]
        if drawn["which"] < len(inner):
            drawn = {**drawn, "which": inner[drawn["which"]]}
    for name, choices in getattr(stage, "choices", {}).items():  # of an adapter, by position
        if name in drawn:
            drawn[name] = choices[drawn[name]]
    return [_plain(name, value) for name, value in drawn.items()]


def name_of(stage: Stage) -> str:
    """The class of a stage, or what it adapts."""
    arguments = ("function", "transform", "augmentation")
    adapted = next((getattr(stage, name) for name in arguments if hasattr(stage, name)), None)
    if adapted is None:
        return type(stage).__name__
    return adapted if isinstance(adapted, str) else type(adapted).__name__


def own_of(params: Params) -> Params:
    """Of what a stage drew, what is its own: one number an image, and no seed of a field."""
    inner = params.get("arguments")  # of the adapters
    own = {**params, **inner} if isinstance(inner, dict) else params
    return {name: value for name, value in own.items() if _is_shown(name, value)}


def _is_shown(name: str, value: Any) -> bool:
    one = not isinstance(value, dict) and np.ndim(value) < 2
    return one and not name.endswith(("seed", "seeds"))


def unit_of(stage: Stage | Degradation, name: str) -> str:
    """What the numbers of a parameter count, or how probable they are; or nothing."""
    p = getattr(stage, _ARGUMENTS.get(name, name), None)
    if isinstance(p, float) and name not in _UNITS:
        return f"p {p:g}"
    if name in ("which", "family") and isinstance(p, tuple | list):
        return "p " + ", ".join(f"{value:.3g}" for value in p)
    return _UNITS.get(name, "")


def bounds_of(
    stage: Stage | Degradation, name: str, hr_size: tuple[int, int] = (1, 1)
) -> Bounds | None:
    """What a parameter may be, or None if that is not known.

    Args:
        stage: Whose parameter it is.
        name: Its name in what the stage draws.
        hr_size: (H, W) of the HR.
    """
    for cls in type(stage).__mro__:
        special = _BOUNDS.get(f"{cls.__name__}.{name}")
        if special is not None:
            return _bounds(special(stage, hr_size))
        if cls.__name__ == "Kornia":
            return _bounds(_arguments(stage, name))
    p = getattr(stage, _ARGUMENTS.get(name, name), None)
    if isinstance(p, float) and 0.0 <= p <= 1.0:
        return _possible((1.0 - p, p))
    if name in ("which", "family") and isinstance(p, tuple | list):
        return _possible(p)
    return _bounds(p)


def _possible(p: Sequence[float]) -> Bounds | None:
    return _bounds([number for number, share in enumerate(p) if share > 0.0])


def _arguments(stage: Any, name: str) -> Any:
    # What an adapter gives to the function of that name.
    if name in stage.choices:
        return list(range(len(stage.choices[name])))
    ranges = {**stage.uniform, **stage.integers}
    return ranges.get(name)


def _bounds(values: Any) -> Bounds | None:
    # A list holds the only values, a tuple of two numbers the ends.
    if isinstance(values, list):
        return Bounds(min(values), max(values), tuple(values))
    numbers = isinstance(values, tuple) and all(isinstance(v, int | float) for v in values)
    return Bounds(float(values[0]), float(values[1])) if numbers and len(values) == 2 else None


def _number(value: Any) -> Any:
    array = value.cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    return array.reshape(-1)[0].item()


def _plain(name: str, value: Any) -> str:
    name = name.replace("_", " ")
    if isinstance(value, bool):
        return f"{name}: {'yes' if value else 'no'}"
    number = f"{value:.3g}" if isinstance(value, float) else str(value)
    unit = _UNITS.get(name, "")
    return f"{name} {number} {unit if unit != name else ''}".strip()


# ------------------------------------------------------------------------------- by stage


def _blur(d: Drawn) -> list[str]:
    size = f"kernel of {d['kernel_size']} px"
    if d["sinc"]:
        return ["sinc filter", size, f"cut-off {d['cutoff']:.2f} rad/px"]
    words = [_FAMILIES[d["family"]], size]
    if d["family"] % 2:
        angle = math.degrees(d["rotation"])
        words.append(f"sigma {d['sigma_x']:.2f} and {d['sigma_y']:.2f} px at {angle:.0f}°")
    else:
        words.append(f"sigma {d['sigma_x']:.2f} px")
    return [*words, f"beta {d['beta']:.2f}"] if d["family"] > 1 else words


def _gaussian_blur(d: Drawn) -> list[str]:
    size = f"kernel of {d['kernel_size']} px"
    if d["isotropic"]:
        return ["Gaussian, round", size, f"sigma {d['sigma']:.2f} px"]
    sigmas = (math.sqrt(d[name]) for name in ("variance_x", "variance_y"))
    angle = math.degrees(d["rotation"])
    return [
        "Gaussian, elongated",
        size,
        "sigma {:.2f} and {:.2f} px".format(*sigmas) + f" at {angle:.0f}°",
    ]


def _resize(d: Drawn) -> list[str]:
    from degradations.resample import MODES

    widened = ", antialiased" if d["antialias"] else ""
    return [f"times {d['factor']:.3g}, {MODES[d['mode']]}{widened}"]


def _to_lr(d: Drawn) -> list[str]:
    from degradations.resample import MODES

    return [f"to the LR's size, {MODES[d['mode']]}{', antialiased' if d['antialias'] else ''}"]


def _jpeg(d: Drawn) -> list[str]:
    from degradations.jpeg import SUBSAMPLINGS

    return [f"quality {d['quality']}, chroma {SUBSAMPLINGS[d['subsampling']]}"]


def _colour(d: Drawn) -> str:
    return "the same in all colours" if d["grey"] else "each colour its own"


_WORDS: dict[str, Callable[[Drawn], list[str]]] = {
    "Blur": _blur,
    "Sinc": lambda d: [f"kernel of {d['kernel_size']} px", f"cut-off {d['cutoff']:.2f} rad/px"],
    "GaussianBlur": _gaussian_blur,
    "SampleGaussian": lambda d: [f"sigma {d['sigma']:.2f} px, then every n-th pixel"],
    "MotionBlur": lambda d: [
        f"line of {d['length']:.1f} px at {d['angle']:.0f}°",
        f"weight towards an end {d['direction']:.2f}",
    ],
    "DefocusBlur": lambda d: [f"disk of radius {d['radius']:.2f} px"],
    "MeasuredPSF": lambda d: [f"kernel number {d['which']} of the folder"],
    "ToLR": _to_lr,
    "Resize": _resize,
    "GaussianNoise": lambda d: [f"sigma {d['levels']:.1f} of 255", _colour(d)],
    "Speckle": lambda d: [f"sigma {d['levels']:.1f} of 255 at white", _colour(d)],
    "PoissonNoise": lambda d: [f"strength {d['strength']:.2f}", _colour(d)],
    "SaltAndPepper": lambda d: [
        f"{d['amount']:.1%} of pixels, {d['salt']:.0%} of them white",
        _colour(d),
    ],
    "Quantization": lambda d: [f"{d['bits']} bits"],
    "Banding": lambda d: [
        f"{'columns' if d['vertical'] else 'rows'} off by sigma {d['levels']:.1f} of 255",
        f"a wave of {d['amplitude']:.1f} of 255, {d['period']:.0f} px long",
    ],
    "ChannelNoise": lambda d: [
        f"sigma {d['level']} of 255",
        ("each colour its own", "the same in all colours", "colours correlated")[d["family"]],
    ],
    "JPEG": _jpeg,
    "PillowJPEG": _jpeg,
    "AVIF": _jpeg,
    "WebP": lambda d: [f"quality {d['quality']}"],
    "H264": lambda d: [f"crf {d['crf']}"],
    "SincAndJPEG": lambda d: [f"JPEG {'last' if d['jpeg_last'] else 'first'}"],
    "Camera": lambda d: [
        f"ISO {d['iso']:.0f}, exposure {d['exposure']:.2f}, {d['bits']} bits",
        f"white balance: red x {d['red_gain']:.2f}, blue x {d['blue_gain']:.2f}",
        f"red at row {d['pattern'] // 2}, column {d['pattern'] % 2} of the filter",
    ],
}

_UNITS = {
    "levels": "of 255",
    "level": "of 255",
    "variance_x": "px squared",
    "variance_y": "px squared",
    "amplitude": "of 255",
    "kernel_size": "px",
    "sigma": "px",
    "sigma_x": "px",
    "sigma_y": "px",
    "length": "px",
    "radius": "px",
    "period": "px",
    "height": "px",
    "width": "px",
    "angle": "degrees",
    "rotation": "rad",
    "phase": "rad",
    "cutoff": "rad/px",
    "bits": "bits",
    "iso": "ISO",
}

# The argument that a parameter is drawn from, where their names differ.
_ARGUMENTS = {
    "levels": "sigma",
    "level": "sigma",
    "sigma_x": "sigma",
    "sigma_y": "sigma",
    "variance_x": "variance",
    "variance_y": "variance",
    "applied": "p",
    "which": "p",
    "family": "p",
}


def _side(axis: int) -> Callable[[Any, tuple[int, int]], Any]:
    def ends(stage: Any, hr_size: tuple[int, int]) -> tuple[float, float]:
        low, high = _factors(stage, hr_size)
        whole = hr_size[axis] / stage.divisor
        return max(1, math.floor(whole * low + 1e-9)), max(1, math.floor(whole * high + 1e-9))

    return ends


def _factors(stage: Any, _: tuple[int, int]) -> tuple[float, float]:
    by = getattr(stage, "by", None)  # BSRGAN's divides instead; halved before, half as much
    if by is not None:
        return 1.0 / by[1], 1.0 / by[0]
    kinds = (stage.up, stage.down, (1.0, 1.0))
    possible = [ends for ends, p in zip(kinds, stage.p, strict=True) if p > 0]
    return min(low for low, _ in possible), max(high for _, high in possible)


def _modes(stage: Any, _: tuple[int, int]) -> list[int]:
    from degradations.resample import MODES

    return [MODES.index(mode) for mode, p in zip(stage.modes, stage.mode_p, strict=True) if p > 0]


def _odd(stage: Any, _: tuple[int, int]) -> list[int]:
    low, high = stage.kernel_size
    return list(range(low, high + 1, 2))


def _betas(stage: Any, _: tuple[int, int]) -> tuple[float, float]:
    ranges = (stage.beta_generalized, stage.beta_plateau, (1.0, 1.0))
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def _subsamplings(stage: Any, _: tuple[int, int]) -> list[int]:
    return [number for number, p in enumerate(stage.subsampling) if p > 0]


def _whole(stage: Any, axis: int, hr_size: tuple[int, int]) -> list[int]:
    return [stage.extent(hr_size)[axis]]


_BOUNDS: dict[str, Callable[[Any, tuple[int, int]], Any]] = {
    "Blur.kernel_size": _odd,
    "Blur.family": lambda stage, _: [n for n, p in enumerate(stage.families) if p > 0],
    "Blur.rotation": lambda stage, _: (-math.pi, math.pi),
    "Blur.cutoff": lambda stage, _: (math.pi / 5, math.pi),
    "Blur.beta": _betas,
    "Sinc.kernel_size": _odd,
    "GaussianBlur.kernel_size": _odd,
    "GaussianBlur.rotation": lambda stage, _: (0.0, math.pi),
    "Resize.factor": _factors,
    "Resize.height": _side(0),
    "Resize.width": _side(1),
    "Resize.mode": _modes,
    "ToLR.height": lambda stage, size: _whole(stage, 0, size),
    "ToLR.width": lambda stage, size: _whole(stage, 1, size),
    "JPEG.subsampling": _subsamplings,
    "PillowJPEG.subsampling": _subsamplings,
    "AVIF.subsampling": _subsamplings,
    "Banding.phase": lambda stage, _: (0.0, 2 * math.pi),
    "Camera.pattern": lambda stage, _: [0, 1, 2, 3],
    "Camera.shot": lambda stage, _: (1e-6 * stage.iso[0], 1e-6 * stage.iso[1]),
    "Camera.exposure": lambda stage, _: (0.2, 1.0),
}
