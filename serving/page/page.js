// The page to draw on: strokes on a canvas, one question at a time to the API, its answer as bars.

const THICK = 0.08; // of a stroke, in widths of the paper
const SIZE = 280; // pixels of a drawing as it is sent: ten for each of MNIST's
const LARGEST = 1024; // pixels of the longer side of an image as it is sent
const PAUSE = 60; // milliseconds between an answer and the next question
const SETTLED = 900; // milliseconds without a change after which a drawing is taken for finished
const RETRY = 2000; // milliseconds after which a server that was away is asked again
const FEW = 12; // classes that all get a bar, each in its place; of more, the likeliest do
const KEY = /^[!-+\--~]{16,}$/; // what a key may be: serving/http/api_keys.py has the same
const STEP = 1 / 28; // of the pen by a key, in widths of the paper

const at = (id) => document.getElementById(id);
const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const canvas = at("canvas");

const drawing = {
  strokes: [], // of points [x, y], from 0 to 1
  stroke: null, // the last of them, while it is being drawn
  picture: null, // an image file instead of strokes
  number: 0, // counts the changes: an answer is to one state of the drawing
  pointer: null, // the mouse, pen or finger that draws it
};
const pen = { x: 0.5, y: 0.5, down: false, shown: false }; // moved by keys

// Drawing

function changed() {
  drawing.number += 1;
  const blank = isBlank();
  document.body.classList.toggle("drawn", !blank);
  at("undo").disabled = at("clear").disabled = blank;
  tell("");
  at("spoken").textContent = "";
  for (const button of at("classes").children) button.setAttribute("aria-pressed", "false");
  render();
  if (blank) forget();
  else look();
}

function isBlank() {
  return !drawing.picture && drawing.strokes.length === 0;
}

function begin(point) {
  lift();
  drawing.picture = null;
  drawing.stroke = [point];
  drawing.strokes.push(drawing.stroke);
  changed();
}

function extend(...points) {
  drawing.stroke.push(...points);
  changed();
}

// Ends the stroke that is being drawn: however the hand moves on, it is part of no other.
function lift() {
  drawing.stroke = drawing.pointer = null;
  pen.down = false;
}

function undo() {
  lift();
  if (drawing.picture) drawing.picture = null;
  else drawing.strokes.pop();
  changed();
}

function clear() {
  lift();
  drawing.picture = null;
  drawing.strokes = [];
  changed();
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

canvas.addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || drawing.pointer !== null) return;
  canvas.setPointerCapture(event.pointerId);
  pen.shown = false;
  begin(place(event));
  drawing.pointer = event.pointerId;
});
canvas.addEventListener("pointermove", (event) => {
  if (event.pointerId !== drawing.pointer) return;
  extend(...(event.getCoalescedEvents?.() ?? [event]).map(place));
});
for (const end of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(end, (event) => {
    if (event.pointerId === drawing.pointer) lift();
  });
}

const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

canvas.addEventListener("keydown", (event) => {
  const move = MOVES[event.key];
  if (!move && event.key !== " ") return;
  event.preventDefault();
  pen.shown = true;
  if (move) {
    const step = event.shiftKey ? 3 * STEP : STEP;
    pen.x = Math.min(Math.max(pen.x + step * move[0], 0), 1);
    pen.y = Math.min(Math.max(pen.y + step * move[1], 0), 1);
    if (pen.down) extend([pen.x, pen.y]);
  } else {
    const down = !pen.down;
    if (down) begin([pen.x, pen.y]);
    else lift();
    pen.down = down;
    at("spoken").textContent = pen.down ? "Pen down" : "Pen up";
  }
  render();
});
canvas.addEventListener("blur", () => {
  pen.shown = false;
  if (pen.down) lift();
  render();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "z" || !(event.ctrlKey || event.metaKey) || isBlank() || at("lock").open) return;
  event.preventDefault();
  undo();
});
at("undo").addEventListener("click", undo);
at("clear").addEventListener("click", () => {
  clear();
  canvas.focus();
});

// Images from elsewhere

async function open(file) {
  try {
    drawing.picture = await createImageBitmap(file);
  } catch {
    tell("This browser cannot read that as an image.", true);
    return;
  }
  lift();
  drawing.strokes = [];
  changed();
}

at("choose").addEventListener("click", () => at("file").click());
at("file").addEventListener("change", () => {
  const [file] = at("file").files;
  at("file").value = ""; // so that the same file can be chosen again
  if (file) open(file);
});
document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (file) open(file);
});
for (const [kind, over] of Object.entries({ dragover: true, dragleave: false, drop: false })) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dropping", over);
    if (kind === "drop" && event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
  });
}

// From strokes to pixels

function stroke(context, points, size) {
  context.beginPath();
  context.moveTo(points[0][0] * size, points[0][1] * size);
  // Curves through the middles between points: a quick hand leaves few of them.
  for (let index = 1; index < points.length; index += 1) {
    const [x, y] = points[index - 1];
    const [nextX, nextY] = points[index];
    context.quadraticCurveTo(x * size, y * size, ((x + nextX) / 2) * size, ((y + nextY) / 2) * size);
  }
  const [x, y] = points.at(-1);
  context.lineTo(x * size + 0.1, y * size); // to where it is already, no line would be drawn: a dot is one
  context.stroke();
}

