"use strict";
// Filters of the gallery: outcome, type and a search text; at most `step` cards until "Show more".
(() => {
  const cards = [...document.querySelectorAll(".card")];
  if (!cards.length) return;
  const more = document.querySelector(".morecards");
  const nothing = document.querySelector(".nothing");
  const count = document.querySelector(".count");
  const search = document.querySelector("input[type=search]");
  const step = 24;
  const want = { kind: "", type: "" };
  let limit = step;
  const show = () => {
    const text = search.value.trim().toLowerCase();
    const fitting = cards.filter((card) =>
      (!want.kind || card.dataset.kind === want.kind) && (!want.type || card.dataset.type === want.type) &&
      (!text || card.textContent.toLowerCase().includes(text)));
    cards.forEach((card) => { card.hidden = true; });
    fitting.slice(0, limit).forEach((card) => { card.hidden = false; });
    more.hidden = fitting.length <= limit;
    nothing.hidden = fitting.length > 0;
    count.textContent = want.kind || want.type || text ? `${fitting.length} of them fit the filter.` : "";
  };
  document.querySelectorAll(".chip").forEach((chip) => chip.addEventListener("click", () => {
    want[chip.dataset.group] = chip.dataset.value;
    document.querySelectorAll(`.chip[data-group=${chip.dataset.group}]`).forEach((other) =>
      other.setAttribute("aria-pressed", String(other === chip)));
    limit = step;
    show();
  }));
  search.addEventListener("input", () => { limit = step; show(); });
  more.addEventListener("click", () => { limit += step; show(); });
  show();
})();
// Pointing at a chart reads the values at the nearest step.
document.querySelectorAll(".chart").forEach((chart) => {
  const series = JSON.parse(chart.dataset.series);
  const [first, last, left, right, share] = chart.dataset.frame.split(" ").map(Number);
  const svg = chart.querySelector("svg");
  const cursor = chart.querySelector(".cursor");
  const read = chart.querySelector(".read");
  const label = (value) => share ? `${(100 * value).toFixed(1)} %` : Number(value.toPrecision(3)).toString();
  const nearest = (points, step) => points.reduce((a, b) => Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a);
  const point = (event) => {
    const box = svg.getBoundingClientRect();
    const place = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    const part = Math.min(1, Math.max(0, (place - left) / (right - left)));
    const step = nearest(series[0].points, first + part * (last - first))[0];
    const x = last > first ? left + (step - first) / (last - first) * (right - left) : (left + right) / 2;
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    cursor.removeAttribute("hidden");
    read.replaceChildren(`step ${step.toLocaleString("en")}\u2002`, ...series.map((one) => {
      const key = document.createElement("span");
      key.className = `key ${one.colour}`;
      const value = document.createElement("b");
      value.textContent = label(nearest(one.points, step)[1]);
      key.append(` ${one.name} `, value);
      return key;
    }));
    chart.classList.add("reading");
  };
  const leave = () => { chart.classList.remove("reading"); cursor.setAttribute("hidden", ""); };
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("pointerleave", leave);
});
document.querySelectorAll(".copy").forEach((button) => button.addEventListener("click", async () => {
  await navigator.clipboard.writeText(document.getElementById(button.dataset.of).textContent);
  button.textContent = "Copied";
}));
