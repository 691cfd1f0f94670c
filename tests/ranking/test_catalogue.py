"""Rows and titles of a catalogue."""

import pyarrow as pa

from trainer.ranking.catalogue import Catalogue


def test_raw_ids_find_rows_as_numbers_and_as_text() -> None:
    catalogue = Catalogue(pa.array([7, 9]), pa.array(["Seven", None]), "movie", pa.table({}))
    assert (catalogue.item_row(9), catalogue.item_row("9"), catalogue.item_row("09")) == (1, 1, None)
    assert (len(catalogue), catalogue.title(0), catalogue.title(1)) == (2, "Seven", None)
    assert catalogue.plain_titles.to_pylist() == ["seven", ""]


def test_a_catalogue_needs_no_titles() -> None:
    catalogue = Catalogue(pa.array(["a"]), None, "item", pa.table({}))
    assert (catalogue.item_row("a"), catalogue.title(0)) == (0, None)
