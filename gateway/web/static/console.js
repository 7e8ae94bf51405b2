// The console's page. Whatever callers and models say reaches the page as text, never as markup.

import { listenIn } from "/static/listen.js";

const at = (id) => document.getElementById(id);
const REASONS = {
  caller_hangup: "Caller hung up",
  agent_hangup: "Agent hung up",
  operator_hangup: "Ended by an operator",
  transfer: "Transferred",
  max_duration: "Longest duration reached",
  idle_timeout: "Silence",
  provider_error: "Provider's error",
  provider_lost: "Provider lost",
  protocol_error: "Provider sent nonsense",
  realtime_unavailable: "Model not reached",
  realtime_error: "Model failed",
  auth_rejected: "Not let in",
  overload: "Overload",
  drain: "Gateway was stopped",
  internal_error: "Our own fault",
};
const SLOW_S = 1.5;
const MAX_SHOWN = 200; // ended calls in the list
const MAX_ROWS = 1000; // calls that are remembered

const rows = new Map(); // what is known of each call, by its id
const items = new Map(); // its entry in a list
let clockAhead = 0; // the server's clock less ours, in s
let found = null; // ids that a search has found; null = no search
let call = null; // the call that is shown
let source = null; // and where its news come from
let ear = null; // listening in to it

// ------------------------------------------------------------------ small things

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

// Writes only what changed: a screen reader and a selection are not disturbed.
function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function show(element, isShown) {
  if (element.hidden === isShown) element.hidden = !isShown;
}

const now = () => Date.now() / 1000 + clockAhead;

function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const minutes = Math.floor(whole / 60);
  const rest = String(whole % 60).padStart(2, "0");
  if (minutes < 60) return `${minutes}:${rest}`;
  return `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${rest}`;
}

const time = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

function moment(unix) {
  const date = new Date(unix * 1000);
  return date.toDateString() === new Date().toDateString() ? time.format(date) : day.format(date);
}

function lasting(row) {
  return row.ended_at === null ? now() - row.began_at : (row.duration_s ?? row.ended_at - row.began_at);
}

const latency = (seconds) => (seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(2)} s`);
const money = (usd) => (usd < 0.01 ? `$${usd.toFixed(4)}` : `$${usd.toFixed(2)}`);
const many = (count, one, more) => `${count} ${count === 1 ? one : more}`;
const caller = (row) => row.from_number || "Unknown number";

// The badge of a call: its words and its colour.
function badge(row) {
  if (row.ended_at !== null) {
    const colours = { success: "good", indeterminate: "warn" };
    return [REASONS[row.reason] ?? (row.reason || "Ended"), colours[row.result] ?? "bad"];
  }
  if (row.state !== "active") return [row.state === "ending" ? "Ending" : "Starting", "warn"];
  const turns = { listening: "Caller's turn", thinking: "Model thinks", speaking: "Agent speaks" };
  return [turns[row.turn] ?? "Going on", "live"];
}

function putBadge(element, row) {
  const [words, colour] = badge(row);
  put(element, words);
  element.className = `badge ${colour}`;
}

// ------------------------------------------------------------------ the list

function meta(row) {
  const parts = [row.agent, row.provider];
  if (row.ended_at !== null) parts.push(moment(row.began_at));
  parts.push(clock(lasting(row)), many(row.turns, "turn", "turns"));
  if (row.latency_s !== null) parts.push(latency(row.latency_s));
  if (row.cost_usd !== null) parts.push(money(row.cost_usd));
  if (row.troubles) parts.push(many(row.troubles, "trouble", "troubles"));
  return parts.join(" · ");
}

function makeItem(id) {
  const item = make("li");
  const link = make("a");
  link.href = `#${id}`;
  link.append(make("span", "from"), make("span", "badge"), make("span", "meta"), make("span", "words"));
  item.append(link);
  return item;
}

