"""Interactions of any size with a structure that two towers can learn and popularity cannot.

Every item belongs to a community, every user to a few of them with weights of their own. A user's
interactions come mostly from these communities, where items are drawn by popularity, a power law of rank.
Attributes reveal some of it: genres and release year of an item its community, gender and age of a user the
heaviest one. Values grow with the user's weight of the item's community.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.errors import DataError
from trainer.sources.schema import SourceTables

MEMBERSHIPS = 3  # communities of a user
MEMBERSHIP_SHARES = np.array([0.6, 0.3, 0.1])  # of the interactions that are not BACKGROUND
BACKGROUND = 0.15  # share of interactions that follow popularity alone
ZIPF_EXPONENT = 0.8  # popularity of the item of rank r goes with r to minus this
LARGEST_COMMUNITY_COUNT = 64
LEAST_PER_USER = 5
BLOCK_ROWS = 1 << 17  # about as many interactions are made at a time; the outcome depends on it
ROUNDS = 8  # of drawing again what a user already has, before a duplicate is let through
FIRST_SECOND = 946_684_800  # 1 January 2000
GENRES = np.array(
    "Action Adventure Animation Comedy Crime Documentary Drama Fantasy Horror Musical Mystery Romance "  # noqa: SIM905
    "Science Sport Thriller War".split()
)
AGES = np.array([1, 18, 25, 35, 45, 50, 56])


@dataclass(frozen=True)
class _World:
    """What interactions are drawn from; item rows are ordered by community, then by falling popularity."""

    item_community: np.ndarray  # (items,) int64, ascending
    starts: np.ndarray  # (communities + 1,) int64 first item row of each community
    cumulative: np.ndarray  # (items,) float64 summed popularity, where community c lies in (c, c + 1]
    overall: np.ndarray  # (items,) float64 summed popularity over all items, up to 1
    item_ids: np.ndarray  # (items,) int64
    memberships: np.ndarray  # (users, MEMBERSHIPS) int32
    counts: np.ndarray  # (users,) int64 interactions
    seed: int


def synthesise(users: int, items: int, interactions: int, seed: int) -> SourceTables:
    """Make up a data set; the same arguments give the same rows.

    Users come one after the other, each in the order of time. A user has at least 5 interactions where there
    are 10 a user on average and enough items. A pair occurs twice only where a user has most of the items.
    Memory: about 30 bytes a user and 40 an item, and a block of 2**17 interactions.

    Raises:
        DataError: There is not at least one of each, or the seed is negative.
    """
    sizes = {"users": users, "items": items, "interactions": interactions}
    for name, number, least in [*((name, size, 1) for name, size in sizes.items()), ("seed", seed, 0)]:
        if number < least:
            raise DataError(
                f"--data.synthetic_{name}: {number}, expected at least {least}. Give a larger one"
            )
    rng = np.random.default_rng(seed)
    communities = int(np.clip(round(np.sqrt(items) / 2), 1, LARGEST_COMMUNITY_COUNT))
    item_community = np.sort(np.arange(items) % communities)
    starts = np.searchsorted(item_community, np.arange(communities + 1))
    rank = np.arange(items) - starts[item_community] + 1
    popularity = rng.lognormal(0.0, 0.7, communities)[item_community] * rank**-ZIPF_EXPONENT
    summed = np.concatenate([[0.0], np.cumsum(popularity)])
    within = (summed[1:] - summed[starts[item_community]]) / np.diff(summed[starts])[item_community]
    world = _World(
        item_community,
        starts,
        item_community + within,
        summed[1:] / summed[-1],
        rng.permutation(items) + 1,
        rng.integers(communities, size=(users, MEMBERSHIPS), dtype=np.int32),
        _counts(rng, users, items, interactions),
        seed,
    )
    return SourceTables(_blocks(world), None, _users(rng, world), _items(rng, world))


def _counts(rng: np.random.Generator, users: int, items: int, interactions: int) -> np.ndarray:
    """Return each user's number of interactions, (users,) int64: lognormal, at most half of the items."""
    least = min(LEAST_PER_USER, interactions // users, items)
    activity = rng.lognormal(0.0, 1.0, users)
    counts = least + rng.multinomial(interactions - least * users, activity / activity.sum())
    most = max(items // 2, -(-interactions // users))
    excess = np.maximum(counts - most, 0).sum()
    if excess:
        counts = np.minimum(counts, most)
        room = most - counts
        share = room * excess // room.sum()
        counts += share
        counts[np.flatnonzero(share < room)[: excess - share.sum()]] += 1
    return counts


def _blocks(world: _World) -> Iterator[pa.RecordBatch]:
    ends = np.cumsum(world.counts)
    # A block ends with the user who crosses the next multiple of BLOCK_ROWS.
    cuts = np.searchsorted(ends, np.arange(BLOCK_ROWS, ends[-1], BLOCK_ROWS)) + 1
    bounds = np.unique(np.concatenate([[0], cuts, [len(ends)]]))
    for block, (first, last) in enumerate(pairwise(bounds)):
        rng = np.random.default_rng([world.seed, 1 + block])  # block 0 would repeat the stream of the world
        users = np.repeat(np.arange(first, last), world.counts[first:last])
        items = _distinct_items(rng, world, users)
        belongs = world.memberships[users] == world.item_community[items][:, None]
        affinity = (belongs * MEMBERSHIP_SHARES).sum(1)
        values = np.clip(np.rint(2.2 + 3.2 * affinity + rng.normal(0.0, 0.7, len(users))), 1, 5)
        yield pa.RecordBatch.from_pydict(
            {
                "user_id": users + 1,
                "item_id": world.item_ids[items],
                "value": values.astype(np.float32),
                "timestamp": _timestamps(rng, world.counts[first:last]),
            }
        )


def _distinct_items(rng: np.random.Generator, world: _World, users: np.ndarray) -> np.ndarray:
    """Return an item row for each of `users` (ascending), (n,); items that a user already has are redrawn."""
    items = np.zeros(len(users), np.int64)
    again = np.arange(len(users))
    for attempt in range(ROUNDS):
        # Whoever has most of what their communities offer turns to other items.
        items[again] = _draw(rng, world, users[again], min(1.0, BACKGROUND * 2**attempt))
        pairs = users * len(world.item_ids) + items
        order = np.argsort(pairs, kind="stable")
        again = order[1:][pairs[order][1:] == pairs[order][:-1]]
        if not len(again):
            break
    # The first draws are the popular ones: without this, a user's last items would be obscure.
    return items[np.lexsort((rng.random(len(users)), users))]


def _draw(rng: np.random.Generator, world: _World, users: np.ndarray, background: float) -> np.ndarray:
    chosen = np.searchsorted(np.cumsum(MEMBERSHIP_SHARES)[:-1], rng.random(len(users)), side="right")
    community = world.memberships[users, chosen]
    own = np.searchsorted(world.cumulative, community + rng.random(len(users)), side="right")
    own = np.minimum(own, world.starts[community + 1] - 1)  # rounding may reach into the next community
    other = np.searchsorted(world.overall, rng.random(len(users)), side="right")
    other = np.minimum(other, len(world.item_ids) - 1)
    return np.where(rng.random(len(users)) < background, other, own)


def _timestamps(rng: np.random.Generator, counts: np.ndarray) -> np.ndarray:
    """Return timestamps, (sum of counts,) int64 seconds, increasing within a user by about an hour each."""
    gaps = 1 + rng.exponential(3600.0, counts.sum()).astype(np.int64)
    elapsed = np.cumsum(gaps)
    before = np.concatenate([[0], elapsed])[np.cumsum(counts) - counts]
    start = FIRST_SECOND + rng.integers(5 * 365 * 86_400, size=len(counts))
    return elapsed + np.repeat(start - before, counts)


def _users(rng: np.random.Generator, world: _World) -> pa.Table:
    heaviest = world.memberships[:, 0]
    count = len(heaviest)
    female = rng.random(count) < np.where(heaviest % 2, 0.8, 0.2)
    typical = rng.random(count) < 0.6
    ages = AGES[np.where(typical, heaviest // 2, rng.integers(len(AGES), size=count)) % len(AGES)]
    return pa.table(
        {"user_id": np.arange(1, count + 1), "gender": pa.array(np.where(female, "F", "M")), "age": ages}
    )


def _items(rng: np.random.Generator, world: _World) -> pa.Table:
    order = np.argsort(world.item_ids)
    community = world.item_community[order]
    count = len(order)
    year = np.clip(np.rint(1960 + community * 7 % 60 + rng.normal(0.0, 3.0, count)), 1930, 2025)
    first = community % len(GENRES)
    second = (first + rng.integers(1, len(GENRES), count)) % len(GENRES)
    lengths = rng.integers(1, 3, count)
    names = GENRES[np.stack([first, second], 1)[np.arange(2) < lengths[:, None]]]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    years = pa.array(year.astype(np.int64))
    ids = pa.array(world.item_ids[order])
    titles = pc.binary_join_element_wise(
        "Item ", ids.cast(pa.string()), " (", years.cast(pa.string()), ")", ""
    )
    genres = pa.ListArray.from_arrays(offsets, pa.array(names))
    return pa.table({"item_id": ids, "title": titles, "genres": genres, "release_year": years})
