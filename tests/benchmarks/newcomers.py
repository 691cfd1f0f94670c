"""People and items that were not in the training: how well their histories and attributes stand in for it.

    python -m tests.benchmarks.newcomers [--data NAME] [--root DIR] [--seeds 42 43 44]

People: a fifth of the users is left out of training altogether. Their vectors come from their training items
alone, as `recommend --history` makes them, to find the same test items as in a training that had them. Where
the data set has an order, these stand oldest first, and ordered histories are rows of the table too.
Items: a tenth of the items is left out and ranked by attributes alone, for every user who has one of them:
among themselves, and among the whole catalogue, beside chance. Then what their presence costs: the share of
places that they take, and the test part, found in the whole catalogue; in the last column as a share of that
of a training by ids alone, in whose lists they take no place. `without new` ranks the old items alone, and
`all held out` counts hits among old and new ones alike. `--data made-up` has vectors that carry the taste for
each item and its popularity.
"""

import argparse
import contextlib
import io
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from tests.benchmarks.boards import BOARDS
from tests.benchmarks.quality import spread
from trainer.cli import main as command
from trainer.dataset.build import prepare
from trainer.dataset.dataset import Dataset, open_dataset
from trainer.dataset.prepare import prepare_data
from trainer.evaluation.metrics import metrics_by_user
from trainer.evaluation.topk import ItemLists, hits, top_k
from trainer.model.retriever import candidate_vectors, query_from_history, query_vectors
from trainer.runs.run_folder import TrainedRun, open_run
from trainer.sources.schema import SourceTables

K, METRIC, CPU = 10, "ndcg@10", torch.device("cpu")
PEOPLE = {
    "user id and closed form": "",
    "user id alone": "--model.low_rank 0",
    "history alone": "--model.low_rank 0 --model.user_id false --model.history bag",
}
ORDERED_PEOPLE = {
    "ordered history alone": "--model.low_rank 0 --model.user_id false --model.history recency",
    "ordered history and user id": "--model.low_rank 0 --model.user_id true --model.history recency",
}
ITEMS = {
    "ids alone": "",
    "attributes": "{attributes}",
    "attributes, ids dropped from 0.2": "{attributes} --model.item_id_dropout 0.2",
    "the same, boost -0.5": "{attributes} --model.item_id_dropout 0.2 --model.new_item_boost -0.5",
    "the same, boost -0.25": "{attributes} --model.item_id_dropout 0.2 --model.new_item_boost -0.25",
    "the same, boost 0.5": "{attributes} --model.item_id_dropout 0.2 --model.new_item_boost 0.5",
}
MADE_UP = "made-up"


class Pairs:
    """Pairs of users and items of one part, as rows of the data set, with their times if there are any."""

    def __init__(self, users: np.ndarray, items: np.ndarray, times: np.ndarray | None = None) -> None:
        self.users, self.items = np.asarray(users), np.asarray(items)
        self.times = None if times is None else np.asarray(times)

    @classmethod
    def before_test(cls, dataset: Dataset) -> "Pairs":
        """What was known before the test part, each user's oldest first where there is an order."""
        if not dataset.has_order:
            return cls(dataset.train.users, dataset.train.items)
        known = dataset.sequences("test")
        users = np.repeat(np.arange(dataset.user_count + 1), known.items.lengths())
        return cls(users, known.items.values, None if known.times is None else known.times.values)

    def where(self, chosen: np.ndarray) -> "Pairs":
        times = None if self.times is None else self.times[chosen]
        return Pairs(self.users[chosen], self.items[chosen], times)

    def lists(self, users: np.ndarray, place: np.ndarray) -> ItemLists:
        """Items of each of the users as `place` renumbers them, ascending; those at -1 are left out."""
        lengths, items = self.histories(users, place)
        rows = np.repeat(np.arange(len(users)), lengths.numpy())
        return lengths, items[np.lexsort((items.numpy(), rows))]

    def histories(self, users: np.ndarray, place: np.ndarray) -> ItemLists:
        """The same in the order of the pairs."""
        owner = np.full(max(self.users.max(), users.max()) + 1, -1)
        owner[users] = np.arange(len(users))
        rows, items = owner[self.users], place[self.items]
        rows, items = rows[(rows >= 0) & (items >= 0)], items[(rows >= 0) & (items >= 0)]
        order = np.argsort(rows, kind="stable")
        return torch.from_numpy(np.bincount(rows, minlength=len(users))), torch.from_numpy(items[order])


