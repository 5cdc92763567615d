"""Facts about exported weights, and their model card."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import yaml

from callbacks.files import commit
from callbacks.results.files import (
    columns,
    counts_of,
    describe,
    load_results,
    made_by,
    rows_of,
    shown_value,
)
from callbacks.weights import digest_of
from commands.run.weights import EXPORT, manifest
from files.class_path import class_path
from files.paths import expand_path
from files.tensors import read_file, read_metadata
from lightning_modules.base import ImageModel, SuperResolver
from lightning_modules.weights import EXPORTED, sources

if TYPE_CHECKING:
    from commands.export.export import Origin

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
FILES = (".pth", ".pt", ".ckpt", ".safetensors")


class About(TypedDict):
    """Facts about exported weights.

    enlarger: Version of this project.
    commit: Commit of the exporting code; None outside of git.
    model: The model's class path.
    init_args: Its arguments, as configured.
    scale: Scale factor.
    run: Name of the run.
    weights: File name of the weights, and whether they are EMA.
    sha256: SHA-256 of that file; None without a file.
    step: Training steps; None if unknown.
    frozen: Sources of frozen parts that are not among the tensors, by part.
    trained_with: Settings that the weights were trained with and tensors do not show.
    licences: Licences of published weights that the configuration names, by name.
    """

    enlarger: str
    commit: str | None
    model: str
    init_args: dict[str, Any]
    scale: float
    run: str
    weights: str
    sha256: str | None
    step: int | None
    frozen: dict[str, str]
    trained_with: dict[str, Any]
    licences: dict[str, str]


def describe_export(model: ImageModel, origin: Origin) -> About:
    """Return the facts about a model's weights.

    Args:
        model: The model with its weights.
        origin: Where the weights come from.
    """
    arguments = origin.config["model"].get("init_args") or {}
    named = licences(arguments, model.scale)
    if origin.file is not None:
        named |= licences(str(origin.file), model.scale)
    return {
        "enlarger": tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["version"],
        "commit": commit(),
        "model": class_path(type(model)),
        "init_args": arguments,
        "scale": model.scale,
        "run": origin.run.resolve().name,
        "weights": Path(made_by(model) or "").name,
        "sha256": None if origin.file is None else digest_of(origin.file),
        "step": None if origin.file is None else _step(origin.file),
        "frozen": sources(model),
        # The file's own, where it names them: the configuration may be another one.
        "trained_with": {**model.trained_with, **model.loaded_with},
        "licences": named,
    }


def _step(file: Path) -> int | None:
    if file.suffix == ".safetensors":
        step = json.loads(read_metadata(file).get("step", "null"))
    else:
        step = read_file(file).get("global_step") if file.suffix == ".ckpt" else None
    return step if isinstance(step, int) else None


def licences(named: Any, scale: float, seen: frozenset[Path] = frozenset()) -> dict[str, str]:
    """Return the known licences of published weights that arguments name.

    Found by a name in ``configs/weights.yaml``, a file's hash there, an exported file, or a run.

    Args:
        named: Arguments of a model, or any value in them.
        scale: The scale that replaces ``{scale}``.
        seen: Folders of runs already visited.
    """
    found: dict[str, str] = {}
    for text in _strings(named):
        found |= _licences_of(text.replace("{scale}", f"{scale:g}"), scale, seen)
    return found


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def _licences_of(name: str, scale: float, seen: frozenset[Path]) -> dict[str, str]:
    entries = manifest()
    if name in entries:
        return {name: entries[name]["licence"]}
    try:
        path = Path(expand_path(name, "model"))
    except ValueError:  # not a path
        return {}
    if os.path.isfile(path / EXPORT):  # unlike pathlib, os.path accepts a text of any length
        path = path / EXPORT
    if os.path.isfile(path) and path.suffix in FILES:
        return _licences_of_file(path)
    config = path / "config.yaml"
    if not os.path.isfile(config) or path.resolve() in seen:
        return {}
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    model = content.get("model") if isinstance(content, dict) else None
    return licences(model, scale, seen | {path.resolve()})


def _licences_of_file(path: Path) -> dict[str, str]:
    about = read_metadata(path) if path.suffix == ".safetensors" else {}
    if EXPORTED in about:
        return dict(json.loads(about.get("licences", "{}")))
    digest = digest_of(path)
    known = manifest().items()
    return {name: entry["licence"] for name, entry in known if entry["sha256"] == digest}


PYTHON_USE = """

```python
import enlarger

sr = enlarger.load("FOLDER").enlarge(lr)  # Pillow, NumPy or torch
```"""
ONNX_USE = """With ONNX Runtime, and without Enlarger:

