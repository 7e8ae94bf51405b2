// The softphone's page: the form, the call, what is shown of it.

import { FRAME_SAMPLES, SILENCE, stereoWav } from "./telephone.js";

const MAX_RECORDED_FRAMES = 30 * 60 * 50; // half an hour, 29 MB
const MAX_UNSENT_BYTES = 64 * 1024; // some five seconds; beyond, frames are dropped
const SHUT_AFTER_MS = 3000;
const byId = (id) => document.getElementById(id);

// ------------------------------------------------------------- words

const STATES = {
  listening: ["Listening to you", "live"],
  thinking: ["Thinking", "warn"],
  speaking: ["Agent speaks", "good"],
};
const REASONS = {
  caller_hangup: "You hung up.",
  agent_hangup: "The agent hung up.",
  operator_hangup: "Somebody at the console hung up.",
  max_duration: "The call was as long as a call may be.",
  idle_timeout: "Nobody said anything for a long time.",
  drain: "The gateway is being stopped.",
  realtime_unavailable: "The model could not be reached.",
  realtime_error: "The model failed.",
  overload: "The gateway or this page was too slow for the sound.",
  protocol_error: "This page and the gateway did not understand each other. Reload the page.",
  internal_error: "The gateway has a fault; its log says more.",
  provider_lost: "The connection was lost.",
};
const REFUSALS = {
  capacity: "The gateway has as many calls as it may have. Try again later.",
  drain: "The gateway is being stopped and takes no new calls.",
};
const MICROPHONE = {
  NotAllowedError: "The microphone is not allowed for this page. Allow it in the browser's address bar, then call again.",
  NotFoundError: "There is no microphone. Connect one, then call again.",
  NotReadableError: "The microphone is used by another program, or broken.",
  OverconstrainedError: "This microphone cannot be used.",
};
const VOICES = {
  ga: ["alloy", "ash", "ballad", "cedar", "coral", "echo", "marin", "sage", "shimmer", "verse"],
  preview: ["alloy", "ash", "ballad", "coral", "echo", "sage", "shimmer", "verse"],
};

// ------------------------------------------------------------- the form

const form = byId("settings");
let known = { agents: [], dialect: "ga", schema: { properties: {}, $defs: {} } };

function fields() {
  return [...form.elements].filter((each) => each.name && each.name !== "agent");
}

/** A value of an agent by its dotted key. */
function valueOf(agent, key) {
  return key.split(".").reduce((value, part) => value?.[part], agent);
}

/** What the schema says about a dotted key. */
function schemaOf(key) {
  const [head, tail] = key.split(".");
  const node = known.schema.properties[head] ?? {};
  if (!tail) return node;
  const name = (node.$ref ?? node.allOf?.[0]?.$ref ?? "").split("/").pop();
  return known.schema.$defs?.[name]?.properties?.[tail] ?? {};
}

function agent() {
  return known.agents.find((each) => each.name === form.elements.agent.value) ?? known.agents[0];
}

function fill() {
  for (const field of fields()) {
    field.value = valueOf(agent(), field.name) ?? "";
    const { minimum, maximum, maxLength } = schemaOf(field.name);
    if (minimum !== undefined) field.min = minimum;
    if (maximum !== undefined) field.max = maximum;
    if (maxLength !== undefined) field.maxLength = maxLength;
  }
  byId("start-name").textContent = agent().name === "default" ? "the agent" : agent().name;
  showProblems([]);
}

/** What was changed: only that travels. */
function overrides() {
  const changed = {};
  for (const field of fields()) {
    const own = valueOf(agent(), field.name) ?? "";
    if (field.value.trim() === String(own).trim()) continue;
    const isNumber = field.type === "number";
    const value = isNumber && field.value !== "" ? Number(field.value) : field.value;
    const [head, tail] = field.name.split(".");
    if (tail) changed[head] = { ...changed[head], [tail]: value };
    else changed[head] = value;
  }
  return changed;
}

