"""The page's tables, and an image a row: the same three squares at 1:1 beside its controls."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from benchmarks import report
from benchmarks.photographs.measure import (
    DETAIL,
    FAILS,
    HOLDS,
    OPEN,
    SHARPENED,
    Difference,
    Numbers,
    compare,
    mean,
    verdict,
)
from benchmarks.photographs.outputs import OUTPUTS
from benchmarks.photographs.table import Claim, Row, Table
from benchmarks.report import REPOSITORY
from files.owned import write_whole

PAGE, CLAIMS = "docs/photographs.md", "docs/claims.md"
COLUMNS = {  # heading and digits of each metric
    "psnr": ("PSNR-Y", 2),
    "lpips": ("LPIPS", 3),
    "niqe": ("NIQE", 2),
    "swd_2": ("SWD halved", 2),
    "swd_3": ("SWD quartered", 2),
    "lr_psnr": ("LR, dB", 1),
}
GAP, HEAD, FONT, QUALITY = 4, 20, 13, 90  # pixels between and above images; WebP
UNKNOWN = "not trained yet"
Tables = dict[str, dict[str, Numbers]]  # by table, then by row or control


def means(tables: Tables) -> dict[str, Any]:
    """Return the mean and half of the interval of all numbers of a row, with six digits.

    A number of a whole set has no interval.
    """
    return {
        name: {
            who: {metric: _short(values) for metric, values in numbers.items()}
            for who, numbers in parts.items()
        }
        for name, parts in tables.items()
    }


def _short(values: list[float]) -> list[float]:
    return [float(f"{x:.6g}") for x in (mean(values) if len(values) > 1 else values)]


def judged(claim: Claim, table: Table, measured: dict[str, Tables]) -> dict[str, Any]:
    """Return a claim with its verdict and the parts that it consists of.

    Args:
        claim: The claim.
        table: The table.
        measured: Numbers of the rows.
    """
    parts = []
    for name in claim.tables:
        other = claim.than or table.tables[name].regression
        if any(name not in measured.get(row, {}) for row in (claim.row, other)):
            return {"text": claim.text, "verdict": UNKNOWN, "parts": []}
        numbers = measured[claim.row][name]
        against = {other: measured[other][name]["row"]}
        if not claim.than:
            against |= {who: control for who, control in numbers.items() if who != "row"}
        for metric in [claim.metric] if claim.than else DETAIL:
            for than, compared in against.items():
                found = compare(numbers["row"], compared, metric)
                parts.append(_part(name, metric, than, found))
    agreed = verdict(part["verdict"] for part in parts)
    return {"text": claim.text, "verdict": agreed, "parts": parts}


def _part(table: str, metric: str, other: str, found: Difference) -> dict[str, Any]:
    """Return one comparison; ``sure`` is how many half intervals it is on the better side of 0."""
    value, reach = (float(f"{x:.4g}") for x in found[:2])
    sure = (1 if found.better else -1) * found.value / max(found.reach, 1e-12)
    where = {"table": table, "metric": metric, "than": other}
    return where | {
        "value": value,
        "reach": reach,
        "sure": round(sure, 2),
        "verdict": found.verdict,
    }


def write(table: Table, found: dict[str, Any]) -> None:
    """Write the page's part, and each verdict beside its claim in the papers' claims.

    The part stands between ``<!-- NAME -->`` and ``<!-- end of NAME -->``, for the table's name.

    Args:
        table: The table.
        found: What the JSON file holds.
    """
    place = REPOSITORY / PAGE
    marks = (f"<!-- {table.name} -->", f"<!-- end of {table.name} -->")
    text = markdown(table, found)
    write_whole(place, report.placed(place.read_text(encoding="utf-8"), text, marks))
    papers = REPOSITORY / CLAIMS
    text = papers.read_text(encoding="utf-8")
    for claim in found["results"]["claims"]:
        said = re.compile(rf"\*{re.escape(claim['text'])}\*( \(\*\*[^*]*\*\*\))?")
        text = said.sub(f"*{claim['text']}* (**{claim['verdict']}**)", text)
    write_whole(papers, text)


def markdown(table: Table, found: dict[str, Any]) -> str:
    """Return each table with its images, and the claims. Args as for ``write``."""
    rows = found["results"]["rows"]
    images = f"../benchmarks/results/{table.name}"
    parts = []
    for name, compared in table.tables.items():
        if not compared.on_page:
            continue
        tested = [row for row in table.rows if name in table.sets[row.set].tables]
        numbers = {row.label: rows[row.name]["tables"][name] for row in tested if row.name in rows}
        missing = [row.label for row in tested if row.name not in rows]
        parts.append(f"### {compared.title}")
        if numbers:
            parts.append(_numbers(numbers))
        if missing:
            parts.append(f"{', '.join(missing)}: {UNKNOWN}.")
        parts += [
            f"{row.label}: {row.about}\n\n"
            f"![{', '.join(_panels(row.label, numbers[row.label]))}]({images}/{row.name}.webp)"
            for row in tested
            if row.sheet == name and row.name in rows
        ]
        if compared.samples:
            shown = ", ".join(row.label for row in tested if row.name in compared.samples)
            parts.append(f"{compared.about}\n\n![{shown}, photographs]({images}/{name}.webp)")
    parts += ["### Claims", _claims(table, found["results"]["claims"])]
    return "\n\n".join(parts) + "\n"


def _panels(label: str, numbers: dict[str, Any]) -> list[str]:
    """Return what the image of a row shows; one of before the third control is without it."""
    sharpened = [SHARPENED.replace(",", "")] if SHARPENED in numbers else []
    return ["LR", "bicubic", "regression", *sharpened, label, "HR"]


def _numbers(tested: dict[str, dict[str, Any]]) -> str:
    """Return the grid of one table: a line for each row, by its label, and one for HR."""
    lines = {label: parts["row"] for label, parts in tested.items()}
    of_hr = [parts["hr"] for parts in tested.values() if "hr" in parts]
    if of_hr:
        lines["HR"] = of_hr[0]
    shown = [metric for metric in COLUMNS if any(metric in numbers for numbers in lines.values())]
    cells = [[label, *(_cell(numbers, m) for m in shown)] for label, numbers in lines.items()]
    return _grid(["", *(COLUMNS[metric][0] for metric in shown)], cells)


def _cell(numbers: dict[str, list[float]], metric: str) -> str:
    return " ± ".join(f"{x:.{COLUMNS[metric][1]}f}" for x in numbers.get(metric, []))


def _claims(table: Table, claims: list[dict[str, Any]]) -> str:
    lines = [
        [claim["text"], f"**{claim['verdict']}**", _weakest(table, claim["parts"])]
        for claim in claims
    ]
    kinds = {
        HOLDS: "held",
        FAILS: "failed",
        OPEN: "undecided",
        UNKNOWN: "not trained yet",
    }
    counted = Counter(claim["verdict"] for claim in claims)
    said = f"{len(claims)} claims: " + ", ".join(
        f"{counted[kind]} {words}" for kind, words in kinds.items() if counted[kind]
    )
    return f"{said}.\n\n{_grid(['claim', 'verdict', 'weakest comparison'], lines)}"


def _weakest(table: Table, parts: list[dict[str, Any]]) -> str:
    if not parts:
        return ""
    part = min(parts, key=lambda part: part["sure"])
    labels = {row.name: row.label for row in table.rows}
    heading, digits = COLUMNS[part["metric"]]
    number = f"{part['value']:+.{digits}f} ± {part['reach']:.{digits}f}"
    than = labels.get(part["than"], part["than"])
    compared = f"{heading} against {than}: {number}"
    if len({part["table"] for part in parts}) == 1:
        return compared
    return f"{table.tables[part['table']].title}, {compared}"


def _grid(head: list[str], lines: list[list[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))


def draw(table: Table, row: Row, folder: Path) -> None:
    """Draw a row beside its controls, and images of several rows once they are complete.

    Args:
        table: The table.
        row: The row; it is not drawn if it names no sheet.
        folder: Where to; the images are ``<row>.webp``, ``<sheet>.webp``, and ``<table>.webp`` of
            samples, in a folder of the table's name.
    """
    folder = folder / table.name
    labels = {row.name: row.label for row in table.rows}
    if row.sheet:
        compared = table.tables[row.sheet]
        rows = (compared.bicubic, compared.regression, row.name)
        bicubic, regression, own = (table.rows_folder / name / OUTPUTS for name in rows)
        panels = {
            "LR": own / "lr",
            "bicubic": bicubic / "sr",
            "regression": regression / "sr",
            SHARPENED: own / SHARPENED,
            row.label: own / "sr",
            "HR": own / "hr",
        }
        panels = {label: place / row.sheet for label, place in panels.items()}
        _squares(panels, table.shown, folder / f"{row.name}.webp")
    for name, sheet in table.sheets.items():
        if row.name in sheet.rows and _tested(table, sheet.rows):
            last = sheet.rows[-1]
            panels = {"LR": _outputs(table, last, "lr")}
            panels |= {labels[each]: _outputs(table, each, "sr") for each in sheet.rows}
            panels["HR"] = _outputs(table, last, "hr")
            _squares(panels, sheet.images or table.shown, folder / f"{name}.webp")
    for name in table.sets[row.set].tables:
        names = table.tables[name].samples
        if row.name in names and _tested(table, names):
            outputs = {other: table.rows_folder / other / OUTPUTS for other in names}
            lines = {labels[other]: outputs[other] / "sr" / name for other in names}
            lines["photographs"] = outputs[names[0]] / "hr" / name
            _samples(lines, folder / f"{name}.webp")


def _outputs(table: Table, name: str, part: str) -> Path:
    """Return the folder of a row's images of the first dataset that it is tested on."""
    row = next(row for row in table.rows if row.name == name)
    return table.rows_folder / name / OUTPUTS / part / table.sets[row.set].tables[0]


