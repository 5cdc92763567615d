"""``doctor``: the import of all that a training needs, and a training of two seconds."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from commands.doctor_lines import ROOT, Check, Line, Options, broken, look, ok, said
from commands.doctor_machine import GIGABYTE

STEPS = 4
EXPERIMENT = ROOT / "configs" / "experiment" / "quickstart.yaml"


def imports(options: Options) -> Iterator[Line]:
    """The import of the command line, which brings Lightning, torchmetrics and all of ours."""
    begun = time.monotonic()
    try:
        import commands.cli  # noqa: F401
    except Exception as error:
        why = said(error)
        known = "see torchvision" if "torchvision" in why else "see packages"
        yield broken("lightning", f"the import of what fit needs fails ({why}): {known} above")
        return
    import lightning

    taken = time.monotonic() - begun
    yield ok("lightning", f"{lightning.__version__} and all of Enlarger, imported in {taken:.1f} s")


def training(options: Options) -> Iterator[Line]:
    """A few steps of ``make demo``'s own training, with a worker and a checkpoint."""
    name = "training"
    if "commands.cli" not in sys.modules:
        yield look(name, "not tried, because what it needs cannot be imported")
        return
    from commands.cli import EnlargerCLI
    from commands.output import prepare_output
    from commands.tracebacks import sentence_of

    prepare_output()
    os.chdir(options.folder)
    begun = time.monotonic()
    try:
        trainer = EnlargerCLI(arguments(options.folder)).trainer
    except Exception as error:
        yield broken(name, f"{sentence_of(error) or said(error)}: --debug shows all of it")
        return
    taken = time.monotonic() - begun
    loss = float(trainer.callback_metrics["train/loss"])
    kept = list(Path(options.folder).rglob("*.ckpt"))
    if trainer.global_step != STEPS or not math.isfinite(loss) or not kept:
        found = f"{trainer.global_step} steps, loss {loss:g}, {len(kept)} checkpoints"
        yield broken(name, f"{found}; expected {STEPS}, a finite one, and one: --debug shows more")
        return
    device = trainer.strategy.root_device
    yield ok(name, f"{STEPS} steps of quickstart on {device} in {taken:.1f} s{_memory()}")


CHECKS: dict[str, Check] = {"lightning": imports, "training": training}


def arguments(folder: str) -> list[str]:
    """What to type for this training.

    Args:
        folder: Of its run.
    """
    changed = {
        "run.root": folder,
        "run.name": "doctor",
        "trainer.max_steps": str(STEPS),
        "trainer.val_check_interval": "null",
        "trainer.logger": "false",
        "trainer.enable_progress_bar": "false",
        "trainer.enable_model_summary": "false",
        "data.init_args.val": "null",
    }
    flags = [word for key, value in changed.items() for word in (f"--{key}", value)]
    return ["fit", "--config", str(EXPERIMENT), *flags]


def _memory() -> str:
    try:
        import resource  # not on Windows
    except ImportError:
        return ""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024
    return f", with up to {peak * unit / GIGABYTE:.1f} GB of memory"
