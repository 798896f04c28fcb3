"use strict";
(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  // Okabe and Ito's colours, then the same with another marker: told apart by readers with any colour vision.
  const colours = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#999999"];
  const markers = ["circle", "square"], dashes = ["dash", "dot"];
  const settings = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d"] };

  function draw(id, traces, extra) {
    const axis = { gridcolor: css("--line"), zerolinecolor: css("--line"), linecolor: css("--line"), automargin: true };
    const layout = Object.assign({
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: css("--ink"), family: "system-ui, sans-serif", size: 12 },
      margin: { l: 55, r: 15, t: 10, b: 45 }, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
    }, extra);
    for (const name of ["xaxis", "yaxis"]) layout[name] = Object.assign({}, axis, layout[name]);
    return Plotly.react(id, traces, layout, settings);
  }

  const contexts = { title: { text: "context (tokens)" }, type: "log", dtick: Math.log10(4), tickformat: ",d" };

  function speedup() {
    const traces = [];
    data.gpus.forEach((gpu, i) => {
      const color = colours[i % colours.length], round = Math.floor(i / colours.length) % markers.length, symbol = markers[round];
      traces.push({
        type: "scatter", mode: "lines", name: gpu.gpu, legendgroup: gpu.gpu, x: gpu.curve.map((p) => p.context), y: gpu.curve.map((p) => p.speedup),
        line: { color, width: 2, dash: dashes[round] }, hovertemplate: gpu.product + ", extrapolated: %{y:.3f}× at %{x:,} tokens<extra></extra>",
      }, {
        type: "scatter", mode: "markers", showlegend: false, legendgroup: gpu.gpu, x: gpu.measured_contexts.map((p) => p.context), y: gpu.measured_contexts.map((p) => p.speedup),
        marker: { color, size: 7, symbol }, hovertemplate: gpu.product + ", bits measured here: %{y:.3f}× at %{x:,.0f} tokens<extra></extra>",
      });
    });
    const last = data.gpus[0].curve;
    traces.push({ type: "scatter", mode: "lines", showlegend: false, hoverinfo: "skip", x: [1, last[last.length - 1].context], y: [1, 1], line: { color: css("--ink"), width: 1 } });
    draw("speedup", traces, { xaxis: Object.assign({ range: [Math.log10(32), Math.log10(last[last.length - 1].context)] }, contexts), yaxis: { title: { text: "speed-up (×)" } } });
  }

  function trend() {
    const rows = data.measured_by_context;
    draw("trend", [["key_bits_mean", "keys", colours[0]], ["value_bits_mean", "values", colours[1]]].map(([key, name, color]) => ({
      type: "scatter", mode: "lines+markers", name, x: rows.map((r) => r.context), y: rows.map((r) => r[key]), line: { color, width: 2 },
      hovertemplate: name + ": %{y:.2f} bits at %{x:,.0f} tokens<extra></extra>",
    })), { xaxis: contexts, yaxis: { title: { text: "bits per number" }, rangemode: "tozero" } });
  }

  function show() { speedup(); trend(); }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  show();
  document.documentElement.dataset.ready = "true";
})();
