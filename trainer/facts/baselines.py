"""Facts about each baseline; every module that names or runs baselines reads them here."""

from dataclasses import dataclass

from trainer.errors import ConfigError


@dataclass(frozen=True)
class Baseline:
    """Facts about one ranker that a model can be compared with.

    Attributes:
        ranker: Function that makes it, as `package.module:name`; see `trainer.evaluation.baselines`.
        instead: What users would get in place of a model that does not beat it, the subject of a sentence.
        personalized: Whether its lists depend on the user's own items. Any model must beat those that do not.
        item_limit: Most items of a catalogue that it can rank; None if there is no limit.
        needs_order: Whether it asks which of a user's interactions came last.
    """

    ranker: str
    instead: str
    personalized: bool = True
    item_limit: int | None = None
    needs_order: bool = False


ITEM_BY_ITEM = 20_000
"""Most items whose weights are a matrix of items by items: 1.6 GB, and minutes for `ease` on one core."""

BASELINES: dict[str, Baseline] = {
    "popularity": Baseline(
        "trainer.evaluation.baselines:popularity_ranker",
        "recommending the most popular items",
        personalized=False,
    ),
    "random": Baseline(
        "trainer.evaluation.baselines:random_ranker", "a list drawn by lot", personalized=False
    ),
    "item_knn": Baseline(
        "trainer.evaluation.baselines:item_knn_ranker",
        "the items most similar to a user's own, found without any training,",
        item_limit=ITEM_BY_ITEM,
    ),
    "ease": Baseline(
        "trainer.evaluation.baselines:ease_ranker",
        "a linear model in closed form, found without any training,",
        item_limit=ITEM_BY_ITEM,
    ),
    "low_rank": Baseline(
        "trainer.evaluation.baselines:low_rank_ranker",
        "the closed-form two-tower, found without any training,",
    ),
    "item_knn_last": Baseline(
        "trainer.evaluation.baselines:item_knn_last_ranker",
        "the items most similar to a user's last ones, found without any training,",
        item_limit=ITEM_BY_ITEM,
        needs_order=True,
    ),
    "markov": Baseline(
        "trainer.evaluation.baselines:markov_ranker",
        "what users most often had next after a user's last item, counted without any training,",
        needs_order=True,
    ),
}
"""By name, in the order in which a verdict names them."""


def baseline(name: str) -> Baseline:
    """Return the facts about a baseline.

    Raises:
        ConfigError: If there is no baseline of that name.
    """
    if name not in BASELINES:
        raise ConfigError(f"baseline {name}: unknown, expected one of {', '.join(BASELINES)}")
    return BASELINES[name]