/** Each problem is a key and a sentence; those of no field stand above the buttons. */
function showProblems(problems) {
  form.querySelectorAll(".field .error").forEach((each) => each.remove());
  fields().forEach((field) => {
    field.removeAttribute("aria-invalid");
    field.removeAttribute("aria-describedby");
  });
  const homeless = [];
  for (const [key, text] of problems) {
    const field = form.elements[key];
    if (!field) {
      homeless.push(`${key}: ${text}`);
      continue;
    }
    const line = document.createElement("p");
    line.className = "error small";
    line.id = `${field.id}-error`;
    line.textContent = `${text[0].toUpperCase()}${text.slice(1)}.`;
    field.setAttribute("aria-invalid", "true");
    field.setAttribute("aria-describedby", line.id);
    field.closest(".field").append(line);
  }
  form.querySelector("[aria-invalid]")?.focus();
  return homeless.join(" ");
}

async function loadAgents() {
  const reply = await fetch("/softphone/agents");
  if (reply.status === 401) return toLogin();
  known = await reply.json();
  const select = form.elements.agent;
  select.replaceChildren(...known.agents.map(({ name }) => new Option(name, name)));
  byId("voices").replaceChildren(...VOICES[known.dialect].map((name) => new Option(name)));
  byId("field-temperature").hidden = known.dialect !== "preview";
  byId("field-speed").hidden = known.dialect === "preview";
  fill();
}

function toLogin() {
  location.assign("/login?next=/softphone");
}

// ------------------------------------------------------------- what is shown

function showState(text, kind = "") {
  const badge = byId("state");
  if (badge.textContent !== text) badge.textContent = text;
  badge.className = `badge ${kind}`;
}

function showTrouble(text) {
  byId("trouble").textContent = text;
  byId("trouble").hidden = !text;
}

function ms(seconds) {
  return `${Math.round(seconds * 1000)} ms`;
}

function showLevel(id, level) {
  const element = byId(id);
  const dbfs = Math.max(-60, 20 * Math.log10(level || 1e-6));
  element.querySelector(".fill").style.transform = `scaleX(${(dbfs + 60) / 60})`;
  element.classList.toggle("loud", dbfs > -6);
  element.setAttribute("aria-valuenow", Math.round(dbfs));
}

/** The transcript; every word of a caller, an agent or a service goes in as text, never as markup. */
class Talk {
  constructor() {
    this.list = byId("talk");
    this.list.replaceChildren();
    this.items = new Map();
    byId("nothing-yet").hidden = false;
  }

  #line(kind, who) {
    const line = document.createElement("li");
    line.className = kind;
    if (who) this.#part(line, "who", who);
    this.list.append(line);
    byId("nothing-yet").hidden = true;
    return line;
  }

  #part(line, kind, text) {
    if (!text) return;
    const part = document.createElement("span");
    part.className = kind;
    part.textContent = text;
    line.append(part);
  }

  #changed(aloud) {
    const paper = this.list.parentElement;
    paper.scrollTop = paper.scrollHeight;
    if (aloud) byId("aloud").textContent = aloud;
  }

  note(text) {
    this.#line("note").textContent = text;
    this.#changed(text);
  }

  caller(text) {
    const line = this.#line("caller", "You");
    line.append(text);
    // The words of a turn come when the answer may have begun: they stand before it.
    const last = [...this.items.values()].filter((item) => !item.isOver).pop();
    if (last) this.list.insertBefore(line, last.line);
    this.#changed(`You: ${text}`);
  }

  #item(id) {
    if (!this.items.has(id)) this.items.set(id, { line: this.#line("agent", "Agent"), text: "", isOver: false });
    return this.items.get(id);
  }

  said(id, text) {
    const item = this.#item(id);
    if (item.isOver) return;
    item.text = text;
    this.#write(item, [["coming", text]]);
    this.#changed();
  }

  played(id, text, unheard) {
    if (!text && !unheard && !this.items.has(id)) return;
    const item = this.#item(id);
    item.isOver = true;
    this.#write(item, [["heard", text], ["unheard", unheard ? ` ${unheard}` : ""]]);
    this.#changed(text && `Agent: ${text}`);
  }

  #write(item, parts) {
    item.line.replaceChildren();
    this.#part(item.line, "who", "Agent");
    parts.forEach(([kind, text]) => this.#part(item.line, kind, text));
  }
}

