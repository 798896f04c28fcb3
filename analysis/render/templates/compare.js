(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const family = (c) => c.contender.split(":")[0].split("/")[0] + (c.contender.includes("/") ? " in planes" : "");
  const families = [...new Set(data.contenders.map(family))];
  const palette = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#7f3c8d", "#5c5c5c"];
  const symbols = ["circle", "square", "diamond", "triangle-up", "cross", "x", "pentagon", "hexagon"];

  function front() {
    const error = byId("error").value, cost = byId("cost").value, moved = cost === "moved_share";
    const shown = data.contenders.filter((c) => c[error] > 0);
    const x = (c) => (moved ? 100 * c[cost] : c[cost]);
    const best = shown.filter((c) => !shown.some((o) => o !== c && o[cost] <= c[cost] && o[error] <= c[error] && (o[cost] < c[cost] || o[error] < c[error])));
    best.sort((a, b) => a[cost] - b[cost]);
    const traces = families.map((name, i) => {
      const held = shown.filter((c) => family(c) === name);
      return {
        type: "scatter", mode: "markers", name, x: held.map(x), y: held.map((c) => c[error]),
        marker: { size: 10, color: palette[i % palette.length], symbol: symbols[Math.floor(i / palette.length) * 3 % symbols.length + (held.length && held[0].kind === "rule" ? 1 : 0)] },
        text: held.map((c) => c.contender + "<br>" + c.bits_per_number.toFixed(2) + " bits stored, " + (100 * c.moved_share).toFixed(1) + " % moved<br>error: median " +
          c.output_error_median.toExponential(1) + ", 99 % " + c.output_error_p99.toExponential(1)),
        hovertemplate: "%{text}<extra></extra>",
      };
    });
    traces.push({ type: "scatter", mode: "lines", name: "Pareto front", x: best.map(x), y: best.map((c) => c[error]), line: { shape: "hv", color: css("--ink"), width: 1.5 }, hoverinfo: "skip" });
    // Nothing lies below and left of the front: the names of its points have room there.
    traces.push({
      type: "scatter", mode: "text", showlegend: false, hoverinfo: "skip", x: best.map(x), y: best.map((c) => c[error]), text: best.map((c) => c.contender + "  "),
      textposition: "bottom left", textfont: { size: 10, color: css("--ink") },
    });
    draw("front", traces, {
      xaxis: { title: { text: moved ? "bytes moved per step (% of the plain cache)" : "stored bits per number" }, rangemode: "tozero" },
      yaxis: { title: { text: "relative output error" }, type: "log", exponentformat: "power" },
      legend: { orientation: "h", y: -0.15, x: 0 },
    });
  }

  function heat() {
    const name = byId("figure").value, held = data.heat[byId("contender").value][name];
    draw("heat", [{
      type: "heatmap", z: held, y: held.map((row, i) => "layer " + i), x: held[0].map((v, i) => "head " + i), colorscale: "Viridis", reversescale: true,
      hovertemplate: "%{y}, %{x}: %{z:.3g}<extra></extra>",
    }], { yaxis: { autorange: "reversed", type: "category" }, xaxis: { type: "category" } });
  }

  for (const id of ["error", "cost"]) byId(id).addEventListener("change", front);
  for (const id of ["contender", "figure"]) byId(id).addEventListener("change", heat);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { front(); heat(); });
  front();
  heat();
  document.documentElement.dataset.ready = "true";
})();
