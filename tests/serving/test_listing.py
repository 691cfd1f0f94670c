"""Recommendations as text: a heading, aligned columns, and titles that fit the terminal."""

import pandas as pd

from trainer.serving.listing import as_json, as_text


def listed(titles: list[str | None], **columns: list) -> pd.DataFrame:
    scores = [1.5 - place for place in range(len(titles))]
    named = pd.Series(titles, dtype=object)
    return pd.DataFrame({"item": [7, 10, 112][: len(titles)], "title": named, "score": scores, **columns})


def test_lines_show_rank_id_title_and_score_under_a_heading() -> None:
    assert as_text(listed(["Seven", None])).splitlines() == [
        "rank  item  title   score",
        "   1     7  Seven  1.5000",
        "   2    10         0.5000",
    ]


def test_without_titles_there_is_no_column_for_them() -> None:
    assert as_text(listed([None, None])).splitlines() == [
        "rank  item   score",
        "   1     7  1.5000",
        "   2    10  0.5000",
    ]


def test_titles_are_whole_away_from_a_terminal_and_cut_to_its_width_on_one() -> None:
    found = listed(["A" * 100, "B" * 30])
    assert "A" * 100 in as_text(found)
    lines = as_text(found, width=50).splitlines()
    assert [len(line) for line in lines] == [50, 50, 50]
    # 50 columns without rank, item and score (4, 4 and 6) and three gaps of 2 are 30 for the title.
    assert lines[1].split()[2] == "A" * 29 + "…"
    assert lines[2].split()[2] == "B" * 30
    assert as_text(found, width=10).splitlines()[1].split()[2] == "A" * 7 + "…"


def test_characters_of_two_columns_and_of_none_keep_the_columns_straight() -> None:
    lines = as_text(listed(["東京", "abcd", "e\u0301clair"])).splitlines()
    assert lines[1].index("1.5000") == lines[2].index("0.5000") - 2  # two characters in four columns
    assert lines[3].index("-0.5000") + 1 == lines[2].index("0.5000") + 1  # a combining accent takes none
    cut = as_text(listed(["東京" * 20, "b"]), width=40).splitlines()[1].split()[2]
    assert cut == "東京" * 4 + "東" + "…"  # of 20 columns 18 and 1


def test_line_feeds_in_titles_do_not_break_lines() -> None:
    assert as_text(listed(["two\nlines\t"])).splitlines()[1:] == ["   1     7  two lines   1.5000"]


def test_marked_items_are_counted_against_all_that_were_held_out() -> None:
    found = listed(["One", "Two"], test=[False, True])
    found.attrs["held_out"] = 3
    assert as_text(found).splitlines() == [
        "rank  item  title   score  test",
        "   1     7  One    1.5000",
        "   2    10  Two    0.5000  *",
        "* in the test split: 1 of the 3 that the user has there",
    ]
    assert [item["test"] for item in as_json("1", found)["items"]] == [False, True]