// ------------------------------------------------------------- the recording

class Recording {
  constructor() {
    this.up = [];
    this.down = [];
  }

  /** False when there is no more room. */
  add({ up, down }) {
    this.up.push(up);
    this.down.push(down);
    return this.up.length < MAX_RECORDED_FRAMES;
  }

  offer() {
    const link = byId("download");
    URL.revokeObjectURL(link.href);
    link.href = URL.createObjectURL(new Blob([stereoWav(this.up, this.down)], { type: "audio/wav" }));
    link.download = `call-${new Date().toISOString().slice(0, 19).replaceAll(":", "")}.wav`;
    link.hidden = false;
  }
}

// ------------------------------------------------------------- the call

function base64(bytes) {
  return btoa(String.fromCharCode(...bytes));
}

function fromBase64(text) {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}

class Call {
  constructor(wish) {
    this.wish = wish;
    this.talk = new Talk();
    this.latencies = [];
    this.began = null;
    this.isMuted = false;
    this.isOver = false;
    this.recording = null;
    this.ending = "";
  }

  async start() {
    showState("Connecting", "live");
    await this.#openSound();
    if (this.isOver) return this.#closeSound();
    await this.#openSocket();
    this.ticking = setInterval(() => this.#tick(), 250);
  }

  async #openSound() {
    const echo = byId("echo").checked;
    const audio = { channelCount: 1, echoCancellation: echo, noiseSuppression: echo, autoGainControl: echo };
    this.microphone = await navigator.mediaDevices.getUserMedia({ audio });
    this.context = new AudioContext({ latencyHint: "interactive" });
    await this.context.audioWorklet.addModule("/static/phone-line.js");
    await this.context.resume();
    this.line = new AudioWorkletNode(this.context, "phone-line", {
      outputChannelCount: [1],
      channelCount: 1,
      channelCountMode: "explicit",
    });
    this.line.port.onmessage = ({ data }) => this.#lineSaid(data);
    this.context.createMediaStreamSource(this.microphone).connect(this.line);
    this.line.connect(this.context.destination);
    const [track] = this.microphone.getAudioTracks();
    track.onended = () => showTrouble("The microphone is gone.");
  }

