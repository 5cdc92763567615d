"""Blur: each image convolved with a kernel of its own.

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

from degradations import kernels
from degradations.base import Stage, check_probability, check_range
from degradations.canvas import Canvas
from degradations.compose import check_probabilities
from degradations.convolve import convolve, convolve_canvas, prepared
from degradations.draws import Draws
from degradations.params import Params
from files.paths import expand_path, open_regular, read_bytes

#: Below this size a sinc's cut-off is drawn from [pi/3, pi], from it upwards from [pi/5, pi].
LARGE_SINC = 13


class KernelStage(Stage):
    """A stage that convolves each image with a kernel of its own: `draw` and `psf` are to write."""

    @abstractmethod
    def psf(self, params: Params) -> Tensor:
        """(B, K, K), K odd, each with sum 1: the picture of a bright point, of drawn parameters."""

    def prepare(self, params: Params) -> Params:
        """All kernels of the batch, and how far each of them reaches."""
        if "convolution" in params:
            return params
        return {**params, "convolution": prepared(self.psf(params))}

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """(B, C, H, W), each image with its own kernel; borders are mirrored."""
        return convolve(x, self.prepare(params)["convolution"])

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """All pictures by one convolution, at whatever their kernels' radius."""
        return convolve_canvas(canvas, self.prepare(params)["convolution"])


class Blur(KernelStage):
    """Blur with a kernel from six families, or sometimes with a ringing low pass (sinc).

    Of every family there is a round and an elongated form, the latter turned by any angle. In the
    generalised families the shape parameter beta is drawn below 1 and above 1 equally often.

    Args:
        kernel_size: Range of the kernels' side in pixels; odd, both ends included.
        families: Probabilities of the Gaussian, generalised Gaussian and plateau kernels, round
            and elongated each: [Gaussian round, elongated, generalised round, elongated, plateau
            round, elongated].
        sigma: Range of the standard deviations in pixels, along both axes.
        beta_generalized: Range of beta of the generalised Gaussian, around 1 (the Gaussian); lower
            is pointed, higher is flat with sharp edges.
        beta_plateau: Range of beta of the plateau, around 1; higher has sharper edges.
        sinc: Probability of a sinc kernel instead, of cut-offs from [pi/3, pi] for sides below 13
            pixels and from [pi/5, pi] for larger ones.

    Raises:
        ValueError: A range is reversed or impossible, a size even, or the probabilities are none.

    Source: Real-ESRGAN (Wang et al., 2021; arXiv 2107.10833) and the draws of its released code's
    data set; sigma is (0.2, 1.5) for its second blur.
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
        """(B,) each: sizes, family (0 to 5), sigmas, rotation in radians, beta; sinc and cut-off.

        What an image's family does not use is written as what it amounts to: a round kernel's
        second sigma is its first and its rotation 0, a Gaussian's beta is 1.
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
        """(B, K, K), K the largest size of the range."""
        n = self.kernel_size[1] // 2
        squared = kernels.squared_distance(
            params["sigma_x"], params["sigma_y"], params["rotation"], n
        )
        bell = kernels.bell(squared, params["beta"], params["family"] >= 4)
        if self.sinc > 0:
            bell = torch.where(
                params["sinc"].view(-1, 1, 1), kernels.sinc(params["cutoff"], n), bell
            )
        return kernels.normalized(bell, params["kernel_size"])


