"""Escaping, and tables with numbers to the right."""

import json

import pytest

from trainer.page.html import Html, json_block, missing, table, tag


def test_text_is_escaped_and_markup_is_not() -> None:
    assert tag("p", "a < b & c", tag("b", '"d"')) == "<p>a &lt; b &amp; c<b>&quot;d&quot;</b></p>"
    assert tag("a", "x", href='#"><script>', class_="y", title=None) == (
        '<a href="#&quot;&gt;&lt;script&gt;" class="y">x</a>'
    )
    assert tag("td", None, 3, Html("<br>")) == "<td>3<br></td>"
    assert missing("a<b") == '<p class="missing">a&lt;b</p>'


def test_json_cannot_end_its_block() -> None:
    value = {"title": "</script><script>alert(1)</script>", "line": "\u2028 & <!--"}
    block = json_block(value, id="x")
    inside = block.removeprefix('<script type="application/json" id="x">').removesuffix("</script>")
    assert not set("<>&\u2028") & set(inside)
    assert json.loads(inside) == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_block(float("nan"))


def test_numbers_stand_to_the_right() -> None:
    found = table(["name", "value"], [["a", 1]])
    assert '<th>name</th><th class="number">value</th>' in found
    assert '<td>a</td><td class="number">1</td>' in found
