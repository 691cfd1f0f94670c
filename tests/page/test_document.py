"""The page as a whole: what the content security policy allows, and what charts say of themselves."""

import base64
import hashlib
import json
import re

from trainer.page.charts import Dot, curve, dots, scatter, trials
from trainer.page.document import Page, figure
from trainer.page.html import Html


def page() -> Page:
    found = Page("A & B", "about", Html("<p>first</p>"))
    found.add("one", "One", figure(curve("Loss", {"a": [(1, 2.0), (2, 1.0)]}, "loss"), "caption"))
    return found


def test_the_policy_allows_the_scripts_of_the_page_alone() -> None:
    text = page().text()
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    assert len(scripts) == 2
    digests = [base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in scripts]
    assert re.findall(r"'sha256-(.*?)'", text) == digests
    assert "<title>A &amp; B</title>" in text
    assert '<a href="#one">One</a>' in text


def test_charts_name_no_schema_and_follow_the_theme() -> None:
    rows = [Dot("model", "ndcg", 0.5, 0.4, 0.6), Dot("other", "ndcg", 0.2, 0.2, 0.2)]
    charts = [
        curve("Loss", {"a": [(1, 2.0)], "b": [(1, 3.0)]}, "loss"),
        dots("Figures", rows, "ndcg", ""),
        dots("Figures", rows, "ndcg", "users", upright=True),
        trials("Widths", {"8": 0.1, "16": 0.2}, "dims", "ndcg"),
        scatter("Map", [(0, 1), (2, 3)], {"movie": ["a", "b"]}, ["x", "other"], ["x", "other"], "kind"),
        scatter("Map", [(0, 1), (2, 3)], {"movie": ["a", "b"]}, [1.0, None], [], "year"),
        scatter("Map", [(0, 1)], {"movie": ["a"]}, [], [], None),
    ]
    for chart in charts:
        text = json.dumps(chart.spec)
        assert "http" not in text
        assert chart.spec["width"] == "container"
        assert chart.spec["description"] == chart.title
    assert charts[4].spec["encoding"]["color"]["scale"]["range"] == [
        "var(--c0)",
        "var(--c7)",
    ]  # others are grey
