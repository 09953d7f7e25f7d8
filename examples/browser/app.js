// Finds instances with the graph that `yolact export --format onnx --nms` writes. Nothing leaves
// the computer: ONNX Runtime runs as WebAssembly, in one thread.
import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

ort.env.wasm.wasmPaths = new URL("node_modules/onnxruntime-web/dist/", document.baseURI).href;
ort.env.wasm.numThreads = 1;

const COLOURS = ["#e63c46", "#2882eb", "#23b955", "#faaa14", "#a050e1", "#14c3cd", "#f05abe"];
const at = (id) => document.getElementById(id);
const view = at("view");
let model = null; // {session, names, side}
let frame = null; // ImageData of the picture shown
let found = []; // what the model says of it, whatever its score
let stream = null;

function say(text, error = false) {
  at("status").textContent = text;
  at("status").className = error ? "error" : "";
}

/** The metadata of an ONNX file: field 14 of its protobuf, entries of a key (1) and a value (2). */
function metadata(bytes) {
  const text = new TextDecoder();
  const entries = {};
  for (const [field, value] of fields(bytes)) {
    if (field !== 14) continue;
    const entry = Object.fromEntries(fields(value));
    entries[text.decode(entry[1])] = text.decode(entry[2]);
  }
  return entries;
}

/** Yields [number, bytes] of each field of a protobuf message; numbers come without bytes. */
function* fields(bytes) {
  let place = 0;
  const varint = () => {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      const byte = bytes[place++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
  };
  while (place < bytes.length) {
    const key = varint();
    const kind = key % 8;
    if (kind === 0) varint();
    else if (kind === 1) place += 8;
    else if (kind === 5) place += 4;
    else if (kind === 2) {
      const length = varint();
      yield [Math.floor(key / 8), bytes.subarray(place, place + length)];
      place += length;
    } else throw new Error("this is no ONNX file");
  }
}

async function open(bytes, name) {
  say(`opening ${name} ...`);
  const about = metadata(bytes);
  const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  if (!session.outputNames.includes("count") || !about.class_names) {
    throw new Error(`${name} is no graph of yolact export --nms`);
  }
  model = { session, names: JSON.parse(about.class_names), side: Number(about.input_size) };
  at("picture").disabled = at("webcam").disabled = false;
  say(`${name}: ${model.names.length} classes, ${model.side} pixels. Choose a picture.`);
}

/** RGB of an ImageData as (1,3,S,S) float32, 0..255: bilinear, half-pixel centres, no antialias. */
function input({ data, width, height }, side) {
  const axis = (size) =>
    Array.from({ length: side }, (_, i) => {
      const place = Math.min(Math.max(((i + 0.5) * size) / side - 0.5, 0), size - 1);
      const low = Math.floor(place);
      return [low, Math.min(low + 1, size - 1), place - low];
    });
  const columns = axis(width);
  const pixels = new Float32Array(3 * side * side);
  axis(height).forEach(([top, bottom, down], y) => {
    columns.forEach(([left, right, across], x) => {
      for (let c = 0; c < 3; c++) {
        const value = (row, column) => data[4 * (row * width + column) + c];
        const upper = value(top, left) + across * (value(top, right) - value(top, left));
        const lower = value(bottom, left) + across * (value(bottom, right) - value(bottom, left));
        pixels[(c * side + y) * side + x] = upper + down * (lower - upper);
      }
    });
  });
  return new ort.Tensor("float32", pixels, [1, 3, side, side]);
}

/** What the model finds, by falling score; boxes in pixels of the picture, masks (S,S). */
async function detect(picture) {
  const { session, names, side } = model;
  const out = await session.run({ images: input(picture, side) });
  const scale = [picture.width / side, picture.height / side];
  const instances = [];
  for (let i = 0; i < Number(out.count.data[0]); i++) {
    const label = Number(out.labels.data[i]);
    instances.push({
      label,
      name: names[label],
      score: out.mask_scores.data[i],
      box: Array.from(out.boxes.data.subarray(4 * i, 4 * i + 4), (v, k) => v * scale[k % 2]),
      mask: out.masks.data.subarray(i * side * side, (i + 1) * side * side),
    });
  }
  return instances.sort((a, b) => b.score - a.score);
}

function draw() {
  if (!frame) return;
  const paper = view.getContext("2d");
  const shown = found.filter((one) => one.score >= Number(at("score").value));
  view.width = frame.width;
  view.height = frame.height;
  paper.putImageData(frame, 0, 0);
  const size = Math.max(12, Math.round(0.024 * Math.sqrt(view.width * view.height)));
  paper.font = `${size}px system-ui, sans-serif`;
  paper.textBaseline = "top";
  [...shown].reverse().forEach((one, back) => {
    const colour = COLOURS[(model.names.length > 1 ? one.label : shown.length - 1 - back) % COLOURS.length];
    paper.globalAlpha = 0.45;
    paper.drawImage(stencil(one.mask, colour), 0, 0, view.width, view.height);
    paper.globalAlpha = 1;
    const [x1, y1, x2, y2] = one.box;
    const text = `${one.name} ${one.score.toFixed(2)}`;
    const top = Math.max(0, y1 - size - 4);
    paper.strokeStyle = paper.fillStyle = colour;
    paper.lineWidth = Math.max(1, size / 10);
    paper.strokeRect(x1, y1, x2 - x1, y2 - y1);
    paper.fillRect(x1, top, paper.measureText(text).width + 6, size + 4);
    paper.fillStyle = "#fff";
    paper.fillText(text, x1 + 3, top + 2);
  });
  const told = shown.map(({ mask, ...rest }) => rest);
  at("json").textContent = JSON.stringify(told, null, 1);
  return shown.length;
}

/** A canvas of S x S pixels with the mask in one colour, the rest transparent. */
function stencil(mask, colour) {
  const canvas = new OffscreenCanvas(model.side, model.side);
  const paper = canvas.getContext("2d");
  const image = paper.createImageData(model.side, model.side);
  const rgb = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  mask.forEach((inside, i) => inside && image.data.set([...rgb, 255], 4 * i));
  paper.putImageData(image, 0, 0);
  return canvas;
}

/** ImageData of a picture or of a frame of a video. */
function pixelsOf(source, width, height) {
  const paper = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  paper.drawImage(source, 0, 0);
  return paper.getImageData(0, 0, width, height);
}

async function show(picture, what) {
  const started = performance.now();
  const instances = await detect(picture);
  [frame, found] = [picture, instances];
  const count = draw();
  say(`${what}: ${count} found, ${Math.round(performance.now() - started)} ms`);
}

async function look(file) {
  stop();
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" }).catch(() => {
    throw new Error(`${file.name} is no picture that this browser reads`);
  });
  say(`looking at ${file.name} ...`);
  await show(pixelsOf(bitmap, bitmap.width, bitmap.height), file.name);
}

