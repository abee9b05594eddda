"""What the offline model says of any template's figures, the skeletons of their papers, and their metrics' words."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

TEMPLATES = sorted(path.parent for path in (Path(__file__).parents[2] / "templates").glob("*/offline.toml"))


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_words_for_figures_hold_no_sign_that_ends_a_line_of_latex(template: Path) -> None:
    words = tomllib.loads((template / "offline.toml").read_text())["paper"]
    drawn = (template / "plot.py").read_text()
    assert words["captions"].keys() == words["figures"].keys() == words["remarks"].keys()
    assert all(name in drawn or name.removesuffix(".png") in drawn for name in words["captions"])
    said = [text for kind in ("captions", "figures", "remarks") for text in words[kind].values()]
    assert not [one for one in said if re.search(r"(?<!\\)[%_&#]", re.sub(r"\$[^$]*\$", "", one)) or one.count("$") % 2]


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_the_latex_skeleton_has_each_placeholder_alone_on_its_line(template: Path) -> None:
    lines = (template / "latex" / "template.tex").read_text().splitlines()
    found = [line.removeprefix("%%FUMEHOOD:").removesuffix("%%") for line in lines if line.startswith("%%FUMEHOOD:")]
    wanted = "METADATA TITLE ABSTRACT INTRODUCTION RELATED_WORK BACKGROUND METHOD EXPERIMENTAL_SETUP RESULTS"
    assert found == [*wanted.split(), "LIMITATIONS", "CONCLUSION", "DISCLOSURE"]


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_what_is_measured_in_seconds_says_so(template: Path) -> None:
    metrics = tomllib.loads((template / "template.toml").read_text())["metrics"]
    timed = {name for name, one in metrics.items() if one["unit"] in {"s", "1/s"}}
    assert timed == {name for name, one in metrics.items() if one.get("is_time")}
    assert timed  # each tells how long it trains
