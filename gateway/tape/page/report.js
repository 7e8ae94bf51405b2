"use strict";
const story = JSON.parse(document.getElementById("story").textContent);
const $ = (id) => document.getElementById(id);
const sound = $("sound"), view = $("view"), track = $("track"), waves = $("waves");
const WAVE_PX = 64, AXIS_PX = 20, LEAST_PX = 4, MOST_PX = 400;
// Names of lanes stand left of time 0 where there is room, else above each lane.
const GUTTER_PX = 124, NARROW_PX = 640;
let pxPerS = 50, gutter = 0, wanted = 0;

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}
function clock(t, digits = 1) {
  const unit = 10 ** digits, all = Math.round(t * unit);
  const minutes = Math.floor(all / unit / 60), rest = (all - minutes * 60 * unit) / unit;
  return `${minutes}:${rest.toFixed(digits).padStart(digits ? 3 + digits : 2, "0")}`;
}
function bytes(base64) { return Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)); }
const peaks = { caller: bytes(story.peaks.caller), agent: bytes(story.peaks.agent) };

/* ---------------------------------------------------------------- words */
for (const [name, value] of story.facts) {
  const pair = make("div");
  pair.append(make("dt", "", name), make("dd", "", value));
  $("facts").append(pair);
}
if (story.note) { $("note").textContent = story.note; $("note").hidden = false; }
const rows = story.rows.map((row) => {
  const line = make("li", row.who);
  const button = make("button", "", clock(row.t));
  button.type = "button";
  button.setAttribute("aria-label", `Play from ${clock(row.t)}`);
  button.addEventListener("click", () => seek(row.t));
  const text = make("span", "text");
  text.append(make("span", "heard-text", row.text));
  if (row.unheard) {
    text.append(row.text ? " " : "", make("span", "hidden", "not heard: "), make("del", "", row.unheard));
  }
  if (row.more) text.append(make("br"), make("span", "small", row.more));
  line.append(button, make("span", "who", row.who), text);
  $("words").append(line);
  return { t: row.t, line };
});
$("summary").textContent = story.summary;
const slowest = Math.max(1, ...story.turns.map((turn) => turn.total_ms || 0));
for (const turn of story.turns) {
  const line = make("tr");
  const head = make("th"), cell = make("td");
  head.scope = "row";
  const button = make("button", "", clock(turn.at));
  button.type = "button";
  button.setAttribute("aria-label", `Play from ${clock(turn.at)}`);
  button.addEventListener("click", () => seek(turn.at));
  head.append(button);
  const answered = turn.total_ms === null ? "not heard" : `${Math.round(turn.total_ms)} ms`;
  if (turn.total_ms !== null) {
    const stack = make("div", "stack");
    stack.style.width = `${(turn.total_ms / slowest) * 100}%`;
    for (const [name, value] of turn.stages) {
      const part = make("span", name);
      part.style.flexGrow = value;
      stack.append(part);
    }
    cell.append(stack);
  }
  cell.append(make("span", "small", turn.stages.map(([name, ms]) => `${name} ${Math.round(ms)}`).join(", ")));
  line.append(head, make("td", "", answered), cell);
  $("turns").tBodies[0].append(line);
}

/* ---------------------------------------------------------------- lanes */
const placed = [];
function place(element, start, end) {
  element.dataset.start = start;
  if (end !== undefined) element.dataset.end = end;
  placed.push(element);
  return element;
}
for (const lane of story.lanes) {
  const row = make("div", "lane");
  row.dataset.lane = lane.name;
  row.append(make("span", "name", lane.name));
  for (const bar of lane.bars || []) {
    const element = make("div", `bar ${bar.kind}`, bar.text);
    element.title = bar.title || bar.text || "";
    row.append(place(element, bar.start, bar.end));
  }
  for (const tick of lane.ticks || []) {
    const element = make("div", `tick ${tick.kind}`, tick.text);
    element.title = tick.title || tick.text;
    row.append(place(element, tick.t));
  }
  if (lane.marks) row.append(make("canvas", "marks"));
  $("lanes").append(row);
}
for (const [kind, text] of [["speech", "caller speaks"], ["heard", "agent heard"], ["unheard", "generated, never heard"],
  ["endpointing", "endpointing"], ["model", "model"], ["gateway", "gateway"], ["provider", "provider"]]) {
  const entry = make("span");
  entry.append(make("i", kind), text);
  $("legend").append(entry);
}

