"""`plan`: which rank would hold what, whether it fits, and what would be better."""

import re

from trainer.command_line.arguments import Parser, count, local
from trainer.errors import ConfigError
from trainer.object_storage.copies import open_place


def run(arguments: list[str], heading: str = "") -> None:
    """Show which rank would hold what, whether it fits, and what would be better."""
    folder = open_place(arguments.pop(0)) if arguments and not arguments[0].startswith("-") else None
    parser = Parser(
        prog="python -m trainer plan",
        usage="%(prog)s [RUN] [options] [--config F] [--section.key V ...]",
        description=f"{run.__doc__} With RUN: what that run used.",
        epilog="Configuration as `train` takes it; see python -m trainer train --help.",
    )
    parser.add_argument("--world-size", type=count, help="ranks in all (default: 4)")
    parser.add_argument("--local-world-size", type=count, help="ranks of a host (default: its devices)")
    parser.add_argument(
        "--hardware", help="cpu, h100-80g and the like, or a YAML file (default: this machine)"
    )
    parser.add_argument(
        "--rows", action="append", default=[], metavar="TABLE=N", help="rows of a table, as user=2e9"
    )
    parser.add_argument("--dim", help="the same as --model.dim")  # taken below; here for the help alone
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--save", type=local, metavar="FILE", help="write JSON for --sharding.plan")
    parser.add_argument("--picture", type=local, metavar="FILE", help="write an SVG picture")
    parser.add_argument("--compare", type=local, metavar="FILE", help="compare this plan with a saved one")
    # As one option, of which the last one given holds.
    arguments = [re.sub(r"^--dim(?=$|=)", "--model.dim", argument) for argument in arguments]
    options, rest = parser.parse_known_args(arguments)
    own = ("world_size", "local_world_size", "hardware", "rows")
    asked = [f"--{name.replace('_', '-')}" for name in own if getattr(options, name)] + rest
    if folder and asked:
        raise ConfigError(f"{asked[0]}: a run's plan is what it is. Leave the option, or RUN, out")
    if options.json and options.compare:
        raise ConfigError("--json: prints one plan. Leave it or --compare out")
    from trainer.config.parser import parse_config

    config = parse_config(rest)
    from trainer.inspection.plan_report import Outputs, report_of_file, report_of_scenario
    from trainer.inspection.scenario import make_scenario, parse_table_rows
    from trainer.planning.layout import follow_plan

    outputs = Outputs(options.json, options.save, options.picture, options.compare)
    if folder:
        from trainer.runs.run_folder import PLAN, run_config

        run_config(folder)
        print(report_of_file(folder / PLAN, outputs))
        return
    world_size = options.world_size or 4
    scenario = make_scenario(
        follow_plan(config, world_size),
        parse_table_rows(options.rows),
        hardware=options.hardware,
        world_size=world_size,
        local_world_size=options.local_world_size,
    )
    print(report_of_scenario(scenario, outputs))
