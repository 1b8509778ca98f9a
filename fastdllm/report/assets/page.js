"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const theme = () => data.themes[dark.matches ? "dark" : "light"];
  const FIRST_ITEMS = 4;
  const drawn = new Map(); // element -> function that draws it again

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "class") made.className = value;
      else made[name] = value;
    }
    made.append(...children);
    return made;
  }

  // Plots are drawn when they come into view, and again when the colours or the width change.
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      watcher.unobserve(entry.target);
      drawn.get(entry.target)();
    }
  }, { rootMargin: "300px" });

  function plot(place, specification) {
    const views = [];
    let turn = 0;
    const draw = async () => {
      const mine = ++turn;
      const spec = structuredClone(specification());
      if (dark.matches && spec.usermeta?.dark_range) {
        spec.encoding.color.scale.range = spec.usermeta.dark_range;
      }
      delete spec.usermeta;
      const inner = element("div", { style: "width:100%" });
      const old = [...place.children];
      place.append(inner);
      old.forEach((child) => { child.style.display = "none"; });
      const result = await vegaEmbed(inner, spec, {
        actions: false, renderer: "svg", config: theme(), tooltip: { theme: "custom", formatTooltip: hover },
      });
      if (mine !== turn) { result.finalize(); inner.remove(); return; }
      old.forEach((child) => child.remove());
      views.splice(0).forEach((view) => view.finalize());
      views.push(result);
      place.dataset.ready = "yes";
    };
    if (!drawn.has(place)) { drawn.set(place, draw); watcher.observe(place); }
    return { draw, again: () => { if (place.dataset.ready) draw(); } };
  }

  dark.addEventListener("change", () => {
    for (const [place, draw] of drawn) if (place.dataset.ready) draw();
  });

  function hover(value, clean) {
    const { title, ...rest } = value;
    const lines = Object.entries(rest).filter(([, text]) => text !== "-")
      .map(([key, text]) => `<tr><td class="key">${clean(key)}</td><td class="value">${clean(text)}</td></tr>`);
    return `${title ? `<h2>${clean(title)}</h2>` : ""}<table><tbody>${lines.join("")}</tbody></table>`;
  }

  function choice(name, words, options, chosen, changed) {
    const field = element("fieldset", {}, element("legend", { class: "hidden-words", textContent: words }));
    for (const [value, text] of options) {
      const input = element("input", { type: "radio", name, value, checked: value === chosen });
      input.addEventListener("change", () => changed(value));
      field.append(element("label", {}, input, text));
    }
    return field;
  }

  // The Pareto plot of one task.
  function pareto(section, task, slug) {
    const place = section.querySelector('[data-chart="pareto"]');
    const controls = section.querySelector("[data-controls]");
    const note = section.querySelector(".outside");
    const costs = Object.keys(task.costs);
    const now = { cost: costs[0], view: "close" };
    const windows = () => task.views[now.cost];
    const seen = () => task.points.filter((p) => p[now.cost] !== undefined);
    const chart = plot(place, () => {
      const spec = structuredClone(data.specs.pareto[now.cost]);
      const view = windows()[now.view] || windows().all || {};
      for (const param of spec.params || []) if (param.name in view) param.value = view[param.name];
      if (place.clientWidth < 520) narrow(spec);
      spec.datasets = { points: seen(), curve: view.curve || [] };
      return spec;
    });

    // On a phone: lower, legends below each other, no text beside the plot.
    function narrow(spec) {
      spec.height = 340;
      spec.config = { legend: { layout: { bottom: { direction: "vertical" } } } };
      for (const { encoding } of spec.layer) if (encoding?.shape?.legend) encoding.shape.legend.columns = 1;
      spec.layer = spec.layer.filter((layer) => layer.mark.style !== "baseline-label");
    }

    function fill() {
      const had = document.activeElement?.closest("[data-controls]") ? document.activeElement.name + document.activeElement.value : "";
      const set = (key) => (value) => { now[key] = value; fill(); chart.again(); };
      controls.replaceChildren(choice(`${slug}-cost`, "Cost", costs.map((c) => [c, task.costs[c]]), now.cost, set("cost")));
      if (windows().close) {
        const view = windows()[now.view] ? now.view : "all";
        controls.append(choice(`${slug}-view`, "View", [["close", "near the baseline"], ["all", "everything"]], view, set("view")));
      }
      const hidden = windows()[now.view]?.hidden || 0;
      const apart = task.points.length - seen().length;
      note.textContent = [
        hidden ? `${hidden} more ${hidden === 1 ? "lies" : "lie"} outside this view: choose “everything”.` : "",
        apart ? `${apart} ${apart === 1 ? "was" : "were"} not measured so: name ${apart === 1 ? "it" : "them"} under “speed:” in an experiment.yaml.` : "",
      ].filter(Boolean).join(" ");
      [...controls.querySelectorAll("input")].find((input) => input.name + input.value === had)?.focus();
    }
    fill();
    return chart;
  }

  // The bar charts of one task.
  function inside(section, task) {
    const card = section.querySelector("[data-inside]");
    if (!card) return;
    const select = card.querySelector("[data-experiment]");
    const count = () => Number(select.selectedOptions[0].dataset.rows);
    const above = { passes: 135, tokens: 60, confidences: 150 }; // room for legend and axis
    const charts = Object.keys(above).map((name) => {
      const place = card.querySelector(`[data-chart="${name}"]`);
      const chart = plot(place, () => ({
        ...data.specs[name], height: 20 * count(), datasets: { [name]: task.bars[select.value][name] },
      }));
      return { name, place, chart };
    });
    const show = () => {
      for (const { name, place, chart } of charts) {
        const empty = !task.bars[select.value][name].length;
        place.closest("figure").hidden = empty;
        place.style.minHeight = `${20 * count() + above[name]}px`;
        chart.again();
      }
      card.querySelectorAll("[data-question]").forEach((p) => { p.hidden = p.dataset.question !== select.value; });
    };
    select.addEventListener("change", show);
    show();
  }

  // A table: sorting, finding, repeated computations.
  function table(section) {
    const body = section.querySelector("table.runs tbody");
    if (!body) return;
    const rows = [...body.rows];
    const heads = [...section.querySelectorAll("table.runs thead th")];
    const find = section.querySelector("[data-find]");
    const twins = section.querySelector("[data-twins]");
    const count = section.querySelector("[data-count]");
    const keyOf = (row, column) => row.cells[column].dataset.key;
    heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const sign = down ? -1 : 1;
      rows.sort((a, b) => {
        const [x, y] = [keyOf(a, column), keyOf(b, column)];
        if (x === "" || y === "") return (x === "") - (y === ""); // not measured: always last
        const order = isNaN(x) || isNaN(y) ? x.localeCompare(y, "en", { numeric: true }) : x - y;
        return sign * order;
      });
      body.append(...rows);
    }));
    const filter = () => {
      const wanted = find.value.trim().toLowerCase();
      let shown = 0;
      for (const row of rows) {
        const fits = row.cells[0].textContent.toLowerCase().includes(wanted);
        row.hidden = !fits || (row.classList.contains("twin") && !twins?.checked);
        shown += !row.hidden;
      }
      count.textContent = wanted || rows.length > shown ? `${shown} of ${rows.length} runs shown.` : "";
    };
    find.addEventListener("input", filter);
    twins?.addEventListener("change", filter);
    filter();
  }

  // Items that flipped.
  function flips(section, task) {
    const card = section.querySelector("[data-flips]");
    if (!card) return;
    const select = card.querySelector("[data-pair]");
    const note = card.querySelector("[data-pair-note]");
    const list = card.querySelector("[data-items]");
    const show = () => {
      const pair = task.flips.pairs[Number(select.value)];
      const all = pair.gained + pair.lost;
      note.textContent = pair.why_not
        ? `The answers cannot be shown: ${pair.why_not}.`
        : `${pair.shown.length} of ${all} items. Marked: from where the two answers differ. The links lead to fastdllm web, which has to run in this project.`;
      const items = pair.shown.map((flip) => item(task.flips.items[flip[0]], flip, pair));
      const more = element("button", { type: "button", class: "more", textContent: `Show ${items.length - FIRST_ITEMS} more` });
      more.addEventListener("click", () => {
        more.replaceWith(...items.slice(FIRST_ITEMS));
        items[FIRST_ITEMS].querySelector("h4").focus();
      });
      list.replaceChildren(...items.slice(0, FIRST_ITEMS), ...(items.length > FIRST_ITEMS ? [more] : []));
    };
    select.addEventListener("change", show);
    show();
  }

  function item([question, target, before], [number, gained, after, step, token], { name, link }) {
    const watch = new URL(link);
    watch.searchParams.set("item", number);
    const clean = question.replace(/<\|im_start\|>\w+|<\|im_end\|>/g, "").replace(/\n{2,}/g, "\n").trim();
    const where = [
      step === null ? "" : step === 0 ? "first differing step: the prefill" : `first differing step: pass ${step}`,
      token === null ? "" : `first differing token: number ${token + 1}`,
    ].filter(Boolean).join(", ");
    let shared = 0;
    while (shared < before.length && before[shared] === after[shared]) shared++;
    const answer = (text, right, title) => element("div", { class: right ? "right" : "wrong" },
      element("small", { textContent: `${title}: ${right ? "right" : "wrong"}` }),
      element("p", {}, text.slice(0, shared), element("mark", { textContent: text.slice(shared) })));
    return element("article", { class: "item" },
      element("h4", { tabIndex: -1 }, element("span", { class: gained ? "gain" : "loss", textContent: gained ? "gained" : "lost" }),
        `item ${number}`, element("span", { class: "soft", textContent: where })),
      element("p", { textContent: clean }),
      element("p", { class: "soft" }, `Expected: ${target}. `,
        element("a", { href: watch, target: "_blank", rel: "noopener", textContent: "Watch both being decoded" })),
      element("div", { class: "two" }, answer(before, !gained, "baseline"), answer(after, Boolean(gained), name)));
  }

  const charts = [];
  for (const section of document.querySelectorAll("section.task")) {
    const task = data.tasks[section.dataset.task];
    table(section);
    if (!task) continue;
    charts.push(pareto(section, task, section.dataset.task));
    inside(section, task);
    flips(section, task);
  }
  for (const place of document.querySelectorAll('[data-chart="heat"]')) {
    plot(place, () => data.sensitivity[place.dataset.field]);
  }
  let width = innerWidth;
  addEventListener("resize", () => {
    if ((width < 640) !== (innerWidth < 640)) charts.forEach((chart) => chart.again());
    width = innerWidth;
  });
})();
