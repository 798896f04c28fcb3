(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const GREY = "#9aa3ad", BETTER = "#0072b2", WORSE = "#d55e00";

  function chosen() {
    const measure = data.measures.find((m) => m.name === byId("measure").value);
    return { measure, rows: data.pairs[Number(byId("pair").value)][measure.name] };
  }
  // Savings are shown in percent, changes of errors as binary logarithms of their factor, so that twice and half weigh the same.
  const shown = (m, v) => (v === null ? null : m.form === "saving" ? 100 * v : v);
  const moved = (m, v) => (v === null ? null : m.form === "saving" ? 100 * v : m.form === "error" ? Math.log2(v) : v);
  const unit = (m) => (m.form === "saving" ? "change (points of a percent)" : m.form === "error" ? "change (log2 of the factor)" : "change (bits)");
  const side = (m, row) => (!row.beyond_noise ? GREY : m.better * moved(m, row.change) > 0 ? BETTER : WORSE);
  const said = (m, row) => (row.change === null ? "cannot be told" : m.form === "error" ? "×" + row.change.toPrecision(4) : (row.change >= 0 ? "+" : "−") + Math.abs(moved(m, row.change)).toPrecision(3)) +
    (row.low === null ? "" : " (" + moved(m, row.low).toPrecision(3) + " to " + moved(m, row.high).toPrecision(3) + (m.form === "error" ? " in log2)" : ")")) +
    (row.same ? ", the same to the bit" : row.beyond_noise === null ? ", too few to tell" : row.beyond_noise ? "" : ", within noise");
  const place = (row) => "layer " + row.layer + (row.kv_head === null ? "" : ", kv head " + row.kv_head);

  function scatter({ measure, rows }) {
    const held = rows.head.filter((r) => r.value_a !== null && r.value_b !== null && (measure.form !== "error" || (r.value_a > 0 && r.value_b > 0)));
    const values = held.flatMap((r) => [shown(measure, r.value_a), shown(measure, r.value_b)]);
    const ends = [Math.min(...values), Math.max(...values)];
    const type = measure.form === "error" ? "log" : "linear";
    const axis = (name) => ({ title: { text: name + ": " + measure.label + (measure.form === "saving" ? " (%)" : "") }, type, exponentformat: "power" });
    draw("scatter", [
      { type: "scatter", mode: "lines", x: ends, y: ends, line: { color: css("--quiet"), width: 1, dash: "dot" }, hoverinfo: "skip", showlegend: false },
      { type: "scatter", mode: "markers", name: "heads", x: held.map((r) => shown(measure, r.value_a)), y: held.map((r) => shown(measure, r.value_b)), showlegend: false,
        marker: { size: 8, opacity: 0.8, color: held.map((r) => side(measure, r)) }, text: held.map((r) => place(r) + "<br>" + said(measure, r)), hovertemplate: "%{text}<extra></extra>" },
    ], { xaxis: axis("A"), yaxis: axis("B"), hovermode: "closest" });
  }

  function heat({ measure, rows }) {
    const layers = [...new Set(rows.head.map((r) => r.layer))].sort((a, b) => a - b);
    const heads = [...new Set(rows.head.map((r) => r.kv_head))].sort((a, b) => a - b);
    const grid = () => layers.map(() => heads.map(() => null));
    const changed = grid(), quiet = grid(), text = layers.map(() => heads.map(() => ""));
    for (const row of rows.head) {
      const i = layers.indexOf(row.layer), j = heads.indexOf(row.kv_head);
      text[i][j] = place(row) + "<br>" + said(measure, row);
      if (row.beyond_noise) changed[i][j] = measure.better * moved(measure, row.change);
      else quiet[i][j] = 0;
    }
    const most = Math.max(1e-12, ...changed.flat().filter((v) => v !== null).map(Math.abs));
    const common = { type: "heatmap", x: heads.map((h) => "head " + h), y: layers.map((l) => "layer " + l), text, hovertemplate: "%{text}<extra></extra>", xgap: 1, ygap: 1 };
    draw("heat", [
      Object.assign({}, common, { z: quiet, colorscale: [[0, GREY], [1, GREY]], showscale: false, opacity: 0.45 }),
      Object.assign({}, common, { z: changed, zmin: -most, zmax: most, colorscale: [[0, WORSE], [0.5, "#f2f2f2"], [1, BETTER]], colorbar: { title: { text: "better →", side: "right" } } }),
    ], { xaxis: { type: "category", showgrid: false }, yaxis: { type: "category", autorange: "reversed", showgrid: false } });
  }

  function layersPlot({ measure, rows }) {
    const held = rows.layer.filter((r) => r.change !== null);
    const known = (r, end) => (r.low === null ? 0 : Math.abs(moved(measure, r[end]) - moved(measure, r.change)));
    draw("layers", [{
      type: "scatter", mode: "markers", x: held.map((r) => r.layer), y: held.map((r) => moved(measure, r.change)),
      error_y: { type: "data", symmetric: false, array: held.map((r) => known(r, "high")), arrayminus: held.map((r) => known(r, "low")), color: css("--quiet"), thickness: 1.2 },
      marker: { size: 8, color: held.map((r) => side(measure, r)) }, text: held.map((r) => place(r) + "<br>" + said(measure, r)), hovertemplate: "%{text}<extra></extra>",
    }], { xaxis: { title: { text: "layer" }, dtick: held.length > 40 ? undefined : 1 }, yaxis: { title: { text: unit(measure) }, rangemode: "tozero", zerolinewidth: 2 } });
  }

  function all() {
    document.querySelectorAll("section.pair").forEach((s, i) => { s.hidden = i !== Number(byId("pair").value); });
    const held = chosen();
    scatter(held);
    heat(held);
    layersPlot(held);
  }

  if (byId("pair")) {
    for (const id of ["pair", "measure"]) byId(id).addEventListener("change", all);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", all);
    all();
  }
  document.documentElement.dataset.ready = "true";
})();
