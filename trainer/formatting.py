"""Counts, bytes, times and ranks as people read them."""

from collections.abc import Iterable


def counted(count: int, noun: str) -> str:
    """`1 rank`, `1,024 ranks`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def bytes_in_words(count: float) -> str:
    """Three digits and a unit of powers of 1,000, as devices are sold: `80 GB`, `3.21 MB`, `512 B`."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB" if count < 999.5 else f"{count:,.0f} TB"


def milliseconds_in_words(milliseconds: float) -> str:
    """Three digits, all of those before the point, and the unit: `0.0123 ms`, `1,234 ms`."""
    shown = f"{milliseconds:,.0f}" if abs(milliseconds) >= 99.95 else f"{milliseconds:.3g}"
    return f"{shown} ms"


def ranks_in_words(ranks: Iterable[int], most: int = 3) -> str:
    """Ranks as ranges: `0-3, 6`; where there are more ranges than `most`, `0-3, 6 and 12 more`."""
    ranges: list[list[int]] = []
    for rank in sorted(ranks):
        if ranges and rank == ranges[-1][1] + 1:
            ranges[-1][1] = rank
        else:
            ranges.append([rank, rank])
    shown = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges[:most])
    left_out = sum(last - first + 1 for first, last in ranges[most:])
    return f"{shown} and {left_out:,} more" if left_out else shown