function putItem(item, row) {
  const [from, state, about, words] = item.firstChild.children;
  put(from, caller(row));
  putBadge(state, row);
  put(about, meta(row));
  put(words, row.last_words);
  const isBad = row.ended_at !== null && badge(row)[1] === "bad";
  item.firstChild.className = row.ended_at === null ? "is-on" : isBad ? "is-bad" : "";
  item.firstChild.setAttribute("aria-current", String(call !== null && call.call_id === row.call_id));
}

function showList() {
  const shown = [...rows.values()].filter((row) => found === null || found.has(row.call_id));
  shown.sort((a, b) => b.began_at - a.began_at);
  const lists = [shown.filter((row) => row.ended_at === null), shown.filter((row) => row.ended_at !== null)];
  arrange(at("now"), lists[0]);
  arrange(at("lately"), lists[1].slice(0, MAX_SHOWN));
  put(at("now-count"), String(lists[0].length));
  show(at("now-none"), lists[0].length === 0);
  show(at("lately-none"), lists[1].length === 0);
  put(at("now-none"), found === null ? "Nobody is calling at the moment." : "No call like this is going on.");
  put(at("lately-none"), found === null ? "No call has ended yet." : "No ended call has this id.");
}

function arrange(list, wanted) {
  const focused = document.activeElement;
  let next = list.firstChild;
  for (const row of wanted) {
    let item = items.get(row.call_id);
    if (!item) items.set(row.call_id, (item = makeItem(row.call_id)));
    putItem(item, row);
    if (item === next) next = next.nextSibling;
    else list.insertBefore(item, next);
  }
  while (next) {
    const gone = next;
    next = next.nextSibling;
    if (gone.parentNode === list) gone.remove();
  }
  if (focused && focused !== document.activeElement && document.contains(focused)) focused.focus();
}

function note(frame) {
  clockAhead = frame.now - Date.now() / 1000;
  // Only what tells of all calls says how it stands with all of them.
  if (frame.calls === undefined) return;
  put(at("note"), frame.note ?? "");
  show(at("note"), Boolean(frame.note));
}

async function load() {
  const query = at("query").value.trim();
  const reply = await fetch(`/console/calls?${new URLSearchParams({ q: query })}`);
  if (reply.status === 401) return location.assign("/login?next=/console");
  if (!reply.ok || query !== at("query").value.trim()) return;
  const frame = await reply.json();
  note(frame);
  put(at("problem"), frame.problem);
  show(at("problem"), Boolean(frame.problem));
  found = query ? new Set(frame.calls.map((row) => row.call_id)) : null;
  for (const row of frame.calls) rows.set(row.call_id, row);
  showList();
}

function watchList() {
  const live = new EventSource("/console/live");
  let isFirst = true;
  live.onopen = () => {
    status("is-live", "Live");
    isFirst = true;
  };
  live.onerror = () => {
    status("is-lost", "Connection lost, trying again …");
    // A login that has ended looks the same from here.
    if (live.readyState === EventSource.CLOSED) setTimeout(watchList, 3000);
    load().catch(() => {});
  };
  live.onmessage = ({ data }) => {
    const frame = JSON.parse(data);
    note(frame);
    if (isFirst) forgetLive(frame.calls);
    isFirst = false;
    for (const row of frame.calls) rows.set(row.call_id, row);
    forgetOld();
    showList();
  };
}

// A page that stays open for weeks must not keep every call of them.
function forgetOld() {
  if (rows.size <= MAX_ROWS) return;
  const ended = [...rows.values()].filter((row) => row.ended_at !== null && !found?.has(row.call_id));
  ended.sort((a, b) => b.began_at - a.began_at);
  for (const row of ended.slice(MAX_SHOWN)) {
    rows.delete(row.call_id);
    items.delete(row.call_id);
  }
}

// After a gap: what was going on then and is not known now has ended without our knowledge.
function forgetLive(known) {
  const ids = new Set(known.map((row) => row.call_id));
  for (const [id, row] of rows) if (row.ended_at === null && !ids.has(id)) rows.delete(id);
}

