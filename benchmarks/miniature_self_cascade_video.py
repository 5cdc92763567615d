"""Self-Cascade's miniature of clips: a base of 16 px and 8 frames makes 32 px.

The rows that the paper has for video, on windows that pan over photographs.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.miniature_generators import Generators
from benchmarks.miniature_spec import Claim, Row, Training

_BASE = ("--model.init_args.denoiser_weights", "{base}")
_LAST = ("--checkpoint.keep_best", "0")  # validation is on the pictures of the table
# So few that all rows fit into an hour, by a solver that keeps details all the same.
_FEW = (
    *("--model.init_args.sampler.steps", "20"),
    *("--model.init_args.sampler.solver", "dpm_solver_2m"),
)
_TAU = ("--model.init_args.patch.init_args.tau", "8")  # ScaleCrafter's 20 of 50 steps
# Steps in eight CPU minutes: a step takes 1.36, 2.39, 1.39 and 1.38 s on an AMD EPYC, the mean of 4
# in turn in one process. benchmarks.miniature_rates measures whole trainings.
_TUNING = {"tuned": 354, "finetune": 201, "lora_r4": 346, "lora_r32": 349}
_METRICS = ("swd", "swd_2", "kid_base")


def _tuned(name: str) -> Training:
    return Training(
        name,
        ("base",),
        (*_BASE, *_LAST, "--trainer.limit_val_batches", "0"),
        steps=_TUNING[name],
    )


def _row(name: str, label: str, weights: str | None = None) -> Row:
    return Row(name, label, name, weights, ("base",), (*_BASE, *_FEW), control=name)


SELF_CASCADE_VIDEO = Generators(
    trainings=(
        Training("base", (), (*_LAST, "--trainer.limit_val_batches", "0"), steps=1000),
        Training(
            "samples",
            ("base",),
            (
                *(*_BASE, *_FEW, "--data.init_args.scale", "1"),
                *("--data.init_args.predict", "datamodules.prompts.Seeds"),
                *("--data.init_args.predict.init_args.count", "96"),
                *("--data.init_args.predict.init_args.frames", "8"),
                *("--data.init_args.predict.init_args.size", "16", "--seed_everything", "1000"),
            ),
            verb="predict",
            config="direct",
        ),
        *(_tuned(name) for name in _TUNING),
    ),
    rows=(
        _row("direct", "Direct"),
        replace(_row("scalecrafter", "ScaleCrafter"), options=(*_BASE, *_FEW, *_TAU)),
        _row("tf", "Self-Cascade, tuning-free"),
        _row("finetune", "full fine-tuning", "finetune"),
        _row("lora_r4", "LoRA, rank 4", "lora_r4"),
        _row("lora_r32", "LoRA, rank 32", "lora_r32"),
        _row("tuned", "Self-Cascade, tuned", "tuned"),
    ),
    claims=(
        Claim("without training the cascade beats direct sampling", "tf", "direct", _METRICS),
        Claim("and ScaleCrafter", "tf", "scalecrafter", _METRICS),
        Claim("tuning brings detail, and samples closer to the base's", "tuned", "tf", _METRICS),
        *(
            Claim(f"in equal time, tuning beats {what}", "tuned", name, ("swd", "kid_base"))
            for name, what in (
                ("finetune", "full fine-tuning"),
                ("lora_r4", "LoRA of rank 4"),
                ("lora_r32", "LoRA of rank 32"),
            )
        ),
    ),
    headline="without training the cascade beats direct sampling",
    data="configs/data/moving_crops.yaml",
    metrics="configs/callbacks/mini_clips.yaml",
    always=("base", "samples"),
    frames=8,
    note="Sampling has 20 steps of DPM-Solver++ (2M), 14 of them at the larger size, to fit into "
    "an hour. All that is tuned has about the same CPU time. Each network was trained once: the "
    "seeds are those of sampling.",
)
