// What a telephone does to sound: mu-law (ITU-T G.711), and changes of sample rate.

export const RATE_HZ = 8000;
export const FRAME_SAMPLES = 160; // 20 ms
export const SILENCE = 0xff;

const BIAS = 0x84;
const CLIP = 32635;

/** A sample from -1 to 1 as one mu-law byte. */
export function toUlaw(sample) {
  let value = Math.round(sample * 32768);
  const sign = value < 0 ? 0x80 : 0;
  value = Math.min(Math.abs(value), CLIP) + BIAS;
  const exponent = 31 - Math.clz32(value) - 7;
  const mantissa = (value >> (exponent + 3)) & 0x0f;
  return ~(sign | (exponent << 4) | mantissa) & 0xff;
}

/** What each mu-law byte stands for, as 16-bit samples. */
export const FROM_ULAW = Int16Array.from({ length: 256 }, (_, byte) => {
  const code = ~byte & 0xff;
  const magnitude = ((((code & 0x0f) << 3) + BIAS) << ((code >> 4) & 7)) - BIAS;
  return code & 0x80 ? -magnitude : magnitude;
});

// Each side of the filter, in samples of 8 kHz: 3.5 ms of delay.
const REACH = 28;
// Half way between 3400 Hz, which a telephone carries, and 4000 Hz, which would fold back.
const CUTOFF_HZ = 3700;
const KAISER_BETA = 6.5;

function bessel(x) {
  let sum = 1;
  let term = 1;
  for (let k = 1; k < 40; k += 1) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

/** The filter at a distance from its middle, in samples of 8 kHz. */
function filterAt(distance) {
  if (Math.abs(distance) >= REACH) return 0;
  const x = 2 * Math.PI * (CUTOFF_HZ / RATE_HZ) * distance;
  const sinc = x === 0 ? 1 : Math.sin(x) / x;
  return sinc * bessel(KAISER_BETA * Math.sqrt(1 - (distance / REACH) ** 2)) / bessel(KAISER_BETA);
}

function greatestCommonDivisor(a, b) {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}

/**
 * Changes a sample rate to or from 8 kHz, with a low-pass between; both rates are whole numbers.
 * State is carried from call to call: pieces of any length make the same sound as one long one.
 */
export class Resampler {
  constructor(fromHz, toHz) {
    const common = greatestCommonDivisor(fromHz, toHz);
    this.step = fromHz / common; // output n stands at input n * step / phases
    this.phases = toHz / common;
    this.reach = Math.ceil((REACH * fromHz) / RATE_HZ);
    this.filters = Array.from({ length: this.phases }, (_, phase) => this.#filter(phase, fromHz));
    // As if silence had been before.
    this.input = new Float32Array(2 * this.reach + 4096);
    this.length = this.reach - 1;
    this.at = this.reach - 1; // the input sample at or before the next output
    this.phase = 0;
  }

  #filter(phase, fromHz) {
    const taps = new Float32Array(2 * this.reach);
    let sum = 0;
    for (let k = 0; k < taps.length; k += 1) {
      const distance = k - (this.reach - 1) - phase / this.phases;
      taps[k] = filterAt((distance * RATE_HZ) / fromHz);
      sum += taps[k];
    }
    return taps.map((tap) => tap / sum);
  }

  /** Take samples in, at most 4096 that are not used up. */
  push(samples) {
    this.input.set(samples, this.length);
    this.length += samples.length;
  }

  pushOne(sample) {
    this.input[this.length] = sample;
    this.length += 1;
  }

  /** The next sample, or null until more has come in. */
  next() {
    if (this.at + this.reach >= this.length) {
      this.#forget();
      return null;
    }
    const taps = this.filters[this.phase];
    const first = this.at - this.reach + 1;
    let sum = 0;
    for (let k = 0; k < taps.length; k += 1) sum += taps[k] * this.input[first + k];
    this.phase += this.step;
    this.at += Math.floor(this.phase / this.phases);
    this.phase %= this.phases;
    return sum;
  }

  /** Make room: what lies before the filter's reach is used up. */
  #forget() {
    const used = Math.min(this.at - this.reach + 1, this.length);
    if (used <= 0) return;
    this.input.copyWithin(0, used, this.length);
    this.length -= used;
    this.at -= used;
  }
}

/** Both tracks, mu-law frames of one clock, as a stereo WAV file of 16 bit. */
export function stereoWav(leftFrames, rightFrames) {
  const samples = leftFrames.length * FRAME_SAMPLES;
  const view = new DataView(new ArrayBuffer(44 + samples * 4));
  const write = (at, text) => [...text].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  write(0, "RIFF");
  view.setUint32(4, 36 + samples * 4, true);
  write(8, "WAVEfmt ");
  [[16, 16, 4], [20, 1, 2], [22, 2, 2], [24, RATE_HZ, 4], [28, RATE_HZ * 4, 4], [32, 4, 2], [34, 16, 2]]
    .forEach(([at, value, bytes]) => (bytes === 4 ? view.setUint32(at, value, true) : view.setUint16(at, value, true)));
  write(36, "data");
  view.setUint32(40, samples * 4, true);
  let at = 44;
  leftFrames.forEach((left, frame) => {
    for (let i = 0; i < FRAME_SAMPLES; i += 1) {
      view.setInt16(at, FROM_ULAW[left[i]], true);
      view.setInt16(at + 2, FROM_ULAW[rightFrames[frame][i]], true);
      at += 4;
    }
  });
  return view.buffer;
}