class Trained:
    """A training on some pairs, with the places of the data set's users and items in it (-1: none)."""

    def __init__(self, folder: Path, dataset: Dataset, train: Pairs, test: Pairs, options: str) -> None:
        folder.mkdir(parents=True)
        for name, pairs in (("interactions", train), ("held_out", test)):
            columns = {
                "user_id": dataset.user_ids.take(pairs.users),
                "item_id": dataset.item_ids.take(pairs.items),
            }
            columns |= {} if pairs.times is None else {"timestamp": pa.array(pairs.times)}
            pq.write_table(pa.table(columns), folder / f"{name}.parquet")
        pq.write_table(attributes(dataset), folder / "items.parquet")
        arguments = ["train", "--data.name", "files", "--device", "cpu", *options.split()]
        for name in ("interactions", "held_out", "items"):
            arguments += [f"--data.{name}", str(folder / f"{name}.parquet")]
        # Pairs without times stand in their order.
        arguments += ["--data.order", "file"] if dataset.has_order and train.times is None else []
        arguments += ["--data.cache", str(folder / "cache"), "--run.dir", str(folder / "run")]
        with contextlib.redirect_stdout(io.StringIO()):
            assert command(arguments) == 0
        self.run: TrainedRun = open_run(folder / "run")
        self.users = places(dataset.user_ids, self.run.vocabulary.user_ids)
        self.items = places(dataset.item_ids, self.run.vocabulary.item_ids)
        rows = np.arange(len(self.run.vocabulary.item_ids))
        self.item_vectors = candidate_vectors(self.run.tower_pairs, rows, CPU)

    def queries(self, users: np.ndarray) -> torch.Tensor:
        return query_vectors(self.run.tower_pairs, self.users[users], CPU)

    def ndcg(self, query: torch.Tensor, truth: ItemLists, exclude: ItemLists) -> float:
        return self.metric(METRIC, query, truth, exclude)

    def recall(self, query: torch.Tensor, truth: ItemLists, exclude: ItemLists) -> float:
        return self.metric(f"recall@{K}", query, truth, exclude)

    def metric(self, name: str, query: torch.Tensor, truth: ItemLists, exclude: ItemLists) -> float:
        found = hits(self.first(query, exclude), truth)
        return float(metrics_by_user(found, truth[0], [K])[name].mean())

    def first(self, query: torch.Tensor, exclude: ItemLists) -> torch.Tensor:
        return top_k(query, self.item_vectors, K, exclude)[1]


def attributes(dataset: Dataset) -> pa.Table:
    """Attribute codes of every item, as lists."""
    bags = {name: feature.bags for name, feature in dataset.item_features.items()}
    lists = {
        name: pa.ListArray.from_arrays(pa.array(bag.offsets, pa.int32()), pa.array(bag.values))
        for name, bag in bags.items()
    }
    vectors = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(feature.values.ravel()), feature.values.shape[1])
        for name, feature in dataset.item_dense.items()
    }
    return pa.table({"item_id": dataset.item_ids} | lists | vectors)


def made_up(cache: Path, users: int = 1000, items: int = 600, tastes: int = 8) -> Dataset:
    """Users who have 40 items each by taste and popularity, and items whose vectors carry both."""
    generator = np.random.default_rng(0)
    likes, kinds = (generator.standard_normal((count, tastes)) for count in (users, items))
    popularity = generator.standard_normal(items)
    logits = likes @ kinds.T * 0.7 + popularity + generator.gumbel(size=(users, items))
    chosen = np.argsort(-logits, axis=1)[:, :40]
    order = generator.permutation(chosen.size)
    truth = np.column_stack([kinds, popularity]) @ generator.standard_normal((tastes + 1, 32))
    pairs = {"user_id": np.repeat(np.arange(users), 40)[order], "item_id": chosen.ravel()[order]}
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(truth.ravel().astype(np.float32)), 32)
    source = SourceTables(
        iter([pa.record_batch(pairs)]), items=pa.table({"item_id": np.arange(items), "vector": vectors})
    )
    folder = prepare(
        lambda: source,
        {},
        cache,
        name=MADE_UP,
        min_value=None,
        k_core=0,
        split="random",
        test_size=0.2,
        validation_size=0.0,
        split_seed=42,
    )
    return open_dataset(folder)


def places(ids: pa.Array, among: pa.Array) -> np.ndarray:
    return pc.fill_null(pc.index_in(ids, value_set=among), -1).to_numpy().astype(np.int64)


