"""What a training says before its first step."""

from pathlib import Path

import pytest

from tests import worlds


def test_a_training_says_what_it_took_its_attributes_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, withheld = worlds.checkerboard()
    rows = "".join(f"{worlds.FIRST_ITEM + item},{item / 4},a|b,x\n" for item in range(8))
    (tmp_path / "items.csv").write_text(f"item_id,price,tags,unused\n{rows}")
    pairs = "".join(f"{user},{item}\n" for user, item in [*train, *withheld])
    (tmp_path / "pairs.csv").write_text(f"user_id,item_id\n{pairs}")
    worlds.trained(
        tmp_path,
        *("--data.name", "files", "--data.format", "csv", "--data.cache", str(tmp_path / "cache")),
        *("--data.interactions", str(tmp_path / "pairs.csv"), "--data.items", str(tmp_path / "items.csv")),
        *("--model.item_features", "price,tags"),
    )
    printed = " ".join(capsys.readouterr().out.split())
    # 0 to 7 quarters: their mean is 3.5 quarters, and their deviation the root of 21 / 4 quarters.
    assert "item attribute price: number, mean 0.875, deviation 0.5728, 0 of 8 missing" in printed
    assert (
        "item attribute tags: list, 2 different, 2.0 a row, 0 of 8 missing; split at '|' (guessed;" in printed
    )
    assert "unused" not in printed
