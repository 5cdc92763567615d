"""WCAG AA of a page in the browser, as far as it can be computed without axe-core."""

from __future__ import annotations

from tests.callbacks.browser import Browser

NAMED = frozenset(
    {"button", "link", "textbox", "combobox", "slider", "spinbutton", "progressbar", "image"}
)
PROBLEMS = """
const found = [];
const seen = (element) => element.checkVisibility({ visibilityProperty: true });
const channels = (color) => color.match(/[\\d.]+/g).map(Number);
const luminance = ([r, g, b]) => [r, g, b]
  .map((level) => level / 255)
  .map((level) => (level <= 0.04045 ? level / 12.92 : ((level + 0.055) / 1.055) ** 2.4))
  .reduce((sum, level, i) => sum + level * [0.2126, 0.7152, 0.0722][i], 0);
function background(element) {
  for (let at = element; at; at = at.parentElement) {
    const color = channels(getComputedStyle(at).backgroundColor);
    if ((color[3] ?? 1) === 1) return color;
  }
  return [255, 255, 255];
}
for (const element of document.querySelectorAll("body *")) {
  const words = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (!words || !seen(element) || element.closest(":disabled, .tag, script, svg")) continue;
  const style = getComputedStyle(element);
  const levels = [channels(style.color), background(element)].map(luminance);
  const size = parseFloat(style.fontSize);
  const least = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
  const contrast = (Math.max(...levels) + 0.05) / (Math.min(...levels) + 0.05);
  if (contrast < least) found.push(`contrast ${contrast}: ${element.outerHTML.slice(0, 80)}`);
}
for (const element of document.querySelectorAll("button, select, input, summary")) {
  const box = element.getBoundingClientRect();
  const side = Math.min(box.width, box.height);
  if (seen(element) && side < 20) found.push(`small: ${element.outerHTML}`);
}
for (const image of document.querySelectorAll("img:not([alt])")) found.push(`no alt: ${image.src}`);
const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
if (new Set(ids).size < ids.length) found.push("an id occurs twice");
if (!document.documentElement.lang || !document.title) found.push("no language or title");
if (document.querySelectorAll("h1").length !== 1) found.push("not one h1");
if (document.querySelector("[tabindex]:not([tabindex='0'])")) found.push("an order of focus");
if (document.documentElement.scrollWidth > innerWidth) found.push("scrolls sideways");
return found;
"""


def problems(page: Browser) -> list[str]:
    """Return what WCAG AA forbids on a page: on a desktop and a phone, in light and dark."""
    found = []
    for width in (1280, 390):
        for dark in (False, True):
            page.look(width, dark)
            found += [f"{width}, dark {dark}: {problem}" for problem in page.run(PROBLEMS)]
    for node in page.tell("Accessibility.getFullAXTree", {})["nodes"]:
        role = node.get("role", {}).get("value")
        if not node["ignored"] and role in NAMED and not node.get("name", {}).get("value"):
            found.append(f"a {role} without a name: {node.get('properties')}")
    return found
