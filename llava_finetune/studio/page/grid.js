// The grid: any number of rows, of which only those in view are elements. Typed text is saved as it is typed.
//
// Enter: the next row's answer; Shift+Enter: the one before; arrow up and down: the same cell of a neighbour; Escape: as
// it was saved. What is typed waits in localStorage until the server has it, so a closed browser loses nothing.
import { call } from "./api.js";
import { LONGEST, answerBox, nameOf, small, zoom } from "./cells.js";
import { el, find, say } from "./dom.js";
import { t } from "./texts.js";

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
    this.conflicts = new Map();
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
    this.place = el("section", { class: "grid" },
      el("div", { class: "tools" }, this.search, this.chips, this.count, this.saved),
      el("div", { class: "headings", "aria-hidden": "true" }, el("span", {}, t("picture")), el("span", {}, t("question")), el("span", {}, t("answer"))),
      this.view, this.common,
      el("p", { class: "keys dim" }, t("grid.keys")));
    new ResizeObserver(() => this.draw()).observe(this.view);
    addEventListener("pagehide", () => this.flush({ keepalive: true }));
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
    try {
      if (this.edits.size) localStorage.setItem(this.key, JSON.stringify([...this.edits]));
      else localStorage.removeItem(this.key);
    } catch { /* as above */ }
  }

  tell(text) { this.saved.textContent = text; }

  focus() { (find("[data-column=answer]", this.space) ?? this.view).focus(); }

  async refresh(version, first) {
    if (version !== this.version || first) await this.reload(version);
  }

  async reload(version) {
    this.asked = new Set();
    this.isStale = true; // what is shown stays until the new rows are here: somebody may be typing into it
    await this.fetch(Math.floor(this.top() / BLOCK));
    if (version) this.version = version;
    this.draw(true);
  }

  // Marks and chips come from the findings.
  mark(found) {
    this.common.replaceChildren(...found.common.map((value) => el("option", { value })));
    const chips = [["all", t("show.all"), found.total], ["open", t("show.open"), found.total - found.answered]];
    for (const [part, count] of Object.entries(found.parts)) chips.push([`part:${part}`, t(`part.${part}`), count]);
    if (found.marked) chips.push(["found", t("show.found"), found.marked]);
    if (this.show.startsWith("found:")) chips.push([this.show, this.show.slice(6), null]);
    this.chips.replaceChildren(...chips.map(([value, label, count]) => el("button", { class: "chip", type: "button", "data-show": value, "aria-pressed": String(this.show === value),
      onclick: () => this.filter(value) }, label, count === null ? null : el("small", {}, ` ${count.toLocaleString()}`))));
    if (this.marks !== found.marks) this.reload();
    this.marks = found.marks;
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
      const got = await call("rows", { first: block * BLOCK, count: BLOCK, show: this.show, text: this.search.value });
      if (asked !== this.asked) return;
      this.version = got.version;
      this.total = got.total;
      if (this.isStale) this.blocks.clear();
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
    if (this.wantFocus && this.rows.has(this.wantFocus[0])) {
      const [index, column] = this.wantFocus;
      this.wantFocus = null;
      find(`[data-column=${column}]`, this.rows.get(index)).focus({ preventScroll: true });
    }
  }

  add(index, row) {
    const made = el("div", { class: "row", role: "row", "aria-rowindex": index + 1 });
    made.style.top = `${index * ROW}px`;
    made.append(
      el("div", { class: "pic", role: "gridcell" }),
      el("div", { role: "gridcell" }, el("textarea", { "data-column": "question", rows: 2, maxlength: LONGEST, spellcheck: "true" })),
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
        el("div", { class: "what" }, el("span", { class: "name", title: shown }, shown), el("span", { class: "marks" })));
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
      ...(row.found ?? []).map((kind) => el("span", { class: "found" }, kind)),
    ].filter(Boolean));
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
    if (now === was) this.edits.delete(key);
    else this.edits.set(key, { row: row.id, column: control.dataset.column, was, now });
    this.remember();
    this.tell(t("saving"));
    this.saveSoon();
  }

  saveSoon() {
    clearTimeout(this.saving);
    this.saving = setTimeout(() => this.flush(), SAVE_AFTER);
  }

  async flush(options = {}) {
    const open = [...this.edits].filter(([key]) => !this.conflicts.has(key));
    const sent = open.slice(0, SENT_AT_ONCE);
    if (!sent.length) {
      if (!this.edits.size) this.tell(t("saved"));
      return;
    }
    try {
      const answer = await call("edit", { edits: sent.map(([, edit]) => edit) }, options);
      this.settle(sent, answer);
      if (open.length > sent.length) this.saveSoon();
    } catch (error) {
      this.tell(t("unsaved", { count: this.edits.size }));
      this.saved.classList.add("bad");
      if (error.status !== 0 && error.status !== 503) this.trouble(error);
      clearTimeout(this.saving);
      this.saving = setTimeout(() => this.flush(), 3000);
    }
  }

  settle(sent, answer) {
    const refused = new Map(answer.refused.map((one) => [`${one.row} ${one.column}`, one.now]));
    const loaded = new Map([...this.blocks.values()].flat().map((row) => [row.id, row]));
    for (const [key, edit] of sent) {
      if (refused.has(key)) {
        this.conflicts.set(key, refused.get(key) ?? "");
        continue;
      }
      const row = loaded.get(edit.row);
      if (row) row[edit.column] = edit.now;
      const newer = this.edits.get(key);
      if (newer === edit) this.edits.delete(key);
      else if (newer) newer.was = edit.now;
    }
    this.remember();
    this.version = answer.version;
    this.saved.classList.remove("bad");
    this.tell(this.conflicts.size ? t("quarrel.count", { count: this.conflicts.size }) : t("saved"));
    if (this.conflicts.size) say(t("quarrel.count", { count: this.conflicts.size }));
    this.draw(true);
  }

  pressed(made, event) {
    const column = event.target.dataset.column;
    if (!column || event.isComposing) return;
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

  go(index, column) {
    if (index < 0 || index >= this.total) return;
    const top = index * ROW;
    if (top < this.view.scrollTop) this.view.scrollTop = top;
    else if (top + ROW > this.view.scrollTop + this.view.clientHeight) this.view.scrollTop = top + ROW - this.view.clientHeight;
    this.wantFocus = [index, column];
    this.draw();
  }
}
