// The page of `main.py app`. This page is a visit: its files and jobs are its own.
const BUSY = 500, IDLE = 5000; // milliseconds until the server is asked again
const RESIZED = 200; // milliseconds without a change of the window's size until it is drawn again
const SILENT = "The page's server does not answer. It may have been stopped.";
const GONE = "This page was away for long, and its photographs were deleted: choose them again.";
const find = (id) => document.getElementById(id);
const sized = ([height, width]) => `${width} x ${height}`;

const visit = {
  photographs: [], // as the server describes them
  models: "[]", // the visitor's own, as text
  refused: "", // why there is no visit
  begins: null, // its promise, while the server is asked for one
  before: 0, // visitors whose photographs come first
  uploads: 0, // files that are still to be sent
  selected: null, // the number of the photograph that is shown
  shown: "", // what the viewer shows of it
  place: null, // the middle of what is shown at 100 %, in shares of the sides
  previews: false, // whether that is a preview
};

const PREVIEW = 0; // the number of the square that a preview enlarges
const settings = find("settings");
const address = (number) => `/visits/${sessionStorage.visit}/photographs/${number}`;
const photograph = (number) => visit.photographs.find((one) => one.number === number);
const works = (one) => Boolean(one && (one.waits || one.progress !== null));
const busy = () => visit.uploads > 0 || works(visit.square) || visit.photographs.some(works);

const others = () => (visit.before === 1 ? "a photograph of another visitor" : `photographs of ${visit.before} other visitors`);

function report(error) {
  find("error").textContent = error;
  find("error").hidden = !error;
}

// --------------------------------------------------------------------------------- the server

async function ask(path, options) {
  let reply, content;
  try {
    if (!sessionStorage.visit) await (visit.begins ??= begin());
    if (!sessionStorage.visit) return report(visit.refused);
    reply = await fetch(`/visits/${sessionStorage.visit}${path}`, options);
    content = reply.status === 410 ? null : await reply.json();
  } catch {
    visit.begins = null;
    report(SILENT);
    return;
  }
  if ([SILENT, visit.refused].includes(find("error").textContent)) report("");
  if (reply.ok) {
    show(content);
  } else if (!content) {
    if (visit.photographs.length) report(GONE);
    sessionStorage.removeItem("visit");
    show({ photographs: [], models: [], before: 0 });
  } else {
    report([find("error").textContent, content.error].filter(Boolean).join("\n"));
  }
}

async function post(path, content) {
  await ask(path, { method: "POST", body: JSON.stringify(content) });
  follow();
}

async function begin() {
  const reply = await fetch("/visits", { method: "POST" });
  const content = await reply.json();
  if (reply.ok) sessionStorage.visit = content.id;
  visit.refused = content.error ?? "";
  visit.begins = null;
}

async function follow() {
  clearTimeout(visit.timer);
  await ask("");
  visit.timer = setTimeout(follow, busy() ? BUSY : IDLE);
}

async function upload(files) {
  report("");
  visit.uploads += files.length;
  for (const file of files) {
    const { weights, largest, largestModel } = find("files").dataset;
    const isModel = weights.split(",").some((ending) => file.name.endsWith(ending));
    const most = isModel ? largestModel : largest;
    if (file.size > most) {
      report(`${file.name} is larger than ${most / 1e6} MB`);
    } else {
      await ask(`/${isModel ? "models" : "photographs"}?name=${encodeURIComponent(file.name)}`, { method: "POST", body: file });
    }
    if (isModel) select(`own/${file.name}`);
    visit.uploads -= 1;
  }
  draw();
}

function select(source) {
  const option = [...settings.elements.source.options].find((one) => one.value === source);
  if (option) option.selected = true;
  choose();
}

function chosen() {
  return Object.fromEntries(new FormData(settings));
}

function preview() {
  const { x, y } = visit.place ?? { x: 0.5, y: 0.5 };
  visit.place = { x, y };
  visit.previews = true;
  report("");
  return post("/preview", { ...chosen(), number: visit.selected, x, y });
}

// ------------------------------------------------------------------------------ what is shown

function show(state) {
  visit.photographs = state.photographs.filter((one) => one.number !== PREVIEW);
  visit.square = state.photographs.find((one) => one.number === PREVIEW);
  visit.before = state.before;
  if (state.error) report(state.error);
  drawModels(state.models);
  if (!photograph(visit.selected)) {
    visit.selected = visit.photographs[0]?.number ?? null;
    visit.place = null;
  }
  draw();
}

