"""Self-Cascade's miniature: what is trained, sampled, compared and claimed.

A base of 16 px makes 32 px, of one class whose pictures show at once what is there twice. The
paper's claims that can be asked at this size: that the cascade beats direct sampling without any
training, that tuning brings details and what is made closer to the base's own samples, and that
other ways to train need more steps for that.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.miniature_generators import Generators
from benchmarks.miniature_spec import Claim, Row, Training

_BASE = ("--model.init_args.denoiser_weights", "{base}")
# DDIM of 50 steps loses a quarter of the finest detail of 16 px, and the base would not pass.
_SAMPLED = (*_BASE, "--model.init_args.sampler.solver", "dpm_solver_2m")
_SR = ("--model.init_args.upscaler_weights", "{sr}")
_NO_NETWORK = (
    *("--model.init_args.upscaler", "lightning_modules.bicubic.Bicubic"),
    *("--model.init_args.upscaler_weights", "null"),
)
_LAST = ("--checkpoint.keep_best", "0")  # validation is on the pictures of the table
# Steps in 320 CPU seconds without validations: a step takes 0.474, 0.507, 0.388 and 0.402 on an AMD
# EPYC, the mean of 11 in turn in one process. benchmarks.miniature_rates measures whole trainings.
_TUNING = {"tuned": 675, "finetune": 631, "lora_r4": 825, "lora_r32": 796}
_PATCHES = ("swd", "swd_2", "kid_base", "repetition")


def _tuned(name: str) -> Training:
    # Four validations take no more than a fifth of the time: few samples, of few steps.
    steps = _TUNING[name]
    checked = (
        *("--trainer.val_check_interval", str(steps // 4), "--trainer.limit_val_batches", "2"),
        *("--model.init_args.sampler.steps", "20"),
        *_LAST,
    )
    return Training(name, ("base",), (*_SAMPLED, *checked), steps=steps)


def _row(name: str, label: str, weights: str | None = None) -> Row:
    return Row(name, label, name, weights, ("base",), _SAMPLED, control=name)


SELF_CASCADE = Generators(
    trainings=(
        Training("base", (), _LAST, config="diffusion/automobiles", steps=7000),
        Training(
            "samples",
            ("base",),
            (
                *(*_SAMPLED, "--data.init_args.scale", "1"),
                *("--data.init_args.predict", "datamodules.prompts.Seeds"),
                *("--data.init_args.predict.init_args.count", "500"),
                *("--data.init_args.predict.init_args.size", "16", "--seed_everything", "1000"),
            ),
            verb="predict",
            config="direct",
        ),
        _tuned("finetune"),
        _tuned("lora_r4"),
        _tuned("lora_r32"),
        _tuned("tuned"),
        Training("sr"),
    ),
    rows=(
        replace(
            _row("bicubic", "base's sample, bicubic"),
            config="sd_sr",
            options=(*_SAMPLED, *_NO_NETWORK),
        ),
        _row("direct", "Direct"),
        _row("attn_sf", "Attn-SF"),
        _row("scalecrafter", "ScaleCrafter"),
        _row("tf", "Self-Cascade, tuning-free"),
        _row("finetune", "full fine-tuning", "finetune"),
        _row("lora_r4", "LoRA, rank 4", "lora_r4"),
        _row("lora_r32", "LoRA, rank 32", "lora_r32"),
        replace(_row("sd_sr", "base and x2 net"), needs=("base", "sr"), options=(*_SAMPLED, *_SR)),
        _row("tuned", "Self-Cascade, tuned", "tuned"),
    ),
    claims=(
        Claim("without training the cascade beats direct sampling", "tf", "direct", _PATCHES),
        Claim("and ScaleCrafter", "tf", "scalecrafter", _PATCHES),
        Claim("tuning brings detail, and samples closer to the base's", "tuned", "tf", _PATCHES),
        Claim("but no closer to real pictures as a whole", "tf", "tuned", ("kid_real",)),
        *(
            Claim(f"in equal time, tuning beats {what}", "tuned", name, ("swd", "kid_base"))
            for name, what in (
                ("finetune", "full fine-tuning"),
                ("lora_r4", "LoRA of rank 4"),
                ("lora_r32", "LoRA of rank 32"),
            )
        ),
        Claim("(ours) the cascade beats enlarging the sample", "tf", "bicubic", ("swd",)),
    ),
    headline="without training the cascade beats direct sampling",
    data="configs/data/automobiles.yaml",
    batches=6,
    metrics="configs/callbacks/mini_generator.yaml",
    always=("base", "samples"),
    curves={
        "finetune": "full fine-tuning",
        "lora_r4": "LoRA, rank 4",
        "lora_r32": "LoRA, rank 32",
        "tuned": "Self-Cascade, tuned",
    },
    note="All that is tuned has about the same CPU time, not the same number of steps: the "
    "upsamplers have few parameters, and in a network this narrow they cost as much as it does, so "
    "seconds say nothing of real widths. Samples are of 50 steps of DPM-Solver++ (2M): those of "
    "DDIM, the paper's solver, lack detail in a base this small. Curves are of 100 samples of 20 "
    "of its steps. Enlarged samples of the base are near its other samples by what they are, and "
    "so is the net behind it: the paper leaves that number out, too. Each network was trained "
    "once: the seeds are those of sampling.",
)
