// Run inside a page by the tests in this folder.

/** WCAG 2.2, 1.4.3: the contrast of every text with what is behind it, and which text. */
function contrasts() {
  const parse = (color) => (color.match(/[\d.]+/g) || []).map(Number);
  const luminance = (color) => color.slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const found = [];
  const judge = (element, pseudo) => {
    const front = luminance(parse(getComputedStyle(element, pseudo).color));
    const back = luminance(behind(element));
    const ratio = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    found.push([ratio, element.outerHTML.slice(0, 80)]);
  };
  for (const element of document.querySelectorAll("body *")) {
    if (!element.checkVisibility() || element.closest(":disabled, datalist, option")) continue;
    const hasText = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (hasText || element.value) judge(element);
    if (element.placeholder) judge(element, "::placeholder");
  }
  return found;
}

/** What can be used and has no name for those who do not see it. */
function unnamed() {
  return [...document.querySelectorAll("button, input, select, textarea, [role=meter]")]
    .filter((e) => !(e.labels?.length || e.getAttribute("aria-label") || e.textContent.trim()))
    .map((e) => e.outerHTML.slice(0, 80));
}

/** Pixels that stand out sideways. */
function overflow() {
  return document.documentElement.scrollWidth - document.documentElement.clientWidth;
}

/** The softphone as in the middle of a call, without one. */
function furnish() {
  const talk = [
    ["note", "", "<< Session Started >>"],
    ["agent", "Agent", "Good morning, this is the clinic. How can I help you?"],
    ["caller", "You", "I would like to move my appointment, please."],
    ["agent", "Agent", "Of course. Which day", "unheard", " would suit you best?"],
    ["caller", "You", "Sorry, I meant cancel."],
    ["agent", "Agent", "", "coming", "I have cancelled it for you."],
  ];
  const span = (kind, text) => Object.assign(document.createElement("span"), { className: kind, textContent: text });
  document.getElementById("talk").replaceChildren(...talk.map(([kind, who, text, more, rest]) => {
    const line = Object.assign(document.createElement("li"), { className: kind });
    line.append(...(who ? [span("who", who)] : []), text, ...(more ? [span(more, rest)] : []));
    return line;
  }));
  for (const id of ["nothing-yet", "start"]) document.getElementById(id).hidden = true;
  for (const id of ["stop", "download", "trouble"]) document.getElementById(id).hidden = false;
  for (const button of document.querySelectorAll("button")) button.disabled = false;
  Object.assign(document.getElementById("state"), { className: "badge good", textContent: "Agent speaks" });
  document.getElementById("trouble").textContent = "The microphone is gone.";
  document.querySelector("#level-you .fill").style.transform = "scaleX(.3)";
  document.querySelector("#level-agent .fill").style.transform = "scaleX(.7)";
}

/** All mu-law codes as samples, and all samples as mu-law codes in base64. */
async function ulaw() {
  const { FROM_ULAW, toUlaw } = await import("/static/telephone.js");
  const codes = Array.from({ length: 65536 }, (_, i) => toUlaw((i - 32768) / 32768));
  return [[...FROM_ULAW], btoa(codes.map((code) => String.fromCharCode(code)).join(""))];
}

/** What becomes of one second of each tone: its gain in dB, and how long it is in s. */
async function gains(fromHz, toHz, tones) {
  const { Resampler } = await import("/static/telephone.js");
  return tones.map((hz) => {
    const resampler = new Resampler(fromHz, toHz);
    const input = Float32Array.from({ length: fromHz }, (_, i) => Math.sin((2 * Math.PI * hz * i) / fromHz));
    const out = [];
    for (let at = 0; at < input.length; at += 128) {
      resampler.push(input.subarray(at, at + 128));
      for (let s = resampler.next(); s !== null; s = resampler.next()) out.push(s);
    }
    const middle = out.slice(out.length / 4, (out.length * 3) / 4);
    const rms = Math.sqrt(middle.reduce((sum, v) => sum + v * v, 0) / middle.length);
    return [20 * Math.log10(rms * Math.SQRT2 + 1e-9), out.length / toHz];
  });
}