  #openSocket() {
    const url = new URL("/softphone/media", location.href);
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    this.socket = new WebSocket(url);
    this.socket.onmessage = ({ data }) => this.#gatewaySaid(JSON.parse(data));
    this.socket.onclose = (event) => this.#closed(event);
    return new Promise((resolve, reject) => {
      this.socket.onopen = () => {
        this.#send({ event: "start", start: this.wish });
        resolve();
      };
      this.socket.onerror = () => reject(new Error("The gateway could not be reached."));
    });
  }

  #send(message) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  // -- what the audio thread says

  #lineSaid({ frame, mark }) {
    if (mark) this.#send({ event: "mark", mark: { name: mark } });
    if (frame) this.#frame(frame);
  }

  #frame(frame) {
    const up = this.isMuted ? new Uint8Array(FRAME_SAMPLES).fill(SILENCE) : frame.up;
    if (this.socket && this.socket.bufferedAmount < MAX_UNSENT_BYTES) {
      this.#send({ event: "media", media: { payload: base64(up) } });
    }
    if (this.recording && !this.recording.add({ up, down: frame.down })) this.stopRecording();
    this.levels = [this.isMuted ? 0 : frame.upLevel, frame.downLevel];
    if (!this.isDrawing) {
      this.isDrawing = true;
      requestAnimationFrame(() => this.#draw());
    }
  }

  #draw() {
    this.isDrawing = false;
    if (this.isOver) return;
    showLevel("level-you", this.levels[0]);
    showLevel("level-agent", this.levels[1]);
  }

  #tick() {
    // The browser learns only in time how late its loudspeaker is.
    this.line.port.postMessage({ latency_s: this.context.outputLatency || 0 });
    if (this.began === null) return;
    const s = Math.floor((performance.now() - this.began) / 1000);
    byId("clock").textContent = `${Math.floor(s / 60)}:${String(s % 60).padStart(2, "0")}`;
  }

  // -- what the gateway says

  #gatewaySaid(message) {
    if (message.event === "media") this.line.port.postMessage({ play: fromBase64(message.media.payload) });
    else if (message.event === "mark") this.line.port.postMessage({ mark: message.mark.name });
    else if (message.event === "clear") this.line.port.postMessage({ clear: true });
    else if (message.event === "fact") this.#FACTS[message.fact]?.(message);
  }

  #FACTS = {
    call_ready: ({ setup_s }) => {
      this.began = performance.now();
      byId("setup").textContent = ms(setup_s);
      this.talk.note("<< Session Started >>");
      showState(...STATES.listening);
    },
    state_changed: ({ machine, state }) => {
      if (machine === "turn" && this.began !== null) showState(...STATES[state]);
    },
    caller_spoke: ({ text }) => this.talk.caller(text),
    agent_said: ({ item_id, text }) => this.talk.said(item_id, text),
    item_played: ({ item_id, text, unheard }) => this.talk.played(item_id, text, unheard),
    turn_answered: ({ latency_s }) => this.#answered(latency_s),
    barge_in_confirmed: ({ heard_after_ms }) => {
      byId("heard-after").textContent = ms(heard_after_ms / 1000);
    },
    prompt_played: ({ name }) => this.talk.note(`The gateway plays a recording: ${name}`),
    tool_called: ({ result }) => this.talk.note(`The agent called a tool: ${result}`),
    realtime_reconnected: ({ gap_s }) => this.talk.note(`New session with the model after ${ms(gap_s)}`),
    realtime_dialled: ({ result, detail }) => {
      if (result !== "ok") this.talk.note(`The model did not answer: ${result} ${detail}`);
    },
    realtime_error: ({ code, message, severity }) => {
      if (severity !== "ignore") this.talk.note(`The model complains: ${code} ${message}`);
    },
    turn_timed_out: () => this.talk.note("The model owes an answer and gives none."),
    marks_lost: () => this.talk.note("This page plays sound too slowly to say what was heard."),
    call_ended: ({ termination, result }) => {
      this.ending = REASONS[termination.reason] ?? termination.reason;
      this.isFault = result !== "success";
    },
  };

  #answered(latency_s) {
    this.latencies.push(latency_s);
    const ordered = [...this.latencies].sort((a, b) => a - b);
    byId("turn-last").textContent = ms(latency_s);
    byId("turn-median").textContent = ms(ordered[Math.floor(ordered.length / 2)]);
  }

  // -- what the caller does

  press(digit) {
    this.#send({ event: "dtmf", dtmf: { digit } });
    this.talk.note(`You pressed ${digit}`);
  }

  toggleMute() {
    this.isMuted = !this.isMuted;
    return this.isMuted;
  }

  startRecording() {
    this.recording = new Recording();
    byId("download").hidden = true;
  }

  stopRecording() {
    this.recording?.offer();
    this.recording = null;
    press("record", false, "Record");
  }

  hangUp() {
    if (this.isOver) return;
    this.#send({ event: "stop" });
    showState("Hanging up", "warn");
    // A gateway that does not close the line does not keep the microphone.
    this.shutting = setTimeout(() => this.end(), SHUT_AFTER_MS);
    if (!this.socket || this.socket.readyState === WebSocket.CONNECTING) this.end();
  }

  #closed(event) {
    if (!this.ending && !event.wasClean) this.ending = "The connection to the gateway was lost.";
    if (!this.ending && event.code === 1008) this.ending = "The gateway did not take the call; its log says why.";
    this.isFault ??= !event.wasClean || event.code === 1008;
    this.end();
  }

  /** Once, however it came. */
  end() {
    if (this.isOver) return;
    this.isOver = true;
    clearInterval(this.ticking);
    clearTimeout(this.shutting);
    if (this.recording) this.stopRecording();
    this.socket?.close();
    this.#closeSound();
    if (this.ending) this.talk.note(this.ending);
    if (this.isFault) showTrouble(this.ending || "The call broke off.");
    showState("Call over", this.isFault ? "bad" : "");
    over();
  }

  #closeSound() {
    this.line?.port.postMessage({ end: true });
    this.microphone?.getTracks().forEach((track) => track.stop());
    if (this.context && this.context.state !== "closed") this.context.close();
    showLevel("level-you", 0);
    showLevel("level-agent", 0);
  }
}

