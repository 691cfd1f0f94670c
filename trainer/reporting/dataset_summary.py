"""What was understood of a data set, as text: what `prepare` prints, and what `train` says of its split."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from trainer.dataset.dataset import Dataset
from trainer.dataset.split import PARTS
from trainer.formatting import format_count, wrapped
from trainer.storage.attributes import DenseFeature, Feature

LEFT_OUT = {
    "skipped": "cannot be read",
    "unknown": "of users or items without training interactions",
    "weightless": "of weight 0",
    "late": "from the held-out time",
    "taken": "of pairs that are interactions",
    "judged": "of pairs with a value below --data.min_value",
    "repeated": "repeats of a pair",
}
"""Why impressions are no explicit negatives, by the outcomes of `trainer.dataset.impressions`."""
DROPPED = {
    "below_min_value": "below --data.min_value",
    "duplicates": "repeats of a pair",
    "outside_k_core": "outside the k-core",
}
"""What the counts of a data set's report mean that say why rows were dropped."""


def summary(dataset: Dataset) -> dict[str, Any]:
    """Return what was understood of a data set, as `prepare --json` prints it."""
    report, splits = dataset.report, [getattr(dataset, split) for split in PARTS]
    count = sum(dataset.interaction_count(split) for split in PARTS)
    moments = [split.timestamps for split in splits if split.timestamps is not None and len(split)]
    times = [min(each.min() for each in moments), max(each.max() for each in moments)] if moments else []
    return {
        "name": dataset.name,
        "interactions": count,
        "users": dataset.user_count,
        "items": dataset.item_count,
        "item_name": dataset.item_name,
        "density": count / (dataset.user_count * dataset.item_count),
        "times": [_moment(int(each)) for each in times],
        "read": report["read"],
        "skipped": report["skipped"],
        "notes": dataset.notes,
        "dropped": {name: report[name] for name in DROPPED},
        "split": {"rule": report["split"], **{split: report[split] for split in PARTS}},
        "repeats": {name: report[name] for name in ("repeats_dropped", "repeats_kept") if name in report},
        "impressions": {
            name: report[key]
            for name, key in (
                ("used", "impressions"),
                ("read", "impressions_read"),
                *((outcome, f"impressions_{outcome}") for outcome in LEFT_OUT),
            )
            if key in report
        },
        "held_out": {
            side: {"held_out": report[f"held_out_{side}"], "known": report[f"known_{side}"]}
            for side in ("users", "items")
            if f"known_{side}" in report
        },
        "attributes": {
            side: {
                "with_a_row": report.get(f"{side}_with_attributes", 0),
                "columns": [
                    {"name": name, **_facts(name, categories, dense, rows), "text": text}
                    for name, text in dataset.attributes.get(side.removesuffix("s"), {}).items()
                ],
            }
            for side, categories, dense, rows in (
                ("users", dataset.user_features, dataset.user_dense, dataset.user_count),
                ("items", dataset.item_features, dataset.item_dense, dataset.item_count),
            )
        },
        "folder": str(dataset.folder),
    }


def summary_text(dataset: Dataset) -> str:
    """Return the same in lines to be read."""
    found, names = summary(dataset), {"users": "user", "items": dataset.item_name}
    sizes = " and ".join(format_count(found[side], name) for side, name in names.items())
    lines = [
        f"{dataset.name}: {format_count(found['interactions'], 'interaction')} of {sizes}, "
        f"density {found['density']:.3%}"
    ]
    if found["times"]:
        lines.append(f"from {' to '.join(found['times'])} (UTC)")
    dropped = [f"{count:,} {DROPPED[name]}" for name, count in found["dropped"].items() if count]
    lines.append(
        f"rows read {found['read']:,}, that cannot be read and were skipped {found['skipped']:,}, "
        f"dropped {', '.join(dropped) or '0'}"
    )
    sizes = ", ".join(f"{found['split'][split]:,} {split}" for split in PARTS)
    lines.append(f"split {found['split']['rule']}: {sizes}")
    lines += [
        text for text in (repeats_text(dataset), impressions_text(dataset), known_text(dataset)) if text
    ]
    for side, name in names.items():
        attributes = found["attributes"][side]
        if attributes["with_a_row"]:
            of = format_count(found[side], name)
            lines.append(f"attributes: {attributes['with_a_row']:,} of {of} have a row")
        lines += [f"  {column['name']}: {column['text']}" for column in attributes["columns"]]
    lines += [f"{note}." for note in dataset.notes]
    text = "\n".join(wrapped(line) for line in [lines[0], *(f"  {line}" for line in lines[1:])])
    return f"{text}\nprepared: {found['folder']}"


