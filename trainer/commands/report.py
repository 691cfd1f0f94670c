"""`report`: write one HTML page on a run, or one that compares several."""

from trainer.command_line.arguments import Parser, local
from trainer.formatting import format_bytes
from trainer.object_storage.copies import open_place


def run(arguments: list[str], heading: str = "") -> None:
    """Write one HTML page on a run: training, quality, plan, a map of items, examples. Or compare several."""
    parser = Parser(
        prog="python -m trainer report",
        usage="%(prog)s RUN [RUN2 ...] [options] [--data.KEY VALUE ...]",
        description=run.__doc__,
        epilog="Where data have moved it takes data.root, data.cache, data.interactions, data.held_out, "
        "data.impressions, data.users and data.items, as evaluate does.",
    )
    parser.add_argument(
        "runs",
        type=open_place,
        nargs="+",
        metavar="RUN",
        help="run folder; of several, others are compared with the first",
    )
    parser.add_argument(
        "--out",
        type=local,
        metavar="FILE.html",
        help="file to write (default: report.html in the run folder; of several runs, one in this folder)",
    )
    parser.add_argument(
        "--colour",
        metavar="ATTRIBUTE",
        help="item attribute that colours the map (default: the first with a few values)",
    )
    options, rest = parser.parse_known_args(arguments)
    from trainer.object_storage.folder_upload import upload_beside
    from trainer.report.report import write_report

    target = write_report(options.runs, options.out, options.colour, rest)
    place = upload_beside(target)
    print(f"Report: {place} ({format_bytes(target.stat().st_size)})")
