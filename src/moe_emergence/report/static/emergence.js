// The Emergence section: a scrubber over traced steps moves two arms' panels and the curves; the address keeps it all.
(() => {
  const source = document.getElementById("emergence-data");
  if (source === null) return;
  const data = JSON.parse(source.textContent);
  const find = (name) => document.getElementById(`emergence-${name}`);
  const steps = MoEData.distinct(data.runs.flatMap((run) => run.steps.map((trace) => trace.step)));
  const layers = MoEData.distinct(data.runs.flatMap((run) => run.layers));
  const state = { layer: layers.at(-1), seed: data.seeds[0], arm: data.arms[0], versus: data.versus, document: 0 };
  const runOf = (arm) => MoEData.runOf(data, arm, state.seed);
  state.place = steps.indexOf(runOf(state.arm).steps.at(-1).step);
  const slow = matchMedia("(prefers-reduced-motion: reduce)");
  let playing = null;

  const panels = [["arm", "first"], ["versus", "second"]].map(([field, place]) => ({
    field,
    panel: MoEPanel.panel(find(place), data, (...at) => panels.forEach(({ panel }) => panel.point(...at))),
  }));
  const curves = MoECurves.curves(find("curves"), steps, (place) => change({ place }));

  function options(select, entries, label) {
    select.replaceChildren(...entries.map((entry, place) => {
      const option = document.createElement("option");
      option.value = String(place);
      option.textContent = label(entry, place);
      return option;
    }));
  }

  function nameOf(shown, place) {
    return `${shown.domain}: ${shown.name}${data.documents.findIndex((other) => other.name === shown.name) === place ? "" : ` (${place})`}`;
  }

  function address() {
    const parts = { step: steps[state.place], layer: state.layer };
    if (data.seeds.length > 1) parts.seed = state.seed;
    parts.arm = state.arm;
    if (state.versus !== null) parts.versus = state.versus;
    parts.document = data.documents[state.document].name;
    return `#${new URLSearchParams(parts)}`;
  }

  function nearest(values, wanted) {
    return values.reduce((best, value, place) =>
      Math.abs(value - wanted) < Math.abs(values[best] - wanted) ? place : best, 0);
  }

  const KEYS = ["step", "layer", "seed", "arm", "versus", "document"];

  // What stands beside an arm where the address does not say: what stands there, if that is another.
  const besides = (arm) => [state.versus, data.versus, ...data.arms].find((other) => other !== arm);

  // What the address asks for; what it says that is not so is passed over, numbers beyond the ends are those at the ends.
  function asked() {
    const given = new URLSearchParams(location.hash.slice(1));
    const number = (name) => (/^-?\d+$/.test(given.get(name) || "") ? Number(given.get(name)) : null);
    const found = {};
    if (number("step") !== null) found.place = nearest(steps, number("step"));
    if (number("layer") !== null) found.layer = layers[nearest(layers, number("layer"))];
    if (data.seeds.includes(number("seed"))) found.seed = number("seed");
    if (data.arms.includes(given.get("arm"))) found.arm = given.get("arm");
    if (state.versus !== null && data.arms.includes(given.get("versus"))) found.versus = given.get("versus");
    else if (state.versus !== null && found.arm !== undefined) found.versus = besides(found.arm);
    const document_ = data.documents.findIndex((shown) => shown.name === given.get("document"));
    if (document_ >= 0) found.document = document_;
    return found;
  }

  // Goes to what the address asks for, if it is this section's; what it says that is not so gives way to what is shown
  function follow() {
    const given = new URLSearchParams(location.hash.slice(1));
    if (!KEYS.some((key) => given.has(key))) return render();
    pause();
    change(asked());
    document.getElementById("emergence").scrollIntoView();
  }

  function render() {
    const step = steps[state.place];
    const range = find("step");
    range.value = String(state.place);
    range.setAttribute("aria-valuetext", `step ${step}`);
    find("at").textContent = `step ${step.toLocaleString("en")}`;
    find("layer").value = String(layers.indexOf(state.layer));
    find("seed").value = String(data.seeds.indexOf(state.seed));
    find("document").value = String(state.document);
    const shown = data.documents[state.document];
    find("source").textContent = shown.source;
    for (const { field, panel } of panels) {
      if (state[field] === null) continue;
      find(field).value = String(data.arms.indexOf(state[field]));
      panel.show({ run: runOf(state[field]), step, layer: state.layer, seed: state.seed, shown });
    }
    const finding = data.findings.find(({ layer, seed }) => layer === state.layer && seed === state.seed);
    find("finding").textContent = finding.text;
    const runs = data.arms.map(runOf).filter((run) => run.seed === state.seed);
    curves.show({ runs, layer: state.layer, where: finding.where });
    curves.mark(state.place);
    find("link").href = address();
  }

  function change(next) {
    Object.assign(state, next);
    render();
    history.replaceState(null, "", address());
  }

  function pause() {
    clearInterval(playing);
    playing = null;
    find("play").textContent = "Play";
  }

  function advance() {
    change({ place: state.place + 1 });
    if (state.place === steps.length - 1) pause();
  }

  function play() {
    if (state.place === steps.length - 1) change({ place: 0 });
    playing = setInterval(advance, slow.matches ? 1600 : 700);
    find("play").textContent = "Pause";
  }

  function begin() {
    options(find("layer"), layers, (layer) => `layer ${layer}`);
    options(find("document"), data.documents, nameOf);
    options(find("seed"), data.seeds, String);
    find("seed").parentElement.hidden = data.seeds.length === 1;
    for (const { field } of panels) options(find(field), data.arms, (arm) => arm);
    find("step").max = String(steps.length - 1);
    find("step").disabled = find("play").disabled = steps.length === 1;
    find("second").hidden = state.versus === null;
    find("step").addEventListener("input", (event) => {
      pause();
      change({ place: Number(event.target.value) });
    });
    find("play").addEventListener("click", () => (playing === null ? play() : pause()));
    find("layer").addEventListener("change", (event) => change({ layer: layers[Number(event.target.value)] }));
    find("seed").addEventListener("change", (event) => change({ seed: data.seeds[Number(event.target.value)] }));
    find("document").addEventListener("change", (event) => change({ document: Number(event.target.value) }));
    for (const { field } of panels) {
      find(field).addEventListener("change", (event) => change({ [field]: data.arms[Number(event.target.value)] }));
    }
    addEventListener("hashchange", follow);
    find("view").hidden = false;
    follow();
  }

  begin();
})();
