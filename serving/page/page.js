// The draw page: strokes on a canvas, one prediction request at a time, probabilities as bars.

const STROKE_WIDTH = 0.08; // fraction of the canvas width
const STROKES_SIDE = 280; // pixels of a drawing as it is sent: ten for each of MNIST's
const MAX_FILE_SIDE = 1024; // pixels of the longer side of an image file as it is sent
const PREDICT_PAUSE_MS = 60; // milliseconds between a prediction and the next request
const FINISHED_MS = 900; // milliseconds without a change after which a drawing counts as finished
const RETRY_MS = 2000; // milliseconds before a failed request is retried
const MAX_BARS = 12; // with more classes, only the most likely ones get a bar
const KEY_PATTERN = /^[!-+\--~]{16,}$/; // of an API key: serving/http/api_keys.py has the same
const NO_CONTENT = "Nothing to read: the image is blank or too faint.";
const PEN_STEP = 1 / 28; // of the pen by an arrow key, fraction of the canvas width

const byId = (id) => document.getElementById(id);
const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const percent = (fraction) => `${(100 * fraction).toFixed(1)}%`;
const canvas = byId("canvas");

const drawing = {
  strokes: [], // lists of points [x, y], from 0 to 1
  stroke: null, // the last stroke, while it is being drawn
  image: null, // an image file instead of strokes
  revision: 0, // number of changes: a prediction belongs to one revision
  pointer: null, // id of the mouse, pen or finger that draws the stroke
};
const pen = { x: 0.5, y: 0.5, down: false, visible: false }; // moved by arrow keys

// Drawing

function onChange() {
  drawing.revision += 1;
  const blank = isBlank();
  document.body.classList.toggle("has-drawing", !blank);
  byId("undo").disabled = byId("clear").disabled = blank;
  showMessage("");
  byId("announcement").textContent = "";
  for (const button of byId("classes").children) button.setAttribute("aria-pressed", "false");
  render();
  if (blank) clearPrediction();
  else predictLatest();
}

function isBlank() {
  return !drawing.image && drawing.strokes.length === 0;
}

function startStroke(point) {
  endStroke();
  drawing.image = null;
  drawing.stroke = [point];
  drawing.strokes.push(drawing.stroke);
  onChange();
}

function extendStroke(...points) {
  drawing.stroke.push(...points);
  onChange();
}

// Ends the current stroke; further movement of the pointer adds to no stroke.
function endStroke() {
  drawing.stroke = drawing.pointer = null;
  pen.down = false;
}

function undo() {
  endStroke();
  if (drawing.image) drawing.image = null;
  else drawing.strokes.pop();
  onChange();
}

function clear() {
  endStroke();
  drawing.image = null;
  drawing.strokes = [];
  onChange();
}

function toPoint(event) {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

canvas.addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || drawing.pointer !== null) return;
  canvas.setPointerCapture(event.pointerId);
  pen.visible = false;
  startStroke(toPoint(event));
  drawing.pointer = event.pointerId;
});
canvas.addEventListener("pointermove", (event) => {
  if (event.pointerId !== drawing.pointer) return;
  extendStroke(...(event.getCoalescedEvents?.() ?? [event]).map(toPoint));
});
for (const end of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(end, (event) => {
    if (event.pointerId === drawing.pointer) endStroke();
  });
}

const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

canvas.addEventListener("keydown", (event) => {
  const move = MOVES[event.key];
  if (!move && event.key !== " ") return;
  event.preventDefault();
  pen.visible = true;
  if (move) {
    const step = event.shiftKey ? 3 * PEN_STEP : PEN_STEP;
    pen.x = Math.min(Math.max(pen.x + step * move[0], 0), 1);
    pen.y = Math.min(Math.max(pen.y + step * move[1], 0), 1);
    if (pen.down) extendStroke([pen.x, pen.y]);
  } else {
    const down = !pen.down;
    if (down) startStroke([pen.x, pen.y]);
    else endStroke();
    pen.down = down;
    byId("announcement").textContent = pen.down ? "Pen down" : "Pen up";
  }
  render();
});
canvas.addEventListener("blur", () => {
  pen.visible = false;
  if (pen.down) endStroke();
  render();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "z" || !(event.ctrlKey || event.metaKey) || isBlank() || byId("key-dialog").open) return;
  event.preventDefault();
  undo();
});
byId("undo").addEventListener("click", undo);
byId("clear").addEventListener("click", () => {
  clear();
  canvas.focus();
});