/* ---------------------------------------------------------------- the picture */
function x(t) { return gutter + t * pxPerS; }
function lay() {
  gutter = view.clientWidth < NARROW_PX ? 0 : GUTTER_PX;
  view.classList.toggle("narrow", !gutter);
  track.style.width = `${Math.max(view.clientWidth, x(story.duration_s))}px`;
  for (const element of placed) {
    const start = Number(element.dataset.start);
    element.style.left = `${x(start)}px`;
    if (element.dataset.end !== undefined) element.style.width = `${(Number(element.dataset.end) - start) * pxPerS}px`;
  }
  showCursor();
  draw();
}
function colour(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }
function sized(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  return pen;
}
function draw() {
  const width = view.clientWidth, from = view.scrollLeft;
  const pen = sized(waves, width, AXIS_PX + 2 * WAVE_PX);
  drawAxis(pen, from, width);
  drawWave(pen, peaks.caller, from, width, AXIS_PX, colour("--caller"), "caller");
  drawWave(pen, peaks.agent, from, width, AXIS_PX + WAVE_PX, colour("--agent"), "agent, as heard");
  for (const lane of story.lanes) if (lane.marks) drawMarks(lane, from, width);
}
function drawAxis(pen, from, width) {
  const steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600];
  const step = steps.find((s) => s * pxPerS >= 70) || 1200;
  pen.fillStyle = colour("--soft");
  pen.strokeStyle = colour("--line");
  pen.font = "11px system-ui, sans-serif";
  for (let n = Math.max(0, Math.floor((from - gutter) / pxPerS / step)); x(n * step) <= from + width; n += 1) {
    const at = Math.round(x(n * step) - from) + 0.5;
    pen.beginPath(); pen.moveTo(at, 0); pen.lineTo(at, AXIS_PX + 2 * WAVE_PX); pen.stroke();
    pen.fillText(clock(n * step, step < 1 ? 1 : 0), at + 4, 13);
  }
}
function drawWave(pen, found, from, width, top, ink, name) {
  const middle = top + WAVE_PX / 2, perS = story.peaks.per_s;
  pen.fillStyle = ink;
  for (let at = 0; at < width; at += 1) {
    const first = Math.floor(((from + at - gutter) / pxPerS) * perS);
    if (first < 0 || first >= found.length) continue;
    const last = Math.max(first + 1, Math.floor(((from + at + 1 - gutter) / pxPerS) * perS));
    let most = 0;
    for (let n = first; n < last && n < found.length; n += 1) if (found[n] > most) most = found[n];
    const height = Math.max(1, (most / 255) * (WAVE_PX - 8));
    pen.fillRect(at, middle - height / 2, 1, height);
  }
  pen.fillStyle = colour("--card");
  pen.fillRect(0, top, gutter, WAVE_PX);
  pen.font = "11px system-ui, sans-serif";
  pen.fillStyle = colour("--soft");
  pen.fillText(name, 8, gutter ? middle + 4 : top + 10);
}
function drawMarks(lane, from, width) {
  const canvas = document.querySelector(`[data-lane="${lane.name}"] canvas`);
  const pen = sized(canvas, width, 22);
  canvas.style.left = `${from}px`;
  pen.fillStyle = colour("--mark");
  for (const t of lane.marks) {
    const at = x(t) - from;
    if (at >= gutter && at <= width) pen.fillRect(at, 5, 1, 13);
  }
}

