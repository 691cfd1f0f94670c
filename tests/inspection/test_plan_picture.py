"""The picture of a plan, read back from its SVG."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import pytest

from tests.plans import GB, by_rows, copied, plan_of, shard, table, whole
from trainer.inspection.bar_chart import WIDTH
from trainer.inspection.bars import MAX_BARS, bars_of, series_of
from trainer.inspection.plan_picture import picture
from trainer.inspection.svg import width_of
from trainer.planning.plan import Plan

SVG = "{http://www.w3.org/2000/svg}"
Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""


def drawn(plan: Plan) -> ET.Element:
    return ET.fromstring(picture(plan))


def of_class(parent: ET.Element, name: str) -> list[ET.Element]:
    return [element for element in parent.iter() if element.get("class") == name]


def words(parent: ET.Element) -> list[str]:
    return [element.text or "" for element in parent.iter(f"{SVG}text")]


def widths(parent: ET.Element, name: str) -> list[float]:
    return [float(element.get("width", "nan")) for element in of_class(parent, name)]


def four_ranks(moving: int = 0) -> Plan:
    """Ranks 0 and 1 hold 40 and 20 GB of `user`, rank 1 also 10 GB of `item`; ranks 2 and 3 hold nothing."""
    parts = [shard(0, 100_000_000, 100), shard(1, 50_000_000, 100, row=100_000_000)]
    user = table("user", 150_000_000, 100, "row_wise", parts)
    return plan_of([user, whole("item", 25_000_000, 100, 1)], 4, capacity=50 * GB, moving=moving)


def test_each_rank_has_a_bar() -> None:
    ranks = [bar.get("data-ranks") for bar in of_class(drawn(four_ranks()), "bar")]
    assert ranks == ["0", "1", "2", "3"]


def test_blocks_are_as_long_as_their_bytes() -> None:
    found = of_class(drawn(four_ranks(moving=5 * GB)), "bar")
    (forty,) = widths(found[0], "block")
    twenty, ten = widths(found[1], "block")
    assert forty == pytest.approx(2 * twenty, abs=0.001)
    assert twenty == pytest.approx(2 * ten, abs=0.001)
    assert widths(found[2], "moving") == pytest.approx([ten / 2], abs=0.001)
    assert widths(found[0], "free") == pytest.approx([ten / 2], abs=0.01)  # 50 of capacity - 40 - 5


def test_blocks_lie_one_behind_another() -> None:
    blocks = of_class(of_class(drawn(four_ranks()), "bar")[1], "block")
    (first, second) = ((float(block.get("x", "")), float(block.get("width", ""))) for block in blocks)
    assert second[0] == pytest.approx(sum(first), abs=0.01)


def test_capacity_lies_where_its_bytes_would_end() -> None:
    bar = of_class(drawn(four_ranks()), "bar")[0]
    (block,), (line,) = of_class(bar, "block"), of_class(bar, "capacity")
    start, forty = float(block.get("x", "")), float(block.get("width", ""))
    assert float(line.get("x1", "")) == pytest.approx(start + forty * 50 / 40, abs=0.01)
    assert "capacity 50 GB" in words(drawn(four_ranks()))


def test_idle_ranks_are_said_in_words() -> None:
    svg = drawn(four_ranks(moving=GB))
    assert "Idle: ranks 2-3 hold no table." in words(svg)
    assert [any(line.startswith("idle") for line in words(bar)) for bar in of_class(svg, "bar")] == [
        *(False, False, True, True)
    ]


def test_a_rank_over_capacity_is_marked_and_no_other() -> None:
    svg = drawn(plan_of([whole("user", 25_000_000, 100, 1), whole("item", 10, 100, 0)], 2, capacity=8 * GB))
    assert [len(of_class(bar, "over")) for bar in of_class(svg, "bar")] == [0, 1]
    assert "OVER: 10 GB, 125%" in words(svg)
    assert "OVER CAPACITY: rank 1, by up to 2 GB." in words(svg)


def test_small_tables_on_large_devices_fill_the_bar() -> None:
    svg = drawn(plan_of([whole("user", 6040, 128, 0), whole("item", 3020, 128, 1)], 2, capacity=68 * GB))
    user, item = widths(svg, "block")
    assert user > WIDTH / 2
    assert user == pytest.approx(2 * item, abs=0.001)
    assert of_class(svg, "capacity") == []
    assert any("which takes <0.01% of its capacity of 68 GB" in line for line in words(svg))


def test_names_are_escaped_whatever_they_hold() -> None:
    name = '<b> & "c" \x00\x1b'
    text = picture(plan_of([whole(name, 1000, 4, 0)], 1))
    assert "<b>" not in text
    assert '<b> & "c" \ufffd\ufffd' in words(ET.fromstring(text))


def test_nothing_is_read_from_elsewhere_and_nothing_runs() -> None:
    text = picture(four_ranks())
    tags = {element.tag.removeprefix(SVG) for element in ET.fromstring(text).iter()}
    assert not tags & {"script", "image", "style", "use", "foreignObject", "a"}
    assert "href" not in text
    assert re.findall(r"https?://[^\"]*", text) == ["http://www.w3.org/2000/svg"]
    assert set(re.findall(r"url\(([^)]*)\)", text)) <= {"#table-0", "#table-1"}


def test_the_same_plan_gives_the_same_picture() -> None:
    assert picture(four_ranks()) == picture(four_ranks())


def test_the_legend_names_each_table_with_its_size_and_place() -> None:
    shown = words(drawn(plan_of([copied("item_bias", 1_000_000, 1, 4), whole("item", 1_000_000, 128, 2)], 4)))
    place = shown.index("item_bias")
    assert shown[place : place + 6] == [
        "item_bias",
        "1,000,000 x 1",
        "data_parallel",
        "dense",
        "16 MB",
        "0-3",
    ]
    place = shown.index("item")
    assert shown[place : place + 6] == ["item", "1,000,000 x 128", "table_wise", "fused", "512 MB", "2"]


def test_the_heading_tells_ranks_hardware_and_the_estimate() -> None:
    svg = drawn(four_ranks())
    title = svg.find(f"{SVG}title")
    assert title is not None
    assert title.text == "Sharding plan: 4 ranks, a100-80g"
    assert "Step: 2 ms (estimate of the slowest rank, tables alone)." in words(svg)


@pytest.mark.parametrize("world_size", [1, 2, 8, 16, 17, 64])
def test_up_to_64_ranks_nothing_overlaps_or_is_cut_off(world_size: int) -> None:
    tables = [by_rows("user", 10_000_000, 64, range(world_size)), whole("item" * 20, 10_000_000, 64, 0)]
    svg = drawn(plan_of(tables, world_size, capacity=2 * GB, moving=GB // 4))
    found = [union([*boxes(bar), *lines_of(bar)]) for bar in of_class(svg, "bar")]
    assert len(found) == world_size
    assert not any(overlap(one, other) for place, one in enumerate(found) for other in found[:place])
    left, top, right, bottom = union([*boxes(svg), *lines_of(svg)])
    assert min(left, top) >= 0
    assert right <= WIDTH
    assert bottom <= float(svg.get("height", ""))


def boxes(parent: ET.Element) -> Iterator[Box]:
    """Rectangles with a place of their own."""
    for element in parent.iter(f"{SVG}rect"):
        if element.get("x"):
            x, y, width, height = (float(element.get(key, "")) for key in ("x", "y", "width", "height"))
            yield x, y, x + width, y + height


def lines_of(parent: ET.Element) -> Iterator[Box]:
    """What lines of text take, about."""
    for element in parent.iter(f"{SVG}text"):
        x, y, size = (float(element.get(key, "")) for key in ("x", "y", "font-size"))
        width = width_of(element.text or "", int(size))
        left = x - {"end": 1.0, "middle": 0.5}.get(element.get("text-anchor", ""), 0.0) * width
        yield left, y - size * 0.8, left + width, y


def union(found: list[Box]) -> Box:
    lefts, tops, rights, bottoms = zip(*found, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def test_ranks_that_hold_alike_share_a_bar_where_there_are_many() -> None:
    svg = drawn(plan_of([whole("user", 50_000_000, 128, 0), whole("item", 10_000_000, 128, 1)], 512))
    assert [bar.get("data-ranks") for bar in of_class(svg, "bar")] == ["0", "1", "2-511"]
    assert "ranks 2-511" in words(svg)


def test_where_many_ranks_differ_the_fullest_and_the_idle_keep_their_bars() -> None:
    plan = plan_of([whole(f"table_{rank}", 1000 * rank, 100, rank) for rank in range(1, 200)], 200)
    found = bars_of(plan, series_of(plan))
    assert len(found) == MAX_BARS
    assert [bar.ranks for bar in found[:-1]] == [(0,), *((rank,) for rank in range(138, 200))]
    assert found[-1].others
    assert found[-1].ranks == tuple(range(1, 138))
    assert found[-1].bytes == pytest.approx(
        69 * 1000 * 400
    )  # the mean of 1 to 137 thousand rows of 100 values
    assert "137 others" in words(drawn(plan))


def test_beyond_16_tables_the_smallest_are_gathered() -> None:
    plan = plan_of([whole(f"table_{size}", size, 100, 0) for size in range(20, 0, -1)], 1)
    shown = series_of(plan)
    assert [series.label for series in shown] == [*"ABCDEFGHIJKLMNO", "+"]
    assert [table.rows for table in shown[-1].tables] == [5, 4, 3, 2, 1]
    assert shown[-1].bytes == (5 + 4 + 3 + 2 + 1) * 400
    assert "5 smaller tables" in words(drawn(plan))


def test_tables_differ_in_colour_and_pattern() -> None:
    svg = drawn(plan_of([whole(f"table_{number}", 100, 100, 0) for number in range(16)], 1))
    tiles = [[tuple(sorted(part.attrib.items())) for part in tile] for tile in svg.iter(f"{SVG}pattern")]
    assert len(tiles) == 16
    assert all(one != other for place, one in enumerate(tiles) for other in tiles[:place])


def test_a_plan_without_tables_or_capacity_is_drawn() -> None:
    assert len(of_class(drawn(plan_of([], 2, capacity=0)), "bar")) == 2
    assert "OVER: 400 B, no capacity" in words(drawn(plan_of([whole("user", 1, 100, 0)], 1, capacity=0)))
