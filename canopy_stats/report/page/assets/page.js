"use strict";

// What is wider or longer than its frame can be reached, and so scrolled, by keyboard; other frames are no stops.
(() => {
  const frames = document.querySelectorAll(".scroll");
  const stops = () => frames.forEach((frame) => {
    if (frame.scrollWidth > frame.clientWidth || frame.scrollHeight > frame.clientHeight) frame.tabIndex = 0;
    else frame.removeAttribute("tabindex");
  });
  stops();
  addEventListener("resize", stops);
})();

// Every table can be sorted by a click on a heading (the third click puts its rows back) and saved as CSV.
(() => {
  const cells = (row) => [...row.cells].map((cell) => cell.textContent.trim().replace(/−/g, "-"));
  const key = (text) => {
    const found = text.match(/[-+]?[0-9][0-9,]*([.][0-9]+)?(e[-+]?[0-9]+)?/i);
    return found && /^[\[(<≈ ]*[-+]?[0-9]/.test(text) ? Number(found[0].replace(/,/g, "")) : NaN;
  };

  function compare(a, b) {
    const x = key(a), y = key(b);
    if (!Number.isNaN(x) && !Number.isNaN(y)) return x - y;
    if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
    return a.localeCompare(b);
  }

  function sortable(table) {
    const body = table.tBodies[0], first = [...body.rows], heads = [...table.tHead.rows[0].cells];
    const texts = new Map(first.map((row) => [row, cells(row)]));
    heads.forEach((head, i) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const next = { ascending: "descending", descending: "" }[head.getAttribute("aria-sort") || ""] ?? "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        if (next) head.setAttribute("aria-sort", next);
        const sign = next === "descending" ? -1 : 1, order = next ? [...first] : first;
        if (next) order.sort((a, b) => sign * compare(texts.get(a)[i], texts.get(b)[i]));
        table.classList.toggle("sorted", next !== "");
        body.append(...order);
      });
    });
  }

  // A text that a spreadsheet would calculate gets an apostrophe before it; a number does not.
  function quoted(text) {
    const safe = /^[=+@\t\r]|^-(?![0-9])/.test(text) && Number.isNaN(Number(text)) ? "'" + text : text;
    return /[",\n]/.test(safe) ? '"' + safe.replace(/"/g, '""') + '"' : safe;
  }

  function saved(figure, table) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "save";
    button.textContent = "CSV";
    button.setAttribute("aria-label", "Save as CSV: " + figure.id.replace("-", " "));
    button.addEventListener("click", () => {
      const text = [...table.rows].map((row) => cells(row).map(quoted).join(",")).join("\n") + "\n";
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
      link.download = figure.id + ".csv";
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
    figure.querySelector("figcaption").append(" ", button);
  }

  document.querySelectorAll("figure.table").forEach((figure) => {
    const table = figure.querySelector("table");
    sortable(table);
    saved(figure, table);
  });
})();

// The contents show where the reader is.
(() => {
  const links = new Map([...document.querySelectorAll(".contents a")].map((a) => [a.hash.slice(1), a]));
  const seen = new Set();
  const watch = new IntersectionObserver((entries) => {
    entries.forEach((entry) => seen[entry.isIntersecting ? "add" : "delete"](entry.target.id));
    const now = [...links.keys()].find((id) => seen.has(id));
    links.forEach((a, id) => id === now ? a.setAttribute("aria-current", "true") : a.removeAttribute("aria-current"));
  }, { rootMargin: "-10% 0px -60% 0px" });
  links.forEach((_, id) => watch.observe(document.getElementById(id)));
})();

// The rollout explorer. Texts of models enter the page as text nodes only.
(() => {
  if (!document.getElementById("x-index")) return;
  const at = (id) => document.getElementById(id);
  const index = JSON.parse(at("x-index").textContent);
  const SHOWN = 12, LONG = 600, CHAIN = 28, OPEN = 20;
  const cells = new Map();
  let sides = [];  // the columns: { variant, number }

  // --- data ----------------------------------------------------------------------------------------------------

  function bytesOf(text) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
    return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  }

  async function unpack(number) {
    const zipped = new Blob([bytesOf(at("x-cell-" + number).textContent)]).stream();
    const data = await new Response(zipped.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
    const size = new DataView(data).getUint32(0, true);
    const cell = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, size)));
    const total = cell.length.reduce((sum, n) => sum + n, 0), width = cell.wide ? 4 : 2, first = 4 + size;
    cell.token = new (cell.wide ? Uint32Array : Uint16Array)(data, first, total);
    cell.surprisal = new Uint16Array(data, first + width * total, total);
    cell.entropy = new Uint8Array(data, first + (width + 2) * total, total);
    cell.stop = new Uint8Array(data, first + (width + 3) * total, total);
    cell.special = new Set(cell.special);
    let start = 0, rollout = 0;
    cell.start = cell.length.map((n) => (start += n) - n);
    for (const prompt of cell.prompts) { prompt.first = rollout; rollout += prompt.rollouts; }
    return cell;
  }

  function load(number) {
    if (!cells.has(number)) cells.set(number, unpack(number));
    return cells.get(number);
  }

  const value = (cell, name, i) => cell.tops[name] * (cell[name][i] / (name === "surprisal" ? 65535 : 255)) ** 2;

  function mean(cell, rollout) {
    let sum = 0;
    for (let i = 0; i < cell.length[rollout]; i++) sum += value(cell, "entropy", cell.start[rollout] + i);
    return cell.length[rollout] ? sum / cell.length[rollout] : 0;
  }

  // --- small pieces of page ------------------------------------------------------------------------------------

  function make(tag, name, text) {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  const count = (n, word) => n + " " + word + (n === 1 ? "" : "s");

  function fill(select, values, wanted) {
    select.replaceChildren(...values.map(([key, text]) => {
      const option = make("option", "", text);
      option.value = key;
      return option;
    }));
    if (values.some(([key]) => key === wanted)) select.value = wanted;
  }

  function shadeOf(entropy) {
    return (0.55 * Math.min(1, entropy / index.shade)).toFixed(3);
  }

  function tokenSpan(cell, i) {
    const id = cell.token[i], piece = cell.pieces[id], span = make("span", "", piece);
    span.style.setProperty("--a", shadeOf(value(cell, "entropy", i)));
    span.dataset.i = i;
    if (cell.special.has(id)) span.className = "special";
    else if (/^\n+$/.test(piece)) span.className = "line";
    return span;
  }

  function tokensOf(cell, from, to) {
    const part = document.createDocumentFragment();
    for (let i = from; i < to; i++) part.append(tokenSpan(cell, i));
    return part;
  }

  function button(text, act) {
    const element = make("button", "more", text);
    element.type = "button";
    element.addEventListener("click", act);
    return element;
  }

  // --- rollouts side by side -----------------------------------------------------------------------------------

  function ordered(cell, prompt) {
    const all = Array.from({ length: prompt.rollouts }, (_, k) => prompt.first + k), how = at("x-order").value;
    if (how === "length") all.sort((a, b) => cell.length[b] - cell.length[a] || a - b);
    if (how === "rate") {
      const rate = new Map(all.map((r) => [r, mean(cell, r)]));
      all.sort((a, b) => rate.get(b) - rate.get(a) || a - b);
    }
    return all;
  }

  function rolloutItem(cell, prompt, r) {
    const item = make("li"), n = cell.length[r], from = cell.start[r], rate = mean(cell, r);
    const about = "rollout " + (r - prompt.first + 1) + " · " + count(n, "token") + " · " + rate.toFixed(2)
      + " nats/token · " + (cell.stopped[r] ? "stopped" : "ended by the cap");
    item.append(make("span", "about", about));
    const text = make("p", "tokens");
    text.dir = "auto";
    text.setAttribute("aria-label", about);
    text.setAttribute("role", "group");
    if (cell.texts) {
      const whole = make("span", "", cell.texts[r]);
      whole.style.setProperty("--a", shadeOf(rate));
      text.append(whole);
    } else {
      text.tabIndex = 0;
      text.append(tokensOf(cell, from, from + Math.min(n, LONG)));
      if (n > LONG) {
        const more = button("Show " + count(n - LONG, "more token"), () => {
          text.append(tokensOf(cell, from + LONG, from + n));
          more.remove();
          text.focus();
        });
        item.append(text, more);
        return item;
      }
    }
    item.append(text);
    return item;
  }

  function textsView(cell, prompt) {
    const list = make("ol", "rollouts"), all = ordered(cell, prompt), box = make("div");
    const show = (from, to) => all.slice(from, to).forEach((r) => list.append(rolloutItem(cell, prompt, r)));
    show(0, SHOWN);
    box.append(list);
    if (all.length > SHOWN) {
      const more = button("Show " + count(all.length - SHOWN, "more rollout"), () => {
        show(SHOWN, all.length);
        more.remove();
        list.children[SHOWN].querySelector(".tokens").focus();
      });
      box.append(more);
    }
    return box;
  }

  // --- prefix tree ---------------------------------------------------------------------------------------------

  // How far a group of rollouts agrees from a depth on.
  function agreed(cell, group, depth) {
    const one = group[0];
    let end = depth;
    while (group.every((r) => end < cell.length[r]
           && cell.token[cell.start[r] + end] === cell.token[cell.start[one] + end])) end++;
    return end;
  }

  // The groups that a group falls into at a depth, the largest first; rollouts that end there are in none.
  function branches(cell, group, depth) {
    const parts = new Map();
    for (const r of group) {
      if (depth >= cell.length[r]) continue;
      const token = cell.token[cell.start[r] + depth];
      if (!parts.has(token)) parts.set(token, []);
      parts.get(token).push(r);
    }
    return [...parts.values()].sort((a, b) => b.length - a.length || a[0] - b[0]);
  }

  // The share of rollouts that come to a depth, and the law's probability of the tokens up to there.
  function shareOf(cell, group, depth, total) {
    const share = make("span", "share"), start = cell.start[group[0]];
    share.append(make("b", "", Math.round(100 * group.length / total) + "%"), " " + group.length + "/" + total);
    let surprisal = 0;
    for (let i = 0; i <= depth; i++) surprisal += value(cell, "surprisal", start + i);
    const p = Math.exp(-surprisal);
    share.append(make("br"), "law " + (p < 0.001 ? p.toExponential(0) : p.toFixed(p < 0.1 ? 3 : 2)));
    const bar = make("i");
    bar.style.setProperty("--w", 100 * group.length / total + "%");
    bar.setAttribute("aria-hidden", "true");
    share.append(bar);
    return share;
  }

  // A branch: its tokens up to where its rollouts part, and below it, when it is opened, the branches there.
  function node(cell, group, depth, total, open) {
    const item = make("li"), one = cell.start[group[0]], end = agreed(cell, group, depth);
    const upTo = end - depth > CHAIN + 6 ? depth + CHAIN : end, parts = branches(cell, group, end);
    const share = shareOf(cell, group, depth, total), text = part(cell, one + depth, one + upTo, "span");
    const ended = group.find((r) => cell.length[r] === end);
    if (ended !== undefined && !cell.stopped[ended]) text.append(make("span", "special", "cap"));
    if (upTo === end && !parts.length) {
      const leaf = make("div", "leaf");
      text.tabIndex = 0;
      leaf.append(share, text);
      item.append(leaf);
      return item;
    }
    if (upTo < end) text.append(" … " + count(end - upTo, "more token"));
    const details = make("details"), summary = make("summary");
    summary.append(share, text);
    details.append(summary);
    const grow = () => {
      if (details.childElementCount > 1) return;
      const list = make("ul");
      if (upTo < end) list.append(rest(cell, one + upTo, one + end));
      parts.forEach((branch) => list.append(node(cell, branch, end, total, open)));
      details.append(list);
    };
    details.addEventListener("toggle", () => { if (details.open) grow(); });
    item.append(details);
    if (group.length > 1 && open.left > 0) {
      open.left -= parts.length;
      grow();
      details.open = true;
    }
    return item;
  }

  function part(cell, from, to, tag) {
    const text = make(tag, "tokens");
    text.dir = "auto";
    text.setAttribute("role", "group");
    text.append(tokensOf(cell, from, to));
    return text;
  }

  function rest(cell, from, to) {
    const item = make("li"), text = part(cell, from, to, "p");
    text.tabIndex = 0;
    item.append(text);
    return item;
  }

  function treeView(cell, prompt) {
    const group = Array.from({ length: prompt.rollouts }, (_, k) => prompt.first + k);
    const list = make("ul", "tree"), open = { left: OPEN }, box = make("div");
    const end = agreed(cell, group, 0), parts = end ? [group] : branches(cell, group, 0);
    const distinct = new Set(group.map((r) => cell.token.slice(cell.start[r], cell.start[r] + cell.length[r]).join()));
    box.append(make("p", "measured", count(group.length, "rollout") + ", " + distinct.size + " of them distinct; "
      + (end ? "the first " + count(end, "token") + " are common to all" : count(parts.length, "first token"))));
    open.left -= parts.length;
    parts.forEach((part) => list.append(node(cell, part, 0, group.length, open)));
    box.append(list);
    return box;
  }

  // --- choosing ------------------------------------------------------------------------------------------------

  const unique = (name, rows) => [...new Set(rows.map((c) => c[name]))];
  const names = (list) => list.map((text) => [text, text]);
  const here = () => index.cells.map((c, i) => ({ ...c, i }))
    .filter((c) => c.family === at("x-family").value && c.task === at("x-task").value);

  // The head of a column: which variant it shows, and what was measured of the prompt.
  function headOf(side, prompt) {
    const head = make("header"), label = make("label", "", side.number ? "Compared with " : "Variant ");
    const select = make("select");
    fill(select, names(unique("variant", here())), side.variant);
    select.id = "x-variant-" + side.number;
    select.addEventListener("change", () => { side.variant = select.value; draw(select.id); });
    label.append(select);
    head.append(label);
    if (prompt && prompt.measured) head.append(make("p", "measured", prompt.measured));
    return head;
  }

  function listen(cell, body) {
    body.addEventListener("mouseover", (event) => choose(cell, event.target.closest("[data-i]")));
    body.addEventListener("click", (event) => choose(cell, event.target.closest("[data-i]")));
    body.addEventListener("focusin", (event) => {
      const text = textOf(event.target);
      if (text) choose(cell, text.querySelector(".on") || text.querySelector("[data-i]"));
    });
    body.addEventListener("keydown", (event) => step(cell, event));
    return body;
  }

  function column(cell, side) {
    const prompt = cell.prompts.find((p) => p.id === at("x-prompt").value), box = make("section", "column");
    const tree = at("x-view").value === "tree";
    box.setAttribute("aria-label", "Variant " + side.variant);
    box.append(headOf(side, prompt));
    if (!prompt) {
      box.append(make("p", "measured", "This variant has no rollouts of this prompt here."));
      return box;
    }
    if (tree && cell.texts) {
      box.append(make("p", "measured", "No tokenizer was found for these tokens, so there is no tree of them."));
    }
    box.append(listen(cell, tree && !cell.texts ? treeView(cell, prompt) : textsView(cell, prompt)));
    return box;
  }

  // Draw both columns; only the latest call may change the page.
  let turn = 0;
  async function draw(focus) {
    const mine = ++turn, rows = here();
    sides.forEach((side) => {
      const known = rows.some((c) => c.variant === side.variant);
      if (!known) side.variant = rows[Math.min(side.number, rows.length - 1)].variant;
    });
    let loaded;
    try {
      loaded = await Promise.all(sides.map((side) => load(rows.find((c) => c.variant === side.variant).i)));
    } catch (error) {
      at("x-columns").replaceChildren(make("p", "note", "This browser could not unpack the rollouts (" + error + ")."));
      return;
    }
    if (mine !== turn) return;
    at("x-order").disabled = at("x-view").value === "tree";
    prompts(loaded[0]);
    const prompt = loaded[0].prompts.find((p) => p.id === at("x-prompt").value);
    at("x-source").textContent = prompt ? prompt.text : "";
    at("x-columns").replaceChildren(...loaded.map((cell, i) => column(cell, sides[i])));
    at("x-readout").textContent = "No token chosen.";
    if (focus && at(focus)) at(focus).focus();
    at("explorer").dataset.drawn = mine;
  }

  function prompts(cell) {
    const select = at("x-prompt"), wanted = select.value;
    fill(select, cell.prompts.map((p) => [p.id, p.id + " · " + p.text.replace(/\s+/g, " ").slice(0, 80)]), wanted);
    at("x-before").disabled = select.selectedIndex <= 0;
    at("x-next").disabled = select.selectedIndex >= select.options.length - 1;
  }

  function move(by, id) {
    const select = at("x-prompt"), other = at(id === "x-next" ? "x-before" : "x-next");
    select.selectedIndex += by;
    draw().then(() => { if (at(id).disabled) other.focus(); });
  }

  // --- the numbers of one token --------------------------------------------------------------------------------

  const small = (x) => x < 0.0005 ? (x ? x.toExponential(0) : "0") : x.toFixed(3);

  function choose(cell, span) {
    if (!span || span.classList.contains("on")) return;
    document.querySelectorAll("#x-columns .on").forEach((old) => old.classList.remove("on"));
    span.classList.add("on");
    const i = Number(span.dataset.i), surprisal = value(cell, "surprisal", i);
    let low = 0, high = cell.start.length - 1;
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (cell.start[middle] <= i) low = middle; else high = middle - 1;
    }
    const piece = make("code", "", cell.pieces[cell.token[i]].replace(/\n/g, "↵") || "(part of a character)");
    at("x-readout").replaceChildren(piece, " token " + (i - cell.start[low] + 1) + " · entropy "
      + value(cell, "entropy", i).toFixed(2) + " nats · log-probability " + (surprisal ? "−" : "") + surprisal.toFixed(2)
      + " (p = " + small(Math.exp(-surprisal)) + ") · stop probability " + small(value(cell, "stop", i)));
  }

  // The tokens that belong to what has the focus: a text, or the line of a branch.
  function textOf(focused) {
    if (focused.matches("summary")) return focused.querySelector(".tokens");
    return focused.matches(".tokens[tabindex]") ? focused : null;
  }

  function step(cell, event) {
    const text = textOf(event.target);
    if (!text) return;
    const all = [...text.querySelectorAll("[data-i]")], now = all.findIndex((s) => s.classList.contains("on"));
    const to = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: all.length - 1 }[event.key];
    if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const span = all[Math.max(0, Math.min(all.length - 1, to))];
    choose(cell, span);
    span.scrollIntoView({ block: "nearest" });
  }

  // --- begin ---------------------------------------------------------------------------------------------------

  function begin() {
    fill(at("x-family"), names(unique("family", index.cells)));
    const tasks = () => fill(at("x-task"), names(unique("task",
      index.cells.filter((c) => c.family === at("x-family").value))), at("x-task").value);
    tasks();
    const variants = unique("variant", index.cells);
    sides = variants.slice(0, 2).map((variant, number) => ({ variant, number }));
    at("x-high").textContent = index.shade + " and more";
    at("x-family").addEventListener("change", () => { tasks(); draw(); });
    ["x-task", "x-prompt", "x-view", "x-order"].forEach((id) => at(id).addEventListener("change", () => draw()));
    at("x-before").addEventListener("click", () => move(-1, "x-before"));
    at("x-next").addEventListener("click", () => move(1, "x-next"));
    at("explorer").hidden = false;
    draw();
  }
  begin();
})();