function trace(context, size, colour) {
  context.lineCap = context.lineJoin = "round";
  context.lineWidth = THICK * size;
  context.strokeStyle = colour;
  for (const points of drawing.strokes) stroke(context, points, size);
}

let frame = null;

function render() {
  frame ??= requestAnimationFrame(paint);
}

function paint() {
  frame = null;
  const size = Math.round(canvas.clientWidth * devicePixelRatio);
  canvas.width = canvas.height = size; // clears it
  const context = canvas.getContext("2d");
  const style = getComputedStyle(canvas);
  if (drawing.picture) {
    const { width, height } = drawing.picture;
    const scale = size / Math.max(width, height);
    context.imageSmoothingEnabled = scale < 2;
    const [left, top] = [(size - width * scale) / 2, (size - height * scale) / 2];
    context.drawImage(drawing.picture, left, top, width * scale, height * scale);
  }
  trace(context, size, style.color);
  if (!pen.shown) return;
  context.beginPath();
  context.arc(pen.x * size, pen.y * size, (THICK / 2) * size, 0, 2 * Math.PI);
  context.lineWidth = 2 * devicePixelRatio;
  context.strokeStyle = style.getPropertyValue("--red");
  context.stroke();
}

function png() {
  const sheet = document.createElement("canvas");
  const context = sheet.getContext("2d");
  if (drawing.picture) {
    const { width, height } = drawing.picture;
    const scale = Math.min(1, LARGEST / Math.max(width, height));
    [sheet.width, sheet.height] = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
    context.drawImage(drawing.picture, 0, 0, sheet.width, sheet.height);
  } else {
    sheet.width = sheet.height = SIZE;
    context.fillStyle = "white";
    context.fillRect(0, 0, SIZE, SIZE);
    trace(context, SIZE, "black");
  }
  return new Promise((done) => sheet.toBlob(done, "image/png"));
}

async function base64(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}

new ResizeObserver(render).observe(canvas);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", render);

// Asking the API

class Trouble extends Error {
  // `again`: milliseconds after which it may be gone, 0 where it will not go by itself
  constructor(message, again) {
    super(message);
    this.again = again;
  }
}

async function api(path, options = {}) {
  for (;;) {
    const key = sessionStorage.getItem("relearn-key");
    if (!key && document.body.classList.contains("guarded")) {
      await unlocked(key, "");
      continue;
    }
    const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
    const answer = await fetch(path, { ...options, headers }).catch(() => null);
    if (!answer) throw new Trouble("The server does not answer. Trying again…", RETRY);
    if (answer.ok) return answer.json();
    const error = (await answer.json().catch(() => ({}))).error ?? {};
    const message = error.message ?? `The server answers ${answer.status}.`;
    if (answer.status === 401) await unlocked(key, message);
    else if ([429, 502, 503, 504].includes(answer.status)) {
      throw new Trouble(message, 1000 * answer.headers.get("retry-after") || RETRY);
    } else throw new Trouble(message, 0);
  }
}

let unlocking = null;

// Resolves when there is another key than `refused` to try.
function unlocked(refused, message) {
  if (sessionStorage.getItem("relearn-key") !== refused) return Promise.resolve();
  unlocking ??= new Promise((done) => {
    at("wrong").textContent = refused ? message : "";
    at("secret").value = "";
    at("lock").showModal();
    at("key").onsubmit = (event) => {
      event.preventDefault();
      if (!KEY.test(at("secret").value)) {
        at("wrong").textContent = "A key has 16 or more letters a–z, digits or signs, without space and comma.";
        return;
      }
      sessionStorage.setItem("relearn-key", at("secret").value);
      at("lock").close();
      unlocking = null;
      done();
    };
  });
  return unlocking;
}

at("lock").addEventListener("cancel", (event) => event.preventDefault());

let classes = [];
let version = null;
let latest = {}; // the drawing that was recorded last, or is being: its number, its answer as a promise
let asked = 0;
let looking = false;
let settling = 0;

// One question at a time, the latest state of the drawing next. Of a drawing in the making nothing is
// recorded: half a digit is not what the network is for.
async function look() {
  clearTimeout(settling);
  settling = setTimeout(settle, SETTLED);
  if (looking) return;
  looking = true;
  while (asked !== drawing.number && !isBlank()) {
    const number = drawing.number;
    await attempt(async () => show(await predict(false), number));
    asked = number;
    await sleep(PAUSE);
  }
  looking = false;
}

function settle() {
  if (drawing.stroke) settling = setTimeout(settle, SETTLED);
  else if (!isBlank()) attempt(record);
}

// Once for each drawing: a class may be chosen while it is being recorded already.
function record() {
  const { number } = drawing;
  if (latest.number !== number) {
    const begun = { number, answer: read(number) };
    begun.answer.catch(() => {
      if (latest === begun) latest = {};
    });
    latest = begun;
  }
  return latest.answer;
}

