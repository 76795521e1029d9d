"use strict";
// Text as tokens on the colour of the expert each went to first; the report and `explore` share it.
//
// MoETokens.view(element, {experts, describe, label, chosen}) fills `element` and returns {show(tokens), select(index), say(index)}.
//   experts   how many there are: the page has a CSS rule .x0 ... for each (report.passages.style_rules)
//   describe  optional, (token, index) -> [[name, value], ...]: what the readout says
//   label     optional: what the text is, for screen readers
//   chosen    optional, called with (index or null, sticks) when the reader points at another token; it sticks when
//             clicked or focused, so that another view can `select` it, and else `say` what is known of it
// A token is {text, experts, weights, margin, entropy, loss, label, mark}, most probable expert first; what is not known
// is null. It is paler the less weight its first expert has; where a margin is given, the smaller that is.
// Text reaches the page through textContent alone.
const MoETokens = (() => {
  const WEAKEST = 0.3; // of the expert's colour, so that its hue shows even at a weight of nothing
  const LEVELS = 20; // of strength: few enough to work colours out once
  const BLANKS = { " ": "␣", "\n": "⏎", "\t": "⇥" };
  const STEPS = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -10, ArrowDown: 10 };

  const spelled = (text) => text.replace(/[ \n\t]/g, (blank) => BLANKS[blank]) || "(part of a character)";

  function printed(text) {
    if (text === "") return "◌";
    const blank = text.trim() === "" ? text.replace(/[ \t]/g, (found) => BLANKS[found]) : text;
    return blank.replace(/\n/g, "⏎\n");
  }

  function channels(colour) {
    const found = (colour.match(/[\d.]+/g) || []).map(Number);
    return found.length < 3 || found[3] === 0 ? null : found.slice(0, 3);
  }

  function luminance(colour) {
    const [red, green, blue] = colour.map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  }

  // Black or white: one of them has a contrast of 4.58 at least with any colour.
  const inkOn = (colour) => (luminance(colour) > 0.1791 ? "#000000" : "#ffffff");

  function palette(element) {
    const probe = document.createElement("span");
    probe.hidden = true;
    element.append(probe);
    const read = () => channels(getComputedStyle(probe).backgroundColor);
    probe.style.backgroundColor = "var(--paper, Canvas)";
    const paper = read() || [255, 255, 255];
    probe.style.backgroundColor = "";
    const made = new Map();
    const colours = (expert, weight) => {
      const level = Math.round(LEVELS * Math.min(1, Math.max(0, weight)));
      const key = expert * (LEVELS + 1) + level;
      if (!made.has(key)) made.set(key, mixed(expert, WEAKEST + ((1 - WEAKEST) * level) / LEVELS));
      return made.get(key);
    };
    const mixed = (expert, strength) => {
      probe.className = `x${expert}`;
      const own = read() || paper;
      const ground = own.map((value, place) => Math.round(strength * value + (1 - strength) * paper[place]));
      return { ground: `rgb(${ground.join(", ")})`, ink: inkOn(ground) };
    };
    return colours;
  }

  function number(value, digits) {
    return value === null || value === undefined || Number.isNaN(value) ? null : value.toFixed(digits);
  }

  const phase = (mark) => (mark === "prefill" ? "prompt (prefill)" : mark);

  function describe(token) {
    const margin = number(token.margin, 2);
    const routes = token.experts.map((expert, slot) => {
      const weight = number(token.weights[slot], 2);
      return weight === null || margin !== null ? `expert ${expert}` : `expert ${expert} (weight ${weight})`;
    });
    const said = [["token", spelled(token.text)], ["sent to", routes.join(", ")]];
    if (margin !== null) said.push(["ahead of the second by", `${margin} of probability`]);
    const entropy = number(token.entropy, 2);
    const loss = number(token.loss, 2);
    if (entropy !== null) said.push(["entropy", `${entropy} nats`]);
    if (loss !== null) said.push(["loss of the next token", `${loss} nats`]);
    if (token.label) said.push(["class", token.label]);
    if (token.mark) said.push(["read in", phase(token.mark)]);
    return said;
  }

  function made(tag, className) {
    const element = document.createElement(tag);
    element.className = className;
    return element;
  }

  function view(element, options) {
    const text = made("div", "tokens");
    const readout = made("dl", "token-readout");
    const saying = options.describe || describe;
    let tokens = [];
    let spans = [];
    let selected = null;
    let shown = null;
    let colours = null;

    text.dir = "ltr";
    text.setAttribute("role", "listbox");
    text.setAttribute("aria-orientation", "horizontal");
    text.setAttribute("aria-label", options.label || "tokens, coloured by expert");
    readout.setAttribute("aria-live", "polite");
    element.replaceChildren(text, readout);

    function paint(span, token) {
      const colour = colours(token.experts[0], token.margin ?? token.weights[0] ?? 1);
      span.className = `x${token.experts[0]}${token.mark ? ` mark-${token.mark === "decode" ? "decode" : "prefill"}` : ""}`;
      span.style.backgroundColor = colour.ground;
      span.style.color = colour.ink;
      const shape = printed(token.text);
      if (span.textContent !== shape) span.textContent = shape;
    }

    function build(count) {
      spans = Array.from({ length: count }, (_, index) => {
        const span = document.createElement("span");
        span.setAttribute("role", "option");
        span.setAttribute("aria-selected", "false");
        span.tabIndex = index === 0 ? 0 : -1;
        span.dataset.index = String(index);
        return span;
      });
      text.replaceChildren(...spans);
      selected = null;
      shown = null;
    }

    function say(index) {
      if (shown !== index) spans[shown]?.removeAttribute("data-pointed");
      spans[index]?.setAttribute("data-pointed", "");
      shown = index;
      if (index === null || index >= tokens.length) {
        const hint = document.createElement("dt");
        hint.textContent = "Point at a token, or tab to the text and use the arrow keys.";
        readout.replaceChildren(hint);
        return;
      }
      const pairs = saying(tokens[index], index).map(([name, value]) => {
        const pair = document.createElement("div");
        const term = document.createElement("dt");
        const detail = document.createElement("dd");
        term.textContent = name;
        detail.textContent = value;
        pair.append(term, detail);
        return pair;
      });
      readout.replaceChildren(...pairs);
    }

    function mark(index) {
      for (const span of text.querySelectorAll("[aria-selected=true]")) span.setAttribute("aria-selected", "false");
      const known = index !== null && index >= 0 && index < spans.length;
      selected = known ? index : null;
      if (known) {
        for (const span of text.querySelectorAll("[tabindex='0']")) span.tabIndex = -1;
        spans[index].setAttribute("aria-selected", "true");
        spans[index].tabIndex = 0;
      }
    }

    function select(index) {
      mark(index);
      say(selected);
    }

    function point(index, sticks) {
      if (sticks) mark(index);
      else if (index === shown) return;
      say(index);
      if (options.chosen) options.chosen(index, sticks);
    }

    function indexOf(event) {
      const span = event.target.closest("[data-index]");
      return span === null ? null : Number(span.dataset.index);
    }

    function move(event) {
      const at = indexOf(event);
      const ends = { Home: 0, End: spans.length - 1 };
      const to = event.key in ends ? ends[event.key] : at + STEPS[event.key];
      if (at === null || Number.isNaN(to) || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      spans[Math.min(spans.length - 1, Math.max(0, to))].focus();
    }

    text.addEventListener("focusin", (event) => point(indexOf(event), true));
    text.addEventListener("click", (event) => event.target.closest("[data-index]")?.focus());
    text.addEventListener("mouseover", (event) => {
      const index = indexOf(event);
      if (index !== null) point(index, false);
    });
    text.addEventListener("mouseleave", () => point(selected, false));
    text.addEventListener("keydown", move);

    function repaint() {
      colours = palette(element);
      spans.forEach((span, index) => paint(span, tokens[index]));
    }
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

    // As many tokens as before change their colours in place, so that a scrubber can call this as it moves.
    function show(next) {
      tokens = next;
      if (colours === null) colours = palette(element);
      if (tokens.length !== spans.length) build(tokens.length);
      spans.forEach((span, index) => paint(span, tokens[index]));
      say(shown);
    }

    return { show, select, say };
  }

  return { view, describe, spelled, phase };
})();