function draw() {
  const list = find("photographs");
  const rows = new Map([...list.children].map((row) => [row.dataset.number, row]));
  visit.photographs.forEach((one) => {
    const number = String(one.number);
    if (!rows.has(number)) list.append(newRow(one));
    drawRow(list.querySelector(`[data-number="${number}"]`), one);
    rows.delete(number);
  });
  rows.forEach((row) => row.remove());
  drawStatus();
  drawViewer();
}

function drawModels(models) {
  const text = JSON.stringify(models);
  if (visit.models === text) return;
  visit.models = text;
  const selected = settings.elements.source.value;
  const options = models.map((one) => {
    const option = new Option(one.name, one.source);
    option.dataset.scale = one.scale;
    return option;
  });
  find("own").replaceChildren(...options);
  find("own").hidden = !models.length;
  select(selected);
}

function newRow(one) {
  const row = find("row").content.firstElementChild.cloneNode(true);
  row.dataset.number = one.number;
  row.querySelector("b").textContent = one.name;
  row.querySelector(".choose").ariaLabel = `Show ${one.name}`;
  row.querySelector(".choose").addEventListener("click", () => {
    visit.selected = one.number;
    visit.place = null;
    draw();
  });
  row.querySelector(".remove").ariaLabel = `Remove ${one.name}`;
  row.querySelector(".remove").addEventListener("click", () => ask(`/photographs/${one.number}`, { method: "DELETE" }));
  row.querySelector(".download").ariaLabel = `Download ${one.name}, enlarged`;
  row.querySelector("progress").ariaLabel = `Progress of ${one.name}`;
  row.querySelector(".download").href = `${address(one.number)}/output`;
  return row;
}

function drawRow(row, one) {
  const image = row.querySelector("img");
  const source = `${address(one.number)}/${one.output ? "after" : "before"}/thumbnail.jpg?${one.version}`;
  if (!image.src.endsWith(source)) image.src = source;
  row.classList.toggle("selected", one.number === visit.selected);
  row.querySelector(".choose").ariaPressed = one.number === visit.selected;
  const words = one.output ? `${sized(one.size)} → ${sized(one.output.size)}` : `${sized(one.size)} pixels`;
  row.querySelector(".muted").textContent = [words, one.output?.note, one.waits && "waiting", one.loads && "the model is being loaded"].filter(Boolean).join(", ");
  const progress = row.querySelector("progress");
  progress.hidden = one.progress === null;
  progress.value = one.progress ?? 0;
  row.querySelector(".error").textContent = one.error;
  row.querySelector(".error").hidden = !one.error;
  row.querySelector(".download").hidden = !one.output;
}

function drawStatus() {
  const all = visit.photographs;
  const done = all.filter((one) => one.output && !works(one)).length;
  const failed = all.filter((one) => one.error).length;
  const words = [];
  if (visit.uploads) words.push(`${visit.uploads} to upload`);
  if (done || failed || busy()) words.push(`${done} of ${all.length} enlarged`);
  if (failed) words.push(`${failed} failed`);
  if (visit.before && !all.some((one) => one.progress !== null) && all.some((one) => one.waits)) words.push(`after ${others()}`);
  const text = words.join(", ");
  if (find("status").textContent !== text) find("status").textContent = text;
  find("archive").hidden = all.filter((one) => one.output).length < 2;
  find("archive").href = `/visits/${sessionStorage.visit}/enlarged.zip`;
  find("stop").disabled = !visit.photographs.some(works) && !works(visit.square);
  find("preview").disabled = settings.querySelector(".primary").disabled = !all.length;
}

async function drawViewer() {
  const one = photograph(visit.selected);
  find("shown").hidden = !one;
  const shown = one ? `${one.number} ${one.version}` : "";
  if (visit.shown !== shown) {
    visit.shown = shown;
    if (one) await drawWhole(one);
  }
  if (one) drawDetail(one);
}

async function drawWhole(one) {
  const { shown } = visit;
  const reply = await fetch(`${address(one.number)}/figure`);
  const text = await reply.text();
  if (!reply.ok || visit.shown !== shown) return; // another one is shown since
  find("whole").innerHTML = text;
  const figure = find("whole").querySelector(".viewer");
  new Viewer(figure);
  figure.addEventListener("place", (event) => {
    visit.place = event.detail;
    visit.previews = false;
    if (photograph(visit.selected).output) draw();
    else preview();
  });
}

// ------------------------------------------------------------- before and after, at 100 percent

