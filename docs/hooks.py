"""What the site does beside MkDocs: links to the repository, parts of README, the notebook.

Pages are written for a reader of the repository: a link may lead to any file of it, relative to
the page. On the site those of `docs/` are its pages; others are copied into it. A line

    [Start](../README.md#start) <!-- include -->

is a link in the repository, and that section of README, without its heading, on the site.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = "docs/quickstart.ipynb"
PAGES = {"README.md": "docs/index.md", NOTEBOOK: "docs/quickstart.md"}  # what is shown as a page
COPIES = "repository"  # the site's folder of files that are not in docs/
FENCE = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)
TARGET = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")
INCLUDE = re.compile(r"^\[[^]]*\]\(\S*?README\.md#([\w-]+)\) <!-- include -->$", re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Make the notebook's page, and copy what pages link to outside `docs/`.

    Args:
        files: Of the site.
        config: MkDocs' own.
    """
    from mkdocs.structure.files import File

    notebook = notebook_page((ROOT / NOTEBOOK).read_text(encoding="utf-8"))
    files.append(File.generated(config, PAGES[NOTEBOOK].removeprefix("docs/"), content=notebook))
    for page in list(files.documentation_pages()):
        text = site_text(page.content_string, page.src_uri)
        for name in sorted(copied(text, page.src_uri)):
            uri = f"{COPIES}/{name}"
            if (ROOT / name).is_file() and files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Write the page's links as they are on the site.

    Args:
        markdown: Of the page.
        page: MkDocs' own.
    """
    return site_text(markdown, page.file.src_uri)


def notebook_page(text: str) -> str:
    """A notebook as Markdown, with what its cells printed and drew when it was last saved.

    Args:
        text: The file's, in nbformat 4.
    """
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            if "text" in output:
                parts.append("```\n{}```".format("".join(output["text"])))
            for kind in {"image/png", "image/jpeg"} & {*output.get("data", {})}:
                parts.append(f"![output](data:{kind};base64,{output['data'][kind]})")
    return "\n\n".join(parts) + "\n"


def site_text(markdown: str, page: str) -> str:
    """A page as it is on the site.

    Args:
        markdown: As in the repository.
        page: Its path below `docs/`.
    """
    folder = posixpath.dirname(page)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pieces = INCLUDE.split(markdown)  # text, name of a section, text, ...
    for number, piece in enumerate(pieces):
        if number % 2:
            pieces[number] = relink(section(readme, piece), "", folder)
        else:
            pieces[number] = relink(piece, posixpath.join("docs", folder), folder)
    return "".join(pieces)


def section(text: str, name: str) -> str:
    """What stands under a heading, up to the next one of its rank or above.

    Args:
        text: Markdown.
        name: The heading's name in links, as `on-several-machines`.

    Raises:
        KeyError: There is no such heading.
    """
    bare = FENCE.sub(lambda found: " " * len(found[0]), text)
    headings = list(re.finditer(r"^(#+) (.+)$", bare, re.MULTILINE))
    for number, heading in enumerate(headings):
        if re.sub(r"[^\w-]", "", heading[2].lower().replace(" ", "-")) == name:
            later = (h.start() for h in headings[number + 1 :] if len(h[1]) <= len(heading[1]))
            return text[heading.end() : next(later, len(text))].strip()
    raise KeyError(f"README.md has no section #{name}, which a page of docs/ includes")


def relink(text: str, base: str, folder: str) -> str:
    """Turn links between files of the repository into links between files of the site.

    Args:
        text: Markdown. What is between fences stays as it is.
        base: Folder of the repository to which its links are relative.
        folder: Folder of the site in which it is shown.
    """

    def target(found: re.Match[str]) -> str:
        name = posixpath.normpath(posixpath.join(base, found[1]))
        place = PAGES.get(name, name)
        inside = place.startswith("docs/")
        place = place.removeprefix("docs/") if inside else f"{COPIES}/{place}"
        return posixpath.relpath(place, folder or ".")

    parts = FENCE.split(text)
    return "".join(p if n % 2 else TARGET.sub(target, p) for n, p in enumerate(parts))


def copied(text: str, page: str) -> set[str]:
    """Files of the repository that a page of the site links to outside `docs/`.

    Args:
        text: The page, as on the site.
        page: Its path below `docs/`.
    """
    places = (posixpath.normpath(posixpath.join(posixpath.dirname(page), t)) for t in targets(text))
    return {p.removeprefix(f"{COPIES}/") for p in places if p.startswith(f"{COPIES}/")}


def targets(text: str) -> list[str]:
    """Where the links of a text lead, but for those between fences and to other servers."""
    return [target for part in FENCE.split(text)[::2] for target in TARGET.findall(part)]
