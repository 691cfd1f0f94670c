"""What was left out of files is counted and told once."""

from pathlib import Path

from trainer.tables.bad_rows import BadRows


def test_a_remark_on_many_files_is_one_sentence():
    bad = BadRows()
    for name in ("a", "b", "b", "c"):
        bad.note(Path(name), "holds milliseconds")
    bad.note(Path("d"), "1 line left out")
    assert bad.notes == ["a and 2 other files: holds milliseconds", "d: 1 line left out"]