```python
import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession("FOLDER/model.onnx")
lr = np.asarray(Image.open("photo.png").convert("RGB"), np.float32) / 255
(sr,) = session.run(None, {"lr": lr.transpose(2, 0, 1)[None]})
Image.fromarray((sr[0].transpose(1, 2, 0) * 255).round().astype(np.uint8)).save("sr.png")
```"""
TRAINING = ("optimizer", "lr_scheduler")  # arguments that do not describe the model


def card(model: ImageModel, about: About, run: Path, files: Sequence[Path]) -> str:
    """Return the text of ``README.md``, in the form of the Hugging Face hub's model cards.

    Args:
        model: The model with its weights.
        about: Facts about the weights.
        run: The run directory, which may hold ``results.json``.
        files: The other files of the folder.
    """
    parts = [
        _head(model),
        f"# {about['run']}",
        _what(model, about),
        _use(model),
        *([ONNX_USE] if any(file.suffix == ".onnx" for file in files) else []),
        "## Files\n\n" + "\n".join(f"- `{file.name}`: {_file(file)}" for file in files),
        _numbers(model, run),
        _origin(about),
    ]
    return "\n\n".join(parts) + "\n"


def _head(model: ImageModel) -> str:
    task = ["pipeline_tag: image-to-image"] if isinstance(model, SuperResolver) else []
    return "\n".join(["---", *task, "tags: [super-resolution, enlarger]", "---"])


def _what(model: ImageModel, about: About) -> str:
    parts = [
        f"`{value['class_path']}`"
        for key, value in about["init_args"].items()
        if key not in TRAINING and isinstance(value, dict) and "class_path" in value
    ]
    count = sum(parameter.numel() for parameter in model.parameters())
    steps = "" if about["step"] is None else f", trained for {about['step']:,} steps"
    return (
        f"x{model.scale:g}: `{about['model']}`"
        f"{' with ' + ', '.join(parts) if parts else ''}, {count:,} parameters{steps}. Made with "
        f"Enlarger {about['enlarger']}."
    )


def _use(model: ImageModel) -> str:
    source = "my/photos"
    if not isinstance(model, SuperResolver):
        source = "datamodules.Seeds --data.predict.count 8 \\\n  --data.predict.size SIDE"
    return (
        "## Use\n\nIn a checkout of Enlarger, where `FOLDER` is this one:\n\n```bash\n"
        f"python main.py predict --config FOLDER/config.yaml \\\n"
        f"  --model.weights FOLDER/{EXPORT} --data.predict {source}\n```"
        f"{PYTHON_USE if isinstance(model, SuperResolver) else ''}"
    )


def _file(path: Path) -> str:
    if path.is_dir():
        return "a network in diffusers' layout, for its `from_pretrained`"
    return {
        EXPORT: "the weights; its metadata holds the facts below, too",
        "config.yaml": "the model's configuration",
        "network.safetensors": "the network alone, for programs that use spandrel",
        "model.onnx": "from `lr`, (batch, 3, height, width) in [0, 1], to `sr`; for ONNX Runtime",
    }[path.name]


def _numbers(model: ImageModel, run: Path) -> str:
    path, own = run / "results.json", Path(made_by(model) or "").name
    results = load_results(path)["results"] if path.is_file() else []
    results = [r for r in results if _is_of(r["checkpoint"] or "", own, model)]
    if not any(r["checkpoint"] != "bicubic" for r in results):
        return "## Numbers\n\nNone: `test` was not run with these weights."
    headings = columns(results)
    names = [heading for heading, _ in headings.values()]
    lines = [_row("", "scale", *names, "n"), _row(*("---" for _ in range(len(names) + 3)))]
    for (dataset, scale, weights), found in rows_of(results).items():
        values = [shown_value(found[c]) if c in found else "-" for c in headings]
        what = f"{dataset}, bicubic" if weights == "bicubic" else dataset
        lines.append(_row(what, f"x{scale:g}", *values, counts_of(found)))
    protocols = "\n".join(f"- {name}: {describe(how)}" for name, how in headings.values())
    return "## Numbers\n\n" + "\n".join(lines) + f"\n\n{protocols}"


def _is_of(checkpoint: str, own: str, model: ImageModel) -> bool:
    """Return whether a result belongs to these weights, wherever they were, or to bicubic."""
    named = Path(checkpoint)
    if named.name != own:
        return checkpoint == "bicubic"
    # Checkpoints of all runs have the same names: an existing file with other content is not meant.
    file = Path((model.weights_source or "").removesuffix(" (EMA)"))
    other = named.parent / file.name
    return not (file.is_file() and other.is_file()) or digest_of(file) == digest_of(other)


def _row(*cells: Any) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _origin(about: About) -> str:
    lines = [f"- weights: {about['weights']}, SHA-256 {about['sha256']}"]
    if about["commit"] is not None:
        lines.append(f"- exported at commit {about['commit']}")
    lines += [f"- not among the weights: {p} from {s}" for p, s in about["frozen"].items()]
    lines += [f"- began with {name}: {licence}" for name, licence in about["licences"].items()]
    if not about["licences"]:
        lines.append("- began with no published weights that Enlarger knows the licence of")
    return "## Where it comes from\n\n" + "\n".join(lines)
