"""`export`: write a run as files that others use, checked against the exact ranking."""

import json

from trainer.command_line.arguments import Parser
from trainer.object_storage.copies import open_place


def run(arguments: list[str], heading: str = "") -> None:
    """Write vectors, query tower, index and model card of a run, checked against the exact ranking."""
    parser = Parser(prog="python -m trainer export", description=run.__doc__)
    parser.add_argument("run", type=open_place, metavar="RUN", help="run folder")
    parser.add_argument(
        "folder", metavar="DIR", help="place of the export: a folder of its own, or an address as s3://..."
    )
    parser.add_argument(
        "--dtype",
        default="float32",
        metavar="TYPE",
        help="type of the vectors: float32, float16 or int8 (default: float32)",
    )
    parser.add_argument(
        "--index",
        default="none",
        metavar="KIND",
        help="index by FAISS: none, flat, hnsw or ivf_pq (default: none)",
    )
    parser.add_argument(
        "--min-recall",
        type=float,
        default=0.98,
        metavar="SHARE",
        help="least recall@10 and recall@100 against the exact ranking; below it nothing is written "
        "(default: 0.98)",
    )
    parser.add_argument("--replace", action="store_true", help="replace an earlier export in this place")
    parser.add_argument("--json", action="store_true", help="print the manifest as one JSON object")
    options = parser.parse_args(arguments)
    from trainer.exporting.export import Wishes, export
    from trainer.exporting.listing import as_text

    wishes = Wishes(options.dtype, options.index, options.min_recall, options.replace)
    manifest = export(options.run, options.folder, wishes)
    if manifest is None:  # another rank writes
        return
    print(json.dumps(manifest) if options.json else as_text(options.folder, manifest))
