(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  // Okabe and Ito's colours: told apart by readers with any colour vision.
  const palette = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442", "#999999", "#7f3c8d", "#5c5c5c"];
  const symbols = ["circle", "square", "diamond", "triangle-up", "cross", "x", "pentagon", "hexagon"];
  const families = [...new Set(data.family)], layouts = [...new Set(data.layout)];
  const byId = (id) => document.getElementById(id);
  const percent = (v) => 100 * v;

  function hover(scope, i) {
    const point = (name) => scope[name][i];
    const error = (v) => (v === null ? "∞" : v.toExponential(1));
    return data.rule[i] + "<br>planes " + data.layout[i] + "<br>bytes saved " + percent(point("bytes_saving")).toFixed(1) + " %, bits " +
      percent(point("bits_saving")).toFixed(1) + " %, sectors " + percent(point("sectors_saving")).toFixed(1) + " %<br>error: median " +
      error(point("error_median")) + ", 99 % " + error(point("error_p99")) + "<br>proven: median " + error(point("bound_median"));
  }

  function family(name, scope, x, y) {
    const chosen = data.family.map((_, i) => i).filter((i) => data.family[i] === name && !data.reference[i] && x[i] > 0);
    const c = palette[families.indexOf(name) % palette.length];
    return {
      type: "scatter", mode: "markers", name, x: chosen.map((i) => x[i]), y: chosen.map((i) => percent(y[i])),
      marker: { color: c, size: 7, opacity: 0.75, symbol: chosen.map((i) => symbols[layouts.indexOf(data.layout[i]) % symbols.length]) },
      text: chosen.map((i) => hover(scope, i)), hovertemplate: "%{text}<extra></extra>",
    };
  }

  function frontier() {
    const scope = data.scopes[Number(byId("scope").value)], error = byId("error").value, unit = byId("unit").value;
    const column = { median: "error_median", p99: "error_p99", bound: "bound_median" }[error];
    const x = scope[column], y = scope[unit + "_saving"], front = scope["on_front_" + unit + "_" + error];
    const onFront = front.map((_, i) => i).filter((i) => front[i] && x[i] > 0).sort((a, b) => x[a] - x[b]);
    const reference = data.reference.indexOf(true), ink = css("--ink");
    const traces = families.map((name) => family(name, scope, x, y)).concat(layouts.map((name, i) => ({
      type: "scatter", mode: "markers", name: "planes " + name, x: [null], y: [null], marker: { color: css("--quiet"), size: 7, symbol: symbols[i % symbols.length] },
    })));
    traces.push({
      type: "scatter", mode: "lines+markers", name: "Pareto front", x: onFront.map((i) => x[i]), y: onFront.map((i) => percent(y[i])),
      line: { shape: "hv", color: ink, width: 1.5 }, marker: { symbol: "circle-open", size: 11, color: ink }, hoverinfo: "skip",
    });
    traces.push({
      type: "scatter", mode: "markers", name: data.rule[reference] + " (published)", x: [x[reference]], y: [percent(y[reference])],
      marker: { symbol: "star", size: 17, color: "#d62728", line: { color: ink, width: 1 } }, text: [hover(scope, reference)], hovertemplate: "%{text}<extra></extra>",
    });
    const limits = scope.optimal_bits_saving;
    if (unit === "bits") traces.push({
      type: "scatter", mode: "markers", name: "limit at the same worst-case error", x: onFront.map((i) => x[i]), y: onFront.map((i) => percent(limits[i])),
      marker: { symbol: "x-thin", size: 8, line: { color: ink, width: 1.5 } }, text: onFront.map((i) => hover(scope, i)), hovertemplate: "at most %{y:.1f} % where<br>%{text}<extra></extra>",
    });
    const tops = unit === "bits" ? y.concat(limits) : y;
    const shown = x.filter((v, i) => v > 0 && y[i] > 0.002 && v < 1).map(Math.log10);
    const range = shown.length ? [Math.min(...shown) - 0.2, Math.max(...shown) + 0.2] : undefined;
    const high = Math.max(...tops.filter((v, i) => x[i % x.length] > 0 && x[i % x.length] < 1).map(percent), 1);
    draw("frontier", traces, {
      xaxis: { title: { text: { median: "relative output error, median", p99: "relative output error, 99th percentile", bound: "proven bound of the relative output error, median" }[error] }, type: "log", exponentformat: "power", range },
      yaxis: { title: { text: "saving in " + unit + " (%)" }, range: [Math.min(0, ...y.map(percent)) < 0 ? -3 : -1, high * 1.08] },
      shapes: x[reference] === null ? [] : [{ type: "line", x0: x[reference], x1: x[reference], y0: 0, y1: 1, yref: "paper", line: { color: "#d62728", width: 1, dash: "dot" } }],
      legend: { orientation: "h", y: 1.2, x: 0 },
    });
  }

  function equal() {
    const scope = byId("scope").value, measure = byId("measure").value;
    for (const part of document.querySelectorAll("[data-scope]")) part.hidden = part.dataset.scope !== scope || part.dataset.measure !== measure;
    const held = data.equal[measure], names = held.layers.map((l) => "layer " + l);
    draw("layers", [
      { type: "bar", name: data.rule[data.reference.indexOf(true)] + " (published)", x: names, y: held.reference.map(percent), marker: { color: "#d62728" }, hovertemplate: "%{x}: %{y:.1f} %<extra></extra>" },
      { type: "bar", name: "best of the others", x: names, y: held.best.map(percent), marker: { color: palette[0] }, text: held.rule, textposition: "none", hovertemplate: "%{x}: %{y:.1f} %<br>%{text}<extra></extra>" },
    ], { barmode: "group", yaxis: { title: { text: "bytes saved (%)" } }, xaxis: { type: "category" } });
  }

  for (const id of ["scope", "error", "unit"]) byId(id).addEventListener("change", () => { frontier(); equal(); });
  byId("measure").addEventListener("change", equal);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { frontier(); equal(); });
  frontier();
  equal();
  document.documentElement.dataset.ready = "true";
})();
