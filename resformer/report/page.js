"use strict";
const specs = JSON.parse(document.getElementById("specs").textContent);
const charts = [...document.querySelectorAll(".chart")];
const views = new Map(), linear = new Set();
const dark = matchMedia("(prefers-color-scheme: dark)");
let printing = false;

function theme() {
  const [ink, soft, line] = dark.matches && !printing ? ["#e8eaed", "#b4bbc2", "#444b52"] : ["#1b1f23", "#4f5860", "#d9dde1"];
  return {
    background: "transparent", font: "system-ui, sans-serif", aria: false, view: { stroke: "transparent" },
    axis: { labelColor: ink, titleColor: soft, gridColor: line, domainColor: soft, tickColor: soft, titleFontWeight: "normal", labelOverlap: true },
    axisQuantitative: { tickCount: 6 },
    legend: { labelColor: ink, titleColor: soft, titleFontWeight: "normal", orient: "bottom" }, text: { color: ink }, rule: { color: soft },
  };
}

// A figure drawn on a logarithmic y axis can be had on a linear one.
function spec_of(chart) {
  const found = structuredClone(specs[chart.dataset.spec][chart.dataset.index]);
  if (linear.has(chart.dataset.spec)) {
    const walk = (part) => {
      if (part.encoding?.y?.scale?.type === "log") part.encoding.y.scale = { zero: false };
      (part.layer || []).forEach(walk);
    };
    walk(found);
  }
  return found;
}

async function draw(chart) {
  if (typeof vegaEmbed === "undefined") {
    chart.textContent = "The drawing script vega.js is missing beside this page; recipes/report.py writes it.";
    return;
  }
  views.get(chart)?.finalize();
  views.set(chart, null);
  const found = spec_of(chart);
  const rows = Object.values(found.datasets || {}).reduce((sum, data) => sum + data.length, 0);
  // Vega names and describes what it draws into; the panel's own words stand on the element around it.
  const place = document.createElement("div");
  place.setAttribute("aria-hidden", "true");
  chart.replaceChildren(place);
  const result = await vegaEmbed(place, found, { actions: false, config: theme(), renderer: rows > 1500 ? "canvas" : "svg", tooltip: { theme: "custom" } });
  views.set(chart, result.view);
  chart.style.minHeight = "";
  apply(result.view, chart);
}

const shown = (kind) => [...document.querySelectorAll(`[data-filter=${kind}]`)];
const taken_out = (kind) => shown(kind).filter((box) => !box.checked).map((box) => box.value);
const focus = JSON.parse(document.getElementById("arms")?.dataset.focus || "[]");
let lit = focus;

function apply(view, chart) {
  view.signal("hidden", taken_out("arm")).signal("lit", lit);
  const look = look_of(chart);
  if (look !== null) view.signal("look", look);
  view.runAsync();
}
function everywhere() { for (const [chart, view] of views) if (view) apply(view, chart); }

function filter() {
  const arms = taken_out("arm"), points = taken_out("point");
  for (const part of document.querySelectorAll("[data-arm], figure[data-point]"))
    part.hidden = arms.includes(part.dataset.arm) || points.includes(part.dataset.point);
  everywhere();
}

const form = document.getElementById("filters");
form?.addEventListener("submit", (event) => event.preventDefault());
form?.addEventListener("change", filter);
document.getElementById("search")?.addEventListener("input", (event) => {
  for (const box of document.querySelectorAll("#others [data-filter]")) box.closest("label").hidden = !box.value.toLowerCase().includes(event.target.value.toLowerCase());
});
for (const [id, on] of [["all", true], ["none", false]])
  document.getElementById(id)?.addEventListener("click", () => {
    for (const box of document.querySelectorAll("#others label:not([hidden]) [data-filter]")) box.checked = on;
    filter();
  });
for (const label of document.querySelectorAll("#arms label")) {
  const point = (name) => () => { lit = name; everywhere(); };
  const name = label.querySelector("input").value;
  for (const event of ["mouseenter", "focusin"]) label.addEventListener(event, point([name]));
  for (const event of ["mouseleave", "focusout"]) label.addEventListener(event, point(focus));
}

for (const button of document.querySelectorAll(".switch"))
  button.addEventListener("click", () => {
    const name = button.closest(".figure").id, on = !linear.has(name);
    linear[on ? "add" : "delete"](name);
    button.setAttribute("aria-pressed", String(on));
    charts.filter((chart) => chart.dataset.spec === name).forEach(draw);
  });

// A figure whose panels show one look at a time.
function look_of(chart) {
  const slider = chart.closest(".figure").querySelector(".player input");
  return slider && Number(slider.dataset.looks.split(",")[slider.value]);
}
for (const player of document.querySelectorAll(".player")) {
  const [button, output, slider] = player.children, name = player.closest(".figure").id;
  const show = () => {
    output.value = slider.dataset.looks.split(",")[slider.value];
    for (const [chart, view] of views) if (view && chart.dataset.spec === name) apply(view, chart);
  };
  slider.addEventListener("input", show);
  let playing = null;
  button.addEventListener("click", (event) => {
    event.preventDefault();
    clearInterval(playing);
    playing = playing ? null : setInterval(() => {
      slider.value = slider.value === slider.max ? 0 : Number(slider.value) + 1;
      show();
    }, 200);
    button.textContent = playing ? "stop" : "play";
    button.setAttribute("aria-pressed", String(Boolean(playing)));
  });
}

for (const button of document.querySelectorAll("th button"))
  button.addEventListener("click", () => {
    const head = button.closest("th"), table = head.closest("table"), column = head.cellIndex;
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (row) => row.cells[column].dataset.sort;
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");  // what is not known stays below
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return up ? order : -order;
    };
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
  });

// What is in sight first, the rest when there is time.
const waiting = new Set(charts);
function due(chart) { if (waiting.delete(chart)) return draw(chart); }
const sight = new IntersectionObserver((entries) => entries.filter((e) => e.isIntersecting).forEach((e) => due(e.target)), { rootMargin: "300px" });
charts.forEach((chart) => sight.observe(chart));
const later = window.requestIdleCallback || ((work) => setTimeout(work, 50));
async function rest() {
  const next = [...waiting].find((chart) => chart.checkVisibility());
  if (next) { await due(next); later(rest); }
}
addEventListener("load", () => later(rest));
const again = () => [...views.keys()].forEach(draw);
dark.addEventListener("change", again);
addEventListener("beforeprint", () => { [...waiting].filter((chart) => chart.checkVisibility()).forEach(due); if (dark.matches) { printing = true; again(); } });
addEventListener("afterprint", () => { if (printing) { printing = false; again(); } });
