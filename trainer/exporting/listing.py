"""What `export` prints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.formatting import format_bytes, format_count, wrapped


def as_text(folder: Path, manifest: Mapping[str, Any]) -> str:
    """Return what was written, how near it comes to the exact ranking, and how to open it."""
    checks, index = manifest["checks"], manifest["index"]
    lines = [
        f"{folder}: {format_count(manifest['users'], 'user')}, {format_count(manifest['items'], 'item')}, "
        f"{manifest['dim']} dimensions, {manifest['dtype']}"
    ]
    if index is not None:
        search = " ".join(f"{name} {value}" for name, value in index["search"].items())
        lines.append(
            f"index: {index['kind']} ({index['factory']}){f', {search}' if search else ''}, "
            f"{index['refine']} x as many candidates as wanted"
        )
    text = f"recall@10 {checks['recall@10']:.4f}, recall@100 {checks['recall@100']:.4f} of the exact ranking"
    if checks["ndcg@10"] is not None:
        text += f"; NDCG@10 {checks['ndcg@10']:.4f}, exact {checks['ndcg@10_exact']:.4f}"
    lines.append(f"{text} ({format_count(checks['users'], 'user')})")
    files = {name: each["bytes"] for name, each in manifest["files"].items()}
    width = max(map(len, files))
    lines += [f"  {name:<{width}}  {format_bytes(size):>8}" for name, size in files.items()]
    lines.append(f"  {'in all':<{width}}  {format_bytes(sum(files.values())):>8}")
    return "\n".join(map(wrapped, lines))
