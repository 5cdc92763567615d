"""``main.py migrate FILE.yml``: a configuration out of an option file of BasicSR or traiNNer-redux.

``configs/migrating.yaml`` says what becomes of each option. Here is what follows from several
options together: batch sizes, sources of images, the class that trains.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from commands.errors import CONFIGS, ConfigurationError
from files.yaml import read_yaml

# What networks call their factor of enlargement.
FACTORS = ("upscale", "scale", "upscaling_factor", "upscale_factor", "up_scale", "sf")
MODES = {
    "area": "area",
    "bilinear": "bilinear",
    "bicubic": "bicubic",
    "nearest-exact": "nearest",
}
IMAGES = (
    "pairedimage",
    "imagenetpaired",
    "singleimage",
    "singlegt",
    "realesrgan",
    "realesrganpaired",
)
# Lightning refuses its own flags where a method has two optimisers.
OF_ADVERSARIAL = {
    "trainer.accumulate_grad_batches": "model.init_args.accumulate",
    "trainer.gradient_clip_val": "model.init_args.clip",
}
DISCRIMINATOR = "model.init_args.discriminator"
GAN = "model.init_args.gan"
TRAIN = "datasets.train."
SECTIONS = ("run", "model", "data", "degradation", "trainer")
# Their images are sharpened before they are degraded, whatever the options say.
SHARPENING = (
    "RealESRGANModel",
    "RealESRGANArtifactsDisModel",
    "RealHATGANModel",
    "RealDRCTGANModel",
)
MIXING = {"mixup": "datamodules.MixUp", "cutblur": "datamodules.CutBlur"}


def main(words: Sequence[str]) -> int:
    """Run the command.

    Args:
        words: As typed after ``main.py migrate``.

    Returns:
        0.

    Raises:
        ConfigurationError: If the file is no option file.
    """
    parser = argparse.ArgumentParser(
        prog="main.py migrate",
        description="Print a configuration made of an option file of BasicSR or traiNNer-redux; "
        "options without a counterpart are comments. docs/migrating.md",
    )
    parser.add_argument("file", help="The option file, such as options/train_x4.yml.")
    file = Path(parser.parse_args(words).file)
    options = read_yaml(file)
    if not isinstance(options, dict) or not {"scale", "network_g"} <= options.keys():
        raise ConfigurationError(
            f"{file} is no option file of BasicSR or traiNNer-redux: it has no scale or network_g"
        )
    try:
        migration = Migration(options)
    except KeyError as error:
        raise ConfigurationError(f"{file}: a part of it has no {error}") from error
    command = "fit" if "train" in options else "test"
    if migration.others:
        sys.stdout.write(f"# this trains something else: {'; '.join(migration.others)}\n")
    sys.stdout.write(f"# Made of {file.name}: python main.py {command} --config FILE\n")
    sys.stdout.write(migration.text())
    count = sum(len(comments) for comments in migration.comments.values())
    sys.stderr.write(f"{count} options have no counterpart: they are comments\n")
    if "model.init_args.network" not in migration.config:
        sys.stderr.write(
            "its network is none of ours: choose one of main.py list networks with "
            "--model.network\n"
        )
    return 0


@functools.cache
def table() -> dict[str, Any]:
    """Return ``configs/migrating.yaml``: sections of options, ``defaults`` and ``classes``."""
    content: dict[str, Any] = read_yaml(CONFIGS / "migrating.yaml")
    return content


def entry_of(option: str) -> tuple[str, dict[str, Any]]:
    """Return the section and the entry of an option, or of the one that it is a part of."""
    trains = option.startswith("train.")
    option = re.sub(r"^datasets\.[^.]*", "datasets.train", option)
    while option:
        for section in SECTIONS:
            for pattern, entry in table()[section].items():
                if fnmatch.fnmatchcase(option, pattern):
                    return section, entry
        option = option.rpartition(".")[0]
    return "run", {"note": "unknown", "trains": trains}


def options_of(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Return the options of a file by their path, whole classes as one.

    Args:
        content: The file's.
        prefix: Path of ``content``, with a dot.
    """
    for name, value in content.items():
        option = f"{prefix}{name}"
        if isinstance(value, dict) and "class" not in entry_of(option)[1]:
            yield from options_of(value, f"{option}.")
        else:
            yield option, _whole_numbers(value)