async function read(number) {
  const answer = await predict(true);
  show(answer, number);
  const [{ label, probabilities }] = answer.predictions;
  if (number === drawing.number) at("spoken").textContent = `${label}, ${percent(probabilities[label])}`;
  return answer;
}

async function predict(recording) {
  if (!classes.length) await learn();
  const image = await png();
  const begun = performance.now();
  const answer = await api(`predict?return_input=true&log=${recording}`, {
    method: "POST",
    headers: { "Content-Type": "image/png" },
    body: image,
  });
  if (answer.version !== version) await learn();
  return { ...answer, image, took: performance.now() - begun };
}

// Do `work` until it is done, or until what it was for has changed.
async function attempt(work) {
  const { number } = drawing;
  while (number === drawing.number) {
    try {
      return await work();
    } catch (trouble) {
      if (!(trouble instanceof Trouble)) throw trouble;
      tell(trouble.message, true);
      if (!trouble.again) return undefined;
      await sleep(trouble.again);
    }
  }
  return undefined;
}

// What is live: its classes and shape, or that there is nothing yet.
async function learn() {
  const told = await api("openapi.json");
  if (sessionStorage.getItem("relearn-key")) link(told);
  const answer = told.components.schemas.Predictions.properties.predictions.items;
  const found = answer.properties.label.enum ?? [];
  if (!found.length) throw new Trouble("Nothing is released yet. The first release will be read here.", RETRY);
  at("about").textContent = told.info.description;
  if (found.join("\n") !== classes.join("\n")) {
    classes = found;
    at("bars").replaceChildren(...classes.slice(0, FEW).map(bar));
    at("bars").classList.toggle("named", classes.some((name) => name.length > 2));
    at("classes").replaceChildren(...classes.map(choice));
  }
}

// A link brings no key: where one is needed, it leads to what was answered to it.
function link(told) {
  const content = new Blob([JSON.stringify(told, null, 2)], { type: "application/json" });
  URL.revokeObjectURL(at("document").href);
  at("document").href = URL.createObjectURL(content);
}

// Showing what it answers

function element(name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

function bar(name) {
  const row = document.createElement("li");
  const track = element("span", "track");
  track.append(element("span", "bar"));
  row.append(element("span", "name", name), track, element("span", "number"));
  return row;
}

function choice(name) {
  const button = element("button", "", name);
  button.type = "button";
  button.setAttribute("aria-pressed", "false");
  button.addEventListener("click", () => correct(name, button));
  return button;
}

function show(answer, number) {
  if (number < asked || isBlank()) return;
  const [{ label, probabilities, input }] = answer.predictions;
  version = answer.version;
  if (at("told").classList.contains("trouble")) tell("");
  document.body.classList.remove("waiting");
  at("label").textContent = label;
  at("label").classList.toggle("word", label.length > 2);
  at("sure").textContent = percent(probabilities[label]);
  fill(label, probabilities);
  at("input").src = `data:image/png;base64,${input}`;
  at("input").hidden = false;
  at("feedback").disabled = false;
  at("served").textContent =
    `Version ${version}, worker ${answer.worker}, ${Math.max(1, Math.round(answer.took))} ms`;
}

function fill(label, probabilities) {
  const likeliest = Object.keys(probabilities).sort((a, b) => probabilities[b] - probabilities[a]);
  const names = classes.length > FEW ? likeliest : classes;
  [...at("bars").children].forEach((row, index) => {
    const [name, track, number] = row.children;
    name.textContent = names[index];
    number.textContent = percent(probabilities[names[index]] ?? 0);
    track.firstChild.style.transform = `scaleX(${probabilities[names[index]] ?? 0})`;
    row.classList.toggle("first", names[index] === label);
  });
}

function forget() {
  document.body.classList.add("waiting");
  at("label").textContent = "–";
  at("label").classList.remove("word");
  at("sure").textContent = "";
  at("input").hidden = true;
  at("feedback").disabled = true;
  for (const row of at("bars").children) {
    row.classList.remove("first");
    row.lastChild.textContent = "";
    row.children[1].firstChild.style.transform = "";
  }
}

at("input").addEventListener("load", () => {
  const { naturalWidth: width, naturalHeight: height } = at("input");
  at("caption").textContent = `what the network saw, ${width} × ${height}`;
  at("input").alt = `The drawing as the network saw it, ${width} by ${height} pixels`;
});

function tell(message, trouble = false) {
  at("told").textContent = message;
  at("told").classList.toggle("trouble", trouble);
}

async function correct(label, button) {
  tell("");
  await attempt(async () => {
    const recorded = await record();
    const answer = await api("feedback", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ request_id: recorded.request_id, label, image: await base64(recorded.image) }),
    });
    for (const one of at("classes").children) one.setAttribute("aria-pressed", String(one === button));
    tell(`Noted: ${label}. ${answer.note}`);
  });
}

async function wake() {
  try {
    await learn();
    tell("");
  } catch (trouble) {
    tell(trouble.message, true);
    setTimeout(wake, RETRY);
  }
}

forget();
wake();
