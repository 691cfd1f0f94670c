"""A made-up shop's files, as shops have them, in CSV and in Parquet.

    python -m tests.benchmarks.shop FOLDER [--users N] [--items N] [--days N] [--seed N]

Purchases come day by day: ids hold letters of several alphabets, times are ISO 8601 with a zone, people buy
some things again, and a purchase weighs its quantity. Items have a title, a list of categories, a price (for
some unknown), a first day and a vector of their text. What a user buys depends on their taste, on what the
vectors tell with noise, and on popularity; so a right reading of each column helps, and the truth is known.
FOLDER gets `purchases` and `products` as `.csv` and `.parquet`, `customers.csv`, `vectors.npy` with
`vector_ids.txt`, and in `days/` the purchases until each of the last three days.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

CATEGORIES = ("Tee", "Kaffee", "Geschirr", "Süßes", "Obst & Nüsse", "Käse", "魚", "Хлеб")
COUNTRIES = ("DE", "FR", "JP", "PL", None)
TASTES = 8
VECTOR_NOISE = 0.4
BUYS_AGAIN = 0.15
LAST_DAYS = 3


@dataclass(frozen=True)
class Shop:
    """The tables of a shop.

    Attributes:
        purchases: `customer`, `sku`, `quantity`, `bought_at` (ISO 8601), in order of time.
        products: `sku`, `title`, `categories` (lists of text), `price`, `since` (ISO date).
        customers: `customer`, `country`.
        vectors: (items, dim) float32, in the order of `products`.
        day: Day of each purchase, from 0.
    """

    purchases: pd.DataFrame
    products: pd.DataFrame
    customers: pd.DataFrame
    vectors: np.ndarray
    day: np.ndarray


def make_shop(
    users: int = 3000, items: int = 1200, days: int = 60, purchases: int = 200_000, seed: int = 0
) -> Shop:
    """Make up a shop; the same arguments give the same shop."""
    lot = np.random.default_rng(seed)
    kinds = lot.integers(len(CATEGORIES), size=items)
    centres = lot.normal(size=(len(CATEGORIES), TASTES))
    truth = centres[kinds] + 0.6 * lot.normal(size=(items, TASTES))
    taste = centres[lot.integers(len(CATEGORIES), size=users)] + 0.8 * lot.normal(size=(users, TASTES))
    popularity = np.log(1 / (1 + lot.permutation(items)))
    # Two of three items are there from the start, the others arrive later.
    since = np.where(lot.random(items) < 2 / 3, 0, lot.integers(days, size=items))
    scores = taste @ truth.T * 0.5 + popularity
    rows = []
    for day, count in enumerate(np.diff(np.linspace(0, purchases, days + 1).astype(int))):
        buyers = lot.choice(users, size=count, p=_activity(users))
        gumbel = lot.gumbel(size=(count, items))
        gumbel[:, since > day] = -np.inf
        rows.append((np.full(count, day), buyers, (scores[buyers] + gumbel).argmax(1)))
    day, buyer, item = (np.concatenate(column) for column in zip(*rows, strict=True))
    again = np.flatnonzero(lot.random(len(day)) < BUYS_AGAIN)
    last = pd.Series(item).groupby(buyer).shift().to_numpy()
    again = again[~np.isnan(last[again])]
    item[again] = last[again].astype(int)
    second = np.sort(lot.integers(86_400, size=len(day)) + 86_400 * day)
    bought_at = pd.Timestamp("2026-03-01T00:00:00Z") + pd.to_timedelta(second, unit="s")
    customer = np.array([f"kunde ä{number:05}" if number % 3 else f"客-{number}" for number in range(users)])
    sku = np.array([f"A,{number}" if number % 50 == 0 else f"товар-{number}" for number in range(items)])
    price = np.where(lot.random(items) < 0.9, np.round(np.exp(lot.normal(2 + kinds * 0.2, 0.5)), 2), np.nan)
    return Shop(
        purchases=pd.DataFrame(
            {
                "customer": customer[buyer],
                "sku": sku[item],
                "quantity": lot.geometric(0.7, size=len(day)),
                "bought_at": bought_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
        ),
        products=pd.DataFrame(
            {
                "sku": sku,
                "title": [f"{CATEGORIES[kind]} No. {number}" for number, kind in enumerate(kinds)],
                "categories": [
                    [CATEGORIES[kind], *(["Neu"] if first else [])]
                    for kind, first in zip(kinds, since, strict=True)
                ],
                "price": price,
                "since": (pd.Timestamp("2026-03-01") + pd.to_timedelta(since, unit="D")).strftime("%Y-%m-%d"),
            }
        ),
        customers=pd.DataFrame(
            {"customer": customer, "country": lot.choice(np.array(COUNTRIES, object), size=users)}
        ),
        vectors=(truth + VECTOR_NOISE * lot.normal(size=truth.shape)).astype(np.float32),
        day=day,
    )


def _activity(users: int) -> np.ndarray:
    shares = 1 / (10 + np.arange(users))
    return shares / shares.sum()


def write_shop(shop: Shop, folder: Path) -> None:
    """Write the shop's files into `folder`."""
    (folder / "days").mkdir(parents=True, exist_ok=True)
    shop.purchases.to_csv(folder / "purchases.csv", index=False)
    parquet.write_table(
        pa.Table.from_pandas(
            shop.purchases.assign(bought_at=pd.to_datetime(shop.purchases["bought_at"])), preserve_index=False
        ),
        folder / "purchases.parquet",
    )
    lists = shop.products["categories"].str.join("|")
    shop.products.assign(categories=lists).to_csv(folder / "products.csv", index=False)
    table = pa.Table.from_pandas(shop.products, preserve_index=False)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(shop.vectors.ravel()), shop.vectors.shape[1])
    parquet.write_table(table.append_column("text", vectors), folder / "products.parquet")
    shop.customers.to_csv(folder / "customers.csv", index=False)
    np.save(folder / "vectors.npy", shop.vectors)
    (folder / "vector_ids.txt").write_text("\n".join(shop.products["sku"]) + "\n")
    for day in range(shop.day.max() - LAST_DAYS + 1, shop.day.max() + 1):
        until = shop.purchases[shop.day <= day]
        until.to_csv(folder / "days" / f"until_{day:03}.csv", index=False)


def main() -> None:
    """Write a shop into the folder that is named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--users", type=int, default=3000)
    parser.add_argument("--items", type=int, default=1200)
    parser.add_argument("--days", type=int, default=60)
    parser.add_argument("--purchases", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    options = vars(parser.parse_args())
    folder = options.pop("folder")
    shop = make_shop(**options)
    write_shop(shop, folder)
    print(f"{len(shop.purchases):,} purchases of {options['users']:,} people and {options['items']:,} items")


if __name__ == "__main__":
    main()
