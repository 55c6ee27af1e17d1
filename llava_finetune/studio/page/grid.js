// The grid: any number of rows, of which only those in view are elements. Typed text is saved as it is typed.
//
// Enter: the next row's answer; Shift+Enter: the one before; arrow up and down: the same cell of a neighbour; Escape: as
// it was saved; Alt+Enter and Alt+Delete: a turn more, a turn less (turns.js). What is typed waits in localStorage until
// the server has it, so a closed browser loses nothing.
import { call } from "./api.js";
import { LONGEST, answerBox, nameOf, pictureName, small, zoom } from "./cells.js";
import { el, find, say } from "./dom.js";
import { nameOfKind, number, t } from "./texts.js";
import { Turns } from "./turns.js";

const ROW = 92;
const BLOCK = 100;
const OVER = 6;
const SAVE_AFTER = 500;
const KEPT_BLOCKS = 60;
const SENT_AT_ONCE = 500;
const WINDOW = Math.random().toString(36).slice(2, 10).padEnd(8, "0");

export class Grid {
  constructor(trouble) {
    this.trouble = trouble;
    this.blocks = new Map();
    this.rows = new Map();
    this.marks = null;
    this.edits = new Map();
    this.flying = new Map(); // what is on its way to the server: one request at a time, or the second meets the first
    this.conflicts = new Map();
    this.lost = []; // texts whose rows are gone
    this.turns = new Turns(this);
    this.total = 0;
    this.version = "";
    this.show = "all";
    this.wantFocus = null;
    this.build();
    this.restore();
  }

  build() {
    this.search = el("input", { type: "search", placeholder: t("grid.search"), "aria-label": t("grid.search"), oninput: () => {
      clearTimeout(this.searching);
      this.searching = setTimeout(() => this.reload(), 200);
    } });
    this.chips = el("div", { class: "chips", role: "group", "aria-label": t("grid.filter") });
    this.saved = el("span", { class: "saved", id: "saved" });
    this.count = el("span", { class: "dim", id: "count" });
    this.space = el("div", { class: "space", role: "rowgroup" });
    this.view = el("div", { class: "view", role: "grid", "aria-label": t("grid"), tabindex: "0", onscroll: () => this.draw() }, this.space);
    this.common = el("datalist", { id: "common" });
    this.notes = el("div", { class: "notes", role: "status" });
    this.place = el("section", { class: "grid" },
      el("div", { class: "tools" }, this.search, this.chips, this.count, this.saved), this.notes,
      el("div", { class: "headings", "aria-hidden": "true" }, el("span", {}, t("picture")), el("span", {}, t("question")), el("span", {}, t("answer"))),
      this.view, this.common,
      el("p", { class: "keys dim" }, t("grid.keys")));
    new ResizeObserver(() => this.draw()).observe(this.view);
    this.hidden = () => this.flush({ keepalive: true });
    addEventListener("pagehide", this.hidden);
  }

  // Another grid takes this one's place, and what was not saved yet with it.
  leave() {
    this.remember();
    this.isLeft = true;
    clearTimeout(this.saving);
    removeEventListener("pagehide", this.hidden);
  }

  // Each window keeps its own texts; the next one that is opened takes over what closed ones left.
  get key() { return `studio:${find("#workspace").title}:${WINDOW}`; }

  // What a browser closed too early had not sent.
  restore() {
    try {
      const prefix = this.key.slice(0, -WINDOW.length);
      for (const name of Object.keys(localStorage).filter((one) => one.startsWith(prefix))) {
        for (const [key, edit] of JSON.parse(localStorage.getItem(name))) this.edits.set(key, edit);
        localStorage.removeItem(name);
      }
      this.remember();
    } catch { /* no storage here: typed text is saved after half a second all the same */ }
    if (this.edits.size) this.saveSoon();
  }

  remember() {
    if (this.isLeft) return;
    try {
      if (this.edits.size) localStorage.setItem(this.key, JSON.stringify([...this.edits]));
      else localStorage.removeItem(this.key);
    } catch { /* as above */ }
  }

  tell(text, choose = null) {
    this.saved.replaceChildren(choose ? el("button", { class: "plain", id: "choose", onclick: choose }, text) : text);
  }

  focus() { (find("[data-column=answer]", this.space) ?? this.view).focus(); }

  async refresh(version, first) {
    if (version !== this.version || first || this.isStale) await this.reload();
  }

  async reload() {
    this.asked = new Set();
    this.isStale = true; // what is shown stays until the new rows are here: somebody may be typing into it
    const own = this.fetch(Math.floor(this.top() / BLOCK));
    this.coming = own;
    await own;
    if (this.coming !== own) return this.coming; // a later one took its place: until its rows are here, old ones are shown
    return this.draw(true);
  }