// Image files

async function openFile(file) {
  try {
    drawing.image = await createImageBitmap(file);
  } catch {
    showMessage("This browser cannot read that as an image.", true);
    return;
  }
  endStroke();
  drawing.strokes = [];
  onChange();
}

byId("choose").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", () => {
  const [file] = byId("file").files;
  byId("file").value = ""; // so that the same file can be chosen again
  if (file) openFile(file);
});
document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (file) openFile(file);
});
for (const [type, isOver] of Object.entries({ dragover: true, dragleave: false, drop: false })) {
  document.addEventListener(type, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dragging-file", isOver);
    if (type === "drop" && event.dataTransfer.files[0]) openFile(event.dataTransfer.files[0]);
  });
}

// From strokes to pixels

function drawStroke(context, points, size) {
  context.beginPath();
  context.moveTo(points[0][0] * size, points[0][1] * size);
  // Curves through the midpoints between points: fast strokes have few points.
  for (let index = 1; index < points.length; index += 1) {
    const [x, y] = points[index - 1];
    const [nextX, nextY] = points[index];
    context.quadraticCurveTo(x * size, y * size, ((x + nextX) / 2) * size, ((y + nextY) / 2) * size);
  }
  const [x, y] = points.at(-1);
  context.lineTo(x * size + 0.1, y * size); // not of length 0, so that a dot is drawn
  context.stroke();
}

function drawStrokes(context, size, color) {
  context.lineCap = context.lineJoin = "round";
  context.lineWidth = STROKE_WIDTH * size;
  context.strokeStyle = color;
  for (const points of drawing.strokes) drawStroke(context, points, size);
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
  if (drawing.image) {
    const { width, height } = drawing.image;
    const scale = size / Math.max(width, height);
    context.imageSmoothingEnabled = scale < 2;
    const [left, top] = [(size - width * scale) / 2, (size - height * scale) / 2];
    context.drawImage(drawing.image, left, top, width * scale, height * scale);
  }
  drawStrokes(context, size, style.color);
  if (!pen.visible) return;
  context.beginPath();
  context.arc(pen.x * size, pen.y * size, (STROKE_WIDTH / 2) * size, 0, 2 * Math.PI);
  context.lineWidth = 2 * devicePixelRatio;
  context.strokeStyle = style.getPropertyValue("--red");
  context.stroke();
}

function encodePng() {
  const target = document.createElement("canvas");
  const context = target.getContext("2d");
  if (drawing.image) {
    const { width, height } = drawing.image;
    const scale = Math.min(1, MAX_FILE_SIDE / Math.max(width, height));
    [target.width, target.height] = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
    context.drawImage(drawing.image, 0, 0, target.width, target.height);
  } else {
    target.width = target.height = STROKES_SIDE;
    context.fillStyle = "white";
    context.fillRect(0, 0, STROKES_SIDE, STROKES_SIDE);
    drawStrokes(context, STROKES_SIDE, "black");
  }
  return new Promise((resolve) => target.toBlob(resolve, "image/png"));
}

async function encodeBase64(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}

new ResizeObserver(render).observe(canvas);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", render);

// Requests to the API

class ApiError extends Error {
  // `retryMs`: milliseconds before a retry, 0 if a retry cannot help
  constructor(message, retryMs) {
    super(message);
    this.retryMs = retryMs;
  }
}