def _whole_numbers(value: Any) -> Any:
    """Return a value with integers for whole floats: option files write steps as 5e3."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _whole_numbers(part) for name, part in value.items()}
    return [_whole_numbers(part) for part in value] if isinstance(value, list) else value


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        """Write what is repeated in full."""
        return True


class Migration:
    """The configuration that is made of an option file.

    Attributes:
        config: Values by our keys, such as ``model.init_args.weights``.
        comments: Options without a counterpart, by section of the table.
        others: Those of ``comments`` by which something else is trained, such as a loss.

    Args:
        content: Of the option file.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.config: dict[str, Any] = {
            "model.class_path": "lightning_modules.Regression",
            "data.class_path": "datamodules.SRDataModule",
            "degradation.class_path": "degradations.SecondOrder",
            "trainer.max_epochs": -1,
            "trainer.check_val_every_n_epoch": None,
        }
        self.comments: dict[str, list[str]] = {}
        self.others: list[str] = []
        self.content = content
        self.options = dict(options_of(content))
        if content.get("high_order_degradation") and "model_type" not in content:
            self.options = table()["defaults"] | self.options  # BasicSR has a type and no defaults
        self._join_options()
        if self.options.get("train.use_moa"):
            self._add_mixing()
        for option, value in self.options.items():
            self._convert(option, value)
        self._add_sources()
        self._choose_degradation()
        self._choose_model()

    def text(self) -> str:
        """Return the YAML."""
        nested: dict[str, Any] = {}
        for key, value in self.config.items():
            *sections, name = key.split(".")
            place = nested
            for section in sections:
                place = place.setdefault(section, {})
            place[name] = value
        parts = []
        for section in dict.fromkeys([*SECTIONS, *nested]):
            parts += [f"# {comment}\n" for comment in self.comments.get(section, ())]
            if section in nested:
                value = nested[section]
                flow = None if isinstance(value, dict) else False  # innermost lists on one line
                parts.append(
                    yaml.dump(
                        {section: value},
                        Dumper=_Dumper,
                        default_flow_style=flow,
                        sort_keys=False,
                        width=110,
                    )
                )
        return "".join(parts)

    # ------------------------------------------------------------------------------ one option

    def _convert(self, option: str, value: Any) -> None:
        """Write an option under our key, as our class, or as a comment: as its entry says."""
        entry = entry_of(option)[1]
        key = entry.get("to")
        if re.match(r"datasets\.(?!train\b)", option):  # our keys are those of training
            key = None
        if "class" in entry and value is not None:
            self._convert_class(option, value, entry)
        elif key is None:
            self._comment_unless_same(option, value, entry)
        elif value is not None:
            values = entry.get("values")
            self.config[key] = values[value] if values else value

    def _comment_unless_same(self, option: str, value: Any, rule: Mapping[str, Any]) -> None:
        """Comment on an option without a key of ours, unless it asks for what is done anyway.

        Args:
            option: The option.
            value: Its value.
            rule: ``same`` has the values that ask for it; by default those that turn it off.
                ``reads``: another option's rule uses it, and comments on both. Without a ``note``
                it concerns only training by the other program.
        """
        if "same" in rule:
            is_same = value is None or value in rule["same"]
        else:
            is_same = value in (None, False, 0, "", [])
        if not is_same and "reads" not in rule:
            self._comment(option, value, rule.get("note", "of training alone"))

    def _comment(self, option: str, value: Any, note: str) -> None:
        """Add an option without a counterpart to the comments, and to ``others`` if it counts."""
        shown = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n")
        section, entry = entry_of(option)
        comments = self.comments.setdefault(section, [])
        comments.append(f"{option}: {shown.strip()}  -- {note}")
        if "train" not in self.content or re.match(r"datasets\.(?!train\b)", option):
            return
        if entry.get("trains", section in ("model", "degradation")):
            what = value["type"] if isinstance(value, dict) else shown.strip()
            option = option.removesuffix(".type")
            self.others.append(option if option.endswith(f".{what}") else f"{option} {what}")

    def _convert_class(self, option: str, value: Any, entry: Mapping[str, Any]) -> None:
        """Write an option that describes a class: losses, metrics, or one such as a network."""
        kind = entry["class"]
        if kind == "losses":
            if isinstance(value, dict):
                self._add_loss(option, value | {"type": entry.get("type", value["type"])})
            else:
                for words in value:
                    self._add_loss(f"{option}.{words['type']}", words)
        elif kind == "metrics":
            metrics = [self._our_class(f"{option}.{name}", value[name], kind) for name in value]
            callbacks = self.config.setdefault(entry["to"], [])
            callbacks += [metric for metric in metrics if metric is not None]
        else:
            described = self._our_class(option, value, kind)
            if described is not None:
                self.config[entry["to"]] = described

    def _add_loss(self, option: str, words: Mapping[str, Any]) -> None:
        """Write a loss as ours, under its name; that of a GAN has a key of its own."""
        weight = words.get("loss_weight", words.get("perceptual_weight", 1))
        loss = self._our_class(option, words, "losses") if weight != 0 else None
        if loss is None:
            return
        name = words["type"].lower().removesuffix("loss")
        if name == "gan":
            self.config["model.init_args.gan"] = loss["init_args"]
            return
        key = f"model.init_args.losses.{name}"
        while key in self.config:  # two of a kind
            key += "_"
        self.config[key] = loss

    def _our_class(self, option: str, words: Mapping[str, Any], kind: str) -> dict[str, Any] | None:
        """Return our class for theirs; None if there is none."""
        name = str(words["type"])
        classes = table()["classes"][kind]
        entry = classes.get(name) or classes.get(name.lower())
        if entry is None:
            self._comment(option, words, f"none of our {kind}")
            return None
        if "note" in entry:
            self._comment(f"{option}.type", name, entry["note"])
        arguments = self._our_arguments(option, words, entry, kind)
        if "spandrel" in entry:
            architecture = entry["spandrel"]
            if isinstance(architecture, dict):  # by scale
                architecture = architecture.get(self.content["scale"], architecture[4])
            network = {"train": True, "architecture": architecture, "arguments": arguments}
            return {"class_path": "lightning_modules.Spandrel", "init_args": network}
        if "class" not in entry:
            return None
        return {"class_path": entry["class"], "init_args": arguments}

    def _our_arguments(
        self, option: str, words: Mapping[str, Any], entry: Mapping[str, Any], kind: str
    ) -> dict[str, Any]:
        """Return the arguments of our class; those without a counterpart become comments.

        Args:
            option: The option of the class, for comments.
            words: Its arguments, and ``type``, the class's name.
            entry: What the table says of that class.
            kind: ``networks`` or another group of the table.
        """
        name = str(words["type"])
        has_class = "class" in entry or "spandrel" in entry
        arguments = dict(entry.get("init", {}))
        names = entry.get("arguments", {})
        values = entry.get("values", {})
        same = dict(entry.get("same", {}))  # values that ask for what is done anyway
        if kind == "networks":
            factors = {factor: [self.content.get("scale")] for factor in FACTORS}
            same = {"num_in_ch": [3], "num_out_ch": [3], **factors, **same}
        for word, argument in words.items():
            if word == "type":
                continue
            if word in same:
                rule = {"same": same[word], "note": f"of {name}"}
                self._comment_unless_same(f"{option}.{word}", argument, rule)
            elif has_class and word not in values:
                arguments[names.get(word, word)] = argument
            elif has_class and argument in values[word]:
                arguments[names.get(word, word)] = values[word][argument]
            else:
                self._comment(f"{option}.{word}", argument, f"of {name}")
        return arguments

    # ------------------------------------------------------------------------- several options

    def _join_options(self) -> None:
        """Put what several options say together into the one that has our key."""
        self._join_batch_size()
        self._join_flips()
        self._join_schedule()
        self._join_resizes()
        options = self.options
        if "val.val_freq" in options:  # ours counts batches
            options["val.val_freq"] *= options.get(f"{TRAIN}accum_iter", 1)
        if f"{TRAIN}lq_size" in options:
            options[f"{TRAIN}gt_size"] = options[f"{TRAIN}lq_size"] * self.content["scale"]
        if options.get("use_amp"):
            options["use_amp"] = "bf16-mixed" if options.get("amp_bf16") else "16-mixed"
        if not options.get("val.tile_size"):
            options.pop("val.tile_overlap", None)
        if options.get("train.grad_clip"):
            options["train.grad_clip"] = options.get("train.grad_clip_max_norm", 100)
        for option in ("use_amp", "train.grad_clip", "val.tile_size", "train.ema_decay"):
            if option in options:
                options[option] = options[option] or None  # 0 and False turn them off

    def _join_batch_size(self) -> None:
        """Multiply the batch size by the number of GPUs: ours is that of all processes."""
        options = self.options
        gpus = options.get("num_gpu")
        if gpus == 0:
            options["num_gpu"] = 1
            self.config["trainer.accelerator"] = "cpu"
        batch = f"{TRAIN}batch_size_per_gpu"
        if batch in options and isinstance(gpus, int):
            options[batch] *= max(gpus, 1)
        elif batch in options and gpus is not None:
            note = "of all processes together: multiply it by their number"
            self._comment(batch, options[batch], note)

    def _join_flips(self) -> None:
        """Join flips and turns: ours are both, or flips left and right alone."""
        options = self.options
        flips = f"{TRAIN}use_hflip"
        if f"{TRAIN}use_flip" in options:  # of LDL
            options[flips] = options[f"{TRAIN}use_flip"]
        turns = options.get(f"{TRAIN}use_rot", True)
        if options.get(flips) and not turns:
            options[flips] = "horizontal"
        elif turns and options.get(flips) is False:
            self._comment(f"{TRAIN}use_rot", turns, "only with use_hflip")

    def _join_schedule(self) -> None:
        """Turn BasicSR's cosine with restarts into torch's, if all its periods are equal."""
        schedule = self.options.get("train.scheduler") or {}
        periods = schedule.get("periods", [])
        is_cosine = str(schedule.get("type")).lower() == "cosineannealingrestartlr"
        is_even = len(set(periods)) == 1 and set(schedule.get("restart_weights", [1])) == {1}
        if not (is_cosine and is_even):
            return
        end = {"eta_min": schedule.get("eta_min", 0)}
        if len(periods) == 1:
            schedule = {"type": "CosineAnnealingLR", "T_max": periods[0], **end}
        else:
            schedule = {"type": "CosineAnnealingWarmRestarts", "T_0": periods[0], **end}
        self.options["train.scheduler"] = schedule

    def _join_resizes(self) -> None:
        """Keep the interpolations that we have, for all resizes of the degradation alike."""
        options = self.options
        modes = options.get("resize_mode_list", [])
        options["resize_mode_list"] = [MODES[mode] for mode in modes if mode in MODES] or None
        if set(modes) - MODES.keys():
            self._comment("resize_mode_list", modes, "only area, bilinear, bicubic, nearest-exact")
        for option in ("resize_mode_list2", "resize_mode_list3"):
            if options.get(option, modes) != modes:
                self._comment(option, options[option], "all resizes have the modes of the first")

    def _add_sources(self) -> None:
        """Write the datasets as sources of images to train on, validate or test."""
        trains = "train" in self.content
        validates = not trains or self.options.get("val.val_enabled", True)
        for name, words in (self.content.get("datasets") or {}).items():
            part = re.sub(r"[_\d].*", "", name)
            if part == "val" and not validates:
                continue
            source = self._convert_source(name, words)
            if source is None:
                self._comment(f"datasets.{name}.type", words["type"], "no source of such data")
            elif part == "train":
                self.config["data.init_args.train"] = source
            else:
                part = part if trains else "test"
                sources = self.config.setdefault(f"data.init_args.{part}", {})
                key = re.sub(r"\W+", "_", words.get("name", name))
                sources[name if key in sources else key] = source

    def _convert_source(self, name: str, words: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return a dataset as our source; None for data of another kind."""
        if words["type"].lower().removesuffix("dataset") not in IMAGES:
            return None
        hr = _as_list(words.get("dataroot_gt"))
        lr = _as_list(words.get("dataroot_lq"))
        if not lr:
            files = {"root": hr[0]} if len(hr) == 1 else {"files": hr}
            return {"class_path": "datamodules.Folder", "init_args": files}
        if not hr:
            return {"class_path": "datamodules.Inputs", "init_args": {"files": lr}}
        if len(hr) != len(lr):
            note = "folders are paired by their order; the others are left out"
            self._comment(f"datasets.{name}.dataroot_lq", lr, note)
        suffix = words.get("filename_tmpl", "{}").replace("{}", "")
        pairs = {}
        for number, (large, small) in enumerate(zip(hr, lr, strict=False), 1):
            folders = {"hr": large, "lr": small, "lr_suffix": suffix}
            pairs[f"set{number}"] = {"class_path": "datamodules.Paired", "init_args": folders}
        if len(pairs) == 1:
            return pairs["set1"]
        return {"class_path": "datamodules.Mix", "init_args": {"sources": pairs}}

    def _add_mixing(self) -> None:
        """Write traiNNer-redux's mixture of augmentations, with its defaults."""
        kinds = self.options.get("train.moa_augs", ["none", "mixup", "cutmix", "resizemix"])
        probabilities = self.options.get("train.moa_probs", [0.4, 0.084, 0.084, 0.084])
        mixing = []
        for kind, probability in zip(kinds, probabilities, strict=False):
            if kind in MIXING:
                arguments = {"probability": probability}
                mixing.append({"class_path": MIXING[kind], "init_args": arguments})
            elif kind != "none":
                self._comment("train.moa_augs", kind, "only mixup and cutblur")
        self.config["data.init_args.crops.mixing"] = mixing

    def _choose_degradation(self) -> None:
        """Degrade by bicubic unless options say how; not at all if the images are pairs."""
        train = self.config.get("data.init_args.train", {})
        settings = [key for key in self.config if key.startswith("degradation.init_args.")]
        if train.get("class_path") != "datamodules.Folder":  # pairs have LR
            for key in ("degradation.class_path", *settings):
                del self.config[key]
            if settings:
                self._comment("high_order_degradation", True, "pairs have their LR")
        elif settings:
            sharpens = self.content.get("model_type") in SHARPENING
            usm = bool(sharpens or self.options.get("gt_usm"))
            self.config["degradation.init_args.usm"] = usm
        else:
            self.config["degradation.class_path"] = "degradations.Bicubic"

    def _choose_model(self) -> None:
        """Decide between ``Regression`` and ``RealESRGAN``, from all that was converted."""
        self._add_average()
        if "train" in self.content and not self._converted_losses():
            self.comments.setdefault("model", []).append("none of the losses is left: L1 is used")
        is_adversarial = {DISCRIMINATOR, GAN} <= self.config.keys()
        if not is_adversarial:
            self._drop_discriminator()
        sharpens = self.config.pop("model.init_args.sharpen", False)
        if is_adversarial or sharpens or not self._has_l1_alone():
            self._use_real_esrgan(sharpens, is_adversarial)
        else:  # the loss of a regression
            for key in self._converted_losses():
                del self.config[key]

    def _converted_losses(self) -> dict[str, Any]:
        """Return our losses so far, by key."""
        prefix = "model.init_args.losses."
        return {key: value for key, value in self.config.items() if key.startswith(prefix)}

    def _has_l1_alone(self) -> bool:
        """Return whether training is by L1 of weight 1, as ``Regression`` does by default."""
        l1 = {"class_path": "lightning_modules.L1", "init_args": {"weight": 1}}
        return (
            all(loss == l1 for loss in self._converted_losses().values())
            and len(self._converted_losses()) <= 1
        )

    def _add_average(self) -> None:
        """Turn ``ema_decay`` into a callback; it may be null."""
        decay = self.config.pop("callbacks.EMA", None)
        if decay is not None:
            average = {"class_path": "callbacks.EMA", "init_args": {"decay": decay, "first": None}}
            self.config.setdefault("trainer.callbacks", []).append(average)

    def _drop_discriminator(self) -> None:
        """Remove what only training against a discriminator needs."""
        for key in ("discriminator", "discriminator_optimizer", "discriminator_weights", "gan"):
            self.config.pop(f"model.init_args.{key}", None)

    def _use_real_esrgan(self, sharpens: bool, is_adversarial: bool) -> None:
        """Train by ``RealESRGAN``, which has several losses and its own flags of two optimisers."""
        config = self.config
        config["model.class_path"] = "lightning_modules.RealESRGAN"
        config["model.init_args.sharpen"] = sharpens
        for key, own in OF_ADVERSARIAL.items():
            if key in config:
                config[own] = config.pop(key)
        schedule = self.options.get("train.scheduler") or {}
        first = min(schedule.get("milestones", [0]), default=math.inf)
        is_constant = schedule.get("gamma") == 1 or first >= self.options.get("train.total_iter", 0)
        if is_adversarial and schedule and not is_constant:
            note = table()["model"]["train.scheduler"]["note"]
            self._comment("train.scheduler", schedule["type"], note)


def _as_list(value: str | list[str] | None) -> list[str]:
    """Return a path or a list of them as a list."""
    if value is None:
        return []
    return [value] if isinstance(value, str) else value
