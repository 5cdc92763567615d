"""``main.py compare``: runs by their numbers, or folders of images by what is measured of them.

python main.py compare runs/a runs/b
python main.py compare outputs/a outputs/b --reference my/hr --input my/lr --scale 4
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

import enlarger
from callbacks.metrics.sets import images_by_name
from callbacks.pages.images import Content, Part, Scene, size_of, write_images_page
from callbacks.results.compare import (
    FEWEST,
    NO_INTERVAL,
    RUN,
    Comparison,
    add_arguments,
    compare_runs,
    mean_interval,
    print_table,
    verdict,
)
from callbacks.results.files import Result
from commands.errors import ConfigurationError
from commands.process import prepare_output

Images = dict[str, Path]
PAGE = "compare.html"


def main(words: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        words: Command-line arguments; those of this process by default.

    Returns:
        0, or 2 if nothing could be compared.

    Raises:
        ConfigurationError: If folders cannot be compared.
    """
    options = _parser().parse_args(words)
    folders = [Path(name) for name in options.runs]
    if not all(folder.is_dir() and not _is_run(folder) for folder in folders):
        return compare_runs(options)
    prepare_output()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # once a measurement
    try:
        _compare_folders(folders, options)
    except (OSError, ValueError) as error:
        raise ConfigurationError(str(error)) from error
    return 0


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("results.json", "config.yaml"))


def _compare_folders(folders: list[Path], options: argparse.Namespace) -> None:
    found = [images_by_name([folder]) for folder in folders]
    hr = images_by_name([options.reference]) if options.reference else {}
    lr = images_by_name([options.input]) if options.input else {}
    all_names = set().union(*found, hr)
    names = sorted(set.intersection(*map(set, found), *([set(hr)] if hr else [])))
    if not names:
        raise ValueError(f"{_listed(folders)} have no image of the same name")
    alone = sorted(all_names - {*names})
    notes = [f"{len(alone)} images are not in all folders: {_some(alone)}"] if alone else []
    for note in notes:
        print(note)
    given = {name: {**found[0], **hr}[name] for name in names}
    for folder, images in zip(folders, found, strict=True):
        _check_sizes(folder, images, given)
    metrics = options.metric or (["psnr", "ssim"] if hr else ["niqe"])
    of_hr = {name: hr[name] for name in names} if hr else None
    measured = [
        enlarger.measure({n: images[n] for n in names}, of_hr, metrics, scale=options.scale)
        for images in found
    ]
    facts = [("images", str(len(names)))]
    for metric in measured[0]:
        values = [f"{label} {each[metric]['value']:.4g}" for label, each in
                  zip(_labels(folders), measured, strict=True)]  # fmt: skip
        facts.append((metric, ", ".join(values)))
    for folder, each in zip(folders[1:], measured[1:], strict=True):
        rows = [_compared(name, measured[0][name], each[name], options) for name in each]
        print_table(str(folders[0]), str(folder), rows)
    content = Content(f"{_listed(folders)}: side by side", facts, notes=notes)
    write_images_page(options.out, _scenes(folders, found, names, hr, lr), content)


def _check_sizes(folder: Path, images: Images, expected: Images) -> None:
    for name, path in expected.items():
        if (own := size_of(images[name])) != (size := size_of(path)):
            raise ValueError(
                f"{images[name]} has {own[1]}x{own[0]} pixels and {path} {size[1]}x{size[0]}: "
                f"images of one name must have one size; leave {name} out of {folder}, or resize it"
            )


def _compared(
    name: str, a: enlarger.Measured, b: enlarger.Measured, options: argparse.Namespace
) -> Comparison:
    first, second = (
        Result(
            dataset="images",
            scale=options.scale,
            metric=name,
            value=each["value"],
            n=each["n"],
            protocol=dict(each["protocol"]),
            checkpoint=None,
            higher_is_better=each["higher_is_better"],
        )
        for each in (a, b)
    )
    differences = np.array([a["images"][key] - b["images"][key] for key in a["images"]])
    if len(differences) < FEWEST or not np.isfinite(differences).all():
        notes = [f"an interval takes finite numbers of {FEWEST} images or more"]
        return Comparison(first, second, None, NO_INTERVAL, notes)
    interval = mean_interval(differences, options.draws, options.seed)
    return Comparison(first, second, interval, verdict(interval, a["higher_is_better"]), [])


def _scenes(
    folders: list[Path], found: list[Images], names: list[str], hr: Images, lr: Images
) -> Iterator[Scene]:
    labels = _labels(folders)
    for name in names:
        parts = [Part("bicubic", lr[name], enlarged=True)] if name in lr else []
        parts += [Part(label, each[name]) for label, each in zip(labels, found, strict=True)]
        yield Scene(name, [*parts, *([Part("HR", hr[name])] if hr else [])])


def _labels(folders: list[Path]) -> list[str]:
    # Their last parts, or as typed where these are equal.
    names = [folder.resolve().name for folder in folders]
    return names if len({*names}) == len(names) else [str(folder) for folder in folders]


def _listed(folders: list[Path]) -> str:
    return ", ".join(_labels(folders))


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="main.py compare",
        description="Compare runs by their numbers on the same images, or folders of images: all "
        "with the first. Folders also give a page with a slider.",
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help=f"{RUN}; or a folder of images")
    add_arguments(parser)
    folders = parser.add_argument_group("of folders")
    folders.add_argument(
        "--reference", metavar="FOLDER", help="the HR images, under the same names"
    )
    folders.add_argument(
        "--input", metavar="FOLDER", help="the LR images, which are shown enlarged by bicubic"
    )
    folders.add_argument(
        "--scale", type=float, default=1, help="factor: the border that PSNR and SSIM leave out"
    )
    folders.add_argument("--out", type=Path, default=Path(PAGE), help=f"the page (default: {PAGE})")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
