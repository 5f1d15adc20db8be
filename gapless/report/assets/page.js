"use strict";
const content = JSON.parse(document.getElementById("content").textContent);
const CONFIG = { responsive: true, displayModeBar: false };
const drawn = new Set();

// Colours come from the style sheet, so that charts follow the page into dark mode and onto paper.
function theme() {
  const css = getComputedStyle(document.documentElement);
  const ink = css.getPropertyValue("--ink").trim(), line = css.getPropertyValue("--line").trim();
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line };
  return { ink, line, axis };
}

function dressed(layout) {
  const { ink, axis } = theme();
  return {
    ...layout,
    font: { color: ink, size: 11 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 44, r: 8, t: 6, b: 36 },
    legend: { orientation: "h", x: 1, xanchor: "right", y: 1.05, font: { size: 10 } },
    xaxis: { ...axis, ...layout.xaxis },
    yaxis: { ...axis, ...layout.yaxis },
  };
}

function draw(div) {
  if (drawn.has(div)) return;
  drawn.add(div);
  const chart = content.charts[div.dataset.chart];
  Plotly.newPlot(div, chart.data, dressed(chart.layout), CONFIG);
}

// Charts are drawn when they come into view: a page with many of them opens at once.
const seen = new IntersectionObserver(
  (entries) => entries.filter((e) => e.isIntersecting).forEach((e) => draw(e.target)),
  { rootMargin: "200px" },
);
document.querySelectorAll("[data-chart]").forEach((div) => seen.observe(div));
document.querySelectorAll("[data-picture]").forEach((img) => {
  const source = content.pictures[img.dataset.picture];
  img.title = img.alt = content.captions[img.dataset.picture] || "";
  if (source) img.src = source;
});
document.querySelectorAll("[data-caption]").forEach((tag) => {
  tag.textContent = content.captions[tag.dataset.caption] || tag.dataset.caption;
});

const SIDES = [
  { name: "images", marker: { color: "#0072B2", symbol: "circle", size: 6 } },
  { name: "texts", marker: { color: "#D55E00", symbol: "triangle-up", size: 7 } },
];
// Three-dimensional charts have no triangles.
const SOLID = ["circle", "diamond"];

function globe(color) {
  const lines = { x: [], y: [], z: [] };
  const put = (x, y, z) => { lines.x.push(x); lines.y.push(y); lines.z.push(z); };
  for (let k = 0; k < 6; k++) {
    const turn = (Math.PI * k) / 6, height = -0.75 + 0.3 * k, radius = Math.sqrt(1 - height * height);
    for (let i = 0; i <= 48; i++) {
      const a = (2 * Math.PI * i) / 48;
      put(Math.cos(a) * Math.cos(turn), Math.cos(a) * Math.sin(turn), Math.sin(a));
    }
    put(null, null, null);
    for (let i = 0; i <= 48; i++) put(radius * Math.cos((2 * Math.PI * i) / 48), radius * Math.sin((2 * Math.PI * i) / 48), height);
    put(null, null, null);
  }
  return { ...lines, type: "scatter3d", mode: "lines", line: { color, width: 1 }, hoverinfo: "skip", showlegend: false };
}

function startMaps() {
  const plane = document.getElementById("map-plane"), space = document.getElementById("map-space");
  const run = document.getElementById("map-run"), epoch = document.getElementById("map-epoch");
  const scores = document.getElementById("map-scores"), turn = document.getElementById("map-turn");
  let angle = 0.8, visible = false, started = false;

  const current = () => content.maps[Number(run.value)];
  const frame = () => current().frames[Number(epoch.value)];

  function extent(key) {
    let most = 0;
    for (const f of current().frames) for (const side of f[key]) for (const row of side) for (const v of row) most = Math.max(most, Math.abs(v));
    return [-1.08 * most, 1.08 * most];
  }

  function show() {
    const { line } = theme(), map = current(), now = frame();
    scores.textContent = `${now.epoch}${now.scores ? ": " + now.scores : ""}`;
    const hover = { hoverinfo: "none" };
    const flat = SIDES.map((side, k) => ({
      ...side, ...hover, type: "scatter", mode: "markers", x: now.plane[k][0], y: now.plane[k][1],
      marker: { ...side.marker, opacity: 0.8 },
    }));
    const deep = SIDES.map((side, k) => ({
      ...side, ...hover, type: "scatter3d", mode: "markers", x: now.space[k][0], y: now.space[k][1], z: now.space[k][2],
      marker: { color: side.marker.color, symbol: SOLID[k], size: 3, opacity: 0.85 },
    }));
    const range = extent("plane"), reach = map.sphere ? [-1.1, 1.1] : extent("space");
    const bare = { visible: false };
    Plotly.react(plane, flat, dressed({
      xaxis: { ...bare, range }, yaxis: { ...bare, range, scaleanchor: "x" }, showlegend: true, hovermode: "closest",
    }), CONFIG);
    Plotly.react(space, map.sphere ? [...deep, globe(line)] : deep, {
      ...dressed({ showlegend: false }),
      margin: { l: 0, r: 0, t: 0, b: 0 },
      scene: {
        xaxis: { ...bare, range: reach }, yaxis: { ...bare, range: reach }, zaxis: { ...bare, range: reach },
        aspectmode: "cube", camera: { eye: eye() },
      },
    }, CONFIG);
  }

  const eye = () => ({ x: 1.6 * Math.cos(angle), y: 1.6 * Math.sin(angle), z: 0.7 });

  function rotate() {
    if (turn.checked && visible) {
      angle += 0.006;
      Plotly.relayout(space, { "scene.camera.eye": eye() });
    }
    requestAnimationFrame(rotate);
  }

  function choose() {
    epoch.max = current().frames.length - 1;
    epoch.value = epoch.max;
    show();
  }

  const card = document.getElementById("card");
  function point(event) {
    const { curveNumber, pointNumber } = event.points[0];
    const name = current().points[pointNumber];
    if (name === undefined || curveNumber > 1) return;
    card.querySelector("span").textContent = `${content.captions[name]} (${SIDES[curveNumber].name.slice(0, -1)})`;
    const picture = card.querySelector("img");
    picture.hidden = !content.pictures[name];
    if (content.pictures[name]) picture.src = content.pictures[name];
    card.hidden = false;
  }

  function start() {
    if (started) return;
    started = true;
    choose();
    for (const div of [plane, space]) {
      div.on("plotly_hover", point);
      div.on("plotly_unhover", () => { card.hidden = true; });
    }
    turn.checked = content.maps.some((m) => m.sphere) && !matchMedia("(prefers-reduced-motion: reduce)").matches;
    rotate();
  }

  run.addEventListener("change", choose);
  epoch.addEventListener("input", show);
  new IntersectionObserver(([entry]) => {
    visible = entry.isIntersecting;
    if (visible) setTimeout(start);
  }, { rootMargin: "200px" }).observe(space);
  return () => { start(); show(); };
}

const redrawMaps = content.maps.length ? startMaps() : () => {};

function redraw() {
  drawn.forEach((div) => Plotly.react(div, content.charts[div.dataset.chart].data, dressed(content.charts[div.dataset.chart].layout), CONFIG));
  redrawMaps();
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
addEventListener("beforeprint", () => { document.querySelectorAll("[data-chart]").forEach(draw); redraw(); });
document.documentElement.dataset.ready = "true";