def people(folder: Path, dataset: Dataset, options: str, seed: int) -> dict[str, float]:
    """NDCG of the users who are left out, by their histories, and of the same users in the training."""
    train, times = Pairs.before_test(dataset), dataset.test.timestamps
    test = Pairs(dataset.test.users, dataset.test.items, times if train.times is not None else None)
    users = np.intersect1d(train.users, test.users)
    users = np.sort(np.random.default_rng(seed).choice(users, len(users) // 5, replace=False))
    options = f"{options} --run.seed {seed}"
    there = Trained(folder / "there", dataset, train, test, options)
    query, truth, seen = there.queries(users), test.lists(users, there.items), train.lists(users, there.items)
    figures = {"in training": there.ndcg(query, truth, seen)}
    new = Trained(folder / "new", dataset, train.where(~np.isin(train.users, users)), test, options)
    truth, seen = test.lists(users, new.items), train.lists(users, new.items)
    histories = train.histories(users, new.items)
    query = query_from_history(new.run.tower_pairs, histories, new.item_vectors)
    figures["new"] = new.ndcg(query, truth, seen)
    return figures | {"ratio": figures["new"] / figures["in training"]}


def items(folder: Path, dataset: Dataset, options: str, seed: int) -> dict[str, float]:
    """Recall of the items that are left out, among themselves and among all, each beside chance."""
    pairs = Pairs(dataset.train.users, dataset.train.items)
    generator = np.random.default_rng(seed)
    known = np.unique(pairs.items)
    new = np.sort(generator.choice(known, len(known) // 10, replace=False))
    train, held_out = pairs.where(~np.isin(pairs.items, new)), pairs.where(np.isin(pairs.items, new))
    trained = Trained(folder, dataset, train, held_out, f"{options} --run.seed {seed}")
    users = np.intersect1d(train.users, held_out.users)
    truth, seen = held_out.lists(users, trained.items), train.lists(users, trained.items)
    old = np.setdiff1d(np.arange(len(trained.item_vectors)), trained.items[new])
    others = torch.full((len(users),), len(old)), torch.from_numpy(np.tile(old, len(users)))
    query = trained.queries(users)
    chance = torch.from_numpy(generator.standard_normal(query.shape, dtype=np.float32))
    figures = {}
    for name, exclude in (("among new", others), ("among all", seen)):
        figures[name] = trained.recall(query, truth, exclude)
        figures[f"{name}, chance"] = trained.recall(chance, truth, exclude)
    return figures | presence(trained, dataset, train, held_out, trained.items[new])


def presence(
    trained: Trained, dataset: Dataset, train: Pairs, held_out: Pairs, new: np.ndarray
) -> dict[str, float]:
    """Places of new items, how often these are hits, and NDCG of the test part with and without them."""
    test = Pairs(dataset.test.users, dataset.test.items)
    users = np.intersect1d(train.users, test.users)
    query, truth = trained.queries(users), test.lists(users, trained.items)
    seen = train.lists(users, trained.items)
    both = Pairs(np.append(test.users, held_out.users), np.append(test.items, held_out.items))
    pairs = Pairs(np.repeat(users, len(new)), np.tile(new, len(users)))
    old_alone = Pairs(
        np.append(train.users, pairs.users), np.append(trained.items[train.items], pairs.items)
    ).lists(users, np.arange(len(trained.item_vectors)))
    lists, everything = trained.first(query, seen), both.lists(users, trained.items)
    taken, hit = torch.isin(lists, torch.from_numpy(new)), hits(lists, everything).float()
    return {
        "places": float(taken.float().mean()),
        "of them hits": float(hit[taken].mean()),
        "hits of old": float(hit[~taken].mean()),
        "all held out": trained.ndcg(query, everything, seen),
        "without new": trained.ndcg(query, truth, old_alone),
        "test part": trained.ndcg(query, truth, seen),
    }


def show(title: str, rows: dict[str, list[dict[str, float]]]) -> str:
    columns = list(next(iter(rows.values()))[0])
    lines = [title, " " * 34 + "".join(f"{column:>20}" for column in columns)]
    for name, runs in rows.items():
        cells = "".join(f"{spread([run[column] for run in runs]):>20}" for column in columns)
        lines.append(f"{name:<34}{cells}")
    return "\n".join(lines)


def compared(rows: dict[str, list[dict[str, float]]]) -> None:
    """Add what the test part is of that of ids alone, seed by seed."""
    for runs in rows.values():
        for run, alone in zip(runs, next(iter(rows.values())), strict=True):
            run["of ids alone"] = run["test part"] / alone["test part"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=[*BOARDS, MADE_UP], default="ml-100k", help="data set")
    parser.add_argument("--only", choices=["people", "items"], help="one of the two tables")
    parser.add_argument("--rows", nargs="+", choices=[*PEOPLE, *ORDERED_PEOPLE, *ITEMS], help="rows of them")
    parser.add_argument("--options", default="", help="further options of every training")
    parser.add_argument("--root", type=Path, default="data", help="folder of the MovieLens files")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44], help="of drawing and training")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.data == MADE_UP:
            dataset, attributes = made_up(Path(folder) / "cache"), "vector"
        else:
            data = BOARDS[options.data].config(options.root, f"{folder}/cache")
            dataset, attributes = open_dataset(prepare_data(data)), "genres,release_year"
        models_of_people = PEOPLE | (ORDERED_PEOPLE if dataset.has_order else {})
        by_attributes = f"--model.item_features {attributes}"
        models_of_items = {
            name: f"--model.low_rank 0 {given.format(attributes=by_attributes)}"
            for name, given in ITEMS.items()
        }
        for title, models, work in (("people", models_of_people, people), ("items", models_of_items, items)):
            if options.only not in (None, title):
                continue
            rows = {
                name: [
                    work(
                        Path(folder) / f"{title}-{number}-{seed}", dataset, f"{given} {options.options}", seed
                    )
                    for seed in options.seeds
                ]
                for number, (name, given) in enumerate(models.items())
                if options.rows is None or name in options.rows
            }
            if not rows:
                continue
            if title == "items":
                compared(rows)
            metric = METRIC if title == "people" else f"recall@{K} of the new, then {METRIC}"
            print(show(f"{options.data}, {title}, {metric}", rows) + "\n", flush=True)


if __name__ == "__main__":
    main()
