"""The best items that one person is not known to have, from a run folder alone, in one process.

Cached vectors answer without torch, which is imported only where towers are needed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Unpack

import numpy as np
import pandas as pd
import pyarrow as pa

from trainer.config.schema import ModelConfig
from trainer.errors import UserError
from trainer.facts.losses import loss_spec, losses_where
from trainer.formatting import format_count
from trainer.ranking.reasons import Past
from trainer.runs.checkpoint_store import CONFIG, SavedCheckpoint
from trainer.serving.history import known_history, left_out_text, split_history
from trainer.serving.known_items import held_out_items, newer_items, without_held_out
from trainer.serving.ordered_history import has_ordered_histories, served_history
from trainer.serving.person_list import Person, list_of
from trainer.serving.served_run import Restrictions, ServedRun, open_served
from trainer.serving.vector_cache import Vectors, open_vectors
from trainer.storage.attributes import Ragged
from trainer.storage.tie_hashes import first_hashes

TEST = "test"
"""Split whose items can be marked."""
NONE = np.empty(0, np.int64)


def recommend(
    run: Path,
    user: str,
    k: int = 10,
    keep_seen: bool = False,
    *,
    interactions: Path | None = None,
    mark: str | None = None,
    why: int = 0,
    **restrictions: Unpack[Restrictions],
) -> pd.DataFrame:
    """Rank the items that a user is not known to have, best first.

    Known are the items of all splits: training, validation and test. They are also what an ordered history is
    made of, with newer items behind them; with `mark` it ends before the test split, as in an evaluation. A
    user who is not in the data has rows where ids are hashed; a note says how many others share them.

    Args:
        run: Run folder.
        user: Raw id as text.
        k: Items wanted, from 1 up; fewer come back where fewer remain.
        keep_seen: Whether to rank items that the user already has too.
        interactions: File of newer interactions, whose items are known too.
        mark: `test` ranks the items of the test split too, as an evaluation does, and marks them.
        why: Most items of the user's past that are named as reasons for each item.
        restrictions: What else restricts the list: `where`, `allow`, `deny`, `at_most`.

    Returns:
        Columns `item` (raw id), `title` (None where there is none), `score`, with `why` also `why` (a list of
        records like these, whose score is the contribution), and with `mark` also `test` (bool).
        `attrs["notes"]` are sentences about what could not be done.

    Raises:
        UserError: If the user is not in the data and ids are not hashed, or options contradict each other.
        CheckpointError: If the folder is no run.
    """
    _check_options(keep_seen, interactions, mark)
    served = open_served(run, k)
    selection = served.selection(**restrictions)
    saved, vocabulary = served.saved, served.vocabulary
    row = vocabulary.user_row(user)
    if row is None:
        person = _new_id(served, user, interactions, mark)
        return list_of(served, person, k, selection, why)[1]
    held_out = held_out_items(run, vocabulary, row)
    if mark is not None and held_out is None:
        raise UserError(f"--mark {mark}: {without_held_out(run)}")
    known, notes = NONE, []
    if not keep_seen:
        known = vocabulary.seen.take(np.array([row]))[1]
        if vocabulary.disliked is not None and mark is None:  # an evaluation ranks them
            known = np.append(known, vocabulary.disliked.take(np.array([row]))[1])
        if held_out is None:
            notes.append(f"only training and validation items are left out: {without_held_out(run)}")
        elif mark is None:
            known = np.append(known, held_out)
    newer, ordered = None, mark is None and has_ordered_histories(saved)
    if interactions is not None:
        newer = newer_items(run, vocabulary, interactions, user, timed=ordered)
        known = np.append(known, newer.items)
        if not len(newer.items):
            notes.append(_nothing_newer(interactions, user))
    history = served_history(vocabulary, row, newer) if ordered else None
    if history is not None:
        from trainer.serving.embed import query_of_known_history

        query, vectors = query_of_known_history(run, saved, row, *history)
    elif cached := open_vectors(run, saved):
        query, vectors = cached.users[row], cached.items
    else:
        from trainer.serving.embed import query_and_items

        query, vectors = query_and_items(run, saved, row)

    def past() -> Past:
        from trainer.serving.embed import past_of_user

        return past_of_user(run, saved, row, *(history or ()))

    first = int(first_hashes(vocabulary.user_ids.slice(row, 1))[0])
    person = Person(query, vectors, known, first, past, notes)
    rows, items = list_of(served, person, k, selection, why)
    if mark is not None and held_out is not None:
        items[TEST] = np.isin(rows, held_out)
        items.attrs["held_out"] = len(held_out)
    return items


def recommend_by_history(
    run: Path,
    history: Sequence[str],
    k: int = 10,
    keep_seen: bool = False,
    *,
    split: bool = False,
    attributes: Mapping[str, object] | None = None,
    why: int = 0,
    **restrictions: Unpack[Restrictions],
) -> pd.DataFrame:
    """Rank items for someone who need not be in the data, best first.

    Args:
        run: Run folder.
        history: Raw ids or titles, as text, of the items that this person has, at least one of them known;
            unknown ones are left out, and spaces around an id where that gives a known one. With attributes
            it may be empty.
        k: Items wanted, from 1 up; fewer come back where fewer remain.
        keep_seen: Whether to rank the items of the history too.
        split: Whether each text may hold several, separated by commas.
        attributes: Attributes of the query tower that are known of this person, by name.
        why: Most items of the history that are named as reasons for each item.
        restrictions: What else restricts the list, as in `recommend`.

    Returns:
        Columns as those of `recommend`. `attrs["history"]` and `attrs["unknown"]` are the ids that were used
        and the texts that were not.

    Raises:
        UserError: If no item is in the data, an attribute is none of the query tower's, or the run was
            trained on values.
        CheckpointError: If the folder is no run.
    """
    served = open_served(run, k)
    catalogue, saved = served.catalogue, served.saved
    known: dict[str, int] = {}
    unknown: list[str] = []
    if history or not attributes:
        given = split_history(catalogue, history) if split else history
        known, unknown = known_history(run, catalogue, given)
    rows, selection = list(known.values()), served.selection(**restrictions)
    model = _model_without_values(run, saved) if rows else None
    # A query tower with a table or an encoder of histories has to look the items up.
    if attributes:
        from trainer.serving.embed import query_of_attributes

        query, vectors = query_of_attributes(run, saved, rows, attributes)
    elif model and model.history == "none" and (cached := open_vectors(run, saved)):
        query, vectors = _query_from_cache(cached, rows, model), cached.items
    else:
        from trainer.serving.embed import query_of_history

        query, vectors = query_of_history(run, saved, rows)

    def past() -> Past:
        from trainer.serving.embed import past_of_history

        return past_of_history(run, saved, rows, query, attributes)

    left_out = NONE if keep_seen else np.array(rows, np.int64)
    items = list_of(served, Person(query, vectors, left_out, past=past), k, selection, why)[1]
    if unknown:
        given_count = len(known) + len(unknown)
        items.attrs["notes"].append(left_out_text(run, catalogue, unknown, given_count))
    items.attrs |= {"history": list(known), "unknown": unknown}
    return items


def _new_id(served: ServedRun, user: str, interactions: Path | None, mark: str | None) -> Person:
    """Return a user who is not in the data, by the rows of the hashed id; see `recommend`."""
    from trainer.config.parser import read_config

    run, vocabulary = served.run, served.vocabulary
    users, model = len(vocabulary.user_ids), read_config(served.saved.folder / CONFIG).model
    if not (model.hashed_rows and model.user_id):
        raise UserError(_unknown_user(served, user, model))
    if mark is not None:
        raise UserError(f"--mark {mark}: user {user} is new to {run} and has no test items. Leave --mark out")
    known = NONE
    if interactions is not None:
        known = newer_items(run, vocabulary, interactions, user).items
    from trainer.serving.embed import query_of_new_id

    query, vectors, sharing = query_of_new_id(run, served.saved, user)
    notes = [
        f"--user {user}: not among the {users:,} users of {run}. Ranked by the two rows of the hashed id, of "
        f"which {format_count(sharing, 'known user')} {'shares' if sharing == 1 else 'share'} at least one; "
        "with items of this user, --history is better"
    ]
    if interactions is not None and not len(known):
        notes.append(_nothing_newer(interactions, user))
    return Person(query, vectors, known, int(first_hashes(pa.array([user]))[0]), notes=notes)


def _unknown_user(served: ServedRun, user: str, model: ModelConfig) -> str:
    """Return a message that names examples of users, and what a list can be made from instead."""
    ids = served.vocabulary.user_ids
    examples = ", ".join(map(str, ids[:3].to_pylist()))
    ways = ["--history with this user's items"] if served.serves_histories else []
    if ways and model.user_features:
        ways.append(f"--attributes with what is known of {', '.join(model.user_features)}")
    ways.append("--popular for someone of whom nothing is known")
    instead = f"{', '.join(ways[:-1])}{' or ' if ways[:-1] else ''}{ways[-1]}"
    return (
        f"--user {user}: not among the {len(ids):,} users of {served.run} (such as {examples}). "
        f"Name one of them, or use {instead}"
    )


def _nothing_newer(interactions: Path, user: str) -> str:
    return f"--interactions {interactions}: no item of the catalogue for user {user}"


def _check_options(keep_seen: bool, interactions: Path | None, mark: str | None) -> None:
    """Refuse options that contradict each other."""
    if mark not in (None, TEST):
        raise UserError(f"--mark {mark}: only items of the test split can be marked. Use --mark test")
    if interactions is not None and (keep_seen or mark is not None):
        other = "--keep-seen" if keep_seen else f"--mark {mark}"
        raise UserError(
            f"--interactions {interactions}: its items are left out, and {other} ranks items that the user "
            "has. Leave one of the two out"
        )


def _model_without_values(run: Path, saved: SavedCheckpoint) -> ModelConfig:
    """Return the section `model` of a run's configuration.

    Raises:
        UserError: If the run was trained on values.
    """
    from trainer.config.parser import read_config

    config = read_config(saved.folder / CONFIG)
    if not loss_spec(config.loss.name).serves_history:
        raise UserError(
            f"--history: {run} was trained with --loss.name {config.loss.name}, which needs ratings, and a "
            "history has none. Name a user with --user, or a run that was trained with --loss.name "
            f"{losses_where(lambda spec: spec.serves_history)}"
        )
    return config.model


def _query_from_cache(cached: Vectors, rows: Sequence[int], model: ModelConfig) -> np.ndarray:
    """Return the query vector (D,) of a history of item rows, as `query_from_history` does from towers."""
    from trainer.closed_form.edlae import history_vectors
    from trainer.model.fold_in import fold_in

    own = Ragged(np.array([0, len(rows)]), np.array(rows, np.int32))
    learned = cached.items[:, : cached.items.shape[1] - cached.histories.shape[1]]
    first = fold_in(own, learned, model.similarity == "cosine", model.item_bias)
    return np.concatenate([first, history_vectors(own, np.array([0]), cached.histories)], axis=1)[0]
