// The Emergence section's data: base64 arrays, read when they are first asked for.
const MoEData = (() => {
  const ABSENT = 0xffff;
  const HUNDREDTHS = 100;

  function bytes(text) {
    const raw = atob(text);
    return Uint8Array.from({ length: raw.length }, (_, place) => raw.charCodeAt(place));
  }

  const pairs = (text) => new Uint16Array(bytes(text).buffer); // little-endian, as every browser's machine is
  const exact = (value) => (value === ABSENT ? null : value / HUNDREDTHS);

  function remembered(make) {
    const known = new Map();
    return (key) => {
      if (!known.has(key)) known.set(key, make(key));
      return known.get(key);
    };
  }

  const lossOf = remembered((step) => pairs(step.loss));
  const routesOf = remembered((layer) => ({
    experts: bytes(layer.experts),
    weights: layer.weights === null ? null : bytes(layer.weights),
    margins: layer.margins === null ? null : bytes(layer.margins),
    entropy: pairs(layer.entropy),
  }));

  // The tokens of one document as MoETokens shows them.
  function tokens(run, step, layer, shown) {
    const routes = routesOf(layer);
    const loss = lossOf(step);
    return shown.texts.map((text, place) => {
      const at = shown.start + place;
      const slots = Array.from({ length: run.slots }, (_, slot) => at * run.slots + slot);
      return {
        text,
        experts: slots.map((slot) => routes.experts[slot]),
        weights: slots.map((slot) => (routes.weights === null ? 1 : routes.weights[slot] / HUNDREDTHS)),
        margin: routes.margins === null ? null : routes.margins[at] / HUNDREDTHS,
        entropy: exact(routes.entropy[at]),
        loss: exact(loss[at]),
        label: shown.classes === null ? null : shown.classes[place],
        mark: null,
      };
    });
  }

  // The run's last trace at or before a step; its first one where it has none yet.
  function traceAt(run, step) {
    return run.steps.findLast((trace) => trace.step <= step) || run.steps[0];
  }

  // The arm's run of a seed; its first one where it has none of that seed.
  function runOf(data, arm, seed) {
    const own = data.runs.filter((run) => run.name === arm);
    return own.find((run) => run.seed === seed) || own[0];
  }

  const sum = (values) => values.reduce((total, value) => total + value, 0);

  // Rows of domains, then the load: each expert's part of the row's sum; null for a domain without tokens.
  function shares(layer) {
    const parts = (row) => {
      const total = sum(row);
      return row.map((count) => (total > 0 ? count / total : null));
    };
    const load = layer.counts[0].map((_, expert) => sum(layer.counts.map((row) => row[expert])));
    return { domains: layer.counts.map(parts), load: parts(load) };
  }

  const distinct = (values) => [...new Set(values)].sort((one, other) => one - other);

  return { tokens, traceAt, runOf, shares, distinct };
})();