class Sinc(KernelStage):
    """Filter with an ideal low pass, which rings and overshoots at edges as sharpened files do.

    Args:
        kernel_size: Range of the kernels' side in pixels; odd, both ends included.
        cutoff: Range of the angular cut-off frequency in radians a pixel, up to pi.

    Raises:
        ValueError: A range is reversed or impossible, or a size even.

    Source: Real-ESRGAN (Wang et al., 2021; arXiv 2107.10833), the draws of its released code's
    final sinc filter (which it applies with probability 0.8: `Sometimes` does that).
    """

    def __init__(
        self,
        kernel_size: tuple[int, int] = (7, 21),
        cutoff: tuple[float, float] = (math.pi / 3, math.pi),
    ) -> None:
        super().__init__()
        self.kernel_size = check_sizes(kernel_size)
        # A sliver above pi, for those who write 3.1416.
        self.cutoff = check_range(cutoff, "cutoff", low=1e-2, high=3.142)

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """`kernel_size` and `cutoff`, (B,) each."""
        size = _draw_sizes(draws, self.kernel_size)
        return {"kernel_size": size, "cutoff": draws.uniform(*self.cutoff)}

    def psf(self, params: Params) -> Tensor:
        """(B, K, K), K the largest size of the range."""
        wide = kernels.sinc(params["cutoff"], self.kernel_size[1] // 2)
        return kernels.normalized(wide, params["kernel_size"])


class MotionBlur(KernelStage):
    """Blur along a straight line, as a camera that moves during the exposure does.

    Args:
        length: Range of the line's length in pixels; 0 leaves the image as it is.
        angle: Range of its angle in degrees, counter-clockwise.
        direction: Range of where the light is, within [-1, 1]: 0 spreads it evenly, 1 puts the
            weight to the end at `angle`, -1 to the other.

    Raises:
        ValueError: A range is reversed or impossible.

    Source: parameters as in kornia's RandomMotionBlur; the kernel is ours, for lines of any length
    (`degradations.kernels.motion` says why).
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
        """`length`, `angle` and `direction`, (B,) each."""
        return {
            "length": draws.uniform(*self.length),
            "angle": draws.uniform(*self.angle),
            "direction": draws.uniform(*self.direction),
        }

    def psf(self, params: Params) -> Tensor:
        """(B, K, K), K for the longest line."""
        extent = math.ceil(self.length[1] / 2) + 1
        line = kernels.motion(params["length"], params["angle"], params["direction"], extent)
        return kernels.normalized(line)


class DefocusBlur(KernelStage):
    """Blur with a disk, as an ideal lens out of focus does.

    Args:
        radius: Range of the disk's radius in pixels, above 0; below 0.5 nothing changes.

    Raises:
        ValueError: The range is reversed or reaches 0.

    Source: geometric optics. Each pixel of the kernel is the share of it that the disk covers, so
    radii are continuous.
    """

    def __init__(self, radius: tuple[float, float] = (0.5, 5.0)) -> None:
        super().__init__()
        self.radius = check_range(radius, "radius", low=1e-3)

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """`radius`, (B,)."""
        return {"radius": draws.uniform(*self.radius)}

    def psf(self, params: Params) -> Tensor:
        """(B, K, K), K for the widest disk."""
        return kernels.normalized(
            kernels.disk(params["radius"], math.ceil(self.radius[1] - 0.5) or 1)
        )


class MeasuredPSF(KernelStage):
    """Blur with a kernel that was measured, each image with one from a folder.

    The files are read once, when the stage is made; each is divided by its sum. What is recorded
    is the file's number in alphabetical order, so to replay needs the same folder.

    Args:
        folder: A folder of kernels, one a file: grey .png of 8 or 16 bits, or .npy of two
            dimensions; both sides odd. May hold environment variables.

    Raises:
        FileNotFoundError: There is no such folder, or no kernel in it.
        ValueError: A file cannot be read, or holds no kernel; the message names it.
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
        """`which`, (B,): the number of the file, in alphabetical order."""
        return {"which": draws.integers(0, len(self._psfs))}

    def psf(self, params: Params) -> Tensor:
        """(B, K, K), K the largest side of all files."""
        which = params["which"]
        if which.device not in self._there:  # a copy to the device only once
            self._there[which.device] = self._psfs.to(which.device)
        return self._there[which.device].index_select(0, which)

    def __getstate__(self) -> dict[str, object]:
        """Without the copies on devices."""
        return {**self.__dict__, "_there": {}}


def check_sizes(sizes: tuple[int, int], name: str = "kernel_size") -> tuple[int, int]:
    """A range of kernels' sides, checked.

    Raises:
        ValueError: it is reversed, or an end is even or below 1.
    """
    expected = f"{name} is {list(sizes)}; expected [smallest, largest], both odd, such as [7, 21]"
    if len(sizes) != 2 or any(size != int(size) or size < 1 or size % 2 == 0 for size in sizes):
        raise ValueError(f"{expected} (a kernel needs a middle)")
    if sizes[0] > sizes[1]:
        raise ValueError(f"{expected}: it is reversed")
    return int(sizes[0]), int(sizes[1])


def _draw_sizes(draws: Draws, sizes: tuple[int, int]) -> npt.NDArray[np.int64]:
    return 2 * draws.integers(sizes[0] // 2, sizes[1] // 2 + 1) + 1


def _check_beta(values: tuple[float, float], name: str) -> tuple[float, float]:
    low, high = check_range(values, name, low=1e-2, high=100.0)
    if not low <= 1.0 <= high:
        raise ValueError(
            f"{name} is {[low, high]}; expected a range that holds 1: beta is drawn from below 1 "
            "and from above 1 equally often ([1, 2] gives 1 itself half of the time)"
        )
    return low, high


def _psf_files(folder: str) -> list[Path]:
    root = Path(expand_path(folder, "folder"))
    if not root.is_dir():
        raise FileNotFoundError(f"folder is {folder!r}; there is no such folder of kernels")
    paths = sorted(path for path in root.iterdir() if path.suffix.lower() in (".png", ".npy"))
    if not paths:
        raise FileNotFoundError(f"folder is {folder!r}; it holds no kernel (.png or .npy)")
    return paths


def _read_psf(path: Path) -> npt.NDArray[np.float64]:
    """The kernel of a file, divided by its sum.

    Raises:
        ValueError: naming the file.
    """
    values = _read_npy(path) if path.suffix.lower() == ".npy" else _read_png(path)
    if values.ndim != 2 or any(side % 2 == 0 for side in values.shape):
        raise ValueError(
            f"{path} has the shape {values.shape}; expected two dimensions, both odd: a kernel "
            "needs a middle (crop or pad it)"
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

    # Through memory: OpenCV would not open a path that is not ASCII on every system.
    data = np.frombuffer(read_bytes(path), np.uint8)
    values = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if values is None:
        raise ValueError(f"{path} cannot be read as a kernel: it is no PNG")
    if values.ndim == 3:
        if (values != values[..., :1]).any():
            raise ValueError(f"{path} is in colour; expected a grey picture of a kernel")
        values = values[..., 0]
    return values