  // Marks and chips come from the findings.
  mark(found) {
    this.common.replaceChildren(...found.common.map((value) => el("option", { value })));
    const chips = [["all", t("show.all"), found.total], ["open", t("show.open"), found.open + found.open_turns]];
    for (const [part, count] of Object.entries(found.parts)) chips.push([`part:${part}`, t(`part.${part}`), count]);
    if (found.marked) chips.push(["found", t("show.found"), found.marked]);
    if (this.show.startsWith("found:")) chips.push([this.show, nameOfKind(this.show.slice(6)), null]);
    if (this.show === "ids") chips.push(["ids", t("show.quarrel"), null]);
    const held = this.chips.contains(document.activeElement) ? document.activeElement.dataset.show : null;
    this.chips.replaceChildren(...chips.map(([value, label, count]) => el("button", { class: "chip", type: "button", "data-show": value, "aria-pressed": String(this.show === value),
      onclick: () => this.filter(value) }, label, count === null ? null : el("small", {}, ` ${number(count)}`))));
    if (held) find(`[data-show="${CSS.escape(held)}"]`, this.chips)?.focus({ preventScroll: true });
    if (this.marks !== found.marks) this.reload();
    this.marks = found.marks;
  }

  // Which rows are shown; the one that somebody types into stays among them.
  get fitting() {
    const ids = this.show === "ids" ? [...this.conflicts.keys()].map((key) => this.edits.get(key)?.row).filter(Boolean) : [];
    return { show: this.show, text: this.search.value, ids, keep: this.turns.at ?? document.activeElement?.closest?.(".row")?.dataset.row ?? "" };
  }

  async filter(value) {
    this.show = value;
    this.view.scrollTop = 0;
    this.chips.querySelectorAll(".chip").forEach((one) => one.setAttribute("aria-pressed", String(one.dataset.show === value)));
    await this.reload();
  }

  top() { return Math.max(0, Math.floor(this.view.scrollTop / ROW)); }

  async fetch(block) {
    if (this.asked.has(block)) return;
    this.asked.add(block);
    const asked = this.asked;
    try {
      const got = await call("rows", { first: block * BLOCK, count: BLOCK, ...this.fitting });
      if (asked !== this.asked) return;
      this.total = got.total;
      if (this.isStale) {
        this.blocks.clear();
        this.version = got.version; // a block that comes later may be newer than the others: those are asked for again
      }
      this.isStale = false;
      this.blocks.set(block, got.rows);
      while (this.blocks.size > KEPT_BLOCKS) {
        const oldest = this.blocks.keys().next().value;
        this.blocks.delete(oldest);
        this.asked.delete(oldest);
      }
      this.space.style.height = `${this.total * ROW}px`;
      this.view.setAttribute("aria-rowcount", this.total);
      this.count.textContent = this.total ? "" : t("grid.nothing");
      this.draw();
    } catch (error) {
      this.asked.delete(block);
      this.trouble(error);
    }
  }

  at(index) { return this.blocks.get(Math.floor(index / BLOCK))?.[index % BLOCK]; }

  draw(again = false) {
    if (!this.asked) return;
    const first = Math.max(0, this.top() - OVER);
    const last = Math.min(this.total, this.top() + Math.ceil(this.view.clientHeight / ROW) + OVER);
    for (let block = Math.floor(first / BLOCK); block <= Math.floor(Math.max(first, last - 1) / BLOCK); block += 1) this.fetch(block);
    const held = this.held();
    for (const [index, made] of this.rows) {
      if (index < first || index >= last) {
        made.remove();
        this.rows.delete(index);
      }
    }
    for (let index = first; index < last; index += 1) {
      const row = this.at(index);
      if (!row) continue;
      const made = this.rows.get(index);
      if (!made) this.add(index, row);
      else if (again || made.dataset.row !== row.id) this.update(made, index, row);
    }
    if (held) this.hold(held);
    if (this.wantFocus && this.rows.has(this.wantFocus[0])) {
      const [index, column, id] = this.wantFocus;
      this.wantFocus = null;
      const made = id ? find(`.row[data-row="${CSS.escape(id)}"]`, this.space) : this.rows.get(index);
      if (!made) return; // it moved or went meanwhile: what is typed next must not land in the row at its place
      find(`[data-column=${column}]`, made).focus({ preventScroll: true });
      const below = made.getBoundingClientRect().bottom - innerHeight;
      if (below > 0) scrollBy(0, below + 12); // on a phone the grid reaches below the window
    }
  }

  // The cell that somebody types into. Rows that come or go above it move it, and no letter may land in another row.
  held() {
    const control = document.activeElement;
    const made = control?.closest?.(".row");
    return made && control.dataset.column ? { control, row: made.dataset.row, column: control.dataset.column, start: control.selectionStart, end: control.selectionEnd } : null;
  }

