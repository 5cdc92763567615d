"""The names of all commands of ``main.py``, with a line each; imports nothing."""

from __future__ import annotations

BY_GROUP = {
    "run": {
        "fit": "Train a model; the same command again continues the run.",
        "validate": "Measure the run's best weights on the validation images.",
        "test": "Measure the run's best weights on the test images.",
        "predict": "Enlarge images and videos with a released model, or the run's best weights.",
        "check": "Tell what this machine has, or what a configuration lacks; try its first step.",
    },
    "look": {
        "list": "List methods, networks, degradations, datasets, metrics, experiments or weights.",
        "compare": "Tell which differences between runs, or folders, are more than chance.",
        "measure": "Measure a folder of images, such as another program's outputs.",
        "preview": "Show what a degradation does to an image.",
        "app": "Enlarge photographs in the browser: app RUN.",
    },
    "data": {
        "pack": "Pack images into WebDataset tars.",
        "prepare": "Turn a downloaded set of images into what configurations read.",
        "encode": "Write latents of the training images into shards, so that fit need not encode.",
        "migrate": "Print a configuration made of an option file of BasicSR or traiNNer-redux.",
        "prompt": "Write the embeddings of one prompt to a file, in place of a text encoder.",
        "weights": "List published weights, and download them.",
    },
    "share": {
        "export": "Write the best weights of a run for other programs: export RUN.",
    },
}
ABOUT = {name: about for group in BY_GROUP.values() for name, about in group.items()}

# Modules with a `main(words)`, which returns the exit status.
TOOLS = {
    "app": "commands.app",
    "list": "commands.arguments.listing",
    "compare": "commands.compare",
    "measure": "commands.measure",
    "preview": "degradations.tools.preview",
    "pack": "datamodules.pack.command",
    "prepare": "commands.prepare",
    "migrate": "commands.migrate",
    "prompt": "lightning_modules.backbone.prompt",
    "weights": "commands.weights",
}
