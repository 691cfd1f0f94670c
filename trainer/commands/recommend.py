"""`recommend`: list the best items for one person or for all, or items like an item."""

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

from trainer.command_line.arguments import Parser, count, ids, local
from trainer.formatting import with_names
from trainer.object_storage.copies import open_place

Answer: TypeAlias = tuple[Any, Any]
"""Whom or what a list was made for, as JSON names it, and the list, a data frame."""
REASONS = 3
"""Items that `--why` names where it is given no number."""
RESTRICTIONS = ("where", "allow", "deny", "at_most")
LISTED = ("json", *RESTRICTIONS)
WAYS = {
    "user": ("keep_seen", "interactions", "mark", "why", *LISTED),
    "history": ("attributes", "keep_seen", "why", *LISTED),
    "attributes": LISTED,
    "item": LISTED,
    "popular": LISTED,
    "all": ("users", "out", "keep_seen", "mark", "cap", "users_per_part", *RESTRICTIONS),
    "users": ("out", "keep_seen", "mark", "cap", "users_per_part", *RESTRICTIONS),
}
"""What a list can be made for, and the options that each goes with."""


def run(arguments: list[str], heading: str = "") -> None:
    """List the best items for a user or for someone new, for all users, or items like an item."""
    parser = _parser()
    options = parser.parse_args(arguments)
    given = [name for name, value in vars(options).items() if value not in (None, False, [])]
    way = next((name for name in WAYS if name in given), None)
    if way is None:
        parser.error(f"one of the arguments {' '.join(f'--{name}' for name in WAYS)} is required")
    for name in given:
        if name not in (way, "run", "k", *WAYS[way]):
            option = f"--{name.replace('_', '-')}"
            parser.error(f"argument {option}: not allowed with argument --{way}")
    if way in ("all", "users"):
        if options.out is None:
            parser.error(f"--{way} needs --out DIR, a folder for the lists")
        from trainer.batch_lists.all_lists import recommend_all

        done = recommend_all(
            options.run,
            options.out,
            options.k,
            users=options.users,
            keep_seen=options.keep_seen,
            mark=options.mark,
            cap=options.cap,
            users_per_part=options.users_per_part,
            **_restrictions(options),
        )
        if done is not None:
            print(done)
        return
    from trainer.serving.listing import as_json, as_text

    person, items = ANSWERS[way](options)
    for note in items.attrs["notes"]:
        print(f"note: {with_names(note)}", file=sys.stderr)
    print(json.dumps(as_json(person, items)) if options.json else as_text(items, terminal_width()))


def _parser() -> Parser:
    parser = Parser(prog="python -m trainer recommend", description=run.__doc__)
    add = parser.add_argument
    add("run", type=open_place, metavar="RUN", help="run folder")
    people = parser.add_argument_group("for whom")
    whom = people.add_mutually_exclusive_group()
    whom.add_argument("--user", metavar="ID", help="raw user id, as in the data")
    whom.add_argument(
        "--history",
        type=ids,
        action="append",
        metavar="ID,ID",
        help="raw ids or titles of the items that someone new has, one with a comma in double quotes; can be "
        "repeated",
    )
    whom.add_argument("--item", metavar="ID", help="raw id or title of an item: list the items like it")
    whom.add_argument("--popular", action="store_true", help="list the items that most users have")
    whom.add_argument("--all", action="store_true", help="write the lists of all users into --out DIR")
    people.add_argument(
        "--users", type=local, metavar="FILE", help="write the lists of the users in a file of raw ids alone"
    )
    people.add_argument(
        "--attributes",
        type=_attributes,
        metavar="NAME=VALUE,...",
        help="what is known of someone new, as gender=F,age=25; alone or with --history",
    )
    add("-k", "--k", type=int, default=10, help="items wanted (default: 10)")
    add("--keep-seen", action="store_true", help="rank items that the user already has too")
    add(
        "--interactions",
        type=local,
        metavar="FILE",
        help="newer interactions, with the run's columns: leave the user's items in them out too",
    )
    add(
        "--mark",
        choices=["test"],
        help="rank the user's items of the test split too, as an evaluation does, and mark them",
    )
    add(
        "--why",
        type=count,
        nargs="?",
        const=REASONS,
        metavar="N",
        help=f"name the items of the past that speak most for each (default: {REASONS})",
    )
    add("--json", action="store_true", help="print one JSON object")
    which = parser.add_argument_group("which items")
    which.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help="only items that meet it: genres=Comedy, genres=Comedy|Drama, genres!=Drama, year>=1990; can be "
        "repeated, and all must be met",
    )
    which.add_argument(
        "--allow", type=local, metavar="FILE", help="only items of a file of raw ids, one a line or a column"
    )
    which.add_argument("--deny", type=local, metavar="FILE", help="no items of such a file")
    which.add_argument(
        "--at-most",
        action="append",
        default=[],
        metavar="ATTRIBUTE=N",
        help="at most so many items of one value in a list, as genres=2; can be repeated",
    )
    lists = parser.add_argument_group("lists of all or of many users")
    lists.add_argument("--out", type=local, metavar="DIR", help="folder that the lists are written into")
    lists.add_argument("--cap", type=count, metavar="N", help="no item in more than N lists")
    lists.add_argument(
        "--users-per-part", type=count, metavar="N", help="users in one file of lists (default: 4096)"
    )
    return parser


def _for_user(options: argparse.Namespace) -> Answer:
    from trainer.serving.recommend import recommend

    return options.user, recommend(
        options.run,
        options.user,
        options.k,
        options.keep_seen,
        interactions=options.interactions,
        mark=options.mark,
        why=options.why or 0,
        **_restrictions(options),
    )


def _for_history(options: argparse.Namespace) -> Answer:
    from trainer.serving.recommend import recommend_by_history

    items = recommend_by_history(
        options.run,
        options.history or [],
        options.k,
        options.keep_seen,
        split=True,
        attributes=options.attributes,
        why=options.why or 0,
        **_restrictions(options),
    )
    person = {"attributes": options.attributes} if options.attributes else {}
    return person | ({"history": items.attrs["history"]} if options.history else {}), items


def _for_item(options: argparse.Namespace) -> Answer:
    from trainer.serving.similar_items import similar_items

    items = similar_items(options.run, options.item, options.k, **_restrictions(options))
    return {"item": items.attrs["item"], "measure": items.attrs["measure"]}, items


def _for_nobody(options: argparse.Namespace) -> Answer:
    from trainer.serving.similar_items import popular_items

    return {"popular": True}, popular_items(options.run, options.k, **_restrictions(options))


ANSWERS: dict[str, Callable[[argparse.Namespace], Answer]] = {
    "user": _for_user,
    "history": _for_history,
    "attributes": _for_history,
    "item": _for_item,
    "popular": _for_nobody,
}


def _restrictions(options: argparse.Namespace) -> dict[str, Any]:
    from trainer.ranking.selection import parse_limits

    given = {name: getattr(options, name) for name in RESTRICTIONS if getattr(options, name)}
    if options.at_most:
        given["at_most"] = parse_limits(options.at_most)
    return given


def _attributes(text: str) -> dict[str, str]:
    """Return values by name from a text such as `gender=F,age=25`."""
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(name.strip() and sign and value.strip() for name, sign, value in pairs):
        raise argparse.ArgumentTypeError(f"{text!r}: names and values are needed, as gender=F,age=25")
    return {name.strip(): value.strip() for name, _, value in pairs}


def terminal_width() -> int | None:
    """Return the columns of the terminal; None where the output goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
