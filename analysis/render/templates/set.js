(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  if (!data.rules.length) {
    document.documentElement.dataset.ready = "true";
    return;
  }
  const LOG = "output_relative_error_to_exact_median";
  const scaled = (name) => (v) => {
    if (v === null) return null;
    if (name === LOG) return v > 0 ? Math.log10(v) : null;
    return name === "bytes_saving" ? 100 * v : v;
  };
  const unit = (name, what) => (name === LOG ? (what === "mean" ? "log₁₀" : "log₁₀ of the factor") : name === "bytes_saving" ? (what === "mean" ? "%" : "points") : "bits");

  function heat(held, name, what) {
    const z = held.heat.maps[name][what].map((row) => row.map(scaled(name)));
    const few = held.heat.layers.length * held.heat.kv_heads.length <= 120;
    draw("heat-" + what, [{
      type: "heatmap", z, x: held.heat.kv_heads.map(String), y: held.heat.layers.map(String), colorscale: "Cividis", xgap: 1, ygap: 1,
      colorbar: { title: { text: unit(name, what) }, thickness: 12 },
      text: few ? z.map((row) => row.map((v) => (v === null ? "" : v.toFixed(what === "mean" ? 1 : 2)))) : undefined, texttemplate: few ? "%{text}" : undefined,
      hovertemplate: "layer %{y}, kv head %{x}: %{z:.4g} " + unit(name, what) + "<extra></extra>",
    }], { xaxis: { title: { text: "kv head" }, type: "category" }, yaxis: { title: { text: "layer" }, type: "category", autorange: "reversed" } });
  }

  function layers(held) {
    draw("layers", [["key_bits_mean", "keys", colour.key], ["value_bits_mean", "values", colour.value]].map(([name, text, c]) => {
      const of = held.layers[name];
      const away = (ends, sign) => of.mean.map((v, i) => (ends[i] === null || v === null ? 0 : sign * (ends[i] - v)));
      return {
        type: "scatter", mode: "lines+markers", name: text, x: held.layers.layers, y: of.mean, line: { color: c, width: 1.5 }, marker: { color: c },
        error_y: { type: "data", symmetric: false, array: away(of.high, 1), arrayminus: away(of.low, -1), color: c },
        hovertemplate: text + " of layer %{x}: %{y:.2f} bits<extra></extra>",
      };
    }), { xaxis: { title: { text: "layer" } }, yaxis: { title: { text: "bits of " + data.full_bits } } });
  }

  function show() {
    const chosen = Number(document.getElementById("rule").value), held = data.rules[chosen];
    const name = document.getElementById("measure").value;
    heat(held, name, "mean");
    heat(held, name, "spread");
    layers(held);
    for (const section of document.querySelectorAll("section[data-rule]")) section.hidden = section.dataset.rule !== String(chosen);
  }
  for (const id of ["rule", "measure"]) document.getElementById(id).addEventListener("change", show);
  show();
  document.documentElement.dataset.ready = "true";
})();
