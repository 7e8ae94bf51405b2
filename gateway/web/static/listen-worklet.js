// Plays both sides of a call: caller left, agent right. What comes is already decoded.

const START_S = 0.15; // enough to outlive the pause between two messages
const MOST_CALLER_S = 0.8; // more than this behind is no longer live
const TELL_S = 0.1;

class Side {
  constructor() {
    this.pieces = [];
    this.rate = 8000;
    this.at = 0; // position in the first piece, in its samples
    this.held = 0; // samples that wait
    this.isPlaying = false;
    this.loudest = 0;
  }

  push(samples) {
    this.pieces.push(samples);
    this.held += samples.length;
  }

  clear() {
    this.pieces = [];
    this.at = this.held = 0;
    this.isPlaying = false;
  }

  skipTo(seconds) {
    while (this.pieces.length > 1 && this.held > seconds * this.rate) {
      this.held -= this.pieces.shift().length;
      this.at = 0;
    }
  }

  fill(out) {
    if (!this.isPlaying && this.held < START_S * this.rate) return;
    this.isPlaying = true;
    const step = this.rate / sampleRate;
    for (let i = 0; i < out.length; i++) {
      const piece = this.pieces[0];
      if (piece === undefined) {
        this.isPlaying = false;
        return;
      }
      const index = Math.floor(this.at);
      const next = index + 1 < piece.length ? piece[index + 1] : (this.pieces[1] ?? piece)[0];
      out[i] = piece[index] + (next - piece[index]) * (this.at - index);
      this.loudest = Math.max(this.loudest, Math.abs(out[i]));
      this.at += step;
      if (this.at >= piece.length) {
        this.at -= piece.length;
        this.held -= piece.length;
        this.pieces.shift();
      }
    }
  }

  level() {
    const loudest = this.loudest;
    this.loudest = 0;
    return loudest;
  }
}

class Listen extends AudioWorkletProcessor {
  constructor() {
    super();
    this.sides = { caller: new Side(), agent: new Side() };
    this.toldAt = 0;
    this.port.onmessage = ({ data }) => {
      const side = this.sides[data.who];
      if (data.rate) side.rate = data.rate;
      if (data.clear) side.clear();
      if (data.samples) side.push(data.samples);
      if (data.who === "caller") side.skipTo(MOST_CALLER_S);
    };
  }

  process(_inputs, outputs) {
    const [left, right] = outputs[0];
    this.sides.caller.fill(left);
    this.sides.agent.fill(right);
    if (currentTime - this.toldAt > TELL_S) {
      this.toldAt = currentTime;
      this.port.postMessage({ caller: this.sides.caller.level(), agent: this.sides.agent.level() });
    }
    return true;
  }
}

registerProcessor("listen", Listen);
