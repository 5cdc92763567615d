"""Time and memory of enlarging photographs, beside plain torch and a loop like RealESRGANer's.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.predict --weights realesr-general-x4v3-half.pth

`photographs` enlarges one image of each size, in a process of its own for each row: by `predict`'s
path (which chooses precision and tiles, in strips), by the network on the whole image in float32,
by a loop as RealESRGANer works, whole (its default) and in tiles of 256 with 10 pixels around each,
and by OpenVINO on the whole image in bfloat16 where it is installed (it is no dependency: an
environment of its own will do). Rows go in turns. Seconds are CPU time where one thread computes;
`once_s` is what is measured once a run. `peak_mib` is beside what the process had before; a row
that does not fit into `--memory` has neither. 12 and 24 megapixels are measured if `--sizes` names
them. `folder` enlarges 50 photographs of 128 px, from file to file: by Writer and data module, and
as inference_realesrgan.py does, whose files are OpenCV's. `video` enlarges 40 frames of 320 x 180,
from file to file: by Writer and data module, and by a loop of PyAV and torch alone, in float32 and
bfloat16. Both are CPU seconds of all processes, without loading. Prints JSON, and writes it to
benchmarks/results/predict.json; parts that are not measured stay.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

import enlarger
from benchmarks import report
from benchmarks.memory import peak_mib
from benchmarks.timing import in_turns, seconds
from files.images.decode import from_pillow

SIZES = {"260 x 260": (260, 260), "480 x 320": (320, 480), "2 MP": (1080, 1920)}
LARGE = {"12 MP": (3000, 4000), "24 MP": (4000, 6000)}
ROWS = ("ours", "torch, whole", "RealESRGANer, whole", "RealESRGANer, 256", "OpenVINO, bfloat16")
PARTS = ("photographs", "folder", "video")
FOLDER_ROWS = ("ours", "RealESRGANer and OpenCV")
IMAGES, SIDE = 50, 128  # of the folder
VIDEO_ROWS = ("ours", "torch", "torch, bfloat16")
FRAMES = 40
SCALE = 4
PAD = 10  # LR pixels around a tile, as RealESRGANer's default
TILE = 256
MODEL = "configs/model/realesr_general.yaml"


def photograph(height: int, width: int) -> np.ndarray[Any, Any]:
    """A photograph that comes with the environment, enlarged or cut to a size."""
    from sklearn.datasets import load_sample_image

    image = Image.fromarray(load_sample_image("china.jpg"))
    factor = max(height / image.height, width / image.width, 1)
    if factor > 1:
        image = image.resize((round(image.width * factor), round(image.height * factor)))
    return np.asarray(image)[:height, :width].copy()


def like_realesrganer(network: Any, image: np.ndarray[Any, Any], tile: int) -> Any:
    """Levels of an output: mirror 10 pixels below and right, whole or in tiles, crop, round.

    Args:
        network: In float32.
        image: (h, w, 3) levels.
        tile: Side of the tiles; 0 for the whole image.
    """
    h, w = image.shape[:2]
    lr = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32) / 255)[None]
    lr = torch.nn.functional.pad(lr, (0, PAD, 0, PAD), "reflect")
    sr = network(lr) if not tile else _in_tiles(network, lr, tile)
    sr = sr[..., : SCALE * h, : SCALE * w]
    pixels = sr[0].float().clamp(0, 1).numpy().transpose(1, 2, 0)
    return (pixels * 255).round().astype(np.uint8)


def _in_tiles(network: Any, lr: Tensor, tile: int) -> Tensor:
    h, w = lr.shape[-2:]
    total = lr.new_zeros((1, 3, SCALE * h, SCALE * w))
    for top in range(0, h, tile):
        for left in range(0, w, tile):
            bottom, right = min(top + tile, h), min(left + tile, w)
            above, before = max(top - PAD, 0), max(left - PAD, 0)
            part = lr[..., above : bottom + PAD, before : right + PAD]
            rows = slice(SCALE * (top - above), SCALE * (bottom - above))
            columns = slice(SCALE * (left - before), SCALE * (right - before))
            sr = network(part)[..., rows, columns]
            total[..., SCALE * top : SCALE * bottom, SCALE * left : SCALE * right] = sr
    return total


def levels(model: enlarger.Enlarger, image: np.ndarray[Any, Any]) -> None:
    """Make the levels of an output, as Writer takes them, and forget them."""
    height, width = image.shape[:2]
    size = (SCALE * height, SCALE * width)
    with tempfile.TemporaryDirectory() as folder:
        model.levels(from_pillow(Image.fromarray(image)), size, "png", Path(folder))


def enlarge_once(row: str, size: tuple[int, int], weights: str) -> dict[str, Any]:
    """Seconds and memory of one image, in this process."""
    from commands.process import keep_freed_memory

    is_ours = row == ROWS[0]
    if is_ours:
        keep_freed_memory(predicts=True)  # as main.py does
    model = enlarger.load(MODEL, scale=SCALE, device="cpu", weights=weights)
    network: Any = model.module.network
    image = photograph(*size)
    calls = {
        "ours": lambda: levels(model, image),
        "torch, whole": lambda: network(torch.from_numpy(image).movedim(2, 0)[None] / 255),
        "RealESRGANer, whole": lambda: like_realesrganer(network, image, 0),
        "RealESRGANer, 256": lambda: like_realesrganer(network, image, TILE),
    }
    if row == ROWS[-1]:
        calls[row] = in_openvino(network, image)
    taken: list[float] = []
    with torch.inference_mode():
        first = image[:16, :16]
        once = seconds(lambda: levels(model, first)) if is_ours else 0.0
        try:
            peak = peak_mib(lambda: taken.append(seconds(calls[row])), torch.device("cpu"))
        except (MemoryError, RuntimeError) as error:
            if "can't allocate memory" not in str(error) and not isinstance(error, MemoryError):
                raise
            return {"seconds": None, "peak_mib": None}
    module = model.module
    return {
        "seconds": round(taken[0], 3),
        "peak_mib": peak,
        **({"once_s": round(once, 3), "tiles": module.tile_count} if is_ours else {}),
        **({"bf16": module.uses_bf16} if is_ours else {}),
    }


def in_openvino(network: Any, image: np.ndarray[Any, Any]) -> Callable[[], Any]:
    """Compile a network for OpenVINO; return a call that makes the levels of an output."""
    import openvino

    def lr() -> Tensor:
        return torch.from_numpy(image).movedim(2, 0)[None].float() / 255

    model = openvino.convert_model(network, example_input=lr(), input=list(lr().shape))
    hints = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(model, "CPU", hints)
    return lambda: (compiled(lr().numpy())[0].clip(0, 1) * 255).round().astype(np.uint8)


def predict(module: Any, inputs: str, outputs: str) -> None:
    """Enlarge files by data module and Writer, as the command does."""
    from lightning.pytorch import Trainer

    from callbacks import Writer
    from datamodules import SRDataModule

    data = SRDataModule(SCALE, predict=inputs, workers=2)
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[Writer(outputs)],
        enable_progress_bar=False,
        logger=False,
    )
    trainer.predict(module, data, return_predictions=False)


def write_clip(path: str) -> None:
    """Write a video: a window that moves over a photograph."""
    import av

    image = photograph(400, 600)
    with av.open(path, "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        for number in range(FRAMES):
            window = image[number : number + 180, 3 * number : 3 * number + 320]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(window), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def plain_loop(network: Any, inputs: str, outputs: str) -> None:
    """Decode, enlarge, encode: what one writes without Enlarger."""
    import av

    weight = next(network.parameters())
    with av.open(inputs) as source, av.open(outputs, "w") as target:
        stream: Any = target.add_stream("libx264", rate=25, options={"crf": "18"})
        film = source.streams.video[0]
        stream.width, stream.height = SCALE * film.width, SCALE * film.height
        stream.pix_fmt = "yuv420p"
        for frame in source.decode(film):
            lr = torch.from_numpy(frame.to_ndarray(format="rgb24")).movedim(2, 0)[None] / 255
            sr = network(lr.to(weight.dtype)).float().clamp(0, 1)
            levels = (sr[0] * 255).round().byte().movedim(0, 2).numpy()
            enlarged = av.VideoFrame.from_ndarray(np.ascontiguousarray(levels), "rgb24")
            enlarged.pts, enlarged.time_base = frame.pts, frame.time_base
            target.mux(stream.encode(enlarged))
        target.mux(stream.encode(None))


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    usages = [resource.getrusage(kind) for kind in kinds]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def enlarge_video(row: str, weights: str) -> dict[str, Any]:
    """CPU seconds of one video, in this process."""
    module: Any = enlarger.load(MODEL, scale=SCALE, device="cpu", weights=weights).module
    network = module.network
    if row == "torch, bfloat16":
        network = network.to(torch.bfloat16, memory_format=torch.channels_last)
    with tempfile.TemporaryDirectory() as folder:
        clip = f"{folder}/clip.mp4"
        write_clip(clip)
        if row == "ours":  # what is loaded and measured once
            predict(module, clip, f"{folder}/once")
        begun = cpu_seconds()
        if row == "ours":
            predict(module, clip, f"{folder}/out")
        else:
            with torch.inference_mode():
                plain_loop(network, clip, f"{folder}/out.mp4")
        taken = cpu_seconds() - begun
    return {"seconds": round(taken, 2), "frames_per_cpu_s": round(FRAMES / taken, 2)}


def write_photographs(folder: Path) -> None:
    """Write squares of a photograph."""
    folder.mkdir()
    image = photograph(427, 640)
    for number in range(IMAGES):
        top, left = number * (427 - SIDE) // IMAGES, number * 7 % (640 - SIDE)
        square = image[top : top + SIDE, left : left + SIDE]
        Image.fromarray(square).save(folder / f"{number}.png")


def like_inference_realesrgan(network: Any, inputs: Path, outputs: Path) -> None:
    """Read, enlarge and write each file of a folder, with OpenCV's files."""
    outputs.mkdir()
    for path in sorted(inputs.iterdir()):
        image = np.asarray(cv2.imread(str(path)))[..., ::-1]
        levels = like_realesrganer(network, image, 0)
        cv2.imwrite(str(outputs / path.name), np.ascontiguousarray(levels[..., ::-1]))