  hold({ control, row, column, start, end }) {
    const own = control.closest(".row");
    if (own?.isConnected && own.dataset.row === row) return;
    const now = find(`.row[data-row="${CSS.escape(row)}"] [data-column=${column}]`, this.space);
    if (!now) {
      control.blur();
      return;
    }
    now.focus({ preventScroll: true });
    now.setSelectionRange(start, end);
  }

  add(index, row) {
    const made = el("div", { class: "row", role: "row", "aria-rowindex": index + 1 });
    made.style.top = `${index * ROW}px`;
    made.append(
      el("div", { class: "pic", role: "gridcell" }),
      el("div", { role: "gridcell" }, el("textarea", { "data-column": "question", rows: 2, maxlength: LONGEST, spellcheck: "true", placeholder: t("answer.none") })),
      el("div", { role: "gridcell" }, answerBox(row.answer)),
    );
    made.addEventListener("input", (event) => this.typed(made, event.target));
    made.addEventListener("keydown", (event) => this.pressed(made, event));
    this.rows.set(index, made);
    this.space.append(made);
    this.update(made, index, row);
  }

  update(made, index, row) {
    const isNew = made.dataset.row !== row.id;
    made.dataset.row = row.id;
    made.shown = row;
    made.dataset.index = index;
    if (isNew) {
      const names = row.pictures ?? [row.image];
      const shown = nameOf(row);
      find(".pic", made).replaceChildren(
        names.length ? el("button", { class: names.length > 1 ? "zoom several" : "zoom", "aria-label": t("zoom", { name: shown }), onclick: () => zoom(names) }, names.slice(0, 4).map(small)) : el("span", { class: "zoom" }),
        el("div", { class: "what" }, el("span", { class: "name", title: shown }, pictureName(row)), el("span", { class: "marks" })));
    }
    const answer = find("[data-column=answer]", made);
    const right = answerBox(this.edits.get(`${row.id} answer`)?.now ?? row.answer);
    if (answer.tagName !== right.tagName && document.activeElement !== answer) answer.replaceWith(right);
    for (const control of made.querySelectorAll("[data-column]")) {
      const column = control.dataset.column;
      const edit = this.edits.get(`${row.id} ${column}`);
      const value = edit ? edit.now : row[column];
      if (control.value !== value && !(document.activeElement === control && edit)) control.value = value;
      control.setAttribute("aria-label", t(`cell.${column}`, { name: nameOf(row) }));
    }
    made.classList.toggle("later", row.turn > 1);
    made.classList.toggle("open", !row.answer.trim());
    find(".marks", made).replaceChildren(...[
      row.turns > 1 ? el("span", { class: "turn" }, t("turn", { turn: row.turn, turns: row.turns })) : null,
      row.part ? el("span", { class: `part ${row.part}` }, t(`part.${row.part}`)) : null,
      ...(row.found ?? []).map((kind) => el("span", { class: "found" }, nameOfKind(kind))),
    ].filter(Boolean));
    this.turns.buttons(made, row);
    this.quarrel(made, row);
  }

  // A cell that somebody else changed meanwhile: both texts, and which one stays.
  quarrel(made, row) {
    find(".quarrel", made)?.remove();
    for (const column of ["question", "answer"]) {
      const key = `${row.id} ${column}`;
      const theirs = this.conflicts.get(key);
      if (theirs === undefined) continue;
      const mine = this.edits.get(key)?.now ?? "";
      const choose = (keepMine) => {
        this.conflicts.delete(key);
        row[column] = theirs;
        if (keepMine) this.edits.set(key, { row: row.id, column, was: theirs, now: mine });
        else this.edits.delete(key);
        this.remember();
        this.update(made, Number(made.dataset.index), row);
        find(`[data-column=${column}]`, made).focus();
        this.saveSoon();
      };
      made.append(el("div", { class: "quarrel", role: "alert" }, el("span", {}, t("quarrel", { text: theirs || "–" })),
        el("button", { class: "small", onclick: () => choose(true) }, t("quarrel.mine")),
        el("button", { class: "small", onclick: () => choose(false) }, t("quarrel.theirs"))));
    }
  }

  typed(made, control) {
    const row = made.shown;
    const key = `${row.id} ${control.dataset.column}`;
    const was = this.edits.get(key)?.was ?? row[control.dataset.column];
    const now = control.value;
    if (now === was && !this.flying.has(key)) this.edits.delete(key); // what is on its way must be taken back
    else this.edits.set(key, { row: row.id, column: control.dataset.column, was, now });
    this.remember();
    this.tell(t("saving"));
    this.saveSoon();
  }

  saveSoon() {
    clearTimeout(this.saving);
    this.saving = setTimeout(() => this.flush(), SAVE_AFTER);
  }

