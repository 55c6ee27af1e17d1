// Calls to the server that this page came from. An error is an Error with the server's line: by its key in the page's
// language, else in the server's own words.
import { later } from "./dom.js";
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
const AGAIN_AFTER = 1500;
const TRIES = 3;

const isAway = (status) => status === 0 || status === 503;

// Send a piece. A server or a folder that is away is waited for: what was sent before lies there still.
async function sent(piece, name, query) {
  for (let tries = 0; tries < TRIES;) {
    const answer = await fetch(`/upload?${query}`, { method: "PUT", headers: { "x-studio": "1" }, body: piece }).catch(() => null);
    if (answer && !isAway(answer.status)) return answer;
    const isThere = await call("state").then(() => true, (error) => !isAway(error.status));
    if (!answer && isThere) tries += 1; // the file cannot be read, else it would have come
    await later(AGAIN_AFTER);
  }
  throw new Refused(t("add.unreadable", { name }), 400);
}

// Send a file in pieces; returns the name that it got in the workspace.
export async function upload(file, name, onBytes = () => {}) {
  let placed = null;
  for (let offset = 0; offset === 0 || offset < file.size; offset += PIECE) {
    const piece = file.slice(offset, offset + PIECE);
    const query = new URLSearchParams({ name, offset, size: file.size });
    const answer = await sent(piece, name, query);
    const value = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Refused(wordsOf(value, answer), answer.status, value.key);
    placed = value.name;
    onBytes(piece.size);
  }
  return placed;
}
