"""The export that is served, and its replacement."""

import shutil
from pathlib import Path

import pytest

from tests.service.standin import StandIn, write_export
from trainer.errors import UserError
from trainer.service.export import AttributeFacts, CurrentExport, attribute_facts


@pytest.fixture
def current(tmp_path: Path) -> CurrentExport:
    return CurrentExport(write_export(tmp_path / "films"), StandIn.open)


def looks(current: CurrentExport) -> list[bool]:
    return [current.settled_change() for _ in range(3)]


def test_a_folder_that_was_replaced_is_noticed_once_it_has_come_to_rest(
    current: CurrentExport, tmp_path: Path
) -> None:
    assert looks(current) == [False, False, False]
    shutil.rmtree(tmp_path / "films")
    assert looks(current) == [False, False, False]  # a new one may be on its way
    write_export(tmp_path / "new", version=2).rename(tmp_path / "films")
    assert looks(current) == [False, True, True]
    before = current.export
    assert current.reload()
    assert (current.export.step, before.step, current.swaps) == (200, 100, 1)
    assert current.export.hash != before.hash
    assert looks(current) == [False, False, False]


def test_a_link_that_points_elsewhere_is_a_new_export(tmp_path: Path) -> None:
    link = tmp_path / "now"
    link.symlink_to(write_export(tmp_path / "monday"))
    current = CurrentExport(link, StandIn.open)
    assert current.export.name == "monday"
    other = tmp_path / "other"
    other.symlink_to(write_export(tmp_path / "tuesday", version=2))
    other.rename(link)
    assert looks(current) == [False, True, True]
    assert current.reload()
    assert current.export.name == "tuesday"


def test_a_damaged_export_is_refused_and_the_one_before_goes_on(
    current: CurrentExport, tmp_path: Path, capsys
) -> None:
    before = current.export
    write_export(tmp_path / "films", version=2, damaged=True)
    assert not current.reload()
    assert current.export is before
    assert (current.swaps, current.refusals) == (0, 1)
    message = f"{tmp_path / 'films' / 'items.json'}: is damaged. Export the run again"
    assert current.refused == message
    assert capsys.readouterr().err == f"refused: {message}. films ({before.hash}) goes on serving\n"
    assert looks(current) == [False, False, False]  # it is not tried again and again
    write_export(tmp_path / "films", version=2)
    assert looks(current) == [False, True, True]  # but when it is put right
    assert current.reload()
    assert current.refused is None


def test_an_export_that_opens_and_cannot_answer_is_refused_too(current: CurrentExport) -> None:
    class Mute(StandIn):
        def similar(self, item, k=10, *, where=()):
            raise IndexError("vectors are shorter than the catalogue")

    current._opener = lambda folder: Mute(StandIn.open(folder).manifest)
    assert not current.reload()
    assert "vectors are shorter" in current.refused


def test_a_folder_without_an_export_cannot_be_served(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no export"):
        CurrentExport(tmp_path, StandIn.open)


def test_attributes_are_numbers_or_categories_with_counts() -> None:
    assert attribute_facts("year", [1990, None, float("nan"), 2000]) == AttributeFacts(
        "year", "number", least=1990, most=2000
    )
    assert attribute_facts("genres", [["a", "b"], ["b"], None]) == AttributeFacts(
        "genres", "category", (("b", 2), ("a", 1))
    )
    assert attribute_facts("empty", [None]) == AttributeFacts("empty", "category")
