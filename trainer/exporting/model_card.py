"""The model card of an export: what it is, of what data, how good, with which limits, and how to open it."""

from collections.abc import Iterable, Mapping
from typing import Any

from trainer.exporting.index_kinds import INDEXES
from trainer.recommender.vectors import DTYPES

SETTINGS = (
    *("loss.name", "model.dim", "model.similarity", "model.history", "model.hidden", "model.low_rank"),
    *(
        "model.user_features",
        "model.item_features",
        "optimizer.name",
        "batches.size",
        "run.epochs",
        "run.seed",
    ),
)
"""Settings that the card names; the manifest has all."""
FILES = {
    "items.parquet": "raw ids, titles and attributes of the items, in row order",
    "item_vectors.npy": "candidate vectors, a row an item",
    "item_vectors_scale.npy": "factor of each dimension of the candidate vectors",
    "item_vectors.parquet": "raw ids and candidate vectors as float32 lists, for vector stores",
    "users.parquet": "raw ids of the users, in row order",
    "user_vectors.npy": "query vectors, a row a user",
    "user_vectors_scale.npy": "factor of each dimension of the query vectors",
    "user_items_offsets.npy": "where each user's items begin",
    "user_items_values.npy": "item rows of each user, which are not recommended again",
    "user_items_counted.npy": "which of these the closed-form part of the query vector is a sum over",
    "user_disliked_offsets.npy": "where each user's explicit negatives begin",
    "user_disliked_values.npy": "item rows of explicit negatives, which are not recommended",
    "user_categories.json": "categories of the user attributes that the query tower takes",
    "history_columns.npy": "closed-form part of the query vector of someone who has one item, a row an item",
    "query.pt2": "query tower for people who are not in the data, as a torch.export program",
    "weights.safetensors": "weights of both towers by name",
    "index.faiss": "index of the candidate vectors; its ids are rows",
}
"""What each file holds."""


def model_card(manifest: Mapping[str, Any], files: Iterable[str]) -> str:
    """Return the model card as Markdown.

    Args:
        manifest: Of the export.
        files: Names of its files.
    """
    data, counts = manifest["config"]["data"], {name: f"{manifest[name]:,}" for name in ("users", "items")}
    parts = [
        f"# Two-tower recommender: {data['name']}",
        f"Recommends {manifest['item_name']}s: the score of one for a user is the dot product of their "
        f"vectors of {manifest['dim']} dimensions, biases and temperature included. Exported by Shardtower "
        f"from the checkpoint of step {manifest['checkpoint']['step']:,}.",
        "## Data",
        f"{counts['users']} users and {counts['items']} {manifest['item_name']}s with "
        f"{manifest['interactions']:,} interactions before the test split, of `{data['name']}`; split "
        f"`{data['split']}`.",
        "## Settings",
        _settings(manifest["config"]),
        "## Quality",
        _metrics(manifest["metrics"]),
        _checks(manifest),
        "## Limits",
        _limits(manifest),
        "## How to open it",
        _opening(manifest),
        "## Files",
        _files(files),
    ]
    return "\n\n".join(parts) + "\n"


def _settings(config: Mapping[str, Any]) -> str:
    rows = []
    for name in SETTINGS:
        section, key = name.split(".")
        rows.append((f"`{name}`", f"`{config[section][key]}`"))
    return _table(("setting", "value"), rows)


def _metrics(metrics: Mapping[str, Any] | None) -> str:
    if metrics is None or "model" not in metrics:
        return "The run was not evaluated."
    rankers = {
        name: each
        for name, each in metrics.items()
        if isinstance(each, dict) and each.keys() == metrics["model"].keys()
    }
    names = list(metrics["model"])
    rows = [(name, *(f"{each[metric]:.4f}" for metric in names)) for name, each in rankers.items()]
    seen = "left out" if metrics["seen"] == "mask" else "ranked too"
    return (
        f"On the {metrics['split']} split, {metrics['users']:,} users, all {metrics['items']:,} items "
        f"ranked, seen ones {seen}:\n\n" + _table(("", *names), rows)
    )


def _checks(manifest: Mapping[str, Any]) -> str:
    checks, index = manifest["checks"], manifest["index"]
    how = INDEXES["none" if index is None else index["kind"]].text
    text = (
        f"Vectors are stored as {DTYPES[manifest['dtype']].text}; {how}. Against the exact ranking of "
        f"{checks['users']:,} users, seen items left out, recall@10 is {checks['recall@10']:.4f} and "
        f"recall@100 {checks['recall@100']:.4f}"
    )
    if checks["ndcg@10"] is not None:
        text += f"; their NDCG@10 is {checks['ndcg@10']:.4f} ({checks['ndcg@10_exact']:.4f} by exact vectors)"
    return f"{text}."


def _limits(manifest: Mapping[str, Any]) -> str:
    query, program = manifest["query"], manifest["query"]["program"]
    limits = [
        "It knows the items of its data alone; an item that came later needs a new training.",
        "A split of past interactions says how well such interactions are found again, not whether people "
        "like what they are shown.",
        "Users' known items are part of this folder: treat it as personal data where the interactions are.",
    ]
    if not query["histories"]:
        limits.append("It was trained on values, so that it serves no histories.")
    elif query["takes_history"]:
        limits.append(
            "Someone new is served by the items that they have; the query tower takes them as they are."
        )
    else:
        limits.append(
            "Someone new is served by the items that they have: a vector is fitted to them, which takes some "
            "milliseconds and follows short histories closely."
        )
    if program:
        limits.append("Serving someone new needs torch; known users do not.")
    return "\n".join(f"- {each}" for each in limits)


def _opening(manifest: Mapping[str, Any]) -> str:
    packages = ["numpy", "pandas", "pyarrow"] + (["faiss-cpu"] if manifest["index"] else [])
    packages += ["torch"] if manifest["query"]["program"] else []
    return (
        f"It needs {', '.join(packages)} and the package `shardtower`, and no process group.\n\n"
        "```python\nfrom trainer.recommender.recommender import Recommender\n\n"
        'recommender = Recommender.open("THIS FOLDER")\n'
        'print(recommender.recommend(user="ID", k=10))\n'
        'print(recommender.recommend(history=["ITEM", "ITEM"], k=10))\n'
        'print(recommender.similar("ITEM"))\n```'
    )


def _files(names: Iterable[str]) -> str:
    return (
        "`manifest.json` holds versions, the whole configuration, checks, size and SHA-256 of every file.\n\n"
        + _table(("file", "holds"), [(f"`{name}`", text) for name, text in FILES.items() if name in names])
    )


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
