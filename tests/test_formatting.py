"""Bytes, times and ranks as people read them."""

import pytest

from trainer.formatting import (
    format_bytes,
    format_command,
    format_count,
    format_milliseconds,
    format_option,
    format_ranks,
)


@pytest.mark.parametrize(
    ("count", "words"),
    [
        *((0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1234, "1.23 kB"), (999_499, "999 kB")),
        *((999_500, "1 MB"), (80 * 10**9, "80 GB"), (1.5e12, "1.5 TB"), (1234e12, "1,234 TB")),
    ],
)
def test_bytes_have_three_digits_and_a_unit(count: float, words: str) -> None:
    assert format_bytes(count) == words


@pytest.mark.parametrize(
    ("milliseconds", "words"),
    [(0, "0 ms"), (0.01234, "0.0123 ms"), (12.345, "12.3 ms"), (1234.5, "1,234 ms")],
)
def test_times_keep_their_digits_before_the_point(milliseconds: float, words: str) -> None:
    assert format_milliseconds(milliseconds) == words


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        *(([], ""), ([5], "5"), ([3, 0, 2, 1], "0-3"), ([0, 1, 4], "0-1, 4")),
        ([0, 2, 4, 6, 7], "0, 2, 4 and 2 more"),
    ],
)
def test_ranks_are_ranges_and_what_does_not_fit_is_counted(ranks: list[int], words: str) -> None:
    assert format_ranks(ranks) == words


def test_one_is_singular() -> None:
    assert [format_count(number, "rank") for number in (0, 1, 1024)] == ["0 ranks", "1 rank", "1,024 ranks"]


def test_commands_are_quoted_for_a_shell():
    assert format_command("recommend", "runs/my run (1)", "-k", 5) == (
        "python -m trainer recommend 'runs/my run (1)' -k 5"
    )
    assert format_option("--user", " 3") == "--user ' 3'"
    assert format_option("--user", "-x $HOME") == "'--user=-x $HOME'"
