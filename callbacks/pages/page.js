// What moves on a page: the slider between two images, their linked zoom, values of curves.
"use strict";

// Screen pixels for each pixel of an image; whole, so that all squares are of one size.
const LADDER = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32];
const SHARP = 1.5; // pixels are squares from here on; below, the browser's smoothing is kinder

const within = (value, low, high) => Math.min(Math.max(value, low), high);

class Viewer {
  constructor(figure) {
    this.figure = figure;
    this.width = Number(figure.dataset.width);
    const shown = Number(figure.dataset.shown); // fewer pixels than the image has, if it is large
    this.ladder = shown < this.width ? [shown / this.width] : LADDER;
    this.stage = figure.querySelector(".stage");
    this.views = [...figure.querySelectorAll(".view")];
    this.tiles = [...figure.querySelectorAll(".tile")];
    this.zoom = 1; // of the whole image fitted into its frame
    this.x = this.y = 0.5; // the image's point in the middle of the frame, in shares of its sides
    this.pointers = new Map(); // where each finger or the mouse is
    this.views.forEach((view) => this.listen(view));
    if (this.stage) this.compare();
    new ResizeObserver(() => this.draw()).observe(figure);
    this.draw();
  }

  // ---------------------------------------------------------------------- which two, and the line

  compare() {
    const find = (name) => this.figure.querySelector(name);
    this.slide = find(".slide");
    this.choices = [find("select.left"), find("select.right")];
    this.choices.forEach((choice) => choice.addEventListener("change", () => this.choose()));
    find(".swap").addEventListener("click", () => {
      const [left, right] = this.choices.map((choice) => choice.value);
      this.choose(right, left);
    });
    this.tiles.forEach((tile, i) => {
      tile.querySelector(".pick").addEventListener("click", () => this.pick(String(i)));
    });
    this.slide.addEventListener("input", () => this.split(Number(this.slide.value)));
    for (const button of this.figure.querySelectorAll("[data-zoom]")) {
      button.addEventListener("click", () => this.step(button.dataset.zoom));
    }
    this.stage.addEventListener("keydown", (event) => this.key(event));
    this.choose();
    this.split(50);
  }

  // To the right; what was there goes to the left, if that would be the same image.
  pick(index) {
    const [left, right] = this.choices.map((choice) => choice.value);
    this.choose(left === index ? right : left, index);
  }

  choose(left = this.choices[0].value, right = this.choices[1].value) {
    [left, right].forEach((value, i) => {
      this.choices[i].value = value;
      const image = this.tiles[value].querySelector("img");
      const name = this.choices[i].selectedOptions[0].textContent;
      const shown = this.stage.querySelectorAll("img")[i];
      if (shown.src !== image.src) shown.src = image.src;
      shown.alt = `${i ? "right" : "left"}: ${name}`;
      this.stage.querySelectorAll(".tag")[i].textContent = name;
    });
    this.tiles.forEach((tile, i) => {
      const pressed = String(i) === right ? "true" : "false";
      tile.querySelector(".pick").setAttribute("aria-pressed", pressed);
    });
  }

  split(percent) {
    this.slide.value = within(percent, 0, 100);
    this.stage.style.setProperty("--split", `${this.slide.value}%`);
  }

  // -------------------------------------------------------------------------------- zoom and pan

  scale(view) {
    return (view.clientWidth * this.zoom * devicePixelRatio) / this.width;
  }

  step(action) {
    if (action === "fit") return this.zoomTo(1);
    const view = this.stage;
    const now = this.scale(view);
    const above = this.ladder.find((factor) => factor > now * 1.01) ?? this.ladder.at(-1);
    const below = this.ladder.findLast((factor) => factor < now * 0.99) ?? 0;
    const target = action === "in" ? above : below;
    return this.zoomTo((this.zoom * target) / now);
  }

  // The point (u, v) of the frame, in shares of its sides, stays where it is.
  zoomTo(zoom, u = 0.5, v = 0.5) {
    const most = Math.max(1, (this.ladder.at(-1) * this.zoom) / this.scale(this.views[0]));
    const next = within(zoom, 1, most);
    this.x += (u - 0.5) * (1 / this.zoom - 1 / next);
    this.y += (v - 0.5) * (1 / this.zoom - 1 / next);
    this.zoom = next;
    this.draw();
  }

  pan(u, v) {
    this.x -= u / this.zoom;
    this.y -= v / this.zoom;
    this.draw();
  }

  draw() {
    const half = 0.5 / this.zoom;
    this.x = within(this.x, half, 1 - half);
    this.y = within(this.y, half, 1 - half);
    const style = this.figure.style;
    style.setProperty("--zoom", this.zoom);
    style.setProperty("--x", `${-100 * (this.x - half)}%`);
    style.setProperty("--y", `${-100 * (this.y - half)}%`);
    this.figure.classList.toggle("zoomed", this.zoom > 1);
    this.views.forEach((view) => view.classList.toggle("pixels", this.scale(view) >= SHARP));
    const factor = this.figure.querySelector(".factor");
    if (factor) factor.textContent = `${Number(this.scale(this.stage).toPrecision(2))}x`;
  }

  // ------------------------------------------------------------------------ mouse, fingers, keys

  listen(view) {
    view.addEventListener("pointerdown", (event) => this.down(event, view));
    view.addEventListener("pointermove", (event) => this.move(event, view));
    view.addEventListener("pointerup", (event) => this.up(event, view));
    view.addEventListener("pointercancel", (event) => this.pointers.delete(event.pointerId));
    view.addEventListener("wheel", (event) => this.wheel(event, view), { passive: false });
  }

