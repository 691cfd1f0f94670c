"""A sharding plan as a notebook shows it: a picture, a text, and a table."""

from dataclasses import asdict, dataclass

import pandas as pd

from trainer.inspection.plan_picture import picture
from trainer.inspection.plan_text import plan_text
from trainer.planning.plan import Plan


@dataclass(frozen=True)
class ShownPlan:
    """A sharding plan that prints as `python -m trainer plan` prints it.

    Attributes:
        plan: The plan itself.
        source: Where it comes from.
    """

    plan: Plan
    source: str

    def __str__(self) -> str:
        return plan_text(self.plan, self.source)

    __repr__ = __str__

    def _repr_svg_(self) -> str:
        return picture(self.plan)

    @property
    def shards(self) -> pd.DataFrame:
        """A row a shard: its table, kind of sharding, rank, place in the table, and bytes."""
        return pd.DataFrame(
            [
                {"table": table.name, "sharding": table.sharding, "kernel": table.kernel, **asdict(shard)}
                for table in self.plan.tables
                for shard in table.shards
            ]
        )