async function watch() {
  stream = await navigator.mediaDevices.getUserMedia({ video: true }).catch((error) => {
    throw new Error(`no webcam can be used: ${error.message}`);
  });
  at("webcam").textContent = "Stop";
  const video = document.createElement("video");
  video.muted = video.playsInline = true;
  video.srcObject = stream;
  await video.play();
  while (stream) {
    await show(pixelsOf(video, video.videoWidth, video.videoHeight), "webcam");
    await new Promise(requestAnimationFrame);
  }
}

function stop() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  at("webcam").textContent = "Start";
}

/** Runs what a control asks for, and says what went wrong. */
const tried = (work) => async (event) => {
  try {
    await work(event);
  } catch (error) {
    stop();
    say(error.message, true);
  }
};

at("model").onchange = tried(async ({ target: { files } }) => {
  if (files[0]) await open(new Uint8Array(await files[0].arrayBuffer()), files[0].name);
});
at("picture").onchange = tried(({ target: { files } }) => files[0] && look(files[0]));
at("webcam").onclick = tried(() => (stream ? stop() : watch()));
at("score").oninput = () => {
  document.querySelector("output").textContent = Number(at("score").value).toFixed(2);
  draw();
};

await tried(async () => {
  const answer = await fetch("model.onnx");
  if (!answer.ok) return say("Choose a model, or put model.onnx beside this page.");
  await open(new Uint8Array(await answer.arrayBuffer()), "model.onnx");
})();
