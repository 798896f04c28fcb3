"use strict";
// What every page's plots share; the page's own script follows.
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
// Okabe and Ito's colours: told apart by readers with any colour vision.
const colour = { key: "#0072b2", value: "#e69f00", full: "#009e73", rounding: "#999999", mass: "#cc79a7" };
const settings = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d"] };

function layout(extra) {
  const ink = css("--ink"), line = css("--line");
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
  const merged = Object.assign({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink, family: "system-ui, sans-serif", size: 12 },
    margin: { l: 55, r: 15, t: 10, b: 45 }, legend: { orientation: "h", y: 1.12, x: 0 }, hoverlabel: { font: { family: "system-ui, sans-serif" } },
  }, extra);
  for (const name of Object.keys(merged)) if (/^[xy]axis/.test(name)) merged[name] = Object.assign({}, axis, merged[name]);
  return merged;
}

function draw(id, traces, extra) { return Plotly.react(id, traces, layout(extra), settings); }