function status(className, words) {
  at("status").className = `status ${className}`;
  put(at("status-text"), words);
}

// ------------------------------------------------------------------ one call

function chosen() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return ""; // nobody's id
  }
}

function choose() {
  const id = chosen();
  if (!id || ["now", "main"].includes(id)) return leave();
  if (call && call.call_id === id) return;
  leave();
  open(id).catch(() => complain("This call cannot be shown at the moment."));
}

function leave() {
  if (source) source.close();
  if (ear) ear.stop();
  source = call = null;
  at("talk").replaceChildren();
  at("split").classList.remove("has-call");
  show(at("call"), false);
  show(at("choose"), true);
  complain("");
  showList();
}

async function open(id) {
  at("split").classList.add("has-call");
  show(at("choose"), false);
  const reply = await fetch(`/console/calls/${encodeURIComponent(id)}`);
  if (chosen() !== id) return;
  if (reply.status === 401) return location.assign("/login?next=/console");
  show(at("call"), true);
  if (!reply.ok) {
    call = { call_id: id };
    put(at("call-title"), "Not known");
    put(at("call-id"), id);
    at("facts").replaceChildren();
    if (reply.status === 404) return complain("No such call is known here: it may be too old, or erased.");
    if (reply.status !== 504) return complain("The database does not answer: this call cannot be shown at the moment.");
    again(id);
    return complain("The process that has this call does not answer at the moment. Trying again …");
  }
  complain("");
  showPage(await reply.json());
  at("call-title").focus({ preventScroll: true });
  if (matchMedia("(max-width: 52rem)").matches) scrollTo(0, 0);
  if (call.ended_at === null) watchCall(id);
}

// A process that hangs comes back, or its calls are somebody else's soon.
function again(id) {
  setTimeout(() => {
    if (chosen() === id && (!source || source.readyState === EventSource.CLOSED)) open(id).catch(() => again(id));
  }, 3000);
}

function watchCall(id) {
  source = new EventSource(`/console/calls/${encodeURIComponent(id)}/live`);
  source.onmessage = ({ data }) => {
    showPage(JSON.parse(data));
    if (call.ended_at !== null && source) {
      source.close();
      source = null;
    }
  };
  source.onerror = () => {
    if (source && source.readyState === EventSource.CLOSED) again(id);
  };
}

function complain(words) {
  put(at("call-note"), words);
  show(at("call-note"), Boolean(words));
}

function showPage(page) {
  note(page);
  call = page.call;
  put(at("call-title"), caller(call));
  putBadge(at("call-state"), call);
  put(at("call-id"), call.call_id);
  show(at("hang-up"), Boolean(page.can_hang_up));
  show(at("listen"), Boolean(page.can_listen));
  show(at("erase"), Boolean(page.can_erase));
  show(at("report"), Boolean(page.has_report));
  at("report").href = `/console/calls/${encodeURIComponent(call.call_id)}/tape`;
  const ears = page.listeners ?? 0;
  put(at("listened"), `${many(ears, "person listens", "people listen")} in to this call.`);
  show(at("listened"), ears > 0);
  showFacts();
  showTalk(page);
  showTimings();
  showTroubles();
}

