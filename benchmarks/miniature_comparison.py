"""All super-resolvers under one protocol: the same training pictures, degradation and test crops.

Self-Cascade stands apart, for it generates. What NSARM's miniature trained on these pictures is
used as it is; the others are trained again, by the steps of their own miniatures.
"""

from __future__ import annotations

from benchmarks.miniature_nsarm import NSARM
from benchmarks.miniature_spec import BICUBIC, Method, Row, Training, borrowed

_DEGRADED = ("--degradation", "configs/degradation/real_esrgan_light.yaml")
_PHOTOGRAPHS = (
    *("--data.init_args.train", "datamodules.folder.Folder"),
    *("--data.init_args.train.init_args.root", "$ENLARGER_DATA/bsds400"),
)
# A recipe makes LR for one scale; a stage of CasArbi's enlarges by 2.
_ONE_SCALE = (*_PHOTOGRAPHS, *_DEGRADED, "--data.init_args.crops.scales", "null")
_STAGE = (*_ONE_SCALE, "--data.init_args.scale", "2")
_ENCODED = ("--encode.crop", "64", "--encode.crops_per_image", "24", "--encode.flips", "true")
_READS = ("--data.init_args.train.init_args.urls", "{invsr_latents}/*.tar")
_ON_BASE = ("--model.init_args.denoiser_weights", "{invsr_base}")
_ON_LIIF = ("--model.init_args.base_weights", "{liif}")
_ON_ONE_CALL = ("--model.init_args.base_weights", "{liif_x4}")
_FOUR_OF_15 = ("--model.init_args.timesteps", "[14,9,4,0]")
_OF_NSARM = (
    *("--model.init_args.space_weights", "{nsarm/tokenizer}"),
    *("--model.init_args.mapper_weights", "{nsarm/stage1}"),
    *("--model.init_args.transformer_weights", "{nsarm/base}"),
)
_INVSR = "./invsr"  # its file lies beside its folder
_INVSR_NEEDS = ("invsr_base", "invsr_latents")


def _row(
    name: str, label: str, config: str, weights: str, *options: str, needs: tuple[str, ...] = ()
) -> Row:
    return Row(name, label, config, weights, needs, (*options, *_DEGRADED), control="regression")


COMPARISON = Method(
    trainings=(
        *borrowed("nsarm", NSARM),
        Training("liif", (), _STAGE, config="casarbi/base"),
        Training(
            *("liif_x4", (), (*_ONE_SCALE, "--data.init_args.scale", "4")), config="casarbi/base"
        ),
        Training(
            "single",
            ("liif_x4",),
            (*_ON_ONE_CALL, *_ONE_SCALE, "--data.init_args.scale", "4"),
            config="casarbi/single",
        ),
        Training("casarbi", ("liif",), (*_ON_LIIF, *_STAGE), config="casarbi/cascade"),
        Training("taef2", (), (*_PHOTOGRAPHS, *_DEGRADED), config="resshift/taef2"),
        Training(
            "invsr_latents",
            options=(*_ENCODED, "--encode.pairs", "true", *_DEGRADED),
            verb="encode",
            config="invsr/latents",
        ),
        Training("invsr_base", ("invsr_latents",), (*_READS, *_DEGRADED), config="invsr/base"),
        Training(
            *("invsr", ("invsr_latents", "invsr_base"), (*_READS, *_ON_BASE, *_DEGRADED)),
            config=_INVSR,
        ),
    ),
    rows=(
        Row(
            *(BICUBIC, "bicubic", None, None, ()),
            ("--model", "configs/model/bicubic.yaml", *_DEGRADED),
        ),
        Row(
            *("imdn", "IMDN, published, for bicubic LR", None, None, ()),
            ("--model", "configs/model/imdn.yaml", *_DEGRADED),
            control="regression",
        ),
        _row("regression", "regression (EDSR)", "nsarm/control", "nsarm/control"),
        _row("liif_x4", "regression (LIIF), one call", "casarbi/base", "liif_x4"),
        Row(
            *("liif", "CasArbi's base alone, cascaded", "casarbi/cascade", None, ("liif",)),
            (*_ON_LIIF, "--model.init_args.network", "null", *_DEGRADED),
            control="regression",
        ),
        _row("casarbi", "CasArbi", "casarbi/cascade", "casarbi", *_ON_LIIF, needs=("liif",)),
        _row(
            *("single", "single-stage diffusion, CasArbi's network", "casarbi/single", "single"),
            *_ON_ONE_CALL,
            needs=("liif_x4",),
        ),
        _row("resshift", "ResShift, pixels, 15 steps", "resshift/pixel", "nsarm/resshift"),
        _row(
            *("resshift_four", "ResShift, pixels, 4 of 15 steps", "resshift/pixel"),
            *("nsarm/resshift", *_FOUR_OF_15),
        ),
        _row("taef2", "ResShift, latents, 15 steps", "resshift/taef2", "taef2"),
        _row(
            *("taef2_four", "ResShift, latents, 4 of 15 steps", "resshift/taef2", "taef2"),
            *_FOUR_OF_15,
        ),
        _row("invsr", "InvSR, 1 step", _INVSR, "invsr", *_ON_BASE, needs=_INVSR_NEEDS),
        _row(
            *("invsr_three", "InvSR, 3 steps", _INVSR, "invsr", *_ON_BASE),
            *("--model.init_args.sampling.steps", "3"),
            needs=_INVSR_NEEDS,
        ),
        _row(
            *("nsarm", "NSARM", "nsarm/stage2", "nsarm/stage2", *_OF_NSARM),
            needs=("nsarm/tokenizer", "nsarm/base", "nsarm/stage1"),
        ),
    ),
    claims=(),
    data="configs/data/invsr_mini_test.yaml",
    shown=(
        BICUBIC,
        "imdn",
        "regression",
        "liif_x4",
        "casarbi",
        "single",
        "resshift",
        "taef2",
        "invsr",
        "nsarm",
    ),
    shown_scales=(4.0,),
    pictures=("set14/img_003/0", "set14/img_012/0", "kodak/kodim05/0", "kodak/kodim23/0"),
    plane=("niqe", "swd"),
    note="Networks, steps and times differ, as they do in the methods' own miniatures: this says "
    "what each small training gives on one and the same task, not which method is better. Each "
    "network was trained once: the seeds are those of sampling. LPIPS is left out, because its "
    "pretrained weights were not at hand.",
    metrics="configs/callbacks/comparison.yaml",
)
