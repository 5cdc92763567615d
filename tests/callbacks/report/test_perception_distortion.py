"""The plot of two metrics: points, lines, legend, and what is left out and refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from callbacks.report.plots import (
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Point,
    Quantity,
    axes,
    main,
    plot,
    scatter,
    setting_of,
)
from callbacks.results.compare import RunNumbers, load_run
from callbacks.results.files import Result, write_results
from tests.callbacks.results.test_results import result

SVG = "{http://www.w3.org/2000/svg}"
NAMES = ("psnr", "lpips")


def pair(psnr: float, lpips: float, **changes: Any) -> list[Result]:
    """Return two numbers of a checkpoint; ``std`` applies to both."""
    low = {"metric": "lpips", "higher_is_better": False, "protocol": {"net": "alex"}}
    return [result(value=psnr, **changes), result(value=lpips, **{**low, **changes})]


def run(folder: Path, *results: list[Result]) -> RunNumbers:
    write_results(folder / "results.json", [r for both in results for r in both])
    return load_run(str(folder), control=True)


def drawn(runs: list[RunNumbers], **arguments: Any) -> ElementTree.Element:
    return ElementTree.fromstring(plot(runs, NAMES, **arguments))


def texts(svg: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in svg.iter(f"{SVG}text")]


def groups(svg: ElementTree.Element, kind: str) -> list[ElementTree.Element]:
    return [group for group in svg.iter(f"{SVG}g") if group.get("class") == kind]


def circles(svg: ElementTree.Element) -> list[tuple[float, float]]:
    found = [next(point.iter(f"{SVG}circle")) for point in groups(svg, "point")]
    return [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in found]


# --------------------------------------------------------------------------------------- drawing


def test_points_lie_where_their_numbers_are(tmp_path: Path) -> None:
    svg = drawn([run(tmp_path / n, pair(*at)) for n, at in (("a", (30, 0.1)), ("b", (32, 0.3)))])
    (first, second), (across, up) = circles(svg), axes([point(30, 0.1), point(32, 0.3)])
    assert first == pytest.approx((across.place(30), up.place(0.1)), abs=0.01)
    assert second == pytest.approx((across.place(32), up.place(0.3)), abs=0.01)
    assert first[0] < second[0]
    assert first[1] > second[1]  # SVG counts downwards
    for x, y in (first, second):
        assert LEFT < x < WIDTH - RIGHT
        assert TOP < y < HEIGHT
    assert {"a", "b"} <= set(texts(svg))


def point(x: float, y: float, dx: float = 0.0, dy: float = 0.0) -> Point:
    return Point(0, "p", (x, y), (dx, dy))


def test_bars_are_as_long_as_deviations(tmp_path: Path) -> None:
    svg = drawn([run(tmp_path / "a", pair(30, 0.1, std=0.02), pair(31, 0.2, checkpoint="b"))])
    bars = [e.attrib for e in svg.iter(f"{SVG}line") if e.get("class") == "deviation"]
    across, up = axes([point(30, 0.1, 0.02, 0.02), point(31, 0.2)])
    assert len(bars) == 2  # those of the checkpoint with several seeds
    width = float(bars[0]["x2"]) - float(bars[0]["x1"])
    height = float(bars[1]["y1"]) - float(bars[1]["y2"])
    assert width == pytest.approx(across.place(0.04) - across.place(0), abs=0.02)
    assert height == pytest.approx(up.place(0) - up.place(0.04), abs=0.02)


@pytest.mark.parametrize(
    ("higher", "arrow", "anchor"),
    [
        ((True, True), "↗", "end"),
        ((True, False), "↘", "end"),
        ((False, True), "↖", "start"),
        ((False, False), "↙", "start"),
    ],
)
def test_the_better_corner(higher: tuple[bool, bool], arrow: str, anchor: str) -> None:
    x, y = (Quantity(name, is_) for name, is_ in zip("xy", higher, strict=True))
    svg = ElementTree.fromstring(scatter([point(1, 1), point(2, 2)], x, y, []))
    (marked,) = [e for e in svg.iter(f"{SVG}text") if "better" in (e.get("class") or "")]
    assert marked.text == f"better {arrow}"
    assert ("end" in (marked.get("class") or "").split()) == (anchor == "end")
    high = float(marked.attrib["y"]) < HEIGHT / 2
    assert high == higher[1]


def test_no_corner_without_directions(tmp_path: Path, caplog: Any) -> None:
    results = pair(30, 0.1)
    for of_earlier_version in results:
        del of_earlier_version["higher_is_better"]
    svg = drawn([run(tmp_path / "a", results)])
    assert not any("better" in text for text in texts(svg))
    assert "the direction of psnr is unknown: run test again" in caplog.text


def test_names_cannot_break_the_file(tmp_path: Path) -> None:
    svg = drawn([run(tmp_path / "a<b&c", pair(30, 0.1))])
    assert "a<b&c" in texts(svg)


@pytest.mark.parametrize("count", [3, 9])
def test_the_legend_names_each_point_by_its_number_and_colour(count: int) -> None:
    points = [Point(i, f"<method> {i}", (30.0, 0.5 + i)) for i in range(count - 1)]
    points.append(Point(None, "bicubic", (20.0, 0.1)))
    svg = ElementTree.fromstring(scatter(points, Quantity("x", True), Quantity("y", None), []))
    number, label = (f"{SVG}text[@class='{kind}']" for kind in ("number", "label"))
    shown, legend = groups(svg, "point"), groups(svg, "legend")
    assert [entry.findtext(label) for entry in legend] == [point.label for point in points]
    for i, (group, entry) in enumerate(zip(shown, legend, strict=True), start=1):
        assert group.findtext(number) == entry.findtext(number) == str(i)
        fills = [node.find(f"{SVG}circle").get("fill") for node in (group, entry)]  # type: ignore[union-attr]
        assert fills[0] == fills[1]
        assert (fills[0] == "white") == (i == count)
    rows = [float(entry.find(f"{SVG}circle").get("cy")) for entry in legend]  # type: ignore[union-attr, arg-type]
    assert HEIGHT < min(rows) < max(rows) < float(svg.get("height") or 0)
    assert len(set(rows)) == (3 if count == 3 else 5)  # two columns if there are many


def test_protocols_stand_below(tmp_path: Path) -> None:
    shown = texts(drawn([run(tmp_path / "a", pair(30, 0.1))]))
    assert shown[-3:] == ["set5 x2", "psnr: color y, border scale", "lpips: net alex"]


# ------------------------------------------------------------------------- what points there are


def test_checkpoints_of_a_run_are_joined(tmp_path: Path) -> None:
    several = [pair(30 + i, 0.1 + i / 10, checkpoint=f"c/step-{i}.ckpt") for i in range(3)]
    svg = drawn([run(tmp_path / "a", *several), run(tmp_path / "b", pair(29, 0.05))])
    (line,) = svg.iter(f"{SVG}polyline")
    assert len(line.attrib["points"].split()) == 3
    assert {"a, step-0.ckpt", "a, step-2.ckpt", "b"} <= set(texts(svg))


def test_bicubic_is_one_point_and_not_joined(tmp_path: Path) -> None:
    control = pair(28, 0.4, checkpoint="bicubic")
    runs = [run(tmp_path / name, pair(30 + i, 0.1), control) for i, name in enumerate("ab")]
    svg = drawn(runs)
    assert texts(svg).count("bicubic") == 1
    assert len(circles(svg)) == 3
    assert not list(svg.iter(f"{SVG}polyline"))


def test_labelled_runs_are_one_method(tmp_path: Path) -> None:
    runs = []
    for steps in (1, 4, 15):
        runs.append(run(tmp_path / f"s{steps}", pair(30 - steps / 9, 0.3 - steps / 90)))
        config = {"model": {"init_args": {"steps": steps}}}
        (tmp_path / f"s{steps}" / "config.yaml").write_text(yaml.safe_dump(config))
    svg = drawn(runs, label="model.init_args.steps")
    (line,) = svg.iter(f"{SVG}polyline")
    assert len(line.attrib["points"].split()) == 3
    assert {"steps 1", "steps 4", "steps 15"} <= set(texts(svg))


@pytest.mark.parametrize(
    ("command", "value"),
    [
        ("main.py test --config a.yaml --model.init_args.steps 4", "4"),
        ("main.py test --model.init_args.steps=4 --run.seeds 3", "4"),
        ("main.py test --model.steps 4", "4"),
        ("main.py test --model.init_args.steps 4 --model.init_args.steps 8", "8"),
        ("main.py test --model.init_args.steps_left 4", "15"),
        ("main.py test --model.init_args.steps", "15"),
    ],
)
def test_the_command_beats_the_configuration(tmp_path: Path, command: str, value: str) -> None:
    write_results(tmp_path / "results.json", [])
    text = (tmp_path / "results.json").read_text()
    words = text.partition('"command": ')[2].partition(",\n")[0]
    (tmp_path / "results.json").write_text(text.replace(words, f'"{command}"'))
    (tmp_path / "config.yaml").write_text("model: {init_args: {steps: 15}}")
    for key in ("model.init_args.steps", "model.steps"):
        assert setting_of(tmp_path, key) == value


def test_what_is_left_out_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    infinite = pair(math.inf, 0.1, checkpoint="perfect.ckpt")
    whole = run(tmp_path / "a", pair(30, 0.1), infinite)
    half = run(tmp_path / "b", pair(30, 0.1)[:1])
    assert len(circles(drawn([whole, half]))) == 1
    assert "perfect.ckpt of" in caplog.text
    assert f"{tmp_path / 'b'} is left out: it has no psnr and lpips of set5 x2" in caplog.text


# ------------------------------------------------------------------------------- what is refused


def test_numbers_of_two_protocols_are_no_axis(tmp_path: Path) -> None:
    rgb = pair(29, 0.1)
    rgb[0]["protocol"] = {"color": "rgb"}
    runs = [run(tmp_path / "a", pair(30, 0.1)), run(tmp_path / "b", rgb)]
    with pytest.raises(ValueError, match=r"2 protocols, name one of them: 'psnr \(1\)' is color y"):
        plot(runs, NAMES)
    assert len(circles(ElementTree.fromstring(plot(runs, ("psnr (2)", "lpips"))))) == 1


def test_several_datasets(tmp_path: Path) -> None:
    runs = [
        run(tmp_path / "a", pair(30, 0.1), pair(28, 0.2, scale=4.0), pair(27, 0.2, dataset="b"))
    ]
    with pytest.raises(ValueError, match=r"\(set5 x2, set5 x4, b x2\): say which by --dataset"):
        plot(runs, NAMES)
    assert len(circles(drawn(runs, place=("set5", 4.0)))) == 1
    with pytest.raises(ValueError, match="none that was asked for"):
        plot(runs, NAMES, ("set14", None))


def test_the_command(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path / "a", pair(30, 0.1))
    out, a = tmp_path / "plots" / "pd.svg", str(tmp_path / "a")
    assert main([a, "--out", str(out)]) == 0
    assert ElementTree.parse(out).getroot().tag == f"{SVG}svg"
    for arguments, said in (
        ([a, "--out", "pd.png"], "only SVG is written"),
        ([a, "--y", "fid"], "no run has 'fid'; there are psnr, lpips"),
        ([a, "--label", "model.init_args.steps"], "give it to test as --model.init_args.steps"),
        ([str(tmp_path / "nowhere")], "name the directory of a run"),
    ):
        assert main([*arguments, *([] if "--out" in arguments else ["--out", str(out)])]) == 2
        assert said in caplog.messages[-1]
