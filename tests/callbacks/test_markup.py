"""Markup: what is text is escaped, what is an element is not."""

from __future__ import annotations

from callbacks.markup import Markup, element, joined


def test_text_and_attributes_are_escaped() -> None:
    made = element("p", {"title": "\"a' & <b>"}, "<i> & co", element("b", None, "x"))
    assert made == ('<p title="&quot;a&#x27; &amp; &lt;b&gt;">&lt;i&gt; &amp; co<b>x</b></p>')


def test_attributes_that_are_no_text() -> None:
    made = element("input", {"value": 3, "step": 0.5, "checked": True, "min": None, "max": False})
    assert made == '<input value="3" step="0.5" checked>'


def test_names_that_are_no_utf_8_are_spelt_out() -> None:
    made = element("p", {"title": "caf\udce9 é"}, "<caf\udce9>")
    assert made == r'<p title="caf\udce9 é">&lt;caf\udce9&gt;</p>'


def test_elements_of_svg_are_closed() -> None:
    assert element("line", {"x1": 1.0}) == '<line x1="1"/>'


def test_joined_is_markup() -> None:
    made = joined(["<", Markup("<br>")])
    assert made == "&lt;<br>"
    assert isinstance(made, Markup)