function showFacts() {
  const answered = call.timings.filter((turn) => turn.latency_s !== null);
  const sum = answered.reduce((total, turn) => total + turn.latency_s, 0);
  const tokens = (call.tokens.input_text ?? 0) + (call.tokens.input_audio ?? 0);
  const out = (call.tokens.output_text ?? 0) + (call.tokens.output_audio ?? 0);
  const facts = [
    ["Agent", call.agent],
    ["Provider", call.provider],
    ["From", call.from_number || "–"],
    ["To", call.to_number || "–"],
    ["Began", moment(call.began_at)],
    ["Lasts", clock(lasting(call))],
    ["Model ready after", call.setup_s === null ? "–" : latency(call.setup_s)],
    ["First sound after", call.first_audio_s === null ? "–" : latency(call.first_audio_s)],
    ["Answers", answered.length ? `${answered.length}, ${latency(sum / answered.length)} on average` : "–"],
    ["Interruptions", String(call.barge_ins)],
    ["Tokens in / out", `${tokens} / ${out}`],
    ["Cost so far", call.cost_usd === null ? "not known" : money(call.cost_usd)],
    ["Provider's id", call.provider_call_id || "–"],
  ];
  if (call.ended_at !== null) {
    facts[5][0] = "Lasted";
    facts[11][0] = "Cost";
    facts.push(["End", `${call.result}, ${call.reason}${call.detail ? `: ${call.detail}` : ""}`]);
  }
  const list = at("facts");
  while (list.children.length > facts.length) list.lastChild.remove();
  facts.forEach(([name, value], index) => {
    let group = list.children[index];
    if (!group) {
      group = make("div");
      group.append(make("dt"), make("dd"));
      list.append(group);
    }
    put(group.firstChild, name);
    put(group.lastChild, value);
  });
}

function showTalk(page) {
  const talk = at("talk");
  const isAtEnd = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 40;
  const first = page.first_line ?? page.call.first_line ?? 0;
  for (const line of call.lines) putLine(talk, line);
  while (talk.firstChild && Number(talk.firstChild.dataset.number) < first) talk.firstChild.remove();
  if (call.ended_at !== null) {
    for (const coming of talk.querySelectorAll(".coming")) coming.className = "said unheard";
  }
  show(at("talk-none"), !talk.firstChild);
  put(at("talk-none"), call.words_not_kept ? "Words are not kept (GATEWAY_CALLS_TRANSCRIPTS is off)." : "No words yet.");
  put(at("talk-dropped"), `${many(call.lines_dropped, "earlier line is", "earlier lines are")} not kept.`);
  show(at("talk-dropped"), call.lines_dropped > 0);
  if (isAtEnd) talk.scrollTop = talk.scrollHeight;
}

function putLine(talk, line) {
  let entry = talk.querySelector(`[data-number="${Number(line.number)}"]`);
  if (!entry) {
    entry = make("li", line.who);
    entry.dataset.number = line.number;
    entry.dataset.at = line.at_s;
    entry.append(make("span", "who"), make("span", "said"), make("span"));
    const later = [...talk.children].find((other) => Number(other.dataset.at) > line.at_s);
    talk.insertBefore(entry, later ?? null);
  }
  const [who, heard, rest] = entry.children;
  const name = line.who === "caller" ? "Caller" : "Agent";
  const isCut = line.who === "agent" && !line.is_open && line.received_ms - line.heard_ms > 200;
  const mark = line.is_open ? " · speaking" : isCut ? ` · interrupted, heard ${seconds(line.heard_ms)} of ${seconds(line.received_ms)}` : "";
  put(who, `${name} · ${clock(line.at_s)}${mark}`);
  const isSilent = line.who === "agent" && !line.text && !line.unheard;
  const space = line.text && line.unheard ? " " : "";
  put(heard, isSilent ? `(${seconds(line.heard_ms)} of speech without words)` : line.text + space);
  rest.className = `said ${line.is_open ? "coming" : "unheard"}`;
  put(rest, line.unheard);
  if (line.unheard && !line.is_open) rest.title = "not heard by the caller";
}

const seconds = (ms) => `${(ms / 1000).toFixed(1)} s`;