// ------------------------------------------------------------- buttons

let call = null;

function press(id, isPressed, text) {
  byId(id).setAttribute("aria-pressed", String(isPressed));
  byId(id).textContent = text;
}

function setBusy(isBusy) {
  byId("start").hidden = isBusy;
  byId("stop").hidden = !isBusy;
  for (const id of ["mute", "record", "keypad"]) byId(id).disabled = !isBusy;
  showKeys(false);
  press("mute", false, "Mute");
  press("record", false, "Record");
}

function showKeys(isShown) {
  byId("keys").hidden = !isShown;
  byId("keypad").setAttribute("aria-expanded", String(isShown));
}

function over() {
  const hadFocus = document.activeElement === byId("stop") || document.activeElement === document.body;
  call = null;
  setBusy(false);
  if (hadFocus) byId("start").focus({ preventScroll: true });
}

/** Whether the gateway takes such a call; what is wrong with it is shown. */
async function isWelcome(wish) {
  const reply = await fetch("/softphone/check", { method: "POST", body: JSON.stringify(wish) });
  if (reply.status === 204) return true;
  if (reply.status === 401) toLogin();
  else if (reply.status === 422) showTrouble(showProblems((await reply.json()).problems));
  else if (reply.status === 503) {
    const { reason } = await reply.json();
    showTrouble(REFUSALS[reason] ?? `The gateway takes no call now: ${reason}`);
  } else showTrouble(`The gateway answered with ${reply.status}.`);
  return false;
}

function troubleOf(error) {
  return MICROPHONE[error.name] ?? error.message ?? String(error);
}

async function place() {
  showTrouble("");
  showProblems([]);
  if (!window.isSecureContext || !navigator.mediaDevices) {
    showTrouble("Browsers give the microphone only to pages of this computer (localhost) or over https. Open this page in one of these ways.");
    return;
  }
  const wish = { agent: agent().name, overrides: overrides() };
  let mine = null;
  try {
    if (!(await isWelcome(wish)) || call) return;
    mine = new Call({ callId: crypto.randomUUID(), ...wish });
    call = mine;
    for (const id of ["turn-last", "turn-median", "setup", "heard-after"]) byId(id).textContent = "–";
    byId("clock").textContent = "0:00";
    setBusy(true);
    byId("stop").focus({ preventScroll: true });
    await mine.start();
  } catch (error) {
    showTrouble(troubleOf(error));
    mine?.end();
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!call) place();
});
form.elements.agent.addEventListener("change", fill);
byId("reset").addEventListener("click", fill);
byId("stop").addEventListener("click", () => call?.hangUp());
byId("mute").addEventListener("click", () => {
  if (call) press("mute", call.toggleMute(), call.isMuted ? "Muted" : "Mute");
});
byId("record").addEventListener("click", () => {
  if (!call) return;
  if (call.recording) call.stopRecording();
  else {
    call.startRecording();
    press("record", true, "Stop recording");
  }
});
byId("keypad").addEventListener("click", () => {
  showKeys(byId("keys").hidden);
  byId("keys").querySelector("button").focus();
});
byId("keys").addEventListener("click", ({ target }) => target.value && call?.press(target.value));
byId("keys").addEventListener("keydown", ({ key, target }) => {
  const button = [...byId("keys").children].find((each) => each.value === key);
  if (button && call) {
    call.press(key);
    button.focus();
  }
});
window.addEventListener("pagehide", () => call?.hangUp());

loadAgents().catch(() => showTrouble("The gateway could not be reached. Reload the page."));