/* ---------------------------------------------------------------- the player */
const has_sound = Boolean(story.sound);
if (has_sound) sound.src = `data:${story.sound.type};base64,${story.sound.base64}`;
else quiet(story.sound_note || "This page has no sound.");
function quiet(why) {
  $("silent").textContent = why;
  $("silent").hidden = false;
  $("play").disabled = true;
}
sound.addEventListener("error", () => quiet("This browser cannot play Ogg Opus, the format of this page's sound."));
$("position").max = story.duration_s;
function now() { return has_sound && sound.readyState > 0 ? sound.currentTime : wanted; }
function seek(t) {
  wanted = Math.min(Math.max(0, t), story.duration_s);
  if (has_sound && sound.readyState > 0) sound.currentTime = wanted;
  show(wanted);
}
sound.addEventListener("loadedmetadata", () => { if (wanted) sound.currentTime = wanted; });
function toggle() {
  if (!has_sound) return;
  if (sound.paused) sound.play().catch(() => quiet("The sound could not be played.")); else sound.pause();
}
function showCursor() { $("cursor").style.left = `${x(now())}px`; }
let current = null;
function show(t) {
  $("clock").textContent = `${clock(t)} / ${clock(story.duration_s)}`;
  $("position").value = t;
  $("position").setAttribute("aria-valuetext", clock(t));
  $("cursor").style.left = `${x(t)}px`;
  let found = null;
  for (const row of rows) { if (row.t <= t + 0.02) found = row; else break; }
  if (found !== current) {
    if (current) current.line.classList.remove("now");
    if (found) found.line.classList.add("now");
    current = found;
  }
  const at = x(t) - view.scrollLeft;
  if ($("follow").checked && (at < gutter || at > view.clientWidth * 0.85)) {
    view.scrollLeft = Math.max(0, x(t) - gutter - view.clientWidth * 0.15);
  }
}
function step() { show(now()); if (!sound.paused) requestAnimationFrame(step); }
sound.addEventListener("play", () => { $("play").textContent = "Pause"; step(); });
sound.addEventListener("pause", () => { $("play").textContent = "Play"; show(now()); });
sound.addEventListener("seeked", () => show(now()));
$("play").addEventListener("click", toggle);
$("speed").addEventListener("change", (event) => { sound.playbackRate = Number(event.target.value); });
$("position").addEventListener("input", (event) => seek(Number(event.target.value)));
view.addEventListener("click", (event) => {
  seek((event.clientX - view.getBoundingClientRect().left - view.clientLeft + view.scrollLeft - gutter) / pxPerS);
});
function whole() { return (view.clientWidth - gutter) / Math.max(1, story.duration_s); }
function zoom(factor, at = view.clientWidth / 2) {
  const t = (view.scrollLeft + at - gutter) / pxPerS;
  pxPerS = Math.min(MOST_PX, Math.max(Math.min(LEAST_PX, whole()), pxPerS * factor));
  lay();
  view.scrollLeft = x(t) - at;
}
function all() { pxPerS = Math.min(MOST_PX, whole()); lay(); view.scrollLeft = 0; }
$("zoom-in").addEventListener("click", () => zoom(1.6));
$("zoom-out").addEventListener("click", () => zoom(1 / 1.6));
$("zoom-all").addEventListener("click", all);
view.addEventListener("wheel", (event) => {
  if (!event.ctrlKey && !event.metaKey) return;
  event.preventDefault();
  zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, event.clientX - view.getBoundingClientRect().left);
}, { passive: false });
view.addEventListener("scroll", () => requestAnimationFrame(draw));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  const keys = { ArrowLeft: () => seek(now() - 2), ArrowRight: () => seek(now() + 2), "+": () => zoom(1.6), "-": () => zoom(1 / 1.6), 0: all };
  if (event.key === " " && event.target.tagName !== "BUTTON") keys[" "] = toggle;
  if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
});
new ResizeObserver(lay).observe(view);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
lay();
// A short call is shown whole.
if (whole() > 20) all();
show(0);
