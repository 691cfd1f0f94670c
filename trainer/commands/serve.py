"""`serve`: answer requests for recommendations from an export, and show a page."""

import argparse
import re
from pathlib import Path

from trainer.command_line.arguments import Parser, count

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def run(arguments: list[str], heading: str = "") -> None:
    """Serve an export over HTTP, with a page at / and the addresses listed at /docs."""
    parser = Parser(
        prog="python -m trainer serve",
        description=run.__doc__,
        epilog="SIGTERM finishes the requests in flight and ends. SIGHUP, or another export in the folder, "
        "swaps that in without losing a request.",
    )
    parser.add_argument(
        "export", metavar="DIR", help="export folder, a link to one, or an address as s3://bucket/export"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1)")
    parser.add_argument("--port", type=_port, default=8000, help="port, 0 for a free one (default: 8000)")
    parser.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help="file with API keys, one a line; without it, SHARDTOWER_API_KEY of the environment is the key",
    )
    parser.add_argument(
        "--max-k", type=count, default=1000, metavar="N", help="longest list that can be asked for (1000)"
    )
    parser.add_argument(
        "--max-body", type=_size, default=10**6, metavar="SIZE", help="largest body of a request (1MB)"
    )
    parser.add_argument(
        "--max-batch", type=count, default=1000, metavar="N", help="most queries of a batch (1000)"
    )
    parser.add_argument(
        "--max-requests",
        type=count,
        default=64,
        metavar="N",
        help="requests in work at once; others are asked to come back (64)",
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=10.0,
        metavar="SECONDS",
        help="seconds for headers, for a body, for a computation and for taking an answer, each (10)",
    )
    parser.add_argument(
        "--threads", type=count, metavar="N", help="computations at once (default: processors)"
    )
    parser.add_argument(
        "--watch",
        type=_seconds_or_none,
        default=1.0,
        metavar="SECONDS",
        help="seconds between two looks at the folder for another export, 0 for SIGHUP alone (1)",
    )
    options = parser.parse_args(arguments)
    from trainer.object_storage.follow import followed
    from trainer.service.limits import Limits, processors
    from trainer.service.server import serve

    limits = Limits(
        options.max_k,
        options.max_body,
        options.max_batch,
        options.max_requests,
        options.timeout,
        options.threads or processors(),
    )
    with followed(options.export, options.watch) as folder:
        serve(folder, options.host, options.port, limits, options.api_key_file, options.watch)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number from 0 to 65535 is needed")
    return int(text)


def _size(text: str) -> int:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if match is None or match[2].upper() not in UNITS or float(match[1]) * UNITS[match[2].upper()] < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a size is needed, as 1MB, 512KiB or 20000")
    return int(float(match[1]) * UNITS[match[2].upper()])


def _seconds(text: str) -> float:
    if (found := _seconds_or_none(text)) == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: a number of seconds above 0 is needed")
    return found


def _seconds_or_none(text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?", text) or float(text) > 86400:
        raise argparse.ArgumentTypeError(f"{text!r}: seconds from 0 to 86400 are needed")
    return float(text)