def impressions_text(dataset: Dataset) -> str | None:
    """Return how many impressions are explicit negatives, and why others are not; None without any."""
    report = dataset.report
    if "impressions" not in report:
        return None
    counts = {text: int(report[f"impressions_{outcome}"]) for outcome, text in LEFT_OUT.items()}
    left_out = ", ".join(f"{count:,} {text}" for text, count in counts.items() if count)
    read = int(report["impressions_read"]) + int(report["impressions_skipped"])
    used, are = int(report["impressions"]), "is" if report["impressions"] == 1 else "are"
    text = f"Of {format_count(read, 'impression')}, {used:,} {are} used as explicit negatives"
    return f"{text}; left out: {left_out}." if left_out else f"{text}."


def known_text(dataset: Dataset, most: float = 1.0) -> str | None:
    """Return how many held-out users and items training knows.

    Args:
        dataset: The data set.
        most: Largest known share, of users or of items, with which there is something to be said.

    Returns:
        A sentence; None where more are known, nothing is held out, or an older version prepared the data.
    """
    report, names = dataset.report, {"users": "user", "items": dataset.item_name}
    if not report.get("held_out_users"):
        return None
    counts = {side: (int(report[f"known_{side}"]), int(report[f"held_out_{side}"])) for side in names}
    if min(known / held_out for known, held_out in counts.values()) > most:
        return None
    shares = [
        f"{known:,} of {format_count(held_out, names[side])}" for side, (known, held_out) in counts.items()
    ]
    return f"Of what is held out, training knows {' and '.join(shares)}."


def _moment(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):  # no date of the calendar
        return f"{seconds:,} s"


def _facts(
    name: str, categories: dict[str, Feature], dense: dict[str, DenseFeature], rows: int
) -> dict[str, Any]:
    """Return type, different values and missing ones of an attribute; nothing of one that is left out."""
    if name in dense:
        values = dense[name].values[:rows]
        kind = "number" if values.shape[1] == 1 else f"vector of {values.shape[1]}"
        return {"type": kind, "missing": int(np.isnan(values).all(1).sum())}
    if name not in categories:
        return {"type": None}
    feature = categories[name]
    bags, kind = feature.bags, "integer" if pa.types.is_integer(feature.categories.type) else "text"
    lists = bool((bags.lengths()[:rows] != 1).any())
    unknown = np.flatnonzero(bags.values[: bags.offsets[rows]] == feature.size - 1)
    missing = len(np.unique(np.searchsorted(bags.offsets, unknown, side="right")))
    shown = f"list of {kind}" if lists else kind
    return {"type": shown, "values": len(feature.categories), "missing": missing}


def repeats_text(dataset: Dataset) -> str | None:
    """Return what became of repeats in the test split, as a sentence; None if there are none."""
    for name, outcome in (
        ("repeats_dropped", "left out; --data.repeats keep counts them"),
        ("repeats_kept", "counted, as --data.repeats keep asks"),
    ):
        if count := int(dataset.report.get(name, 0)):
            verb = "repeats" if count == 1 else "repeat"
            return (
                f"{format_count(count, 'interaction')} in the time of the test part {verb} what a user had "
                f"before it: {outcome}."
            )
    return None
