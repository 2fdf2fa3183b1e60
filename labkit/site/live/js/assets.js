// Files that come with the page: runtime, graphs, examples. A page opened from the disk may not
// read files, but it may load scripts; so each file is a script that hands over its content,
// compressed and in base64.

const FOLDER = new URL("./", document.currentScript.src);
const waiting = new Map(); // by file: a promise, and what fulfils it

// Called by the scripts.
window.labkitAsset = (name, content) => waiting.get(name)?.resolve(content);

// The bytes of a file; the script is loaded once.
export async function asset(name) {
  if (!waiting.has(name)) {
    const entry = {};
    entry.content = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }));
    waiting.set(name, entry);
    loadScript(`${name}.js`).catch(entry.reject);
  }
  const bytes = Uint8Array.from(atob(await waiting.get(name).content), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

export async function jsonAsset(name) {
  return JSON.parse(new TextDecoder().decode(await asset(name)));
}

export function loadScript(file) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = new URL(file, FOLDER);
    script.addEventListener("load", resolve);
    script.addEventListener("error", () =>
      reject(new Error(`${file} did not load; reload the page, or build the site again`)));
    document.head.append(script);
  });
}
