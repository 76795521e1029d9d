// Domain information and drift over the traced steps, drawn by Plotly with a line where the scrubber stands.
// Plotly's bundle takes longer to start than all the rest, so it waits in the page as text until the curves come near.
const MoECurves = (() => {
  const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;"); // Plotly reads names as a kind of HTML
  const CONFIG = { displaylogo: false, displayModeBar: false, responsive: true, showTips: false };

  function start() {
    if (window.Plotly) return;
    const script = document.createElement("script");
    script.textContent = document.getElementById("plotly-bundle").textContent;
    document.head.append(script);
  }

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  function of(run, layer, steps) {
    const place = run.layers.indexOf(layer);
    const traces = place < 0 ? [] : run.steps;
    return traces.map((trace) => ({ ...trace.layers[place], at: steps.indexOf(trace.step) }));
  }

  function line(arm, points, values, axis) {
    return {
      x: points.map((point) => point.at),
      y: values.map((value) => value.value),
      customdata: values.map((value) => value.text),
      name: escaped(arm.name),
      legendgroup: arm.name,
      showlegend: axis === "y",
      yaxis: axis,
      mode: "lines+markers",
      line: { color: arm.colour, dash: arm.dash, width: 2 },
      marker: { size: 6 },
      hovertemplate: "%{customdata}",
    };
  }

  // From the lowest to the highest end of any arm's null at each step.
  function band(found) {
    const at = MoEData.distinct(found.map((point) => point.at));
    const ends = (side, pick) =>
      at.map((step) => pick(...found.filter((p) => p.at === step).map((p) => p.information.null.ends[side])));
    const edge = { x: at, mode: "lines", line: { width: 1, color: colour("--band") }, hoverinfo: "skip", legendgroup: "null" };
    return [
      { ...edge, y: ends(0, Math.min), showlegend: false },
      { ...edge, y: ends(1, Math.max), fill: "tonexty", fillcolor: colour("--band"), name: "permuted documents" },
    ];
  }

  // Beside the first step to its left, beside the last to its right, an arm farther out than the one before it.
  function fresh(arm, points, order) {
    const found = points.filter((point) => point.information.fresh !== null);
    const beside = (point) => point.at + (point.at === points[0].at ? -1 : 1) * 0.05 * (order + 1);
    return found.map((point, place) => ({
      x: [beside(point), beside(point)],
      y: point.information.fresh.ends,
      mode: "lines",
      line: { color: arm.colour, width: 5 },
      opacity: Number(colour("--pale")),
      hoverinfo: "skip",
      name: "untrained gates",
      legendgroup: "fresh",
      showlegend: order === 0 && place === 0,
    }));
  }

  function traces({ runs, layer }, steps) {
    const arms = runs.map((arm) => ({ arm, points: of(arm, layer, steps) }));
    const measured = arms.map(({ arm, points }) => ({ arm, points: points.filter((p) => p.information !== null) }));
    const moved = arms.map(({ arm, points }) => ({ arm, points: points.filter((p) => p.drift !== null) }));
    return [
      ...band(measured.flatMap(({ points }) => points)),
      ...measured.flatMap(({ arm, points }, place) => fresh(arm, points, place)),
      ...measured.map(({ arm, points }) => line(arm, points, points.map((point) => point.information), "y")),
      ...moved.map(({ arm, points }) => line(arm, points, points.map((point) => point.drift), "y2")),
    ];
  }

  const heading = (text, y) => ({ text, x: 0, y, xref: "paper", yref: "paper", xanchor: "left", yanchor: "bottom", showarrow: false });

  function layout({ where }, steps) {
    const grid = { gridcolor: colour("--line"), zerolinecolor: colour("--line"), automargin: true };
    return {
      height: 520,
      margin: { l: 12, r: 12, t: 12, b: 12 },
      paper_bgcolor: "rgba(0, 0, 0, 0)",
      plot_bgcolor: "rgba(0, 0, 0, 0)",
      font: { color: colour("--ink"), size: 13 },
      dragmode: false,
      hovermode: "x unified",
      hoverlabel: { bgcolor: colour("--raised"), font: { color: colour("--ink") } },
      legend: { orientation: "h", y: -0.2, yanchor: "top", x: 0 },
      xaxis: { ...grid, tickvals: steps.map((_, place) => place), ticktext: steps.map(String), title: { text: "step" }, anchor: "y2", fixedrange: true, range: [-0.4, steps.length - 0.6] },
      yaxis: { ...grid, domain: [0.54, 0.94], tickformat: ".0%", fixedrange: true },
      yaxis2: { ...grid, domain: [0, 0.4], rangemode: "tozero", fixedrange: true },
      annotations: [heading(`${where}: domain information, % of H(D)`, 0.95), heading(`${where}: drift, ‖W − W₀‖ ÷ ‖W₀‖`, 0.41)],
    };
  }

  // Drawn over Plotly's picture, since a shape in it would cost a new drawing at every step of the scrubber.
  function standing(element) {
    const rule = document.createElement("div");
    rule.className = "curves-rule";
    element.append(rule);
    return (at) => {
      const { _size: size, xaxis } = element._fullLayout;
      const [from, to] = xaxis.range;
      rule.style.left = `${size.l + (size.w * (at - from)) / (to - from)}px`;
      rule.style.top = `${size.t}px`;
      rule.style.height = `${size.h}px`;
    };
  }

  // Plotly heads what it says of a point with the tick's label, and a template would know the tick's place alone.
  function headed(element) {
    const layer = element.querySelector(".hoverlayer");
    new MutationObserver(() => {
      const title = layer.querySelector(".legendtitletext");
      if (title !== null && /^\d/.test(title.textContent)) title.textContent = `step ${title.textContent}`;
    }).observe(layer, { childList: true, subtree: true });
  }

  // `show({runs, layer, where})` draws, `mark(place)` moves the line; `where` says of which layer and seed the curves are.
  // `picked` is called with the place of a step that was clicked.
  function curves(element, steps, picked) {
    let view = null;
    let at = 0;
    let near = false;
    let stand = null;

    function draw() {
      if (!near || view === null) return;
      Plotly.react(element, traces(view, steps), layout(view, steps), CONFIG);
      if (stand !== null) return;
      stand = standing(element);
      headed(element);
      stand(at);
      element.on("plotly_afterplot", () => stand(at));
      element.on("plotly_click", (event) => picked(Math.round(event.points[0].x)));
    }

    const watch = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      watch.disconnect();
      start();
      near = true;
      draw();
    }, { rootMargin: "300px" });
    addEventListener("DOMContentLoaded", () => watch.observe(element)); // the bundle stands behind this script
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

    return {
      show(next) {
        if (view !== null && next.where === view.where) return;
        view = next;
        draw();
      },
      mark(place) {
        at = place;
        if (stand !== null) stand(at);
      },
    };
  }

  return { curves };
})();
