"""Write the file of a fixed prompt, so that training and sampling need no text encoder.

    ENLARGER_WEIGHTS=my/weights python main.py prompt
    python main.py prompt --model my/sd-turbo --out prompts/invsr.safetensors
    python main.py prompt --prompt 'a photograph' --negative '' --out ..
    python main.py prompt --t5 --model google/flan-t5-xl --prompt .. --out ..

Without --prompt and --negative the texts are InvSR's, without --model the encoder is SD-Turbo's.
Only this command needs transformers.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from files.paths import expand_path
from lightning_modules.backbone.condition import T5, TextEncoder

log = logging.getLogger(__name__)

MODEL = "stabilityai/sd-turbo"
OUT = "$ENLARGER_WEIGHTS/invsr_prompt.safetensors"
# As in InvSR's release, including its missing space; in the paper, the first ends with a full stop.
PROMPT = (
    "Cinematic, high-contrast, photo-realistic, 8k, ultra HD, meticulous detailing, hyper "
    "sharpness, perfect without deformations"
)
NEGATIVE = (
    "Low quality, blurring, jpeg artifacts, deformed, over-smooth, cartoon, noisy,painting, "
    "drawing, sketch, oil painting"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Arguments of the command line; by default those of this process.

    Returns:
        0.

    Raises:
        ValueError: If the file exists, or there is no encoder; ``main.py`` prints its message.
    """
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    texts = {"prompt": options.prompt}
    if not options.t5:  # NSARM and Infinity have "no text" of their own
        texts["negative"] = options.negative
    out = Path(expand_path(options.out, "--out"))
    if out.exists():
        raise ValueError(f"{out} already exists: remove it, or set another --out")
    if options.t5:
        encoder: T5 | TextEncoder = T5(options.model)
        write(out, lambda words: encoder(words).features, texts)
    else:
        encoder = TextEncoder(options.model)
        write(out, encoder, texts)
    log.info("%s: %s, by %s", out, " and ".join(texts), encoder.source)
    return 0


def write(out: Path, encode: Callable[[Sequence[str]], Tensor], texts: dict[str, str]) -> None:
    """Write the features of texts.

    Args:
        out: The file to write; its header keeps the texts.
        encode: From texts to (B, tokens, channels), such as a ``TextEncoder``.
        texts: The ``prompt``, and the ``negative`` prompt of guidance; empty for "no text".
    """
    from safetensors.torch import save_file

    features = {name: encode([text])[0].float().cpu().clone() for name, text in texts.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(features, out, metadata={"texts": json.dumps(texts)})


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="main.py prompt",
        description="Write the embeddings of one prompt and of its negative to a file, for "
        "lightning_modules.FixedPrompt. Needs transformers.",
    )
    parser.add_argument(
        "--model",
        default=MODEL,
        help="folder with text_encoder and tokenizer in diffusers' layout, or a name on the hub "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--t5",
        action="store_true",
        help="the model is T5's encoder, in transformers' layout: for NSARM and Infinity, "
        "lightning_modules.FixedText; without a negative prompt",
    )
    parser.add_argument(
        "--out", default=OUT, help="the .safetensors file to write (default: %(default)s)"
    )
    parser.add_argument("--prompt", default=PROMPT, help="the text (default: InvSR's)")
    parser.add_argument(
        "--negative",
        default=NEGATIVE,
        help="the negative prompt; '' for no text (default: InvSR's)",
    )
    return parser.parse_args(arguments)
