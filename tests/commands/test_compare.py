"""`main.py compare` of folders of images: the page, its numbers, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import enlarger
from callbacks.results.compare import mean_interval
from callbacks.results.files import write_images, write_results
from commands import compare
from commands.errors import ConfigurationError
from tests.callbacks.parsed_page import Node, parse
from tests.callbacks.results.test_per_image import numbers
from tests.callbacks.results.test_results import result

SIZE = 40, 32
NAMES = [f"{letter}" for letter in "abcdef"]
FILTERS = {"sharp": Image.Resampling.LANCZOS, "soft": Image.Resampling.BILINEAR}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ENLARGER_WEIGHTS", "HOME", "TORCH_HOME", "HF_HOME"):  # no weights
        monkeypatch.setenv(name, str(tmp_path / "nowhere"))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """HR, LR and outputs of two methods, one of them with a suffix of its own."""
    for number, name in enumerate(NAMES):
        levels = np.random.default_rng(number).integers(0, 256, (10, 12, 3), np.uint8)
        hr = Image.fromarray(levels).resize(SIZE, Image.Resampling.BICUBIC)
        lr = hr.resize((SIZE[0] // 2, SIZE[1] // 2), Image.Resampling.BICUBIC)
        save(hr, f"hr/{name}.png")
        save(lr, f"lr/{name}.png")
        for method, kind in FILTERS.items():
            save(lr.resize(SIZE, kind), f"{method}/{name}.{'webp' if name == 'a' else 'png'}")
    return tmp_path


def save(image: Image.Image, place: str) -> None:
    Path(place).parent.mkdir(parents=True, exist_ok=True)
    image.save(place, **({"lossless": True} if place.endswith("webp") else {}))


def page(*words: str, out: str = "compare.html") -> Node:
    assert compare.main([*words]) == 0
    return parse(Path(out).read_text())


def rows(table: Node) -> list[list[str]]:
    return [[c.text for c in row.all("th") + row.all("td")] for row in table.all("tr")]


def labels(figure: Node) -> list[str]:
    return [tile.one("button").text for tile in figure.all("div", "tile")]


# ----------------------------------------------------------------------------------------- the page


def test_methods_stand_side_by_side(folders: Path, capsys: Any) -> None:
    made = page("sharp", "soft", "--reference", "hr", "--input", "lr")
    assert made.one("h1").text == "sharp, soft side by side"
    figures = made.all("figure", "viewer")
    assert [figure.one("b").text for figure in figures] == NAMES
    for figure in figures:
        assert labels(figure) == ["bicubic", "sharp", "soft", "HR"]
        chosen = [o.text for o in figure.all("option") if "selected" in o.attributes]
        assert chosen == ["sharp", "soft"]
    sources = [str(tile.one("img").attributes["src"]) for tile in figures[0].all("div", "tile")]
    assert sources[0].startswith(".compare_html/")
    assert sources[1:] == ["sharp/a.webp", "soft/a.webp", "hr/a.png"]
    assert all(Path(source).is_file() for source in sources)
    assert "A is better" in capsys.readouterr().out


def test_the_numbers_are_those_of_measure(folders: Path) -> None:
    made = page("sharp", "soft", "--reference", "hr", "--input", "lr")
    found = {m: enlarger.measure(m, "hr", scale=2) for m in FILTERS}
    total, first, _ = made.all("table")
    shown = {row[0]: row[1:] for row in rows(total)[1:]}
    for method, measured in found.items():
        values = [f"{measured[m]['value']:.4f}" for m in ("psnr", "ssim")]
        assert shown[method] == [*values, "6"]
    assert set(shown) == {"sharp", "soft", "bicubic"}
    assert "border scale" in made.text
    of = {method: measured["psnr"]["images"] for method, measured in found.items()}
    differences = np.array([of["sharp"][name] - of["soft"][name] for name in NAMES])
    low, high = mean_interval(differences)
    assert rows(first)[1][:2] == ["psnr", "A is better"]
    assert rows(first)[1][-2:] == [f"{differences.mean():+.4f}", f"{low:+.4f} to {high:+.4f}"]
    tile = made.all("figure", "viewer")[1].all("div", "tile")[1]
    assert f"psnr {of['sharp']['b']:.4g}, ssim " in tile.text


def test_a_reference_may_be_larger_by_less_than_the_scale(folders: Path) -> None:
    larger = SIZE[0] + 1, SIZE[1]
    Image.open("hr/a.png").transform(larger, Image.Transform.EXTENT, (0, 0, *larger)).save("a.png")
    before = rows(page("sharp", "--reference", "hr", "--scale", "2").all("table")[0])
    Path("a.png").replace("hr/a.png")
    made = page("sharp", "--reference", "hr", "--scale", "2")
    assert rows(made.all("table")[0]) == before
    preview = Path(str(made.all("div", "tile")[1].one("img").attributes["src"]))
    assert preview.parent.name == ".compare_html"
    shown = np.asarray(Image.open(preview), int)
    assert shown.shape[:2] == SIZE[::-1]
    expected = np.asarray(Image.open("hr/a.png").convert("RGB"), int)[:, : SIZE[0]]
    assert np.abs(shown - expected).mean() < 6, "more than JPEG's"


# ------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sharp", "small"], r"small/b.png has 20x16 pixels and sharp/b.png 40x32: images of one"),
        (
            ["sharp", "soft", "--reference", "lr"],
            r"lr/a.png has 20x16 pixels and sharp/a.webp 40x32: a ",
        ),
        (["sharp", "--input", "lr", "--scale", "3"], r"lr/a.png is 20x16, which x3 does not "),
        (["sharp", "--input", "turned"], r"turned/a.png is 16x20, which x2 does not enlarge to "),
        (
            ["sharp", "other"],
            r"sharp, other have no image of the same name \(sharp has a, other has z",
        ),
        (["sharp", "nowhere"], "there is no folder nowhere"),
        (["sharp", "run"], "run is a run, not a folder of images: compare runs with runs"),
        (["sharp", "sharp"], "sharp is given twice"),
        (["sharp"], r"got one folder, sharp: give two, --reference or --input"),
        (["sharp", "soft", "--out", "page.png"], r"--out is page.png: end it in .html"),
        (["sharp", "soft", "--dataset", "set5"], "--dataset chooses among the numbers of runs"),
        (["sharp", "soft", "--metric", "psnr"], "psnr needs references"),
        (["sharp", "soft", "--metric", "pnsr"], "there is no metric 'pnsr'; did you mean 'psnr'"),
        (["sharp", "soft", "--metric", "niqe"], "niqe_pris_params|niqe-pristine|NIQE"),
    ],
)
def test_what_cannot_be_compared_is_a_sentence(folders: Path, words: list[str], said: str) -> None:
    for name in NAMES:
        save(Image.open(f"lr/{name}.png"), f"small/{name}.{'webp' if name == 'a' else 'png'}")
        save(Image.open(f"lr/{name}.png").rotate(90, expand=True), f"turned/{name}.png")
    Image.open("sharp/a.webp").save("small/a.webp", lossless=True)
    save(Image.new("RGB", SIZE), "other/z.png")
    save(Image.new("RGB", SIZE), "run/report/images/0.png")
    Path("run/config.yaml").touch()
    with pytest.raises(ConfigurationError, match=said):
        compare.main(words)
    assert not Path("compare.html").exists()


def test_runs_are_compared_by_their_numbers(tmp_path: Path, capsys: Any) -> None:
    for name, value in (("one", 31.0), ("two", 30.0)):
        measured = result(value=value, n=6)
        keys = {key: measured[key] for key in numbers() if key in measured}
        values = {f"set5/{i}": value + i for i in range(6)}
        write_results(tmp_path / name / "results.json", [measured])
        write_images(tmp_path / name, [numbers(**keys, values=values)])
        save(Image.new("RGB", SIZE), f"{name}/report/images/0.png")
    assert compare.main(["one", "two"]) == 0
    assert "A is better" in capsys.readouterr().out
    assert not Path("compare.html").exists()
    assert compare.main(["one", "nowhere"]) == 2
