"""The names of all commands of ``main.py``, with a line each; imports nothing."""

from __future__ import annotations

BY_GROUP = {
    "run": {
        "fit": "Train a model; the same command again continues the run.",
        "validate": "Measure the run's best weights on the validation images.",
        "test": "Measure the run's best weights on the test images.",
        "predict": "Enlarge a folder of images with the run's best weights.",
        "check": "Do what fit does up to its first step, on all processes, and print a summary.",
        "throughput": "Measure the seconds of each part of a batch, and name the largest.",
    },
    "look": {
        "list": "List methods, networks, degradations, datasets, metrics, experiments or weights.",
        "report": "Write the page of one or several runs.",
        "compare": "Tell which differences between runs are more than chance.",
        "preview": "Show what a degradation does to an image.",
        "app": "Enlarge photographs in the browser: app RUN.",
        "doctor": "Report what works on this machine and what does not, with the fix.",
    },
    "data": {
        "pack": "Pack images into WebDataset tars.",
        "encode": "Write latents of the training images into shards, so that fit need not encode.",
        "freeze": "Write degraded images into files, for other programs.",
        "weights": "List published weights, and download them.",
    },
    "share": {
        "export": "Write the best weights of a run for other programs: export RUN.",
    },
}
# Modules with a `main(arguments)`; `python -m MODULE` is the same.
TOOLS = {
    "app": "commands.app",
    "list": "commands.listing",
    "report": "callbacks.report.__main__",
    "compare": "callbacks.results.compare",
    "preview": "degradations.tools.preview",
    "pack": "datamodules.pack.__main__",
    "freeze": "degradations.tools.freeze",
    "weights": "callbacks.weights",
}


def overview() -> str:
    """Return the help of ``main.py``: all commands, in groups."""
    lines = ["usage: main.py COMMAND ...", "", "Train, compare and run image super-resolution."]
    for group, commands in BY_GROUP.items():
        lines += ["", f"{group}:", *(f"  {name:<11} {about}" for name, about in commands.items())]
    lines += [
        "",
        "main.py COMMAND --help explains a command. Most take --config FILE.yaml; main.py list",
        "experiments names files to start from.",
    ]
    return "\n".join(lines) + "\n"