def _tested(table: Table, rows: Iterable[str]) -> bool:
    return all((table.rows_folder / name / OUTPUTS).is_dir() for name in rows)


def _samples(lines: dict[str, Path], target: Path) -> None:
    """Draw the first image of each third folder at 1:1, a line a row."""
    chosen = sorted(next(iter(lines.values())).rglob("0.png"))[::3]
    names = [f"{path.parent.name}/{path.name}" for path in chosen]
    with Image.open(chosen[0]) as image:
        side = image.width + GAP
    paper = Image.new("RGB", (len(names) * side, len(lines) * (side + HEAD)), "white")
    pen, font = ImageDraw.Draw(paper), ImageFont.load_default(FONT)
    for y, (label, folder) in enumerate(lines.items()):
        pen.text((2, y * (side + HEAD) + 2), label, "black", font)
        for x, name in enumerate(names):
            with Image.open(folder / name) as image:
                paper.paste(image.convert("RGB"), (x * side, y * (side + HEAD) + HEAD))
    _save(paper, target)


def _save(paper: Image.Image, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    paper.save(target, quality=QUALITY, method=6)


def _squares(panels: dict[str, Path], shown: Sequence[str], target: Path) -> None:
    """Draw images at 1:1, each panel under its label, three or four panels a line.

    Args:
        panels: Folder of the images of each panel, by label; LR is enlarged by nearest neighbour.
        shown: Names of the images; those that ``HR`` lacks are left out.
        target: File to write.
    """
    images = [name for name in shown if (panels["HR"] / f"{name}.png").is_file()]
    with Image.open(panels["HR"] / f"{images[0]}.png") as first:
        width, height = first.width + GAP, first.height + HEAD + GAP
    columns = 3 if len(panels) % 3 == 0 else 4
    lines = math.ceil(len(panels) / columns)
    paper = Image.new("RGB", (columns * width, len(images) * lines * height), "white")
    pen, font = ImageDraw.Draw(paper), ImageFont.load_default(FONT)
    for number, name in enumerate(images):
        for place, (label, folder) in enumerate(panels.items()):
            line, column = divmod(place, columns)
            left, top = column * width, (number * lines + line) * height
            with Image.open(folder / f"{name}.png") as image:
                large = image.convert("RGB").resize(
                    (width - GAP, height - HEAD - GAP), Image.Resampling.NEAREST
                )
            pen.text((left + 2, top + 2), label, "black", font)
            paper.paste(large, (left, top + HEAD))
    _save(paper, target)
