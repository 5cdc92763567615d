"""The run directory: its lock, its configuration, and which checkpoint a run resumes from."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jsonargparse import Namespace

from callbacks.predict.files import why_no_folder
from commands.arguments.saved_config import flat
from commands.errors import ConfigurationError, TemporaryError
from commands.run.files import CONFIG, FOLDER, WEIGHTS, list_checkpoints, newest_whole
from commands.run.folder_lock import HOLDER, FolderLock
from files.checksums import check_intact
from files.numbers import PositiveFloat, PositiveInt
from files.owned import hold_place, move_aside, refuse_foreign, remove_file, remove_unfinished
from files.paths import expand_path
from files.weights import read_file
from files.yaml import read_yaml

log = logging.getLogger(__name__)
LOCK_SECONDS = 60.0  # that a command waits for another one that writes to its folder
SILENT_SECONDS = 1.0  # of waiting for a lock, before the log names the holder
POLL_SECONDS = 0.2
# Keys that may differ when a run is resumed: they change neither weights nor results.
FREE = (
    "run.root",
    "run.name",
    "run.change",
    "run.overwrite",
    "run.seeds",
    "run.wait_minutes",
    "checkpoint",
    "writer",
    "tiling",
    "config",
    "ckpt_path",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.plugins",
    "trainer.model_registry",
    "trainer.logger",
    "trainer.log_every_n_steps",
    "trainer.profiler",
    "trainer.detect_anomaly",
    "trainer.barebones",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "trainer.enable_checkpointing",
    "trainer.max_time",
    "trainer.val_check_interval",
    "trainer.check_val_every_n_epoch",
    "trainer.num_sanity_val_steps",
    "trainer.limit_test_batches",
    "trainer.limit_predict_batches",
    "data.init_args.workers",
    "data.init_args.eval_batch_size",
    "data.init_args.test",
    "data.init_args.predict",
)
# Groups in each config.yaml of a run.
WRITTEN = {"seed_everything", "trainer", "model", "data", "run", "checkpoint"}
EVALUATE = ("validate", "test")
WRITE = ("fit", "check", *EVALUATE)  # commands that need a writable run directory
FIXED = (  # files that they write there
    WEIGHTS,
    f"{FOLDER}/best.json",
    "results.json",
    "images.json",
)
# Where images and weights lie: checkpoints have names, sizes and hashes of what counts of them.
PLACE = re.compile(r"^data\..*\.(root|hr|lr|urls|files)$|^model\..*_weights$")
# What a checkpoint restores, also if the configuration differs.
OF_CHECKPOINT = re.compile(r"(^|[._])(optimizer|lr_scheduler)(\.|$)")
OPTIMIZER = re.compile(r"(optimizer)\.class_path$")
# Where 1 is one batch and 1.0 all of them. Elsewhere 0, a default, is read again as 0.0.
COUNT_OR_SHARE = ("trainer.limit_", "trainer.overfit_batches", "trainer.val_check_interval")
GROWING = ("trainer.max_steps", "trainer.max_epochs")  # may only become larger


def options_of_run(folder: Path) -> list[str]:
    """Return the command-line options by which a command uses a trained run.

    Args:
        folder: The run's, with its configuration.
    """
    place = folder.resolve() if folder.name in ("", "..") else folder
    options = ["--config", str(folder / CONFIG), "--run.root", str(place.parent)]
    # The checkpoint that training began with is not its result.
    return [*options, "--run.name", place.name, "--ckpt_path", "null"]


@contextmanager
def alone_in(folder: Path, patience: float) -> Iterator[FolderLock]:
    """Hold the lock of a run, or of a folder of ``predict``.

    On a disk without locks, the command continues without one, after a warning.

    Args:
        folder: The folder; it need not exist.
        patience: Seconds to wait for it: what a killed run has started may end a little later.

    Raises:
        TemporaryError: Another process holds the lock.
    """
    lock = FolderLock(folder)
    try:
        _wait_for_lock(lock, patience)
    except OSError as error:
        log.warning(
            "%s cannot be locked (%s): nothing prevents a second command from writing to the same "
            "folder",
            folder,
            error,
        )
    try:
        yield lock
    finally:
        lock.release()


def _wait_for_lock(lock: FolderLock, patience: float) -> None:
    """Wait for a lock; after ``SILENT_SECONDS`` the log names who holds it."""
    begun = time.monotonic()
    is_logged = False
    while not lock.acquire():
        waited = time.monotonic() - begun
        if waited >= patience:
            raise TemporaryError(
                f"{lock.holder()} writes to {lock.folder}: wait until it ends or stop it, or "
                "choose another folder (--run.name NAME, of predict --writer.folder FOLDER)"
            )
        if waited >= SILENT_SECONDS and not is_logged:
            is_logged = True
            log.info("%s is locked by %s; waiting for it to end", lock.folder, lock.holder())
        time.sleep(POLL_SECONDS)


@dataclass
class RunOptions:
    """Where the run is kept, and what to do if it exists.

    Args:
        root: Folder of all runs.
        name: Name of the run's folder; by default that of the experiment file, starting at the
            folder ``experiment``: ``mini_casarbi_base`` for ``experiment/mini/casarbi/base.yaml``.
        change: Resume although the configuration differs from that of the run.
        overwrite: Start a new run; an existing run of this name is renamed.
        seeds: Number of evaluations of a stochastic method in ``validate`` and ``test``, with the
            noise of seed_everything, seed_everything + 1, ...; results are mean and deviation.
        wait_minutes: Minutes that a process waits for a batch of a DataLoader worker, or for the
            other processes of the run: torch's own limit of a process group.
        matmul_precision: Precision of float32 matrix products. By default ``high`` (TF32) where
            ``fit`` trains on a GPU of compute capability 8.0 or more, ``highest`` with
            ``trainer.deterministic``, and torch's own otherwise. On a GPU torch has TF32 for
            convolutions; with ``highest`` given here, or ``trainer.deterministic``, they are in
            float32, too.
    """

    root: str = "runs"
    name: str | None = None
    change: bool = False
    overwrite: bool = False
    seeds: PositiveInt = 1
    wait_minutes: PositiveFloat = 10.0
    matmul_precision: Literal["highest", "high", "medium"] | None = None


def experiment_name(config: Namespace) -> str:
    """Return the default name of a run.

    Args:
        config: Configuration of the command.
    """
    if not config.config:
        return str(config.model.class_path).rpartition(".")[2].lower()
    # Files in sub-folders of configs/experiment may have the same names.
    parts = Path(str(config.config[0])).with_suffix("").parts
    if "experiment" not in parts[:-1]:
        return parts[-1]
    while "experiment" in parts[:-1]:
        parts = parts[parts.index("experiment") + 1 :]
    return "_".join(parts)


def run_folder(root: str, name: str) -> Path:
    """Return the folder of a run.

    Args:
        root: ``run.root``, as typed.
        name: ``run.name``.

    Raises:
        ConfigurationError: If the folder is not below the root. To rename the root, or a folder
            above it, would rename all runs.
        ValueError: If the root is empty or contains an unset variable.
    """
    all_runs = Path(expand_path(root, "run.root"))
    # The text decides: a run may be a link to another disk.
    if os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] in (".", ".."):
        raise ConfigurationError(
            f"run.name is {name!r}, which is not a folder below {all_runs}, the folder of all "
            "runs: give the run a name, and set run.root for another folder"
        )
    folder = all_runs / name
    # Lightning expands it again, and would drop `link/..` as text: two folders of one run.
    is_plain = os.path.normpath(folder) == str(folder) and not str(folder).startswith("~")
    return folder if is_plain else folder.resolve()


def checkpoint_file(path: str) -> Path:
    """Return ``ckpt_path`` as a path.

    Raises:
        ConfigurationError: If there is no such file.
    """
    if not Path(path).is_file():
        raise ConfigurationError(f"ckpt_path is {path}, and there is no such file")
    return Path(path)


class RunDirectory:
    """The directory of one run.

    Args:
        path: The directory; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / FOLDER
        self.config_file = path / CONFIG
        self._lock: FolderLock | None = None

    def check_place(self, command: str) -> None:
        """Raise if the run cannot be written, before any work.

        Args:
            command: Name of the command; some write elsewhere.

        Raises:
            ConfigurationError: If the path is not a writable folder, or has a checkpoint of SLURM's
                requeueing.
            NotOursError: If it has files of the names of ours that another program wrote.
        """
        for checkpoint in self.path.glob("hpc_ckpt_*.ckpt"):
            raise ConfigurationError(
                f"{checkpoint} is there, from which Lightning would resume by itself: move it "
                "away; fit begins with it by --ckpt_path"
            )
        if command not in WRITE:
            return
        problem = why_no_folder(self.path, to_write=True)
        if command == "fit":  # which would find it only when the first checkpoint is due
            problem = problem or why_no_folder(self.checkpoints, to_write=True)
        if problem:
            fix = "set another run.root or run.name"
            if self.path.is_dir():
                fix += f", and --model.init_args.weights {self.path} to use what it has learned"
            raise ConfigurationError(f"the run cannot be written to {self.path}: {problem}; {fix}")
        if command in EVALUATE and self.path.is_dir():
            hold_place(self.path)
        for name in FIXED:
            refuse_foreign(self.path / name)

    @contextmanager
    def alone(self, patience: float) -> Iterator[None]:
        """Lock the directory for training, and remove what a kill left of checkpoints.

        Args:
            patience: As for ``alone_in``.

        Raises:
            TemporaryError: If another process trains here.
        """
        with alone_in(self.path, patience) as self._lock:
            if self._lock.is_held:  # else another process may be writing them
                remove_unfinished(self.checkpoints)
            yield

    def move_aside(self) -> None:
        """Rename an existing run, so that nothing is lost."""
        if self.path.exists() and {path.name for path in self.path.iterdir()} - {HOLDER}:
            aside = move_aside(self.path)
            log.warning("the run in %s was moved to %s", self.path, aside)
            if self._lock is not None:
                remove_file(aside / HOLDER)
                _wait_for_lock(self._lock, 0.0)  # of the new folder

    def check(self, config: dict[str, Any], change: bool) -> None:
        """Raise if the configuration differs from the one that the run was started with.

        Args:
            config: The present configuration.
            change: Whether to accept differences.

        Raises:
            ConfigurationError: With every difference and the options; or if the saved
                configuration is missing, damaged or was not written by ``fit``.
        """
        if not list_checkpoints(self.checkpoints):
            self._refuse_foreign_config()
            return
        if change and not self._read_saved_config():
            log.warning("--run.change: resuming, although %s cannot be compared", self.config_file)
            return
        before = self._config_of_start("resume without a comparison (--run.change true)")
        present = flat(config)
        self._refuse_without_effect(self.path, before, present)
        differences = []
        for key, old, new in _changed_settings(before, present):
            line = f"{key}: {old} -> {new}"
            if _may_change(key, old, new):
                log.info("changed on resume: %s", line)
            elif not _is_restored(key, old, new, present):
                differences.append(line)
        if differences and change:
            log.warning("--run.change: resuming with %s", "; ".join(differences))
        elif differences:
            raise ConfigurationError(
                f"the run in {self.path} was started with another configuration:\n  "
                + "\n  ".join(differences)
                + "\nUndo the change, or accept it (--run.change true), or choose another name "
                "(--run.name NAME), or start a new run (--run.overwrite true)"
            )

    def _refuse_without_effect(
        self, source: Path, before: dict[str, Any], present: dict[str, Any]
    ) -> None:
        """Raise if optimiser or schedule differ: the checkpoint restores the old ones.

        Args:
            source: The run or checkpoint that training goes on from, for the message.
            before: The configuration that it was started with, flat.
            present: The present one, flat.
        """
        without_effect = []
        for key, old, new in _changed_settings(before, present):
            if _is_restored(key, old, new, present):
                without_effect.append(f"{key}: {old} -> {new}")
            elif key.endswith("lr_scheduler") and new is None:
                log.warning("%s is null: the learning rate stays that of the checkpoint", key)
        if without_effect:
            raise ConfigurationError(
                f"the run in {self.path} goes on with the optimiser and the schedule of the "
                f"checkpoint of {source}, so this has no effect: {'; '.join(without_effect)}; undo "
                "it, or start a new run from the weights: --run.name NAME --model.weights "
                f"{source}"
            )

    def _refuse_foreign_config(self) -> None:
        """Raise if another program's ``config.yaml`` is in the way of ours; an empty one is not."""
        has_content = self.config_file.is_file() and self.config_file.stat().st_size > 0
        if has_content and not self._read_saved_config().keys() >= WRITTEN:
            raise ConfigurationError(
                f"{self.config_file} was not written by fit, which would replace it: move it away, "
                "or choose another run.root or run.name"
            )

    def resume_from(self, ckpt_path: str | None, config: dict[str, Any]) -> Path | None:
        """Return the newest intact checkpoint, else the given one, or None for a new run.

        The run's own come first, so that the same command resumes the run.

        Args:
            ckpt_path: A checkpoint of another run to begin with.
            config: The present configuration.

        Raises:
            ValueError: If all checkpoints are damaged, the given one belongs to this run, or it is
                needed and not intact.
        """
        newest = newest_whole(self.checkpoints)
        if newest is None and list_checkpoints(self.checkpoints):
            raise ConfigurationError(
                f"all checkpoints in {self.checkpoints} are damaged: start a new run with "
                "--run.overwrite true"
            )
        if newest is None:
            return self.begin_from(ckpt_path, config)
        if ckpt_path is not None:
            self._refuse_own(ckpt_path)
            log.info("the run resumes from its own checkpoints, not from %s", ckpt_path)
        return _checked_to_resume(newest)

    def begin_from(self, ckpt_path: str | None, config: dict[str, Any]) -> Path | None:
        """Return the checkpoint that a new run begins with, or None.

        Args:
            ckpt_path: A checkpoint of another run.
            config: The present configuration.

        Raises:
            ValueError: If it is missing, damaged, or belongs to this run; or if its run has another
                optimiser or schedule, which it restores.
        """
        if ckpt_path is None:
            return None
        self._refuse_own(ckpt_path)
        path = checkpoint_file(ckpt_path)
        check_intact(path)
        folder = path.resolve().parent
        before = RunDirectory(folder.parent).trained_config() if folder.name == FOLDER else {}
        if before:
            self._refuse_without_effect(path, before, flat(config))
        else:
            log.warning("%s has no config.yaml beside it: its optimiser and schedule go on", path)
        return _checked_to_resume(path)

    def _refuse_own(self, ckpt_path: str) -> None:
        """Raise if ``ckpt_path`` is of this run, which resumes from its newest one by itself."""
        if Path(ckpt_path).resolve().parent == self.checkpoints.resolve():
            raise ConfigurationError(
                f"ckpt_path is {ckpt_path}, a checkpoint of the run itself, which resumes from its "
                "newest automatically: remove ckpt_path, or, to go back to this one, choose "
                "another --run.name"
            )

    def trained_config(self) -> dict[str, Any]:
        """Return the configuration of ``fit``, flat; empty before the first ``fit``.

        Raises:
            ConfigurationError: If its file is damaged.
        """
        if not self.config_file.exists():
            return {}
        return self._config_of_start("name the weights to use with --ckpt_path FILE")

    def _config_of_start(self, fix: str) -> dict[str, Any]:
        """Return the saved configuration, flat; ``fix`` is what a user can do if it is damaged."""
        content = self._read_saved_config()
        if not content:
            state = "damaged" if self.config_file.exists() else "missing"
            raise ConfigurationError(
                f"{self.config_file}, the configuration of the run, is {state}: restore it, or "
                f"{fix}"
            )
        return flat(content)

    def _read_saved_config(self) -> dict[str, Any]:
        """Return the saved configuration; an empty one if its file is missing or damaged."""
        try:
            content = read_yaml(self.config_file)
        except (FileNotFoundError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}


