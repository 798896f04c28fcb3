(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const HEAT = {
    key_bits_mean: { unit: "bits", text: (v) => v.toFixed(1) },
    value_bits_mean: { unit: "bits", text: (v) => v.toFixed(1) },
    bytes_saving: { unit: "%", scale: (v) => 100 * v, text: (v) => v.toFixed(0) },
    output_relative_error_to_exact_median: { unit: "log₁₀", scale: Math.log10, text: (v) => v.toFixed(1) },
  };

  function heat(held) {
    for (const name of Object.keys(HEAT)) {
      const kind = HEAT[name], scale = kind.scale || ((v) => v);
      const z = held.heat.maps[name].map((row) => row.map((v) => (v === null || (kind.scale === Math.log10 && v === 0) ? null : scale(v))));
      const cells = held.heat.layers.length * held.heat.kv_heads.length;
      draw("heat-" + name, [{
        type: "heatmap", z, x: held.heat.kv_heads.map(String), y: held.heat.layers.map(String), colorscale: "Cividis",
        reversescale: name !== "output_relative_error_to_exact_median" && name !== "bytes_saving",
        colorbar: { title: { text: kind.unit }, thickness: 12 }, xgap: 1, ygap: 1,
        text: cells <= 120 ? z.map((row) => row.map((v) => (v === null ? "" : kind.text(v)))) : undefined, texttemplate: cells <= 120 ? "%{text}" : undefined,
        hovertemplate: "layer %{y}, kv head %{x}: %{z:.4g} " + kind.unit + "<extra></extra>",
      }], { xaxis: { title: { text: "kv head" }, type: "category" }, yaxis: { title: { text: "layer" }, type: "category", autorange: "reversed" } });
    }
  }

  function levels(held) {
    const shades = ["#d9e6f2", "#8fb8de", "#3f7fb5", "#0b3c66", "#062038", "#000000"];
    draw("levels", held.levels.widths.map((width, i) => ({
      type: "bar", orientation: "h", name: width + " bits", y: ["keys", "values"], x: [100 * held.levels.key[i], 100 * held.levels.value[i]],
      marker: { color: shades[i % shades.length], line: { color: "#777777", width: 0.5 } }, hovertemplate: "%{y} at " + width + " bits: %{x:.1f} %<extra></extra>",
    })), { barmode: "stack", xaxis: { title: { text: "share (%)" }, range: [0, 100] }, yaxis: { autorange: "reversed" }, legend: { orientation: "h", y: 1.15, traceorder: "normal" } });
  }

  function savings(held) {
    const names = { bits: "ideal bits", bytes: "bytes", sectors: "32-byte sectors", atoms: "64-byte atoms", lines: "128-byte lines", step_bytes: "bytes of the step" };
    const keys = Object.keys(names);
    draw("savings", [{
      type: "bar", x: keys.map((k) => names[k]), y: keys.map((k) => 100 * held.savings[k]), marker: { color: colour.key },
      text: keys.map((k) => (100 * held.savings[k]).toFixed(1) + " %"), textposition: "auto", hovertemplate: "%{x}: %{y:.2f} %<extra></extra>",
    }], { yaxis: { title: { text: "saving (%)" } }, xaxis: {} });
  }

  function waste() {
    const positions = data.waste.key.map((_, i) => i + 1);
    draw("waste", ["key", "value"].map((kind) => ({
      type: "bar", name: kind + "s", x: positions, y: data.waste[kind].map((v) => 100 * v), marker: { color: colour[kind] },
      hovertemplate: "bit %{x}: %{y:.1f} % of " + kind + "s<extra></extra>",
    })), { xaxis: { title: { text: "significand bit (1 leading, " + positions.length + " last)" }, dtick: 1 }, yaxis: { title: { text: "wasted in (% of numbers)" }, range: [0, 100] } });
  }

  function errors(held) {
    const edges = held.errors.log10_edges, centre = edges.slice(1).map((e, i) => Math.pow(10, (e + edges[i]) / 2));
    const curves = [["rounding", "exact output, rounded", colour.rounding], ["full", "full read", colour.full], ["rule", held.rule, colour.key]];
    const bound = {
      type: "scatter", mode: "lines", line: { shape: "hvh", color: colour.value, width: 1.5, dash: "dash" }, name: "proven bound",
      x: centre, y: held.errors.bound.map((v) => 100 * v), hovertemplate: "proven bound: %{y:.1f} % near %{x:.1e}<extra></extra>",
    };
    draw("errors", curves.map(([key, name, c]) => ({
      type: "scatter", mode: "lines", line: { shape: "hvh", color: c, width: 2 }, fill: "tozeroy", fillcolor: c + "22", name,
      x: centre, y: held.errors[key].map((v) => 100 * v), hovertemplate: name + ": %{y:.1f} % near %{x:.1e}<extra></extra>",
    })).concat([bound]), { xaxis: { title: { text: "relative output error" }, type: "log", exponentformat: "power", range: range(held.errors, centre) }, yaxis: { title: { text: "share of steps (%)" }, rangemode: "tozero" } });
  }

  function range(held, centre) {
    const used = centre.filter((_, i) => held.rule[i] + held.full[i] + held.rounding[i] + held.bound[i] > 0).map(Math.log10);
    return [Math.min(...used) - 0.3, Math.max(...used) + 0.3];
  }

  function tightness(held) {
    const edges = held.tightness.log10_edges, centre = edges.slice(1).map((e, i) => Math.pow(10, (e + edges[i]) / 2));
    const curves = [["score", "scores (max norm)", colour.key], ["output", "output (relative, 2-norm)", colour.value]];
    draw("tightness", curves.map(([key, name, c]) => ({
      type: "scatter", mode: "lines", line: { shape: "hvh", color: c, width: 2 }, fill: "tozeroy", fillcolor: c + "22", name,
      x: centre, y: held.tightness[key].map((v) => 100 * v), hovertemplate: name + ": %{y:.1f} % near %{x:.3g}<extra></extra>",
    })), { xaxis: { title: { text: "bound / true error" }, type: "log", range: [0, edges[edges.length - 1]] }, yaxis: { title: { text: "share of steps (%)" }, rangemode: "tozero" } });
  }

  function head(held, index) {
    const t = held.tokens[index], c = held.channels[index];
    const binned = t.bin_tokens > 1 ? " (mean of " + t.bin_tokens + ")" : "";
    draw("tokens", [
      { type: "scatter", mode: "lines", name: "attention probability", x: t.token, y: t.mass.map((m) => (m > 0 ? m : null)), yaxis: "y2", line: { color: colour.mass, width: 1 }, opacity: 0.8 },
      { type: "scatter", mode: "lines", name: "bits read", x: t.token, y: t.bits, line: { color: colour.key, width: 1.5 } },
    ], { xaxis: { title: { text: "token" + binned } }, yaxis: { title: { text: "bits per value" } }, yaxis2: { title: { text: "probability" }, overlaying: "y", side: "right", type: "log", exponentformat: "power", showgrid: false }, margin: { l: 55, r: 60, t: 10, b: 45 } });
    const x = c.key_bits.map((_, i) => i);
    draw("channels", [
      { type: "bar", name: "bits read of keys", x, y: c.key_bits, marker: { color: colour.key } },
      { type: "scatter", mode: "lines+markers", name: "bits wasted in keys", x, y: c.key_wasted, line: { color: colour.mass, width: 1 }, marker: { size: 4 } },
      { type: "scatter", mode: "lines+markers", name: "bits wasted in values", x, y: c.value_wasted, line: { color: colour.value, width: 1 }, marker: { size: 4 } },
    ], { xaxis: { title: { text: "channel" } }, yaxis: { title: { text: "bits" }, range: [0, data.full_bits] } });
  }

  function heads(held, chosen) {
    const select = document.getElementById("head");
    select.replaceChildren(...held.tokens.map((t, i) => new Option("layer " + t.layer + ", kv head " + t.kv_head, String(i))));
    select.value = String(Math.min(chosen, held.tokens.length - 1));
    head(held, Number(select.value));
  }

  const pickRule = document.getElementById("rule"), pickHead = document.getElementById("head");
  let current = 0;
  function show(index) {
    current = index;
    for (const part of document.querySelectorAll("[data-rule]")) part.hidden = Number(part.dataset.rule) !== index;
    const held = data.rules[index];
    heat(held); levels(held); savings(held); errors(held); tightness(held); heads(held, Number(pickHead.value || 0));
  }
  if (pickRule) pickRule.addEventListener("change", () => show(Number(pickRule.value)));
  pickHead.addEventListener("change", () => head(data.rules[current], Number(pickHead.value)));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { waste(); show(current); });
  waste();
  show(0);
  document.documentElement.dataset.ready = "true";
})();
