// Pointing at a chart reads the values at the nearest step; one listener for all charts, also those drawn later.
import { el } from "./dom.js";
import { brief, localized, percent, t } from "./texts.js";

const nearest = (points, step) => points.reduce((a, b) => (Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a));
const label = (value, share) => (share ? percent(value) : brief(value));

// The figures that our server drew; what a screen reader says of them is made here, in the page's language.
export function figures(markup) {
  const made = el("div", { class: "charts", html: markup });
  for (const number of made.querySelectorAll(".tick, .key b")) number.textContent = localized(number.textContent);
  for (const chart of made.querySelectorAll(".chart")) {
    const share = Number(chart.dataset.frame.split(" ")[4]);
    const ends = JSON.parse(chart.dataset.series).map((one) => t("chart.ends", { name: one.name, value: label(one.points.at(-1)[1], share) }));
    chart.querySelector("svg").setAttribute("aria-label", [chart.querySelector("figcaption > b").textContent, ...ends].join("; "));
  }
  return made;
}

export function watch(place) {
  place.addEventListener("pointermove", read);
  place.addEventListener("pointerleave", () => place.querySelectorAll(".chart.reading").forEach(leave));
}

function leave(chart) {
  chart.classList.remove("reading");
  chart.querySelector(".cursor").setAttribute("hidden", "");
}

function read(event) {
  const svg = event.target.closest?.(".chart svg");
  event.currentTarget.querySelectorAll(".chart.reading").forEach((chart) => { if (!svg || !chart.contains(svg)) leave(chart); });
  if (!svg) return;
  const chart = svg.closest(".chart");
  const series = JSON.parse(chart.dataset.series);
  const [first, last, left, right, share] = chart.dataset.frame.split(" ").map(Number);
  const box = svg.getBoundingClientRect();
  const place = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
  const part = Math.min(1, Math.max(0, (place - left) / (right - left)));
  const step = nearest(series[0].points, first + part * (last - first))[0];
  const x = last > first ? left + (step - first) / (last - first) * (right - left) : (left + right) / 2;
  const cursor = chart.querySelector(".cursor");
  cursor.setAttribute("x1", x);
  cursor.setAttribute("x2", x);
  cursor.removeAttribute("hidden");
  chart.querySelector(".read").textContent = [t("at.step", { step }), ...series.map((one) => `${one.name} ${label(nearest(one.points, step)[1], share)}`)].join("  ");
  chart.classList.add("reading");
}
