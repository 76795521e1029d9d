"use strict";
// The page of `moe-emergence explore`: asks its own server, shows the answer through MoETokens and textContent.
(() => {
  const LARGEST_CHANGES = 8;
  const at = (id) => document.getElementById(id);
  const facts = JSON.parse(at("facts").textContent);
  const off = new Map(facts.layers.map((layer) => [layer, new Set()]));
  let answer = null;
  let last = "/read"; // what a change of step or of experts asks for again
  let answered = "/read"; // what the answer shown was asked for by
  let asking = false;
  let passing = false; // whether what is said is of one click alone, and not of the answer
  let wanted = null;

  const layer = () => Number(document.querySelector("input[name=layer]:checked").value);
  const step = () => facts.steps[Number(at("step").value)];
  const reading = () => answer.after || answer.before;
  const ofLayer = (found) => found.layers.find((one) => one.layer === layer());

  // Words and numbers

  const known = (value) => value !== null && value !== undefined;
  const fixed = (value, digits) => (known(value) ? value.toFixed(digits).replace("-", "−") : "–");
  const percent = (share) => (known(share) ? `${(100 * share).toFixed(1)} %` : "–");
  const signed = (value, digits) => (known(value) && value > 0 ? "+" : "") + fixed(value, digits);
  const change = (place) => {
    const [before, after] = [answer.before.losses[place], answer.after.losses[place]];
    return known(before) && known(after) ? after - before : null;
  };

  function say(message, wrong) {
    passing = false;
    at("status").textContent = message;
    at("status").classList.toggle("alert", wrong === true);
  }

  // Asking: one request at a time; of those that come meanwhile the last one alone is sent

  async function ask(path) {
    last = wanted = path;
    if (asking) return;
    asking = true;
    at("result").setAttribute("aria-busy", "true");
    while (wanted !== null) {
      const now = wanted;
      wanted = null;
      await askOnce(now);
    }
    at("result").setAttribute("aria-busy", "false");
    asking = false;
  }

  function request(path) {
    const asked = { step: step(), text: at("text").value, off: [] };
    for (const [number, experts] of off) for (const expert of experts) asked.off.push({ layer: number, expert });
    if (path === "/continue") {
      for (const name of ["new", "temperature", "seed"]) asked[name] = at(name).value === "" ? null : Number(at(name).value);
    }
    return JSON.stringify(asked);
  }

  async function askOnce(path) {
    const body = request(path);
    const size = new TextEncoder().encode(body).length;
    if (size > facts.largest_body) {
      return refused(`the text is too long: ${size.toLocaleString("en")} bytes, where ${facts.largest_body.toLocaleString("en")} can be sent`);
    }
    say(path === "/read" ? "Reading…" : "Writing…");
    try {
      const response = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body });
      const found = await response.json().catch(() => ({ error: `the server answered ${response.status} ${response.statusText}` }));
      if (!response.ok) return refused(found.error || `the server answered ${response.status}`);
      const before = answer === null ? 0 : answer.tokens.text.length;
      answer = found;
      answered = path;
      show();
      report();
      if (answer.tokens.text.length !== before) view.select(0); // so that it shows what there is to know of a token
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;
      refused("the server does not answer: is moe-emergence explore still running?");
    }
  }

  // The step and the experts are again those of the answer that stands below; the text stays, to be mended
  function refused(message) {
    say(message, true);
    if (answer === null || wanted !== null) return;
    last = answered;
    setStep(facts.steps.indexOf(answer.step));
    for (const [number, experts] of off) {
      experts.clear();
      for (const one of answer.off) if (one.layer === number) experts.add(one.expert);
    }
    showExperts();
  }

  function setStep(place) {
    at("step").value = String(place);
    at("step-shown").textContent = String(step());
  }

  // Showing

  function show() {
    at("result").hidden = false;
    showTokens();
    showExperts();
    showEffect();
    showFollowing();
    if (at("listed").open) showList();
  }

  // What the answer is of; a change of layer shows the same answer, and leaves an error where it stands
  function report() {
    const count = answer.tokens.text.length;
    const written = answer.tokens.mark.filter((mark) => mark === "decode").length;
    const kinds = written > 0 ? ` (${count - written} read at once, ${written} written by the model, underlined)` : "";
    const loss = reading().mean_loss;
    const mean = known(loss) ? `, mean loss ${fixed(loss, 4)} nats` : "";
    say(`Step ${answer.step}: ${count} token${count === 1 ? "" : "s"}${kinds}${mean}. ${answer.note}`.trim());
  }

  function tokens() {
    const [found, routes, { text, label, mark }] = [reading(), ofLayer(reading()), answer.tokens];
    return text.map((piece, place) => ({
      text: piece,
      experts: routes.experts[place],
      weights: routes.weights[place],
      entropy: routes.entropy[place],
      loss: found.losses[place],
      label: label[place],
      mark: mark[place],
    }));
  }

  function describe(token, place) {
    const said = MoETokens.describe(token);
    if (answer.after === null) return said;
    const before = ofLayer(answer.before).experts[place].join(", ");
    return [...said, ["with all experts", `expert ${before}`], ["change of loss", `${signed(change(place), 3)} nats`]];
  }

  const view = MoETokens.view(at("tokens"), { experts: facts.experts, describe, label: "your text, coloured by expert" });
  const showTokens = () => view.show(tokens());

  function showExperts() {
    const counts = new Array(facts.experts).fill(0);
    const first = ofLayer(reading()).experts.map((slots) => slots[0]);
    for (const expert of first) counts[expert] += 1;
    at("experts-title").textContent = `Experts of layer ${layer()}`;
    const focused = document.activeElement?.dataset?.expert;
    const buttons = counts.map((count, expert) => expertButton(expert, count / first.length));
    if ([...off.values()].some((experts) => experts.size > 0)) buttons.push(allOn());
    at("experts").replaceChildren(...buttons);
    at("experts").querySelector(`[data-expert="${Number(focused)}"]`)?.focus();
  }

  function expertButton(expert, share) {
    const button = document.createElement("button");
    const isOff = off.get(layer()).has(expert);
    button.type = "button";
    button.className = `x${expert}`;
    button.dataset.expert = String(expert);
    button.setAttribute("aria-pressed", String(isOff));
    button.setAttribute("aria-label", `expert ${expert}, ${percent(share)} of tokens, switch off`);
    button.textContent = `${expert} · ${percent(share)}`;
    button.addEventListener("click", () => {
      const experts = off.get(layer());
      if (!experts.has(expert) && facts.experts - experts.size <= facts.top_k) return refuseClick(tooFew());
      if (!experts.delete(expert)) experts.add(expert);
      button.setAttribute("aria-pressed", String(experts.has(expert)));
      ask(last);
    });
    return button;
  }

  function refuseClick(message) {
    say(message, true);
    passing = true;
  }

  function forgetClick() {
    if (passing) report();
  }

  function tooFew() {
    const slots = `${facts.top_k} expert${facts.top_k === 1 ? "" : "s"}`;
    return `a token goes to ${slots}, and ${facts.top_k === 1 ? "this is" : "these are"} the last of layer ${layer()} that ${facts.top_k === 1 ? "is" : "are"} on: switch another on first`;
  }

  function allOn() {
    const button = document.createElement("button");
    button.type = "button";
    button.id = "all-on";
    button.textContent = "All on, in every layer";
    button.addEventListener("click", () => {
      for (const experts of off.values()) experts.clear();
      ask(last);
    });
    return button;
  }

  function showEffect() {
    at("effect").hidden = answer.after === null;
    if (answer.after === null) return;
    const [before, after] = [answer.before, answer.after];
    const predicted = before.losses.filter(known).length;
    const which = facts.layers
      .map((number) => [number, answer.off.filter((one) => one.layer === number).map((one) => one.expert)])
      .filter(([, experts]) => experts.length > 0)
      .map(([number, experts]) => `expert${experts.length > 1 ? "s" : ""} ${experts.join(", ")} of layer ${number}`);
    const difference = known(before.mean_loss) && known(after.mean_loss) ? after.mean_loss - before.mean_loss : null;
    const moved = ofLayer(after).experts.filter((slots, place) => slots.join() !== ofLayer(before).experts[place].join());
    at("effect-said").textContent =
      `Without ${which.join(" and ")}: mean loss ${fixed(before.mean_loss, 4)} → ${fixed(after.mean_loss, 4)} nats ` +
      `(${signed(difference, 4)}, over ${predicted} token${predicted === 1 ? "" : "s"}). In layer ${layer()}, ` +
      `${moved.length} of ${answer.tokens.text.length} tokens go elsewhere than with all experts.`;
    const places = before.losses.map((_, place) => place).filter((place) => change(place));
    places.sort((one, other) => Math.abs(change(other)) - Math.abs(change(one)) || one - other);
    const rows = places.slice(0, LARGEST_CHANGES).map((place) => [
      place + 1, `${spelledAt(place)} → ${spelledAt(place + 1)}`,
      fixed(before.losses[place], 3), fixed(after.losses[place], 3), signed(change(place), 3),
    ]);
    table("changes", ["place", "*token → next", "all experts", "switched off", "change"], rows);
  }

  const spelledAt = (place) => MoETokens.spelled(answer.tokens.text[place]);

  function showFollowing() {
    const sides = answer.after === null ? [["", answer.before]] : [["all experts: ", answer.before], ["switched off: ", answer.after]];
    const heads = ["rank", ...sides.flatMap(([name]) => [`*${name}token`, "probability"])];
    const rows = answer.before.following.map((_, rank) => [
      rank + 1,
      ...sides.flatMap(([, found]) => {
        const { text, probability } = found.following[rank];
        return [MoETokens.spelled(text), percent(probability)];
      }),
    ]);
    table("following", heads, rows);
  }

  function showList() {
    const heads = ["place", "*token", "*experts", "*weights", "entropy", "loss", "*class", "*read in"];
    if (answer.after !== null) heads.push("change of loss");
    const rows = tokens().map((token, place) => [
      place + 1, MoETokens.spelled(token.text), token.experts.join(", "), token.weights.map((weight) => fixed(weight, 2)).join(", "),
      fixed(token.entropy, 2), fixed(token.loss, 2), token.label || "–", MoETokens.phase(token.mark || "prefill"),
      ...(answer.after === null ? [] : [signed(change(place), 3)]),
    ]);
    table("list", heads, rows);
  }

  // A heading that begins with * is of a column of text
  function table(id, heads, rows) {
    const isText = heads.map((head) => head.startsWith("*"));
    const row = (tag, cells) => {
      const made = document.createElement("tr");
      cells.forEach((cell, place) => {
        const element = document.createElement(tag);
        if (isText[place]) element.className = tag === "td" ? "text token" : "text";
        element.textContent = tag === "th" ? cell.replace(/^\*/, "") : String(cell);
        made.append(element);
      });
      return made;
    };
    const [head, body] = [document.createElement("thead"), document.createElement("tbody")];
    head.append(row("th", heads));
    body.append(...rows.map((cells) => row("td", cells)));
    at(id).replaceChildren(head, body);
  }

  // The text is there again after another address, as long as the tab is open; where nothing may be stored it is not.
  function keepText() {
    try {
      sessionStorage.setItem("text", at("text").value);
    } catch {
      return;
    }
  }

  function keptText() {
    try {
      return sessionStorage.getItem("text");
    } catch {
      return null;
    }
  }

  at("read").addEventListener("click", () => ask("/read"));
  at("continue").addEventListener("click", () => ask("/continue"));
  at("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      ask("/read");
    }
  });
  at("text").addEventListener("input", () => {
    forgetClick();
    keepText();
  });
  at("step").addEventListener("input", () => {
    at("step-shown").textContent = String(step());
    ask(last);
  });
  at("layers").addEventListener("change", () => {
    forgetClick();
    if (answer !== null) show();
  });
  at("listed").addEventListener("toggle", () => at("listed").open && showList());
  setStep(facts.steps.length - 1); // browsers restore what it was before a reload
  at("text").value = keptText() ?? at("text").value;
  ask("/read");
})();
