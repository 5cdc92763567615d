"""State that fixes the order of training samples: made from the source, stored in checkpoints."""

from __future__ import annotations

from typing import Any

from datamodules.order import Plan
from datamodules.source import Source

NAMES = {
    "groups": "the number of images in data.init_args.train",
    "pictures": "the hash of the names of the images in data.init_args.train",
    "crops_per_image": "data.init_args.crops.per_image",
    "mixture": "the weights and samples of data.init_args.train",
    "shuffle": "data.init_args.train.init_args.shuffle",
    "seed": "seed_everything",
    "pool": "degradation.init_args.pool",
}
SHOWN = 8  # shards in a message


def new_plan(source: Source, seed: int, batch_size: int, streams: int, repeats: int) -> Plan:
    """Return the plan of a prepared source. Other arguments as ``Plan``.

    Raises:
        ValueError: If its groups do not sum to its number of images, or are too few for one batch.
    """
    groups, count = tuple(source.groups), len(source.keys)
    if sum(groups) != count:
        raise ValueError(
            f"{type(source).__name__}.groups sums to {sum(groups)}, but it has {count} keys"
        )
    plan = Plan(groups, seed, batch_size, streams, repeats, mixture=source.mixture)
    if not len(plan):
        raise ValueError(
            f"data.init_args.train has {plan.total // repeats} images (crops.per_image "
            f"{repeats}), fewer than data.init_args.batch_size {batch_size}: raise crops.per_image "
            "or lower batch_size"
        )
    return plan


def order_state(plan: Plan, pictures: str, pool: int) -> dict[str, Any]:
    """Return what a checkpoint stores about the order, in plain types.

    Args:
        plan: The order.
        pictures: Hash of the keys.
        pool: Size of the pair pool, or 0.
    """
    mixture = plan.mixture and [list(part) for part in plan.mixture[:2]] + [plan.mixture.samples]
    return {
        "groups": list(plan.groups),
        "pictures": pictures,
        "mixture": mixture,
        "seed": plan.seed,
        "batch_size": plan.batch_size,
        "streams": plan.streams,
        "crops_per_image": plan.repeats,
        "shuffle": getattr(plan, "shuffle", None),  # of tars that are read from front to back
        "pool": pool,
    }


def check_same_order(then: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to resume a run in another order.

    Args:
        then: ``order_state`` of the checkpoint.
        now: ``order_state`` of this run.

    Raises:
        ValueError: If they differ; the message names the key and both values.
    """
    for name, value in now.items():
        before = then.get(name, value)
        if before != value:
            raise ValueError(
                "the checkpoint was made with another order of samples: "
                f"{NAMES.get(name, f'data.init_args.{name}')} was {_shown(before)}, now it is "
                f"{_shown(value)}. Restore it, or start from the weights alone: "
                "--model.init_args.weights CHECKPOINT --run.name NEW"
            )


def _shown(value: Any) -> str:
    if isinstance(value, list) and len(value) > SHOWN:
        first = ", ".join(str(part) for part in value[:SHOWN])
        return f"{sum(value)} in {len(value)} shards ([{first}, ...])"
    return str(value)
