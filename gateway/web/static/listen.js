// Listening in to a call: a WebSocket of payloads as the phone line carries them, decoded here.

const WHO = ["caller", "agent"];
const CLEAR = 2;
const TOO_SLOW = 4008;

const decoders = {
  ulaw(bytes) {
    return Float32Array.from(bytes, ulawSample);
  },
  alaw(bytes) {
    return Float32Array.from(bytes, alawSample);
  },
  pcm(bytes) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const samples = new Float32Array(bytes.byteLength >> 1);
    for (let i = 0; i < samples.length; i++) samples[i] = view.getInt16(2 * i, true) / 32768;
    return samples;
  },
};

function ulawSample(byte) {
  const code = ~byte & 0xff;
  const size = (((code & 0x0f) << 3) + 0x84 << ((code & 0x70) >> 4)) - 0x84;
  return (code & 0x80 ? -size : size) / 32768;
}

function alawSample(byte) {
  const code = byte ^ 0x55;
  const exponent = (code & 0x70) >> 4;
  const mantissa = ((code & 0x0f) << 4) + 8;
  const size = exponent ? (mantissa + 0x100) << (exponent - 1) : mantissa;
  return (code & 0x80 ? size : -size) / 32768;
}

// Pieces of a message: one byte of kind, four of length, little endian, then the payload.
export function* pieces(buffer) {
  const view = new DataView(buffer);
  for (let at = 0; at + 5 <= buffer.byteLength; ) {
    const length = view.getUint32(at + 1, true);
    yield { kind: view.getUint8(at), bytes: new Uint8Array(buffer, at + 5, length) };
    at += 5 + length;
  }
}

// Calls `onLevels` with the loudest sample of each side, ten times a second, and `onEnd` with words
// once when it is over. Opens nothing, and is null, where `isWanted` is false by then.
export async function listenIn(callId, onLevels, onEnd, isWanted) {
  const context = new AudioContext({ latencyHint: "interactive" });
  await context.audioWorklet.addModule("/static/listen-worklet.js");
  if (!isWanted()) {
    context.close();
    return null;
  }
  const node = new AudioWorkletNode(context, "listen", { numberOfInputs: 0, outputChannelCount: [2] });
  node.connect(context.destination);
  node.port.onmessage = ({ data }) => onLevels(data);
  const url = new URL(`/console/calls/${encodeURIComponent(callId)}/listen`, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  const socket = new WebSocket(url);
  socket.binaryType = "arraybuffer";
  let forms = null;
  socket.onmessage = ({ data }) => {
    if (typeof data === "string") {
      forms = JSON.parse(data);
      for (const who of WHO) node.port.postMessage({ who, rate: forms[who].rate_hz });
      return;
    }
    for (const { kind, bytes } of pieces(data)) {
      if (kind === CLEAR) {
        node.port.postMessage({ who: "agent", clear: true });
        continue;
      }
      const who = WHO[kind];
      const samples = decoders[forms[who].encoding](bytes);
      node.port.postMessage({ who, samples }, [samples.buffer]);
    }
  };
  let isOver = false;
  const end = (words) => {
    if (isOver) return;
    isOver = true;
    socket.close();
    context.close();
    onEnd(words);
  };
  socket.onclose = ({ code }) => {
    if (code === TOO_SLOW) end("Your connection was too slow to follow, so listening has stopped.");
    else if (forms === null) end("Listening in was refused.");
    else end("");
  };
  return { stop: () => end("") };
}
