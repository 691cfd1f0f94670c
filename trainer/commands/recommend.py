"""`recommend`: list the best items that one user is not known to have."""

import json
import shutil
import sys
from pathlib import Path

from trainer.commands.arguments import Parser, ids


def run(arguments: list[str], heading: str = "") -> None:
    """List the best items that a user does not have yet, or for a new user with a history."""
    parser = Parser(prog="python -m trainer recommend", description=run.__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    person = parser.add_mutually_exclusive_group(required=True)
    person.add_argument("--user", metavar="ID", help="raw user id, as in the data")
    person.add_argument(
        "--history",
        type=ids,
        action="append",
        metavar="ID,ID",
        help="raw ids of the items that someone new has, one with a comma in double quotes; can be repeated",
    )
    parser.add_argument("-k", "--k", type=int, default=10, help="items wanted (default: 10)")
    parser.add_argument("--keep-seen", action="store_true", help="rank items that the user already has too")
    parser.add_argument(
        "--interactions",
        type=Path,
        metavar="FILE",
        help="newer interactions, with the run's columns: leave the user's items in them out too",
    )
    parser.add_argument(
        "--mark",
        choices=["test"],
        help="rank the user's items of the test split too, as an evaluation does, and mark them",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    if options.history is not None and (options.interactions or options.mark):
        option = "--interactions" if options.interactions else "--mark"
        parser.error(f"argument {option}: not allowed with argument --history")
    from trainer.serving.listing import as_json, as_text
    from trainer.serving.recommend import recommend, recommend_by_history

    if options.history is None:
        items = recommend(
            options.run,
            options.user,
            options.k,
            options.keep_seen,
            interactions=options.interactions,
            mark=options.mark,
        )
        person = options.user
    else:
        items = recommend_by_history(options.run, options.history, options.k, options.keep_seen, split=True)
        person = items.attrs["history"]
    for note in items.attrs["notes"]:
        print(f"note: {note}", file=sys.stderr)
    print(json.dumps(as_json(person, items)) if options.json else as_text(items, terminal_width()))


def terminal_width() -> int | None:
    """Return the columns of the terminal; None where the output goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
