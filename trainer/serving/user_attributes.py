"""Attributes of someone new, such as `gender=F,age=25`, as the query tower takes them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trainer.batching.tower_inputs import USER, Inputs, dense_widths, looked_up
from trainer.dataset.vocabulary import Vocabulary
from trainer.errors import UserError
from trainer.ranking.attribute_values import category_codes, numbers
from trainer.storage.attributes import Ragged

OPTION = "--attributes"


def attribute_inputs(
    run: Path, vocabulary: Vocabulary, inputs: Inputs, given: Mapping[str, object]
) -> dict[str, np.ndarray | Ragged]:
    """Return the features of the query tower for one person of whom attributes are known.

    Args:
        run: For messages.
        vocabulary: Of the run.
        inputs: Features of all users in the learned query tower.
        given: Value of each attribute; of several categories a list, or a text with `|` between them.

    Raises:
        UserError: An attribute is none of the query tower's, or nobody has the value.
    """
    tables, widths = looked_up(inputs), dense_widths(inputs)
    prefix = f"{USER}_"
    names = [name[len(prefix) :] for name in (*tables, *widths) if name.startswith(prefix)]
    names = [name for name in names if name in vocabulary.user_categories or f"{prefix}{name}" in widths]
    found: dict[str, np.ndarray | Ragged] = {}
    for name, value in given.items():
        place = f"{OPTION} {name}={value}"
        if name not in names:
            has = (
                f"It has: {', '.join(names)}"
                if names
                else "It has none; train a run with --model.user_features"
            )
            raise UserError(f"{place}: the query tower of {run} has no attribute {name}. {has}")
        table = f"{prefix}{name}"
        if table in widths:
            found[table] = numbers(place, value, widths[table])[None]
        else:
            categories = vocabulary.user_categories[name].to_pylist()
            codes = category_codes(place, value, {str(each): code for code, each in enumerate(categories)})
            found[table] = Ragged(np.array([0, len(codes)]), np.array(codes, np.int32))
    return found