function showTimings() {
  const timings = call.timings.slice(-30);
  const longest = Math.max(1, ...timings.map((turn) => turn.latency_s ?? 0));
  const list = at("timings");
  list.replaceChildren(
    ...timings.map((turn) => {
      const isNone = turn.latency_s === null;
      const entry = make("li", isNone ? "is-none" : turn.latency_s > SLOW_S ? "is-slow" : "");
      const bar = make("span", "bar-of");
      if (!isNone) bar.style.width = `${(100 * turn.latency_s) / longest}%`;
      entry.append(make("span", "at", clock(turn.at_s)), bar, make("span", "", isNone ? "no answer" : latency(turn.latency_s)));
      const stages = Object.entries(turn.stages ?? {});
      if (stages.length) {
        const parts = stages.map(([name, time]) => `${name.replace("_", " ")} ${Math.round(1000 * time)} ms`);
        entry.append(make("span", "stages", parts.join(" · ")));
      }
      return entry;
    }),
  );
  show(at("turns"), timings.length > 0);
}

function showTroubles() {
  at("troubles").replaceChildren(
    ...call.troubles.map((trouble) => {
      const times = trouble.count > 1 ? `, ${trouble.count} times, last` : "";
      return make("li", "", `${trouble.what}${times} at ${clock(trouble.at_s)}`);
    }),
  );
  show(at("wrongs"), call.troubles.length > 0);
}

// ------------------------------------------------------------------ acting

function ask(title, words, yes) {
  const dialog = at("ask");
  put(at("ask-title"), title);
  put(at("ask-text"), words);
  put(at("ask-yes"), yes);
  dialog.returnValue = "no";
  dialog.showModal();
  at("ask-no").focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

// The buttons of what one may not do are not there; the login may have changed in another tab.
function refusal({ status }) {
  if (status === 401) return "You are logged out. Please log in again.";
  return status === 403 ? "Your login may not do this." : "That did not work. Please try again.";
}

at("hang-up").addEventListener("click", async () => {
  const id = call.call_id;
  if (!(await ask("Hang up this call?", "The line drops at once, in the middle of whatever is being said.", "Hang up"))) return;
  const reply = await fetch(`/console/calls/${encodeURIComponent(id)}/hang-up`, { method: "POST" });
  if (!reply.ok) complain(reply.status === 404 ? "The call was over already." : refusal(reply));
});

at("erase").addEventListener("click", async () => {
  const id = call.call_id;
  if (!(await ask("Erase this call?", "What is known of it here and in the database is deleted. Tapes, logs and metrics stay.", "Erase"))) return;
  const reply = await fetch(`/console/calls/${encodeURIComponent(id)}`, { method: "DELETE" });
  if (!reply.ok && reply.status !== 404) return complain(refusal(reply));
  rows.delete(id);
  items.get(id)?.remove();
  items.delete(id);
  location.hash = "";
});

at("listen").addEventListener("click", async () => {
  if (ear) return ear.stop();
  at("listen").disabled = true;
  const id = call.call_id;
  try {
    // Another call may be chosen meanwhile.
    ear = await listenIn(id, showLevels, showEnd, () => call !== null && call.call_id === id);
    if (!ear) return;
    showListening(true);
    put(at("ears-text"), "You hear both sides. The log says that you listen.");
  } catch {
    complain("This browser cannot play the call.");
  } finally {
    at("listen").disabled = false;
  }
});

function showListening(isListening) {
  at("listen").setAttribute("aria-pressed", String(isListening));
  put(at("listen"), isListening ? "Stop listening" : "Listen in");
  show(at("ears"), isListening);
}

function showLevels(levels) {
  for (const who of ["caller", "agent"]) {
    at(`level-${who}`).value = Math.max(0, 60 + 20 * Math.log10(Math.max(levels[who], 1e-3)));
  }
}

function showEnd(words) {
  ear = null;
  showListening(false);
  if (words) complain(words);
}

at("search").addEventListener("submit", (event) => {
  event.preventDefault();
  load().catch(() => {});
});
let typing = 0;
at("query").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => load().catch(() => {}), 250);
});
addEventListener("hashchange", choose);
setInterval(() => {
  for (const row of rows.values()) {
    const item = items.get(row.call_id);
    if (row.ended_at === null && item) putItem(item, row);
  }
  if (call && call.ended_at === null && call.timings) showFacts();
}, 1000);

await load().catch(() => {});
watchList();
choose();