async function api(path, options = {}) {
  for (;;) {
    const key = sessionStorage.getItem("relearn-key");
    if (!key && document.body.classList.contains("needs-key")) {
      await requestKey(key, "");
      continue;
    }
    const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
    const response = await fetch(path, { ...options, headers }).catch(() => null);
    if (!response) throw new ApiError("The server does not respond. Retrying…", RETRY_MS);
    if (response.ok) return response.json();
    const error = (await response.json().catch(() => ({}))).error ?? {};
    const message = error.message ?? `The server returned status ${response.status}.`;
    if (response.status === 401) await requestKey(key, message);
    else if ([429, 502, 503, 504].includes(response.status)) {
      throw new ApiError(message, 1000 * response.headers.get("retry-after") || RETRY_MS);
    } else throw new ApiError(message, 0);
  }
}

let keyPrompt = null;

// Resolves when the user has entered another key than `rejectedKey`.
function requestKey(rejectedKey, message) {
  if (sessionStorage.getItem("relearn-key") !== rejectedKey) return Promise.resolve();
  keyPrompt ??= new Promise((resolve) => {
    byId("key-error").textContent = rejectedKey ? message : "";
    byId("key-input").value = "";
    byId("key-dialog").showModal();
    byId("key-form").onsubmit = (event) => {
      event.preventDefault();
      if (!KEY_PATTERN.test(byId("key-input").value)) {
        byId("key-error").textContent =
          "A key has at least 16 letters a–z, digits or punctuation marks, no spaces or commas.";
        return;
      }
      sessionStorage.setItem("relearn-key", byId("key-input").value);
      byId("key-dialog").close();
      keyPrompt = null;
      resolve();
    };
  });
  return keyPrompt;
}

byId("key-dialog").addEventListener("cancel", (event) => event.preventDefault());

let classes = [];
let version = null;
let latest = {}; // the last logged drawing: its revision and the promise of its prediction
let predictedRevision = 0;
let isPredicting = false;
let finishTimer = 0;

// Predicts the drawing with one request at a time, always its latest revision. Unfinished drawings are not
// logged: half a digit is not typical input.
async function predictLatest() {
  clearTimeout(finishTimer);
  finishTimer = setTimeout(finishDrawing, FINISHED_MS);
  if (isPredicting) return;
  isPredicting = true;
  while (predictedRevision !== drawing.revision && !isBlank()) {
    const { revision } = drawing;
    await retry(async () => showPrediction(await predict(false), revision));
    predictedRevision = revision;
    await sleep(PREDICT_PAUSE_MS);
  }
  isPredicting = false;
}

function finishDrawing() {
  if (drawing.stroke) finishTimer = setTimeout(finishDrawing, FINISHED_MS);
  else if (!isBlank()) retry(logDrawing);
}

// Logs each drawing once: a correction may be chosen while the request is still running.
function logDrawing() {
  const { revision } = drawing;
  if (latest.revision !== revision) {
    const entry = { revision, prediction: predictFinished(revision) };
    entry.prediction.catch(() => {
      if (latest === entry) latest = {};
    });
    latest = entry;
  }
  return latest.prediction;
}

async function predictFinished(revision) {
  const response = await predict(true);
  showPrediction(response, revision);
  const [{ label, probabilities }] = response.predictions;
  if (revision === drawing.revision) {
    byId("announcement").textContent =
      label === null ? NO_CONTENT : `${label}, ${percent(probabilities[label])}`;
  }
  return response;
}

async function predict(shouldLog) {
  if (!classes.length) await loadClasses();
  const image = await encodePng();
  const start = performance.now();
  const response = await api(`predict?return_input=true&log=${shouldLog}`, {
    method: "POST",
    headers: { "Content-Type": "image/png" },
    body: image,
  });
  if (response.version !== version) await loadClasses();
  return { ...response, image, milliseconds: performance.now() - start };
}

// Retries `request` until it succeeds or the drawing changes.
async function retry(request) {
  const { revision } = drawing;
  while (revision === drawing.revision) {
    try {
      return await request();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      showMessage(error.message, true);
      if (!error.retryMs) return undefined;
      await sleep(error.retryMs);
    }
  }
  return undefined;
}

