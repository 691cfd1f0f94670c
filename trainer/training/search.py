"""Searching a setting whose scale is logarithmic: climbing to the best value, and between its neighbours."""

from collections.abc import Callable

MOST_TRIALS = 6


def climb(score: Callable[[float], float], start: float, ratio: float) -> dict[float, float]:
    """Scores of `start` times powers of `ratio`, upwards or downwards as long as they rise.

    The best of them has a worse neighbour on either side, unless `MOST_TRIALS` calls do not get there.
    """
    scores = {0: score(start)}
    while len(scores) < MOST_TRIALS:
        best = max(scores, key=lambda power: scores[power])
        open_sides = [power for power in (best - 1, best + 1) if power not in scores]
        if not open_sides:
            break
        scores[open_sides[0]] = score(start * ratio ** open_sides[0])
    return {start * ratio**power: scores[power] for power in sorted(scores)}


def best_of(scores: dict[float, float]) -> float:
    """The value of the highest score."""
    return max(scores, key=lambda value: scores[value])


def peak(scores: dict[float, float]) -> float:
    """Top of the parabola through the best value and its neighbours on the logarithmic scale, to 3 decimals.

    Args: scores: of values in equal ratios.
    """
    values = sorted(scores)
    place = values.index(best_of(scores))
    if not 0 < place < len(values) - 1:
        return round(values[place], 3)
    below, best, above = (scores[values[place + shift]] for shift in (-1, 0, 1))
    bend = below - 2 * best + above
    shift = 0.0 if bend >= 0 else (below - above) / (2 * bend)
    return round(values[place] * (values[place + 1] / values[place]) ** shift, 3)
