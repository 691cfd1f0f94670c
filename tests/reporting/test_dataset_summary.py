"""What `prepare` prints of a small log whose sizes are counted by hand."""

import json
from pathlib import Path

import pytest

from trainer.cli import main

LOG = """user_id,item_id,timestamp
1,10,0
1,11,86400
2,10,90000
2,10,95000
2,12,172800
1,10,259200
3,12,172900
3,broken
"""
"""Pairs in time order: 1-10, 1-11, 2-10, 2-12, 3-12; 2-10 and 1-10 stand twice, and one line is short."""
ITEMS = """item_id,colour,size
10,red,1
11,,2
99,blue,3
"""


def options(folder: Path) -> list[str]:
    (folder / "log.csv").write_text(LOG)
    (folder / "items.csv").write_text(ITEMS)
    return [
        *("--data.name", "files", "--data.format", "csv", "--data.interactions", str(folder / "log.csv")),
        *("--data.items", str(folder / "items.csv"), "--data.cache", str(folder / "cache")),
        *("--data.split", "temporal", "--data.test_size", "0.4", "--data.bad_rows", "skip"),
    ]


def test_what_was_understood_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", *options(tmp_path)]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert " ".join(" ".join(lines).split()) == " ".join(
        [
            # 5 of 3 x 3 pairs.
            "files: 5 interactions of 3 users and 3 items, density 55.556%",
            "from 1970-01-01 00:00:00 to 1970-01-03 00:01:40 (UTC)",
            "rows read 7, that cannot be read and were skipped 1, dropped 2 repeats of a pair",
            "split temporal: 3 train, 0 validation, 2 test",
            "1 interaction in the time of the test part repeats what a user had before it: left out; "
            "--data.repeats keep counts them.",
            # Users 2 and 3 and item 12 are held out; training has users 1 and 2 and items 10 and 11.
            "Of what is held out, training knows 1 of 2 users and 0 of 1 item.",
            "attributes: 2 of 3 items have a row",
            "colour: category, 1 different, 2 of 3 missing",
            "size: category, 2 different, 1 of 3 missing",
        ]
    )
    assert last.startswith("prepared: ")
    assert Path(last.removeprefix("prepared: ")).is_dir()


def test_the_same_is_one_json_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", *options(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["split"] == {"rule": "temporal", "train": 3, "validation": 0, "test": 2}
    assert found["repeats"] == {"repeats_dropped": 1}
    assert found["held_out"]["users"] == {"held_out": 2, "known": 1}
    colour, size = found["attributes"]["items"]["columns"]
    text = "category, 1 different, 2 of 3 missing"
    assert colour == {"name": "colour", "type": "text", "values": 1, "missing": 2, "text": text}
    assert (size["type"], found["attributes"]["users"]["columns"]) == ("integer", [])
