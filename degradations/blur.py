"""Blur stages: each image is convolved with its own kernel.

The kernels are in `degradations.kernels`, the convolutions in `degradations.convolve`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from degradations.base import Stage, check_probability, check_range
from degradations.canvas import Canvas
from degradations.compose import check_probabilities
from degradations.convolve import convolve, convolve_canvas, prepare_kernels
from degradations.draws import Draws
from degradations.kernels import bell, disk, motion, normalized, sinc, squared_distance
from degradations.params import Params
from files.paths import expand_path, open_regular, read_bytes

#: Sinc kernels below this size draw their cut-off from [pi/3, pi], others from [pi/5, pi].
LARGE_SINC = 13


class KernelStage(Stage):
    """A stage that convolves each image with its own kernel; subclasses write `draw` and `psf`."""

    @abstractmethod
    def psf(self, params: Params) -> Tensor:
        """Return the kernels (B, K, K) of drawn parameters, K odd, sum 1: images of a point."""

    def prepare(self, params: Params) -> Params:
        """Compute all kernels of the batch, and their radii."""
        if "convolution" in params:
            return params
        return {**params, "convolution": prepare_kernels(self.psf(params))}

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Convolve (B, C, H, W), each image with its own kernel; borders are mirrored."""
        return convolve(x, self.prepare(params)["convolution"])

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Convolve all images at once, whatever the radii of their kernels."""
        return convolve_canvas(canvas, self.prepare(params)["convolution"])


class Blur(KernelStage):
    """Blur with a kernel of one of six families, or with a ringing low-pass filter (sinc).

    Each family is isotropic or anisotropic, the latter rotated by any angle. The shape parameter
    beta of the generalised families is drawn below 1 and above 1 with equal probability.

    Args:
        kernel_size: Range of the kernel side in pixels; odd, both ends included.
        families: Probabilities of the families: [isotropic Gaussian, anisotropic Gaussian,
            isotropic generalised Gaussian, anisotropic generalised Gaussian, isotropic plateau,
            anisotropic plateau].
        sigma: Range of the standard deviations in pixels, along both axes.
        beta_generalized: Range of beta of the generalised Gaussian, around 1 (the Gaussian); lower
            values are pointed, higher ones flat with sharp edges.
        beta_plateau: Range of beta of the plateau, around 1; higher values have sharper edges.
        sinc: Probability of a sinc kernel instead, with cut-offs from [pi/3, pi] for sides below 13
            pixels and from [pi/5, pi] for larger ones.

    Raises:
        ValueError: A range is reversed or impossible, a size is even, or the probabilities are
            invalid.

    Source: Real-ESRGAN (Wang et al., 2021; arXiv 2107.10833) and the data set of its released code;
    sigma is (0.2, 1.5) in its second blur.
    """

    def __init__(
        self,
        kernel_size: tuple[int, int] = (7, 21),
        families: tuple[float, float, float, float, float, float] = (
            *(0.45, 0.25),
            *(0.12, 0.03),
            *(0.12, 0.03),
        ),
        sigma: tuple[float, float] = (0.2, 3.0),
        beta_generalized: tuple[float, float] = (0.5, 4.0),
        beta_plateau: tuple[float, float] = (1.0, 2.0),
        sinc: float = 0.1,
    ) -> None:
        super().__init__()
        self.kernel_size = check_sizes(kernel_size)
        self.families = check_probabilities(families, 6, "families")
        self.sigma = check_range(sigma, "sigma", low=1e-3)
        self.beta_generalized = _check_beta(beta_generalized, "beta_generalized")
        self.beta_plateau = _check_beta(beta_plateau, "beta_plateau")
        self.sinc = check_probability(sinc, "sinc")

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw (B,) each: size, family (0 to 5), sigmas, rotation in radians, beta; sinc, cut-off.

        Parameters that a family does not use get their neutral values: an isotropic kernel has
        equal sigmas and rotation 0, a Gaussian has beta 1.
        """
        size = _draw_sizes(draws, self.kernel_size)
        is_sinc = draws.bernoulli(self.sinc)
        cutoff = draws.uniform(np.where(size < LARGE_SINC, math.pi / 3, math.pi / 5), math.pi)
        family = draws.choice(np.arange(6), self.families)
        elongated = family % 2 == 1
        sigma_x, sigma_y = draws.uniform(*self.sigma), draws.uniform(*self.sigma)
        rotation = draws.uniform(-math.pi, math.pi)
        pointed, share = draws.bernoulli(0.5), draws.uniform()
        betas = [
            np.where(pointed, low + (1 - low) * share, 1 + (high - 1) * share)
            for low, high in (self.beta_generalized, self.beta_plateau)
        ]
        return {
            "kernel_size": size,
            "family": family,
            "sigma_x": sigma_x,
            "sigma_y": np.where(elongated, sigma_y, sigma_x),
            "rotation": np.where(elongated, rotation, 0.0),
            "beta": np.select([family // 2 == 1, family // 2 == 2], betas, 1.0),
            "sinc": is_sinc,
            "cutoff": cutoff,
        }

    def psf(self, params: Params) -> Tensor:
        """Return (B, K, K), K being the largest size of the range."""
        n = self.kernel_size[1] // 2
        squared = squared_distance(params["sigma_x"], params["sigma_y"], params["rotation"], n)
        kernel = bell(squared, params["beta"], params["family"] >= 4)
        if self.sinc > 0:
            rings = params["sinc"].view(-1, 1, 1)
            kernel = torch.where(rings, sinc(params["cutoff"], n), kernel)
        return normalized(kernel, params["kernel_size"])


class Sinc(KernelStage):
    """Filter with an ideal low pass, which rings and overshoots at edges like sharpened images.

    Args:
        kernel_size: Range of the kernel side in pixels; odd, both ends included.
        cutoff: Range of the angular cut-off frequency in radians per pixel, up to pi.

    Raises:
        ValueError: A range is reversed or impossible, or a size is even.

    Source: Real-ESRGAN (Wang et al., 2021; arXiv 2107.10833), the final sinc filter of its released
    code (which applies it with probability 0.8, as `Sometimes` can).
    """

    def __init__(
        self,
        kernel_size: tuple[int, int] = (7, 21),
        cutoff: tuple[float, float] = (math.pi / 3, math.pi),
    ) -> None:
        super().__init__()
        self.kernel_size = check_sizes(kernel_size)
        # Slightly above pi, so that 3.1416 is valid.
        self.cutoff = check_range(cutoff, "cutoff", low=1e-2, high=3.142)

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `kernel_size` and `cutoff`, (B,) each."""
        size = _draw_sizes(draws, self.kernel_size)
        return {"kernel_size": size, "cutoff": draws.uniform(*self.cutoff)}

    def psf(self, params: Params) -> Tensor:
        """Return (B, K, K), K being the largest size of the range."""
        wide = sinc(params["cutoff"], self.kernel_size[1] // 2)
        return normalized(wide, params["kernel_size"])


class MotionBlur(KernelStage):
    """Blur along a straight line, like a camera that moves during the exposure.

    Args:
        length: Range of the length of the line in pixels; 0 does not change the image.
        angle: Range of its angle in degrees, counter-clockwise.
        direction: Range of the distribution of light, within [-1, 1]: 0 is even, 1 puts the weight
            at the end at `angle`, -1 at the opposite end.

    Raises:
        ValueError: A range is reversed or impossible.

    Source: parameters as in kornia's RandomMotionBlur; the kernel is ours, for lines of any length
    (see `degradations.kernels.motion`).
    """

    def __init__(
        self,
        length: tuple[float, float] = (1.0, 15.0),
        angle: tuple[float, float] = (0.0, 180.0),
        direction: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        super().__init__()
        self.length = check_range(length, "length", low=0.0)
        self.angle = check_range(angle, "angle")
        self.direction = check_range(direction, "direction", low=-1.0, high=1.0)

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `length`, `angle` and `direction`, (B,) each."""
        return {
            "length": draws.uniform(*self.length),
            "angle": draws.uniform(*self.angle),
            "direction": draws.uniform(*self.direction),
        }

    def psf(self, params: Params) -> Tensor:
        """Return (B, K, K), K large enough for the longest line."""
        extent = math.ceil(self.length[1] / 2) + 1
        line = motion(params["length"], params["angle"], params["direction"], extent)
        return normalized(line)


class DefocusBlur(KernelStage):
    """Blur with a disk, like an ideal lens out of focus.

    Args:
        radius: Range of the disk's radius in pixels, above 0; below 0.5 the image does not change.

    Raises:
        ValueError: The range is reversed or reaches 0.

    Source: geometric optics. Each kernel pixel is the share of it that the disk covers, so radii
    are continuous.
    """

    def __init__(self, radius: tuple[float, float] = (0.5, 5.0)) -> None:
        super().__init__()
        self.radius = check_range(radius, "radius", low=1e-3)

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `radius`, (B,)."""
        return {"radius": draws.uniform(*self.radius)}

    def psf(self, params: Params) -> Tensor:
        """Return (B, K, K), K large enough for the widest disk."""
        return normalized(disk(params["radius"], math.ceil(self.radius[1] - 0.5) or 1))


class MeasuredPSF(KernelStage):
    """Blur each image with a measured kernel from a folder.

    The files are read once, when the stage is made; each kernel is divided by its sum. Recorded
    parameters hold the file's number in alphabetical order, so a replay requires the same folder.

    Args:
        folder: A folder with one kernel per file: grey .png of 8 or 16 bits, or two-dimensional
            .npy; both sides odd. May contain environment variables.

    Raises:
        FileNotFoundError: The folder is missing or has no kernels.
        ValueError: A file cannot be read or is not a kernel; the message names it.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder
        psfs = [_read_psf(path) for path in _psf_files(folder)]
        n = max(max(psf.shape) for psf in psfs) // 2
        padded = [np.pad(psf, [(n - side // 2,) * 2 for side in psf.shape]) for psf in psfs]
        self._psfs = torch.from_numpy(np.stack(padded).astype(np.float32))
        self._there: dict[torch.device, Tensor] = {}

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `which`, (B,): the number of the file in alphabetical order."""
        return {"which": draws.integers(0, len(self._psfs))}

    def psf(self, params: Params) -> Tensor:
        """Return (B, K, K), K being the largest side of all files."""
        which = params["which"]
        if which.device not in self._there:  # copied to each device once
            self._there[which.device] = self._psfs.to(which.device)
        return self._there[which.device].index_select(0, which)

    def __getstate__(self) -> dict[str, object]:
        """Drop the copies on devices."""
        return {**self.__dict__, "_there": {}}


def check_sizes(sizes: tuple[int, int], name: str = "kernel_size") -> tuple[int, int]:
    """Check and return a range of kernel sides.

    Raises:
        ValueError: It is reversed, or an end is even or below 1.
    """
    expected = f"{name} is {list(sizes)}; expected [smallest, largest], both odd, such as [7, 21]"
    if len(sizes) != 2 or any(size != int(size) or size < 1 or size % 2 == 0 for size in sizes):
        raise ValueError(f"{expected} (a kernel needs a centre)")
    if sizes[0] > sizes[1]:
        raise ValueError(f"{expected}: it is reversed")
    return int(sizes[0]), int(sizes[1])


def _draw_sizes(draws: Draws, sizes: tuple[int, int]) -> npt.NDArray[np.int64]:
    return 2 * draws.integers(sizes[0] // 2, sizes[1] // 2 + 1) + 1


def _check_beta(values: tuple[float, float], name: str) -> tuple[float, float]:
    low, high = check_range(values, name, low=1e-2, high=100.0)
    if not low <= 1.0 <= high:
        raise ValueError(
            f"{name} is {[low, high]}; expected a range that contains 1: beta is drawn below 1 and "
            "above 1 with equal probability ([1, 2] gives 1 itself half of the time)"
        )
    return low, high


def _psf_files(folder: str) -> list[Path]:
    root = Path(expand_path(folder, "folder"))
    if not root.is_dir():
        raise FileNotFoundError(
            f"folder is {folder!r}, which is not a folder; expected one of kernels"
        )
    paths = sorted(path for path in root.iterdir() if path.suffix.lower() in (".png", ".npy"))
    if not paths:
        raise FileNotFoundError(f"folder is {folder!r}, which contains no kernel (.png or .npy)")
    return paths


def _read_psf(path: Path) -> npt.NDArray[np.float64]:
    """Read the kernel of a file, divided by its sum.

    Raises:
        ValueError: The file is not a kernel; the message names it.
    """
    values = _read_npy(path) if path.suffix.lower() == ".npy" else _read_png(path)
    if values.ndim != 2 or any(side % 2 == 0 for side in values.shape):
        raise ValueError(
            f"{path} has the shape {values.shape}; expected two dimensions, both odd: a kernel "
            "needs a centre (crop or pad it)"
        )
    psf = values.astype(np.float64)
    if not np.isfinite(psf).all() or psf.sum() <= 0:
        raise ValueError(f"{path} sums to {psf.sum():g}; expected finite values of positive sum")
    return psf / psf.sum()


def _read_npy(path: Path) -> npt.NDArray[np.generic]:
    try:
        with open_regular(path) as file:
            values = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as a kernel: {error}") from error
    if values.dtype.kind not in "fiub":
        raise ValueError(f"{path} holds {values.dtype}; expected real numbers")
    return values


def _read_png(path: Path) -> npt.NDArray[np.generic]:
    import cv2

    # Through memory, because OpenCV cannot open non-ASCII paths on every system.
    data = np.frombuffer(read_bytes(path), np.uint8)
    values = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if values is None:
        raise ValueError(f"{path} cannot be read as a kernel: it is not a PNG")
    if values.ndim == 3:
        if (values != values[..., :1]).any():
            raise ValueError(f"{path} is in colour; expected a grey image of a kernel")
        values = values[..., 0]
    return values
