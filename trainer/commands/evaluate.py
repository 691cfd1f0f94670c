"""`evaluate`: evaluate a run under any protocol, next to baselines or another run."""

from trainer.command_line.arguments import Parser, baselines, lengths
from trainer.facts.baselines import BASELINES
from trainer.object_storage.copies import open_place


def run(arguments: list[str], heading: str = "") -> None:
    """Evaluate a run under any protocol, next to baselines or another run."""
    parser = Parser(
        prog="python -m trainer evaluate",
        usage="%(prog)s RUN [options] [--section.key VALUE ...]",
        description=run.__doc__,
        epilog="Of the configuration it takes evaluation.*, sharding.*, backend and timeout, and for data "
        "that have moved data.root, data.cache, data.interactions, data.held_out, data.impressions, "
        "data.users and data.items.",
    )
    parser.add_argument("run", type=open_place, metavar="RUN", help="run folder")
    parser.add_argument("--split", choices=["test", "validation"], help="split (default: the run's)")
    parser.add_argument("--seen", choices=["mask", "keep"], help="leave earlier items out, or rank them too")
    parser.add_argument(
        "-k", "--k", type=lengths, metavar="K,K", help="lengths of the ranked list, as 5,10,20"
    )
    parser.add_argument(
        "--baselines", type=baselines, metavar="B,B", help=f"other rankers: {', '.join(BASELINES)}"
    )
    parser.add_argument(
        "--beyond", action="store_true", help="coverage, novelty, diversity, and NDCG by group too"
    )
    parser.add_argument(
        "--compare",
        type=open_place,
        metavar="RUN2",
        help="difference from another run on the same data, with its confidence interval",
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], help="device of every rank")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options, rest = parser.parse_known_args(arguments)
    from trainer.training.run_evaluation import evaluate

    text = evaluate(
        options.run,
        options.split,
        options.seen,
        options.k,
        options.device,
        baselines=options.baselines,
        beyond=options.beyond,
        compare=options.compare,
        as_json=options.json,
        options=rest,
    )
    if text is not None:
        print(text)
