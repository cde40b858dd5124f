"""The card of a model."""

import dataclasses

import pytest
import yaml

from models.adapter import SavedExtension
from train.runs.card import Card, model_card


def test_names_in_the_card_are_text() -> None:
    name = "x`\n<script>y</script>\n[link](javascript:z) | \u2028--- \x00"
    about = {"languages": {"old": ["no", name], "new": "fr"}}
    one = SavedExtension({"method": "neutral", "gate": "elu"}, {}, about)
    text = model_card(Card(name, name, name, [one], {name: (1.0, 2.0)}, name, has_code=False))
    header, body = text.removeprefix("---\n").split("\n---\n", 1)
    line = "x` <script>y</script> [link](javascript:z) |  ---"
    front = yaml.safe_load(header)
    assert front["language"] == ["no", line, "fr"] and front["base_model"] == line
    html = pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True}).enable("table").render(body)
    assert "<script" not in html and "<a " not in html and "<h2" not in html and html.count("<h1>") == 1
    assert html.count("<tr>") == 4 and html.count("<td") == 9 + 4
    assert html.count("&lt;script&gt;y&lt;/script&gt;") == 6


def test_a_card_says_how_the_model_was_made_and_what_it_measures() -> None:
    training = {"options": {"learning_rate": 1e-2, "steps": 5}, "tokens": 1234, "true_fraction": 0.5}
    about = {"languages": {"old": ["en"], "new": "fr"}, "training": training}
    one = SavedExtension({"method": "neutral", "gate": "elu"}, {}, about)
    card = Card("tiny-fr", "some/tiny", "abc123", [one], {"fr": (2.0, 1.5)}, "its own code", has_code=True)
    text = model_card(card)
    front = yaml.safe_load(text.removeprefix("---\n").split("\n---\n", 1)[0])
    assert front["base_model"] == "some/tiny" and front["language"] == ["en", "fr"]
    assert "trust_remote_code=True" in text and "| fr | 2.000 | 1.500 | -0.500 |" in text
    assert "| 1 | neutral | elu | 50.0% | en | fr | 0.01 | 5 | 1,234 |" in text
    assert "trust_remote_code" not in model_card(dataclasses.replace(card, has_code=False))
