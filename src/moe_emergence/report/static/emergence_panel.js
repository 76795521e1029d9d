// One run at one step and layer: its measures, the text on its experts' colours, domains x experts and loads.
const MoEPanel = (() => {
  const percent = (share) => (share === null ? "–" : (100 * share).toFixed(1));

  function made(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  function put(cell, value, text) {
    const data = cell.querySelector("data");
    data.value = value === null ? "" : String(value);
    data.textContent = text;
  }

  function head(...cells) {
    const row = made("tr");
    for (const text of cells) {
      const cell = made("th", "", text);
      cell.scope = "col";
      row.append(cell);
    }
    const whole = made("thead");
    whole.append(row);
    return whole;
  }

  function valueCell(className) {
    const cell = made("td", className);
    cell.append(made("data"));
    return cell;
  }

  // Experts are rows, so that 64 of them are a long table and not a wide one; made once, filled again at every step.
  function table(data, experts) {
    const element = made("table", "emergence-shares");
    const body = made("tbody");
    const rows = Array.from({ length: experts }, (_, expert) => {
      const row = made("tr");
      const name = made("th");
      name.scope = "row";
      name.append(made("span", `swatch x${expert}`, String(expert)));
      const cells = data.domains.map(() => valueCell("share"));
      const load = valueCell("load");
      const bar = made("span", "bar");
      const fill = made("span", "fill");
      const uniform = made("span", "uniform");
      bar.append(fill, uniform);
      const word = made("span", "word");
      load.append(bar, word);
      row.append(name, ...cells, load);
      body.append(row);
      return { cells, load, fill, uniform, word };
    });
    const caption = made("caption");
    element.append(caption, head("expert", ...data.domains, "load, %"), body);
    return { element, rows, caption };
  }

  function shade(data, share, experts) {
    const middle = (data.shades.length - 1) / 2;
    const above = share > 0 ? Math.log2(share * experts) / data.limit : -1;
    return data.shades[Math.round(middle * (1 + Math.min(1, Math.max(-1, above))))];
  }

  function fillTable(data, shown, run, layer) {
    const { domains, load } = MoEData.shares(layer);
    const widest = 2 ** data.limit / run.experts; // no load is above the largest share
    shown.caption.textContent =
      `% of each domain's assignments, on the whole probe set; uniform: 1/E = ${percent(1 / run.experts)} %`;
    shown.rows.forEach((row, expert) => {
      row.cells.forEach((cell, domain) => {
        const share = domains[domain][expert];
        put(cell, share, percent(share));
        const [ground, ink] = share === null ? ["", ""] : shade(data, share, run.experts);
        cell.style.backgroundColor = ground;
        cell.style.color = ink;
      });
      put(row.load, load[expert], percent(load[expert]));
      row.fill.style.width = `${Math.min(100, (100 * load[expert]) / widest)}%`;
      row.uniform.style.left = `${100 / run.experts / widest}%`;
      const word = layer.hot.includes(expert) ? "hot" : layer.dead.includes(expert) ? "dead" : "";
      row.word.textContent = word;
      row.load.dataset.state = word;
    });
  }

  const ONLY_AT_THE_ENDS = "only at the first and last step";
  const NOT_MEASURED = "not measured at this step";

  // The same lines at every step: of what is measured at one of `all` the layer's steps.
  function measures(layer, all) {
    const found = layer.information;
    const said = [];
    if (all.some((one) => one.information !== null)) {
      said.push(["domain information, % of H(D)", found?.value ?? null, found?.text ?? NOT_MEASURED, "information"]);
      said.push(["permuted documents would show", null, found?.null.text ?? NOT_MEASURED, "null"]);
    }
    if (all.some((one) => one.information?.fresh)) {
      said.push(["untrained gates show", null, found?.fresh?.text ?? ONLY_AT_THE_ENDS, "fresh"]);
    }
    said.push(["effective experts", layer.effective.value, layer.effective.text, "effective"]);
    if (layer.drift !== null) said.push(["drift from the ancestor", layer.drift.value, layer.drift.text, "drift"]);
    return said;
  }

  const longest = (texts) => texts.reduce((best, text) => (text.length > best.length ? text : best), "");

  // Each number has the room of the longest one of any step, so that nothing below moves with the scrubber.
  function fillMeasures(list, layer, all) {
    const ever = all.flatMap((one) => measures(one, all));
    const items = measures(layer, all).map(([term, value, text, name]) => {
      const item = made("div");
      const detail = made("dd");
      const number = made("data", "", text);
      if (value !== null) number.value = String(value);
      number.dataset.measure = name;
      detail.dataset.room = longest(ever.filter((one) => one[3] === name).map((one) => one[2]));
      detail.append(number);
      item.append(made("dt", "", term), detail);
      return item;
    });
    list.replaceChildren(...items);
  }

  // `show({run, step, layer, seed, shown})`; `pointed` is called as MoETokens' `chosen` is, `point` does so in this panel.
  function panel(element, data, pointed) {
    const note = made("p", "panel-note");
    const list = made("dl", "panel-measures");
    const text = made("div", "panel-text");
    const scroll = made("div", "scroll");
    const absent = made("p", "panel-absent");
    const whole = made("div", "panel-whole");
    scroll.tabIndex = 0;
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", "expert × domain shares and loads");
    whole.append(list, text, scroll);
    element.append(note, absent, whole);
    let experts = 0;
    let view = null;
    let grid = null;

    function prepare(run) {
      if (run.experts === experts) return;
      experts = run.experts;
      view = MoETokens.view(text, { experts, chosen: pointed, label: "probe text, coloured by expert" });
      grid = table(data, experts);
      scroll.replaceChildren(grid.element);
    }

    function show({ run, step, layer, seed, shown }) {
      const trace = MoEData.traceAt(run, step);
      const place = run.layers.indexOf(layer);
      const other = run.seed === seed ? "" : `no run of seed ${seed}; this is seed ${run.seed}`;
      const late = trace.step === step ? "" : `no trace at step ${step}; this is step ${trace.step}`;
      note.textContent = [other, run.going ? `still going, last trace at step ${run.steps.at(-1).step}` : "", late]
        .filter(Boolean).join("; ");
      absent.textContent = place < 0 ? `no experts in layer ${layer}: they are in ${run.layers.join(", ")}` : "";
      whole.hidden = place < 0;
      if (place < 0) return;
      prepare(run);
      fillMeasures(list, trace.layers[place], run.steps.map((one) => one.layers[place]));
      view.show(MoEData.tokens(run, trace, trace.layers[place], shown));
      fillTable(data, grid, run, trace.layers[place]);
    }

    const point = (index, sticks) => view !== null && (sticks ? view.select(index) : view.say(index));
    return { show, point };
  }

  return { panel };
})();