def _checked_to_resume(checkpoint: Path) -> Path:
    """Return a checkpoint; raise if it has weights alone, so that training cannot go on from it."""
    content = read_file(checkpoint, mapped=True)
    if "pytorch-lightning_version" not in content:
        raise ConfigurationError(
            f"ckpt_path is {checkpoint}, which is no checkpoint of fit: for weights alone, use "
            "--model.init_args.weights"
        )
    return checkpoint


def _changed_settings(
    before: Mapping[str, Any], present: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Yield the key, the old and the new value of each setting that differs."""
    before = _without_class_path(before)
    present = _without_class_path(present)
    for key in sorted(before.keys() | present.keys()):
        old = before.get(key, "unset")
        new = present.get(key, "unset")
        is_other_kind = key.startswith(COUNT_OR_SHARE) and type(old) is not type(new)
        if is_other_kind or old != new:
            yield key, old, new


def _may_change(key: str, old: Any, new: Any) -> bool:
    """Return whether a setting may differ when a run is resumed: it changes no weights."""
    is_free = any(f"{key}.".startswith(f"{prefix}.") for prefix in FREE)
    is_place = PLACE.search(key) is not None
    return is_free or is_place or (key in GROWING and _grows(old, new))


def _without_class_path(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Call ``optimizer.class_path`` just ``optimizer``, as where it is a function, not a class."""
    return {OPTIMIZER.sub(r"\1", key): value for key, value in settings.items()}


def _is_restored(key: str, old: Any, new: Any, present: Mapping[str, Any]) -> bool:
    """Return whether a checkpoint restores the old value, so that a new one has no effect."""
    # Arguments that another version of torch does not have may come and go.
    if OF_CHECKPOINT.search(key) is None or "unset" in (old, new):
        return False
    # `WarmUp` and `WarmUpCosine` follow their own settings, and the optimiser's rate.
    parent = key.rpartition("optimizer")[0] or key.rpartition("lr_scheduler")[0]
    schedule = str(present.get(f"{parent}lr_scheduler.class_path", "")).rpartition(".")[2]
    is_followed = "lr_scheduler." in key or key.endswith("optimizer.init_args.lr")
    return not (schedule.startswith("WarmUp") and is_followed)


def _grows(old: Any, new: Any) -> bool:
    """Return whether a limit of the training's length is the same or larger; -1 is no limit."""
    if new in (-1, None):
        return True
    return isinstance(old, int) and old != -1 and isinstance(new, int) and new >= old