def enlarge_folder(row: str, weights: str) -> dict[str, Any]:
    """CPU seconds of a folder, in this process and its workers."""
    cv2.setNumThreads(1)
    module: Any = enlarger.load(MODEL, scale=SCALE, device="cpu", weights=weights).module
    with tempfile.TemporaryDirectory() as place:
        inputs, outputs = Path(place, "in"), Path(place, "out")
        write_photographs(inputs)
        if row == FOLDER_ROWS[0]:  # what is loaded and measured once
            predict(module, f"{inputs}/0.png", f"{place}/once")
        begun = cpu_seconds()
        if row == FOLDER_ROWS[0]:
            predict(module, str(inputs), str(outputs))
        else:
            with torch.inference_mode():
                like_inference_realesrgan(module.network, inputs, outputs)
        taken = cpu_seconds() - begun
    return {"seconds": round(taken, 2), "images_per_cpu_s": round(IMAGES / taken, 2)}


def main() -> None:
    """Measure, print, write."""
    parser = report.parser(__doc__, timed=True)
    parser.add_argument("--weights", required=True, help="realesr-general-x4v3-half.pth")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--parts", nargs="*", default=[*PARTS], choices=PARTS)
    parser.add_argument("--sizes", nargs="*", default=[*SIZES], choices=[*SIZES, *LARGE])
    parser.add_argument("--rows", nargs="*", default=[*ROWS], choices=ROWS)
    parser.add_argument("--memory", type=int, help="most GiB of data in each process")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if find_spec("openvino") is None:
        arguments.rows = [row for row in arguments.rows if row != ROWS[-1]]
    sizes = SIZES | LARGE
    torch.set_num_threads(arguments.threads)
    if arguments.memory:
        limit = arguments.memory << 30
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    if arguments.row:
        if arguments.parts == ["video"]:
            result = enlarge_video(arguments.row, arguments.weights)
        elif arguments.parts == ["folder"]:
            result = enlarge_folder(arguments.row, arguments.weights)
        else:
            size = sizes[arguments.sizes[0]]
            result = enlarge_once(arguments.row, size, arguments.weights)
        sys.stdout.write(json.dumps(result) + "\n")
        return
    path = report.RESULTS / "predict.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    results: dict[str, Any] = document["results"]
    if "photographs" in arguments.parts:
        for name in arguments.sizes:
            words = ["--sizes", name]
            rows = _measured(arguments.rows, words, arguments.turns)
            rows["measured"] = report.provenance(0)
            results["photographs"][name] = rows
            _write(document, path)  # large ones take long
    if "folder" in arguments.parts:
        middle = _measured(FOLDER_ROWS, ["--parts", "folder"], arguments.turns)
        about = {"images": IMAGES, "side": SIDE, "measured": report.provenance(0)}
        results["folder"] = {**about, **middle}
    if "video" in arguments.parts:
        middle = _measured(VIDEO_ROWS, ["--parts", "video"], arguments.turns)
        results["video"] = {"frames": FRAMES, **middle, "measured": report.provenance(0)}
    if set(arguments.parts) == set(PARTS):
        report.write_report("predict", results, seed=0)
    else:  # the command of the other parts stays
        _write(document, path)


def _write(document: dict[str, Any], path: Path) -> None:
    path.write_text(f"{json.dumps(document, indent=2)}\n", encoding="utf-8")


def _measured(rows: Sequence[str], words: list[str], turns: int) -> dict[str, dict[str, Any]]:
    columns = {row: partial(_in_process, row, words) for row in rows}
    return {row: _middle(found) for row, found in in_turns(columns, turns, warm=0).items()}


def _in_process(row: str, choice: list[str], turn: int) -> dict[str, Any]:
    words = [*sys.argv[1:], *choice, "--row", row]
    command = [sys.executable, "-m", "benchmarks.speed.predict", *words]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def _middle(found: list[dict[str, Any]]) -> dict[str, Any]:
    return sorted(found, key=lambda each: each["seconds"] or math.inf)[len(found) // 2]


if __name__ == "__main__":
    main()
