"""`recommend`: list the best unseen items for one user."""

import json
from pathlib import Path

from trainer.commands.arguments import Parser, ids


def run(arguments: list[str], heading: str = "") -> None:
    """List the best unseen items for a user, or for a new user with a history."""
    parser = Parser(prog="python -m trainer recommend", description=run.__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    person = parser.add_mutually_exclusive_group(required=True)
    person.add_argument("--user", metavar="ID", help="raw user id, as in the data")
    person.add_argument(
        "--history", type=ids, metavar="ID,ID", help="raw ids of the items that someone new has"
    )
    parser.add_argument("-k", type=int, default=10, help="items wanted (default: 10)")
    parser.add_argument("--keep-seen", action="store_true", help="rank items that the user already has too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    from trainer.serving.recommend import as_json, as_text, recommend, recommend_by_history

    if options.history is None:
        items = recommend(options.run, options.user, options.k, options.keep_seen)
    else:
        items = recommend_by_history(options.run, options.history, options.k, options.keep_seen)
    person = options.user if options.history is None else options.history
    print(json.dumps(as_json(person, items)) if options.json else as_text(items))
