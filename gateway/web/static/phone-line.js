// The telephone in the audio thread: microphone -> mu-law frames of 20 ms, mu-law -> loudspeaker.
//
// In:  {play: Uint8Array}, {mark: name}, {clear: true}, {latency_s: number}
// Out: {mark: name} once the loudspeaker has played up to it, or a clear has dropped it;
//      {frame: {up, down, upLevel, downLevel, queued_ms}} every 20 ms: what was said and what was
//      played in the same 20 ms, levels as root mean square from 0 to 1.

import { FRAME_SAMPLES, FROM_ULAW, RATE_HZ, Resampler, SILENCE, toUlaw } from "./telephone.js";

// A sound begins when so much of it is there, or has waited so long: no stutter at its start.
const CUSHION_SAMPLES = 0.04 * RATE_HZ;
const CUSHION_S = 0.06;
const QUANTUM = 128;

class Loudspeaker {
  constructor() {
    this.pieces = [];
    this.offset = 0; // into the first piece
    this.queued = 0; // samples that wait
    this.played = 0; // samples played or dropped since the start
    this.marks = []; // {name, at}: due when `played` gets there
    this.due = []; // {name, time}: played, but not yet out of the loudspeaker
    this.isPlaying = false;
    this.waitsSince = 0;
    this.latency_s = 0;
  }

  play(piece, now) {
    if (this.queued === 0 && !this.isPlaying) this.waitsSince = now;
    this.pieces.push(piece);
    this.queued += piece.length;
  }

  mark(name) {
    this.marks.push({ name, at: this.played + this.queued });
  }

  /** Drop what waits; all marks that are out come back. */
  clear() {
    this.pieces = [];
    this.offset = 0;
    this.played += this.queued;
    this.queued = 0;
    this.isPlaying = false;
    const names = [...this.due, ...this.marks].map((mark) => mark.name);
    this.due = [];
    this.marks = [];
    return names;
  }

  start(now) {
    if (this.isPlaying || this.queued === 0) return;
    this.isPlaying = this.queued >= CUSHION_SAMPLES || now - this.waitsSince >= CUSHION_S;
  }

  /** One mu-law byte, silence when there is nothing to play. */
  next() {
    if (!this.isPlaying) return SILENCE;
    const byte = this.pieces[0][this.offset];
    this.offset += 1;
    this.played += 1;
    this.queued -= 1;
    if (this.offset === this.pieces[0].length) {
      this.pieces.shift();
      this.offset = 0;
      this.isPlaying = this.pieces.length > 0;
    }
    return byte;
  }

  /** The marks whose sound has left the loudspeaker. */
  reached(now) {
    while (this.marks.length > 0 && this.marks[0].at <= this.played) {
      this.due.push({ name: this.marks.shift().name, time: now + this.latency_s });
    }
    const names = [];
    while (this.due.length > 0 && this.due[0].time <= now) names.push(this.due.shift().name);
    return names;
  }
}

class PhoneLine extends AudioWorkletProcessor {
  constructor() {
    super();
    this.loudspeaker = new Loudspeaker();
    this.down = new Resampler(sampleRate, RATE_HZ); // microphone: down to 8 kHz
    this.up = new Resampler(RATE_HZ, sampleRate);
    this.silence = new Float32Array(QUANTUM);
    this.isOver = false;
    this.#newFrame();
    this.playedBytes = [];
    this.port.onmessage = ({ data }) => this.#told(data);
  }

  #told(data) {
    if (data.play) this.loudspeaker.play(data.play, currentTime);
    else if (data.mark) this.loudspeaker.mark(data.mark);
    else if (data.clear) this.#echo(this.loudspeaker.clear());
    else if (data.latency_s !== undefined) this.loudspeaker.latency_s = data.latency_s;
    else if (data.end) this.isOver = true;
  }

  #echo(names) {
    for (const mark of names) this.port.postMessage({ mark });
  }

  #newFrame() {
    this.frame = new Uint8Array(FRAME_SAMPLES);
    this.filled = 0;
    this.energy = 0;
  }

  process(inputs, outputs) {
    this.#speak(outputs[0]);
    this.#listen(inputs[0][0] || this.silence);
    this.#echo(this.loudspeaker.reached(currentTime));
    return !this.isOver;
  }

  #speak(channels) {
    this.loudspeaker.start(currentTime);
    const output = channels[0];
    for (let i = 0; i < output.length; i += 1) {
      let sample = this.up.next();
      while (sample === null) {
        const byte = this.loudspeaker.next();
        this.playedBytes.push(byte);
        this.up.pushOne(FROM_ULAW[byte] / 32768);
        sample = this.up.next();
      }
      output[i] = sample;
    }
    for (let c = 1; c < channels.length; c += 1) channels[c].set(output);
  }

  #listen(input) {
    this.down.push(input);
    for (let sample = this.down.next(); sample !== null; sample = this.down.next()) {
      this.frame[this.filled] = toUlaw(sample);
      this.energy += sample * sample;
      this.filled += 1;
      if (this.filled === FRAME_SAMPLES) this.#hand();
    }
  }

  /** What was said and what was played in the same 20 ms. */
  #hand() {
    const down = new Uint8Array(FRAME_SAMPLES).fill(SILENCE);
    down.set(this.playedBytes.splice(0, FRAME_SAMPLES));
    const energy = down.reduce((sum, byte) => sum + (FROM_ULAW[byte] / 32768) ** 2, 0);
    this.port.postMessage({
      frame: {
        up: this.frame,
        down,
        upLevel: Math.sqrt(this.energy / FRAME_SAMPLES),
        downLevel: Math.sqrt(energy / FRAME_SAMPLES),
        queued_ms: (this.loudspeaker.queued * 1000) / RATE_HZ,
      },
    });
    this.#newFrame();
  }
}

registerProcessor("phone-line", PhoneLine);
