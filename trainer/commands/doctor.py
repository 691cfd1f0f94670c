"""`doctor`: look at this machine and say what keeps a training from starting."""

import json
import sys

from trainer.command_line.arguments import Parser


def run(arguments: list[str], heading: str = "") -> None:
    """Look at this machine and installation, and say what is wrong and what to do about it.

    The exit code is 1 if a finding is an error, otherwise 0.
    """
    description = (run.__doc__ or "").replace("\n    ", "\n")
    parser = Parser(prog="python -m trainer doctor", description=description)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="leave out what takes half a minute: training tiny tables by every kernel, and two ranks that "
        "send each other values",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, with all facts")
    options = parser.parse_args(arguments)
    from trainer.doctor.checks import CHECKS
    from trainer.doctor.findings import as_json, as_text, examine_all, exit_code

    if sys.stderr.isatty() and not options.quick:
        print("This takes half a minute; with --quick, a few seconds.", file=sys.stderr)
    found = examine_all(CHECKS, options.quick)
    print(json.dumps(as_json(found), indent=2) if options.json else as_text(found))
    if code := exit_code(found):
        sys.exit(code)
