// Images to begin with: examples of the data set, a file, or one that is dropped on the page.

import { jsonAsset } from "./assets.js";
import { element, uniqueId } from "./elements.js";
import { resize } from "./resize.js";

const SHORTER = 128, LONGER = 256; // pixels that the sides have at most

// Add the ways to choose an image; show(image, name) is called with it, report(text) with what
// went wrong.
export function addImageInput(parent, dropTarget, show, report) {
  const examples = element("div", "labkit-live-examples", parent);
  examples.setAttribute("role", "group");
  examples.setAttribute("aria-label", "Example images");
  const open = async (file) => {
    try {
      show(fitted(await pixelsOf(file)), file.name);
    } catch {
      report(`${file.name} is not an image that this browser can read. Choose a PNG or JPEG file.`);
    }
  };
  addFile(parent, open);
  acceptDrops(dropTarget, open, report);
  return addExamples(examples, show);
}

async function addExamples(parent, show) {
  const examples = await jsonAsset("examples.json");
  const images = await Promise.all(
    examples.map(async ({ name, png }) => {
      const made = element("button", "", parent);
      made.type = "button";
      const shown = element("img", "", made);
      Object.assign(shown, { src: `data:image/png;base64,${png}`, alt: `Example: ${name}` });
      const bytes = Uint8Array.from(atob(png), (c) => c.charCodeAt(0));
      const image = await pixelsOf(new Blob([bytes], { type: "image/png" }));
      made.addEventListener("click", () => show(image, name));
      return image;
    }),
  );
  return images[0];
}

function addFile(parent, open) {
  const row = element("div", "labkit-live-row", parent);
  const label = element("label", "", row, "your own image: ");
  const input = element("input", "", label);
  Object.assign(input, { type: "file", accept: "image/*", id: uniqueId("file") });
  input.addEventListener("change", () => {
    if (input.files.length) open(input.files[0]);
    input.value = ""; // so that the same file can be chosen again
  });
  element("span", "labkit-live-help", row, "(or drop it here; it stays on your computer)");
}

function acceptDrops(target, open, report) {
  target.addEventListener("dragover", (event) => {
    event.preventDefault();
    target.classList.add("labkit-live-dropping");
  });
  target.addEventListener("dragleave", () => target.classList.remove("labkit-live-dropping"));
  target.addEventListener("drop", (event) => {
    event.preventDefault();
    target.classList.remove("labkit-live-dropping");
    const [file] = event.dataTransfer.files;
    if (file) open(file);
    else report("What was dropped is no file. Save the image first, then drop the file.");
  });
}

// The pixels of an image's file, upright, transparent parts on white.
async function pixelsOf(file) {
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  const { width, height } = bitmap;
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  const rgb = new Uint8ClampedArray(3 * width * height);
  for (let i = 0, at = 0; at < rgb.length; i += 4, at += 3)
    for (let c = 0; c < 3; c++) rgb[at + c] = data[i + c];
  return { height, width, rgb };
}

// The model was trained on images of 128 pixels: larger ones are reduced.
export function fitted(image) {
  const { height, width } = image;
  const scale = Math.min(
    1, SHORTER / Math.min(height, width), LONGER / Math.max(height, width));
  if (scale === 1) return image;
  const size = [height, width].map((side) => Math.max(Math.round(side * scale), 1));
  return resize(image, size);
}