  // Send what was typed, one request after the other; whether the server has all of it now but what must be chosen.
  async flush(options = {}) {
    clearTimeout(this.saving);
    if (options.keepalive && this.flight) return false; // the window goes; localStorage has the rest
    while (this.flight) await this.flight;
    const open = [...this.edits].filter(([key]) => !this.conflicts.has(key));
    if (this.isLeft || !open.length) {
      if (!this.edits.size && !this.isLeft) this.tell(t("saved"));
      return !this.isLeft;
    }
    this.flight = this.send(open.slice(0, SENT_AT_ONCE), options);
    const isSent = await this.flight;
    return isSent && (open.length > SENT_AT_ONCE ? this.flush() : true);
  }

  async send(sent, options) {
    this.flying = new Map(sent);
    try {
      const answer = await call("edit", { edits: sent.map(([, edit]) => edit) }, options);
      this.settle(sent, answer);
      if (this.isTold) this.trouble(null);
      this.isTold = false;
      return true;
    } catch (error) {
      if (this.isLeft) return false;
      this.tell(t("unsaved", { count: this.edits.size }));
      this.saved.classList.add("bad");
      if (error.status !== 0 && error.status !== 503) {
        this.trouble(error);
        this.isTold = true;
      }
      this.saving = setTimeout(() => this.flush(), 3000);
      return false;
    } finally {
      this.flying = new Map();
      this.flight = null;
    }
  }

  settle(sent, answer) {
    const refused = new Map(answer.refused.map((one) => [`${one.row} ${one.column}`, one.now]));
    const loaded = new Map([...this.blocks.values()].flat().map((row) => [row.id, row]));
    for (const [key, edit] of sent) {
      const newer = this.edits.get(key);
      if (refused.get(key) === null) { // the row is gone: there is no cell to choose in
        this.lost.push((newer ?? edit).now);
        this.edits.delete(key);
        continue;
      }
      if (refused.has(key)) {
        if (newer) this.conflicts.set(key, refused.get(key)); // else it was let go meanwhile
        continue;
      }
      const row = loaded.get(edit.row);
      if (row) row[edit.column] = edit.now;
      if (newer === edit || newer?.now === edit.now) this.edits.delete(key);
      else if (newer) newer.was = edit.now;
    }
    this.remember();
    if (this.version === answer.before) this.version = answer.version; // else another window's change is not shown yet
    this.saved.classList.remove("bad");
    this.sayConflicts();
    this.sayLost();
    this.draw(true);
  }

  sayConflicts() {
    if (this.edits.size > this.conflicts.size) return this.tell(t("saving"));
    if (!this.conflicts.size) return this.tell(t("saved"));
    const words = t("quarrel.count", { count: this.conflicts.size });
    this.tell(words, async () => {
      await this.askAgain();
      if (this.conflicts.size) this.filter("ids");
    });
    return say(words);
  }

  // What must be chosen is sent once more: the row may be gone by now, or hold another text.
  async askAgain() {
    if (!this.conflicts.size) return;
    this.conflicts.clear();
    await this.flush();
  }

  // Texts that were typed into rows which are not there any more: kept in view until they are let go.
  sayLost() {
    for (const text of this.lost.splice(0)) {
      const note = el("p", { class: "note warn" }, t("quarrel.gone", { text: text || "–" }), " ",
        el("button", { class: "small", onclick: () => note.remove() }, t("close")));
      this.notes.append(note);
    }
  }

  pressed(made, event) {
    const column = event.target.dataset.column;
    if (!column || event.isComposing || this.turns.pressed(made, event)) return;
    const index = Number(made.dataset.index);
    const isAnswer = column === "answer";
    let step = 0;
    if (event.key === "Enter" && (isAnswer || event.ctrlKey)) step = event.shiftKey ? -1 : 1;
    else if (event.key === "ArrowDown" && isAnswer && event.altKey === false) step = 1;
    else if (event.key === "ArrowUp" && isAnswer) step = -1;
    else if (event.key === "Escape") {
      const key = `${made.dataset.row} ${column}`;
      const saved = this.edits.get(key)?.was;
      if (saved !== undefined) {
        event.target.value = saved;
        this.typed(made, event.target);
      }
      return;
    }
    if (!step) return;
    event.preventDefault();
    this.go(index + step, column);
  }

  go(index, column, id = null) {
    if (index < 0 || index >= this.total) return;
    const top = index * ROW;
    if (top < this.view.scrollTop) this.view.scrollTop = top;
    else if (top + ROW > this.view.scrollTop + this.view.clientHeight) this.view.scrollTop = top + ROW - this.view.clientHeight;
    this.wantFocus = [index, column, id];
    this.draw();
  }
}