  down(event, view) {
    if (event.button) return;
    view.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event);
    const onLine = event.target.closest(".divider") !== null;
    this.slides = view === this.stage && (onLine || this.zoom === 1);
    this.start = onLine ? null : event;
  }

  // A click that moves nothing names a place in the image, in shares of its sides.
  up(event, view) {
    this.pointers.delete(event.pointerId);
    if (!this.start || Math.hypot(event.clientX - this.start.clientX, event.clientY - this.start.clientY) > 4) return;
    const box = view.getBoundingClientRect();
    const x = this.x + ((event.clientX - box.left) / box.width - 0.5) / this.zoom;
    const y = this.y + ((event.clientY - box.top) / box.height - 0.5) / this.zoom;
    this.figure.dispatchEvent(new CustomEvent("place", { detail: { x, y } }));
  }

  move(event, view) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const box = view.getBoundingClientRect();
    if (this.pointers.size > 1) {
      const other = [...this.pointers.values()].find((p) => p.pointerId !== event.pointerId);
      const distance = (p) => Math.hypot(p.clientX - other.clientX, p.clientY - other.clientY);
      const u = ((event.clientX + other.clientX) / 2 - box.left) / box.width;
      const v = ((event.clientY + other.clientY) / 2 - box.top) / box.height;
      this.zoomTo((this.zoom * distance(event)) / Math.max(distance(before), 1), u, v);
    } else if (this.slides) {
      this.splitAt(event);
    } else {
      const across = event.clientX - before.clientX;
      const down = event.clientY - before.clientY;
      this.pan(across / box.width, down / box.height);
    }
    this.pointers.set(event.pointerId, event);
  }

  splitAt(event) {
    const box = this.stage.getBoundingClientRect();
    this.split((100 * (event.clientX - box.left)) / box.width);
  }

  // A wheel without Ctrl scrolls the page.
  wheel(event, view) {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const box = view.getBoundingClientRect();
    const u = (event.clientX - box.left) / box.width;
    const v = (event.clientY - box.top) / box.height;
    this.zoomTo(this.zoom * 2 ** (-event.deltaY / 240), u, v);
  }

  key(event) {
    const zooms = { "+": "in", "=": "in", "-": "out", 0: "fit" };
    const moves = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    const move = moves[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in zooms) this.step(zooms[event.key]);
    else if (move && this.zoom > 1) this.pan(move[0] / 10, move[1] / 10);
    else if (move && move[0]) this.split(Number(this.slide.value) - 2 * move[0]);
    else return;
    event.preventDefault();
  }
}

class Readout {
  constructor(chart) {
    this.svg = chart.querySelector("svg");
    this.value = chart.querySelector(".value");
    this.lines = [...chart.querySelectorAll("polyline")];
    this.latest = this.value.textContent;
    this.svg.addEventListener("pointermove", (event) => this.show(event));
    this.svg.addEventListener("pointerleave", () => this.clear());
  }

  axis(name) {
    const [low, high, start, end] = this.svg.dataset[name].split(" ").map(Number);
    return { low, high, start, end };
  }

  // The value that a place on the axis stands for.
  read(axis, at, log) {
    const [low, high] = log ? [Math.log10(axis.low), Math.log10(axis.high)] : [axis.low, axis.high];
    const value = low + ((at - axis.start) / (axis.end - axis.start)) * (high - low);
    return log ? 10 ** value : value;
  }

  show(event) {
    const box = this.svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * this.svg.viewBox.baseVal.width;
    const near = this.lines.map((line) =>
      [...line.points].reduce((a, b) => (Math.abs(b.x - at) < Math.abs(a.x - at) ? b : a)));
    if (!near.length) return;
    const y = this.axis("y");
    const log = "log" in this.svg.dataset;
    const values = near.map((point) => Number(this.read(y, point.y, log).toPrecision(3)));
    const step = Math.round(this.read(this.axis("x"), near[0].x, false));
    this.value.textContent = `step ${step}: ${values.join(" · ")}`;
    this.clear(false);
    const line = document.createElementNS(this.svg.namespaceURI, "line");
    const places = { class: "cursor", x1: near[0].x, x2: near[0].x, y1: y.start, y2: y.end };
    for (const [key, place] of Object.entries(places)) line.setAttribute(key, place);
    this.svg.append(line);
  }

  clear(text = true) {
    this.svg.querySelector(".cursor")?.remove();
    if (text) this.value.textContent = this.latest;
  }
}

// One scene at a time, where there is an index of them; its viewers begin when it is first shown.
function showScene() {
  const scenes = [...document.querySelectorAll(".scene")];
  const scene = scenes.find((other) => `#${other.id}` === location.hash) ?? scenes[0];
  scenes.forEach((other) => { other.hidden = other !== scene; });
  for (const link of document.querySelectorAll(".index a")) {
    const current = link.hash === `#${scene.id}`;
    link.ariaCurrent = current ? "true" : null;
    if (current) link.parentElement.scrollTop = link.offsetTop - link.parentElement.offsetTop;
  }
  for (const figure of (scene ?? document).querySelectorAll(".viewer")) {
    figure.viewer ??= new Viewer(figure);
  }
}

addEventListener("hashchange", showScene);
showScene();
document.querySelectorAll(".chart").forEach((chart) => new Readout(chart));