// Loads the classes of the live model; throws before the first release.
async function loadClasses() {
  const openapi = await api("openapi.json");
  const prediction = openapi.components.schemas.Prediction;
  const liveClasses = (prediction.properties.label.enum ?? []).filter((name) => name !== null);
  if (!liveClasses.length) {
    throw new ApiError("No model is released yet. Predictions start with the first release.", RETRY_MS);
  }
  byId("service-description").textContent = openapi.info.description;
  if (liveClasses.join("\n") !== classes.join("\n")) {
    classes = liveClasses;
    byId("bars").replaceChildren(...classes.slice(0, MAX_BARS).map(createBar));
    byId("bars").classList.toggle("long-names", classes.some((name) => name.length > 2));
    byId("classes").replaceChildren(...classes.map(createLabelButton));
  }
}

// Showing predictions

function createElement(name, className, text = "") {
  const node = document.createElement(name);
  node.className = className;
  node.textContent = text;
  return node;
}

function createBar(name) {
  const row = document.createElement("li");
  const track = createElement("span", "track");
  track.append(createElement("span", "bar"));
  row.append(createElement("span", "name", name), track, createElement("span", "number"));
  return row;
}

function createLabelButton(name) {
  const button = createElement("button", "", name);
  button.type = "button";
  button.setAttribute("aria-pressed", "false");
  button.addEventListener("click", () => correct(name, button));
  return button;
}

function showPrediction(response, revision) {
  if (revision < predictedRevision || isBlank()) return;
  const [{ label, probabilities, input }] = response.predictions;
  version = response.version;
  if (byId("message").classList.contains("error")) showMessage("");
  if (label === null) {
    clearPrediction();
    showMessage(NO_CONTENT);
    return;
  }
  document.body.classList.remove("no-prediction");
  byId("label").textContent = label;
  byId("label").classList.toggle("long", label.length > 2);
  byId("confidence").textContent = percent(probabilities[label]);
  fillBars(label, probabilities);
  byId("input").src = `data:image/png;base64,${input}`;
  byId("input").hidden = false;
  byId("feedback").disabled = false;
  byId("model-info").textContent =
    `Version ${version}, worker ${response.worker}, ${Math.max(1, Math.round(response.milliseconds))} ms`;
}

function fillBars(label, probabilities) {
  const mostLikely = Object.keys(probabilities).sort((a, b) => probabilities[b] - probabilities[a]);
  const names = classes.length > MAX_BARS ? mostLikely : classes;
  [...byId("bars").children].forEach((row, index) => {
    const [name, track, number] = row.children;
    name.textContent = names[index];
    number.textContent = percent(probabilities[names[index]] ?? 0);
    track.firstChild.style.transform = `scaleX(${probabilities[names[index]] ?? 0})`;
    row.classList.toggle("first", names[index] === label);
  });
}

function clearPrediction() {
  document.body.classList.add("no-prediction");
  byId("label").textContent = "–";
  byId("label").classList.remove("long");
  byId("confidence").textContent = "";
  byId("input").hidden = true;
  byId("feedback").disabled = true;
  for (const row of byId("bars").children) {
    row.classList.remove("first");
    row.lastChild.textContent = "";
    row.children[1].firstChild.style.transform = "";
  }
}

byId("input").addEventListener("load", () => {
  const { naturalWidth: width, naturalHeight: height } = byId("input");
  byId("caption").textContent = `network input, ${width}\u00a0×\u00a0${height}`;
  byId("input").alt = `The drawing as network input, ${width} by ${height} pixels`;
});

function showMessage(message, isError = false) {
  byId("message").textContent = message;
  byId("message").classList.toggle("error", isError);
}

async function correct(label, button) {
  showMessage("");
  await retry(async () => {
    const logged = await logDrawing();
    const image = await encodeBase64(logged.image);
    const response = await api("feedback", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ request_id: logged.request_id, label, image }),
    });
    for (const other of byId("classes").children) {
      other.setAttribute("aria-pressed", String(other === button));
    }
    showMessage(`Correction saved: ${label}. ${response.note}`);
  });
}

async function start() {
  try {
    await loadClasses();
    showMessage("");
  } catch (error) {
    showMessage(error.message, true);
    setTimeout(start, RETRY_MS);
  }
}

clearPrediction();
start();
