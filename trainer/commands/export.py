"""`export`: write a run as files that others use, checked against the exact ranking."""

from pathlib import Path

from trainer.commands.arguments import Parser


def run(arguments: list[str], heading: str = "") -> None:
    """Write vectors, query tower, index and model card of a run, checked against the exact ranking."""
    parser = Parser(prog="python -m trainer export", description=run.__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("folder", type=Path, metavar="DIR", help="place of the export")
    parser.add_argument(
        "--dtype", default="float32", choices=["float32", "float16", "int8"], help="type of the vectors"
    )
    parser.add_argument("--replace", action="store_true", help="replace an earlier export in this place")
    options = parser.parse_args(arguments)
    from trainer.exporting.export import Wishes, export

    manifest = export(options.run, options.folder, Wishes(options.dtype, "none", replace=options.replace))
    if manifest is not None:
        print(f"{options.folder}: {manifest['users']:,} users, {manifest['items']:,} items")
