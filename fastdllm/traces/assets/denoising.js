// The denoising view: answers as grids of tokens, with the passes that wrote them to step through.
//   const view = DenoisingView(element);
//   view.show(trace); view.compare(a, b); view.append(steps, pieces, pane); view.goto(n);
// Traces are as docs/traces.md says. Their texts only ever become text nodes and attributes.
"use strict";
window.DenoisingView = (() => {
  const LEVELS = 7;
  const CONFIDENCE_EDGES = [0.5, 0.7, 0.9, 0.95, 0.99, 0.999];
  const CONFIDENCE_NAMES = ["< 50 %", "50-70", "70-90", "90-95", "95-99", "99-99.9", "> 99.9 %"];
  const KINDS = { prefill: "prefill", full_block: "full block", sub_block: "sub-block", commit: "commit", reused: "reused" };
  const FORWARDS = ["full_block", "sub_block", "commit"];
  const MASK = "\u2581", LINE_BREAK = "\u23ce", TAB = "\u21e5", NOTHING = "\u2205", SPACE = "\u2423";
  const SPEEDS = [1, 2, 4, 8, 16, 32];
  let views = 0;

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name in made && !name.startsWith("aria")) made[name] = value;
      else made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }

  const percent = (p) => (p > 0 && p < 0.0005 ? "< 0.1 %" : `${(100 * p).toFixed(p > 0.9995 && p < 1 ? 3 : 1)} %`);
  const plural = (n, word) => `${n} ${word}${n === 1 ? "" : word.endsWith("s") ? "es" : "s"}`;
  const visible = (text) => {
    if (/^ *$/.test(text)) return SPACE.repeat(text.length) || NOTHING;
    return text.replace(/\r?\n/g, LINE_BREAK).replace(/\t/g, TAB);
  };
  const set = (made, name, value) => { if (made.getAttribute(name) !== value) made.setAttribute(name, value); };

  // A trace, ready to be drawn: its tokens by their index in the answer, and sums after each step.
  class Answer {
    constructor(trace) {
      this.trace = trace;
      this.start = trace.prompt.ids.length;
      this.pieces = { ...trace.pieces };
      this.blockSize = trace.settings.block_size;
      this.subSize = trace.settings.small_block_size;
      const { answer } = trace;
      this.length = answer && answer.finish_reason !== "unfinished" ? answer.ids.length : null;
      this.tokens = []; // by index: {id, text, step, kind, probability, runnersUp}
      this.proposals = []; // by index, of masked tokens: [{text, step, probability}]
      this.steps = [];
      this.sums = [{ passes: {}, tokens: 0, computed: 0, skipped: 0, seconds: 0 }];
      this.end = 0; // indices below it are in blocks that were begun
      this.ranks = new Map(); // block -> numbers of the steps that committed in it, in order
      this.reach(this.start);
      this.append(trace.steps);
    }

    text(id) { return this.pieces[id]?.text ?? `<${id}>`; }

    append(steps, pieces = {}) {
      Object.assign(this.pieces, pieces);
      for (const step of steps) {
        this.steps.push(step);
        const number = this.steps.length;
        const last = this.sums[number - 1];
        const sum = { ...last, passes: { ...last.passes } };
        sum.passes[step.kind] = (sum.passes[step.kind] || 0) + 1;
        sum.computed += step.layers_computed;
        sum.skipped += step.layers_skipped;
        sum.seconds = step.seconds; // since the start
        step.positions.forEach((position, i) => {
          const index = position - this.start;
          this.tokens[index] = {
            id: step.tokens[i], text: this.text(step.tokens[i]), step: number, kind: step.kind,
            probability: step.probabilities[i],
            runnersUp: (step.runners_up?.[i] || []).map(([id, probability]) => ({ text: this.text(id), probability })),
          };
          if (this.length === null || index < this.length) sum.tokens += 1;
          this.reach(position);
          const block = Math.floor(position / this.blockSize);
          const ranks = this.ranks.get(block) || this.ranks.set(block, []).get(block);
          if (ranks[ranks.length - 1] !== number) ranks.push(number);
        });
        for (const [position, id, probability] of step.proposed || []) {
          (this.proposals[position - this.start] ||= []).push({ text: this.text(id), step: number, probability });
        }
        this.reach(step.block * this.blockSize);
        this.sums.push(sum);
      }
    }

    // The block of a position has been begun.
    reach(position) {
      const stop = (Math.floor(position / this.blockSize) + 1) * this.blockSize - this.start;
      this.end = Math.max(this.end, stop);
    }

    // How late in its block a token was committed, 0 to 6.
    stepLevel(index) {
      const ranks = this.ranks.get(Math.floor((index + this.start) / this.blockSize));
      const rank = ranks.indexOf(this.tokens[index].step);
      return ranks.length < 2 ? 0 : Math.round((rank * (LEVELS - 1)) / (ranks.length - 1));
    }

    confidenceLevel(index) {
      return CONFIDENCE_EDGES.filter((edge) => this.tokens[index].probability >= edge).length;
    }
  }

  // One answer on the page: heading, prompt, counters, grid, and what is known of one token.
  class Pane {
    constructor(answer, name, state) {
      this.answer = answer;
      this.name = name;
      this.state = state; // of the view: step, colour, differs
      this.cells = [];
      this.grid = element("div", { className: "dn-grid", role: "grid", "aria-label": `${name}: tokens` });
      this.counters = element("dl", { className: "dn-counters", "aria-label": `${name}: counters` });
      this.detail = element("div", { className: "dn-detail" },
        element("p", { className: "dn-soft" }, "Point at a token, or move to it with the arrow keys: its probability, its step, and what else was likely."));
      this.root = element("section", { className: "dn-pane", "aria-label": name },
        element("h2", {}, name), this.promptBox(), this.counters, this.grid, this.detail);
      this.grid.addEventListener("focusin", (event) => this.choose(event.target));
      this.grid.addEventListener("mouseover", (event) => this.choose(event.target));
      this.grid.addEventListener("keydown", (event) => this.move(event));
    }

    promptBox() {
      const { trace } = this.answer;
      const words = Object.entries(trace.settings).map(([key, value]) => `${key} ${value}`).join(", ");
      return element("details", {}, element("summary", {}, `Prompt (${plural(this.answer.start, "token")}) and settings`),
        element("pre", {}, trace.prompt.text), element("p", {}, words));
    }

    // Make the cells that are missing: a rowgroup per block, a row per sub-block.
    build() {
      const { answer } = this;
      for (let index = this.cells.length; index < answer.end; index += 1) {
        const position = index + answer.start;
        const block = Math.floor(position / answer.blockSize);
        const sub = Math.floor((position % answer.blockSize) / answer.subSize);
        if (!this.group || this.group.dataset.block !== String(block)) {
          this.group = element("div", { className: "dn-block", role: "rowgroup", "aria-label": `block ${block}` });
          this.group.dataset.block = block;
          this.row = null;
          this.grid.append(this.group);
        }
        if (!this.row || this.row.dataset.sub !== String(sub)) {
          this.row = element("div", { className: "dn-sub", role: "row", "aria-label": `sub-block ${sub}` });
          this.row.dataset.sub = sub;
          this.group.append(this.row);
        }
        const cell = element("div", { className: "dn-token", role: "gridcell", tabIndex: index ? -1 : 0 },
          element("span", { className: "dn-text" }), element("span", { className: "dn-label" }));
        cell.dataset.index = index;
        this.cells.push(cell);
        this.row.append(cell);
      }
    }

    draw() {
      this.build();
      this.cells.forEach((cell, index) => this.drawCell(cell, index));
      this.drawCounters();
      if (this.chosen !== undefined) this.drawDetail();
    }

    drawCell(cell, index) {
      const { answer, state } = this;
      const token = answer.tokens[index];
      const { step } = state;
      const known = token !== undefined && token.step <= step;
      const differs = known && state.differs(index);
      const past = answer.length !== null && index >= answer.length;
      const [text, label] = cell.children;
      let shown = MASK, below = "", level = "mask";
      if (known) {
        shown = visible(token.text);
        const byStep = state.colour === "step";
        level = byStep ? answer.stepLevel(index) : answer.confidenceLevel(index);
        below = String(byStep ? token.step : Math.floor(100 * token.probability + 1e-9));
        if (differs) below = `\u2260 ${below}`;
      }
      if (text.textContent !== shown) text.textContent = shown;
      if (label.textContent !== below) label.textContent = below;
      if (token) cell.style.minWidth = `${Math.min(24, visible(token.text).length)}ch`;
      set(cell, "data-level", String(level));
      cell.classList.toggle("dn-fresh", known && token.step === step && step > 0);
      cell.classList.toggle("dn-differs", differs);
      cell.classList.toggle("dn-past", past);
      const words = known
        ? [`token ${index + 1}`, JSON.stringify(token.text), `step ${token.step}`, KINDS[token.kind] || token.kind, percent(token.probability)]
        : [`token ${index + 1}`, "masked"];
      if (known && token.step === step) words.push("new in this step");
      if (differs) words.push("differs");
      if (past) words.push("after the end of the answer");
      set(cell, "aria-label", words.join(", "));
    }

    drawCounters() {
      const { answer, state } = this;
      const sum = answer.sums[Math.min(state.step, answer.steps.length)];
      const forwards = FORWARDS.reduce((total, kind) => total + (sum.passes[kind] || 0), 0);
      const layers = sum.computed + sum.skipped;
      const passes = Object.entries(KINDS).filter(([kind]) => sum.passes[kind]).map(([kind, name]) => `${sum.passes[kind]} ${name}`);
      const entries = [
        ["passes", passes.join(", ") || "none yet"],
        ["tokens", String(sum.tokens)],
        ["tokens per forward", forwards ? (sum.tokens / forwards).toFixed(2) : "-"],
        ["layer-forwards saved", layers ? `${sum.skipped} of ${layers} (${((100 * sum.skipped) / layers).toFixed(1)} %)` : "-"],
        ["tokens/s", sum.seconds > 0 ? (sum.tokens / sum.seconds).toFixed(1) : "-"],
      ];
      this.counters.replaceChildren(...entries.map(([name, value]) =>
        element("div", {}, element("dt", {}, name), element("dd", {}, value))));
    }

    choose(target) {
      const cell = target.closest("[data-index]");
      if (!cell) return;
      this.chosen = Number(cell.dataset.index);
      for (const other of this.grid.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
      cell.tabIndex = 0;
      this.drawDetail();
    }

    drawDetail() {
      const { answer, state, chosen } = this;
      const token = answer.tokens[chosen];
      const position = chosen + answer.start;
      const where = `token ${chosen + 1} of the answer, position ${position}, block ${Math.floor(position / answer.blockSize)}`;
      if (!token || token.step > state.step) {
        const line = element("p", {}, element("strong", {}, "masked "), where);
        const proposed = (answer.proposals[chosen] || []).filter((one) => one.step <= state.step).pop();
        if (proposed) {
          line.append(` \u00b7 proposed in step ${proposed.step}: `, element("code", {}, visible(proposed.text)), ` ${percent(proposed.probability)}`);
        }
        this.detail.replaceChildren(line);
        return;
      }
      const kind = KINDS[token.kind] || token.kind;
      const line = [percent(token.probability), `step ${token.step}`, `${kind} pass`, where].join(" \u00b7 ");
      const parts = [element("p", {}, element("code", {}, visible(token.text)), ` ${line}`)];
      if (token.runnersUp.length) {
        const items = token.runnersUp.map((other) =>
          element("li", {}, element("code", {}, visible(other.text)), ` ${percent(other.probability)}`));
        parts.push(element("p", { className: "dn-soft" }, "runners-up"), element("ol", {}, ...items));
      }
      this.detail.replaceChildren(...parts);
    }

    // Arrow keys move between tokens: along the answer, and to the nearest token of the line above
    // or below.
    move(event) {
      const cell = event.target.closest("[data-index]");
      if (!cell || event.ctrlKey || event.metaKey || event.altKey) return;
      const index = Number(cell.dataset.index);
      const to = {
        ArrowRight: () => index + 1, ArrowLeft: () => index - 1, Home: () => 0, End: () => this.cells.length - 1,
        ArrowDown: () => this.beside(cell, 1), ArrowUp: () => this.beside(cell, -1),
      }[event.key];
      if (!to) return;
      event.preventDefault();
      event.stopPropagation();
      this.cells[to()]?.focus();
    }

    beside(cell, way) {
      const from = cell.getBoundingClientRect();
      const centre = from.left + from.width / 2;
      let best = Number(cell.dataset.index), nearest = Infinity;
      for (const other of this.cells) {
        const box = other.getBoundingClientRect();
        const lines = (way * (box.top - from.top)) / from.height;
        if (lines < 0.5) continue;
        const far = 1000 * Math.floor(lines) + Math.abs(box.left + box.width / 2 - centre);
        if (far < nearest) { nearest = far; best = Number(other.dataset.index); }
      }
      return best;
    }
  }

  // What two traces are called: by the settings in which they differ.
  function namesOf(a, b) {
    const facts = ({ settings, model, policy, device, dtype }) => ({ model: model.name, policy, device, dtype, ...settings });
    const [one, two] = [facts(a), facts(b)];
    const keys = Object.keys({ ...one, ...two }).filter((key) => JSON.stringify(one[key]) !== JSON.stringify(two[key]));
    const name = (letter, of) => [letter, keys.map((key) => `${key} ${of[key] ?? "not set"}`).join(", ")].filter(Boolean).join(": ");
    return [name("A", one), name("B", two)];
  }

  // The tokens of the answers that differ, as a set of their indices; what is not known yet does not.
  function compared(a, b) {
    const differing = new Set();
    for (let i = 0; i < Math.max(a.tokens.length, b.tokens.length); i += 1) {
      const [one, two] = [a, b].map(({ length, tokens }) => (length !== null && i >= length ? "none" : tokens[i]?.id));
      if (one !== undefined && two !== undefined && one !== two) differing.add(i);
    }
    return differing;
  }

  class View {
    constructor(root) {
      this.root = root;
      this.number = (views += 1);
      this.state = { step: 0, colour: "step", differs: (index) => this.differing.has(index) };
      this.differing = new Set();
      this.panes = [];
      this.timer = null;
      root.classList.add("dn", "dn-by-step");
      root.tabIndex = -1;
      root.addEventListener("keydown", (event) => this.key(event));
    }

    get last() { return Math.max(0, ...this.panes.map((pane) => pane.answer.steps.length)); }

    /** Show one trace, at its end. */
    show(trace) { this.open([trace]); }

    /** Show two traces side by side, in step. */
    compare(a, b) { this.open([a, b]); }

    open(traces) {
      this.pause();
      this.differing = new Set();
      const names = traces.length === 1 ? ["Answer"] : namesOf(...traces);
      this.panes = traces.map((trace, i) => new Pane(new Answer(trace), names[i], this.state));
      const parts = [this.controls(), this.now];
      if (traces.length === 2) {
        this.verdict = element("p", { className: "dn-verdict" });
        parts.unshift(this.verdict);
        this.judge();
      }
      parts.push(this.legend, element("div", { className: "dn-panes" }, ...this.panes.map((pane) => pane.root)));
      this.root.replaceChildren(...parts);
      this.drawLegend();
      this.goto(this.last);
    }

    /** Add steps, and the pieces of new ids, to a trace; the view follows if it is at the end. */
    append(steps, pieces, pane = 0) {
      const follows = this.state.step === this.last;
      this.panes[pane].answer.append(steps, pieces);
      if (this.panes.length === 2) this.judge();
      this.goto(follows ? this.last : this.state.step);
    }

    /** Show the state after step `n`; 0 is before the first. */
    goto(n) {
      this.state.step = Math.min(Math.max(0, n), this.last);
      this.panes.forEach((pane) => pane.draw());
      const { step } = this.state;
      const words = this.stepWords();
      this.slider.max = this.last;
      this.slider.value = step;
      set(this.slider, "aria-valuetext", words);
      if (this.now.textContent !== words) this.now.textContent = words;
    }

    stepWords() {
      const { step } = this.state;
      if (step === 0) return `Before the first of ${plural(this.last, "step")}`;
      const parts = this.panes.map(({ answer, name }) => {
        const done = answer.steps[step - 1];
        const words = done ? `${KINDS[done.kind] || done.kind} pass writes ${plural(done.positions.length, "token")}` : "done";
        return this.panes.length === 1 ? words : `${name[0]}: ${words}`;
      });
      return `Step ${step} of ${this.last}: ${parts.join("; ")}`;
    }

    judge() {
      const [a, b] = this.panes.map((pane) => pane.answer);
      this.differing = compared(a, b);
      const total = Math.max(a.length ?? a.tokens.length, b.length ?? b.tokens.length);
      const n = this.differing.size;
      const first = n ? `, the first is token ${Math.min(...this.differing) + 1}` : "";
      const seconds = [a, b].map((answer) => answer.sums[answer.steps.length].seconds);
      const parts = [
        n ? `${n} of ${plural(total, "token")} differ${first}` : `the same ${plural(total, "token")}`,
        `passes: ${a.steps.length} and ${b.steps.length}`,
      ];
      if (seconds.every((s) => s > 0)) parts.push(`seconds: ${seconds.map((s) => s.toFixed(2)).join(" and ")}`);
      if (a.trace.prompt.text !== b.trace.prompt.text) parts.push("the prompts differ");
      this.verdict.textContent = parts.join(" \u00b7 ");
    }

    controls() {
      const button = (words, text, act) => {
        const made = element("button", { type: "button", "aria-label": words, title: words }, text);
        made.addEventListener("click", act);
        return made;
      };
      this.slider = element("input", { type: "range", min: 0, max: 0, step: 1, "aria-label": "Step" });
      this.slider.addEventListener("input", () => { this.pause(); this.goto(Number(this.slider.value)); });
      this.player = button("Play", "\u25b6", () => this.toggle());
      this.speed = element("select", {}, ...SPEEDS.map((n) => element("option", { value: n, selected: n === 4 }, `${n} steps/s`)));
      this.now = element("p", { className: "dn-now", role: "status", "aria-live": "polite" });
      this.legend = element("ul", { className: "dn-legend", "aria-label": "Colours" });
      const colours = ["step", "confidence"].map((value) => {
        const input = element("input", { type: "radio", name: `dn-colour-${this.number}`, value, checked: value === this.state.colour });
        input.addEventListener("change", () => this.colour(value));
        return element("label", {}, input, value);
      });
      return element("div", { className: "dn-controls", role: "group", "aria-label": "Playback" },
        button("One step back", "\u2190", () => this.by(-1)), this.player, button("One step on", "\u2192", () => this.by(1)),
        this.slider, element("label", {}, "speed ", this.speed),
        element("fieldset", {}, element("legend", {}, "colour by"), ...colours));
    }

    drawLegend() {
      const byStep = this.state.colour === "step";
      const entry = (level, text) => {
        const swatch = element("span", { className: "dn-swatch", "aria-hidden": "true" });
        swatch.dataset.level = level;
        return element("li", {}, swatch, text);
      };
      const entries = byStep
        ? [...Array(LEVELS).keys()].map((i) => entry(i, { 0: "first step of its block", [LEVELS - 1]: "last step of its block" }[i] || ""))
        : CONFIDENCE_NAMES.map((name, i) => entry(i, name));
      this.legend.replaceChildren(...entries, entry("mask", "masked"),
        element("li", {}, byStep ? "below a token: its step" : "below a token: its confidence in %"),
        element("li", {}, "thick border: new in this step"),
        ...(this.panes.length === 2 ? [element("li", {}, "\u2260 and double border: differs")] : []));
    }

    /** Colour tokens by "step" or by "confidence". */
    colour(by) {
      this.state.colour = by;
      this.root.classList.toggle("dn-by-step", by === "step");
      this.root.classList.toggle("dn-by-confidence", by === "confidence");
      this.drawLegend();
      this.goto(this.state.step);
    }

    by(steps) { this.pause(); this.goto(this.state.step + steps); }

    toggle() { if (this.timer === null) this.play(); else this.pause(); }

    play() {
      if (this.state.step >= this.last) this.goto(0);
      this.playing(true);
      const on = () => {
        this.goto(this.state.step + 1);
        if (this.state.step >= this.last) this.pause();
        else this.timer = setTimeout(on, 1000 / Number(this.speed.value));
      };
      this.timer = setTimeout(on, 1000 / Number(this.speed.value));
    }

    pause() {
      clearTimeout(this.timer);
      this.timer = null;
      if (this.player) this.playing(false);
    }

    playing(is) {
      const words = is ? "Pause" : "Play";
      this.player.textContent = is ? "\u275a\u275a" : "\u25b6";
      set(this.player, "aria-label", words);
      this.player.title = words;
    }

    key(event) {
      const { target, key } = event;
      if (event.ctrlKey || event.metaKey || event.altKey || target.matches("select, summary, [type=radio]")) return;
      if (target === this.slider && key !== " ") return; // arrows, Home and End are its own
      if (key === " " && target.matches("button")) return;
      const act = {
        ArrowRight: () => this.by(1), ArrowLeft: () => this.by(-1), Home: () => this.by(-Infinity), End: () => this.by(Infinity),
        " ": () => this.toggle(),
      }[key];
      if (!act) return;
      event.preventDefault();
      act();
    }

    focus() { this.slider.focus(); }
  }

  return function DenoisingView(element) { return new View(element); };
})();
