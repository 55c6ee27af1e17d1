// Calls to the server that this page came from. An error is an Error with the server's line: by its key in the page's
// language, else in the server's own words.
import { t } from "./texts.js";

export class Refused extends Error {
  constructor(message, status, key = null) {
    super(message);
    this.status = status;
    this.key = key;
  }
}

export async function call(name, asked = {}, options = {}) {
  let answer;
  try {
    answer = await fetch(`/api/${name}`, {
      method: "POST",
      headers: { "content-type": "application/json", "x-studio": "1" },
      body: JSON.stringify(asked),
      ...options,
    });
  } catch {
    throw new Refused("", 0); // nobody answers
  }
  const value = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(wordsOf(value, answer), answer.status, value.key);
  return value;
}

function wordsOf(value, answer) {
  if (value.key) return t(value.key, value.values);
  return value.error?.message ?? value.error ?? `${answer.status} ${answer.statusText}`;
}

const PIECE = 4_000_000;

// Send a file in pieces; returns the name that it got in the workspace.
export async function upload(file, name, onBytes = () => {}) {
  let placed = null;
  for (let offset = 0; offset === 0 || offset < file.size; offset += PIECE) {
    const piece = file.slice(offset, offset + PIECE);
    const query = new URLSearchParams({ name, offset, size: file.size });
    const answer = await fetch(`/upload?${query}`, { method: "PUT", headers: { "x-studio": "1" }, body: piece }).catch(() => null);
    if (!answer) throw new Refused("", 0);
    const value = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Refused(wordsOf(value, answer), answer.status, value.key);
    placed = value.name;
    onBytes(piece.size);
  }
  return placed;
}