function drawDetail(one) {
  const square = visit.previews ? visit.square : null;
  const subject = square ?? (one.output ? one : null);
  find("detail").hidden = !visit.place || !subject;
  if (find("detail").hidden) return;
  find("parts").hidden = !subject.output;
  find("place").textContent = squareWords(square);
  find("place").classList.toggle("error", Boolean(square?.error));
  if (square) drawMark(square.corner, square.size, one.size);
  if (subject.output) drawParts(subject, square !== null);
}

function squareWords(square) {
  if (!square) return "";
  if (square.error) return square.error;
  if (square.waits) return `The preview comes next${visit.before ? `, after ${others()}` : ""}.`;
  return square.progress === null ? "Preview of a square" : "The square is being enlarged.";
}

// As many pixels of the output as a pane has on the screen; the server cuts them.
function drawParts(subject, centred) {
  const [height, width] = subject.output.size;
  const pane = find("parts").firstElementChild.clientWidth * devicePixelRatio;
  const part = { width: Math.min(Math.round(pane), width), height: Math.min(Math.round(pane * 0.75), height) };
  const { x, y } = centred ? { x: 0.5, y: 0.5 } : visit.place;
  part.left = Math.round(within(x * width - part.width / 2, 0, width - part.width));
  part.top = Math.round(within(y * height - part.height / 2, 0, height - part.height));
  const query = new URLSearchParams({ ...part, version: subject.version });
  const images = find("parts").querySelectorAll("img");
  ["before", "after"].forEach((side, i) => {
    const source = `${address(subject.number)}/${side}/part.jpg?${query}`;
    if (!images[i].src.endsWith(source)) images[i].src = source;
    images[i].style.width = `${part.width / devicePixelRatio}px`;
  });
  find("method").textContent = subject.output.method;
  if (centred) return;
  drawMark([part.top, part.left], [part.height, part.width], [height, width]);
  find("place").textContent = `${part.width} x ${part.height} of ${width} x ${height} pixels, at 100 %`;
}

function drawMark(corner, size, whole) {
  const view = find("whole").querySelector(".view");
  if (!view) return;
  const mark = view.querySelector(".mark") ?? view.appendChild(find("mark").content.firstElementChild.cloneNode(true));
  const shares = [corner[0] / whole[0], corner[1] / whole[1], size[0] / whole[0], size[1] / whole[1]];
  ["top", "left", "height", "width"].forEach((name, i) => {
    mark.firstElementChild.style[name] = `${100 * shares[i]}%`;
  });
}

function moveBy(x, y) {
  const one = photograph(visit.selected);
  if (!one?.output || visit.previews) return;
  const [height, width] = one.output.size;
  const pane = find("parts").firstElementChild.clientWidth * devicePixelRatio;
  visit.place.x = within(visit.place.x + (x * pane) / 2 / width, 0, 1);
  visit.place.y = within(visit.place.y + (y * pane) / 2 / height, 0, 1);
  drawDetail(one);
}

// ------------------------------------------------------------------------------- what happens

function choose() {
  const offer = settings.elements.source.selectedOptions[0].dataset;
  settings.elements.scale.placeholder = offer.scale || "model's own";
  find("missing").hidden = !offer.file;
  find("missing").querySelector("b").textContent = offer.file;
  find("missing").querySelector("a").textContent = offer.address;
  find("missing").querySelector("a").href = offer.address;
}

settings.elements.source.addEventListener("change", choose);
settings.elements.strength.addEventListener("input", (event) => {
  find("percent").textContent = `${event.target.value} %`;
});
settings.addEventListener("submit", (event) => {
  event.preventDefault();
  report("");
  visit.previews = false;
  post("/enlarge", chosen());
});
find("preview").addEventListener("click", preview);
find("stop").addEventListener("click", () => post("/stop"));
find("files").addEventListener("change", async () => {
  const files = [...find("files").files];
  find("files").value = "";
  await upload(files);
});
find("parts").addEventListener("keydown", (event) => {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (!moves[event.key]) return;
  event.preventDefault();
  moveBy(...moves[event.key]);
});
for (const name of ["dragover", "dragleave", "drop"]) {
  addEventListener(name, (event) => {
    event.preventDefault();
    find("drop").classList.toggle("over-drop", name === "dragover");
    if (name === "drop") upload([...event.dataTransfer.files]);
  });
}
addEventListener("resize", () => {
  clearTimeout(visit.resized);
  visit.resized = setTimeout(draw, RESIZED);
});
// It may only be loaded again: the server waits a little.
addEventListener("pagehide", () => navigator.sendBeacon(`/visits/${sessionStorage.visit}/leave`));
choose();
follow();
