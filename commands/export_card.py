"""``export``: the model card of an exported folder: contents, use and measured numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from callbacks.results_file import (
    columns,
    counts_of,
    describe,
    load_results,
    made_by,
    rows_of,
    shown_value,
)
from callbacks.weights import digest_of
from commands.weights import EXPORT
from lightning_modules.base import SuperResolver
from lightning_modules.image_model import ImageModel

if TYPE_CHECKING:
    from commands.export_about import About

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
        source = (
            "datamodules.prompts.Seeds --data.init_args.predict.init_args.count 8 \\\n"
            "  --data.init_args.predict.init_args.size SIDE"
        )
    return (
        "## Use\n\nIn a checkout of Enlarger, where `FOLDER` is this one:\n\n```bash\n"
        f"python main.py predict --config FOLDER/config.yaml \\\n"
        f"  --model.init_args.weights FOLDER/{EXPORT} --data.init_args.predict {source}\n```"
    )


def _file(path: Path) -> str:
    if path.is_dir():
        return "a network in diffusers' layout, for its `from_pretrained`"
    return {
        EXPORT: "the weights; its metadata holds the facts below, too",
        "config.yaml": "the model's configuration",
        "model.onnx": "from `lr`, (1, 3, h, w) in [0, 1] of any size, to `sr`; for ONNX Runtime",
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
