// The head explorer: choose a question, a detector and a head; see what the head looks at. All text is set as text,
// never as markup.
"use strict";
(function () {
  const root = document.getElementById("explorer");
  const data = JSON.parse(document.getElementById("explorer-data").textContent);
  const maps = Array.from(root.querySelectorAll(".map"));
  const panel = root.querySelector(".looked");
  const asked = root.querySelector("select");
  let question = 0, detector = 0, head = data.detectors[0].heads[0].slice();
  const bytes = data.questions.map(() => null);

  function make(tag, kind, text) {
    const node = document.createElement(tag);
    if (kind) node.className = kind;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  function weights(number) {
    if (bytes[number] === null) {
      const raw = atob(data.questions[number].weights);
      bytes[number] = Uint8Array.from(raw, (letter) => letter.charCodeAt(0));
    }
    return bytes[number];
  }

  function button(map, layer, column) {
    return map.querySelectorAll("tbody tr")[layer].querySelectorAll("button")[column];
  }

  function facts() {
    const list = make("ul", "facts");
    for (const found of data.detectors) {
      const chosen = found.heads.findIndex((pair) => pair[0] === head[0] && pair[1] === head[1]);
      const rank = found.ranks === null ? null : found.ranks[head[0]][head[1]];
      let said = found.name + ": ";
      if (rank === null) said += "no score";
      else said += "score " + found.scores[head[0]][head[1]] + ", rank " + rank;
      said += chosen < 0 ? ", not in the set" : ", number " + (chosen + 1) + " of the set's " + found.heads.length;
      list.append(make("li", "", said));
    }
    return list;
  }

  function shaded(texts, own, largest) {
    const box = make("div", "tokens");
    let plain = "";
    texts.forEach((text, place) => {
      const share = own[place] / 255;
      if (share < 0.02) { plain += text; return; }
      if (plain) box.append(plain);
      plain = "";
      const token = make("span", "t", text);
      token.style.setProperty("--w", share.toFixed(2));
      token.title = (share * largest).toPrecision(3);
      box.append(token);
    });
    if (plain) box.append(plain);
    return box;
  }

  function show() {
    const now = data.questions[question];
    panel.replaceChildren(make("h3", "", "Head " + head[0] + "-" + head[1]), facts());
    const row = now.heads.findIndex((pair) => pair[0] === head[0] && pair[1] === head[1]);
    if (row < 0) {
      panel.append(make("p", "soft", "What this head looks at is not on the page: to bound its size, the "
        + now.heads.length + " heads that rank best are."));
      return;
    }
    if (now.local.some((pair) => pair[0] === head[0] && pair[1] === head[1])) {
      panel.append(make("p", "soft", "This head sees a sliding window only, shorter than the prompt."));
    }
    const scores = now.scores[row];
    const order = now.documents.map((_, place) => place);
    const value = (place) => (scores[place] === null ? -Infinity : scores[place]);
    order.sort((a, b) => value(b) - value(a) || a - b);
    const gold = order.map((place, rank) => (now.documents[place].gold ? rank + 1 : 0)).filter((rank) => rank > 0);
    if (gold.length) {
      panel.append(make("p", "", "Its own ranking puts the gold document at place " + gold.join(", ") + " of "
        + order.length + "."));
    }
    const starts = [0];
    for (const each of now.documents) starts.push(starts[starts.length - 1] + each.tokens.length);
    const total = starts[starts.length - 1], all = weights(question);
    const list = make("ol", "ranked");
    order.forEach((place, rank) => {
      const each = now.documents[place];
      const item = make("li", each.gold ? "gold" : "");
      const line = make("p", "line");
      line.append(make("span", "n", String(rank + 1)), make("span", "name", each.title || each.id));
      if (each.gold) line.append(make("b", "yes", "gold"));
      line.append(make("span", "soft", scores[place] === null ? "blank" : String(scores[place])));
      const own = all.subarray(row * total + starts[place], row * total + starts[place + 1]);
      item.append(line, shaded(each.tokens, own, now.largest[row]));
      list.append(item);
    });
    panel.append(list);
  }

  function choose(map, layer, column, focus) {
    for (const old of root.querySelectorAll("button[aria-pressed=true]")) old.setAttribute("aria-pressed", "false");
    for (const old of map.querySelectorAll("button[tabindex='0']")) old.tabIndex = -1;
    head = [layer, column];
    const chosen = button(map, layer, column);
    chosen.setAttribute("aria-pressed", "true");
    chosen.tabIndex = 0;
    if (focus) chosen.focus();
    show();
  }

  function place(target) {
    const cell = target.closest("td");
    return cell === null ? null : [cell.parentNode.sectionRowIndex, cell.cellIndex - 1];
  }

  maps.forEach((map) => {
    for (const each of map.querySelectorAll("button")) each.tabIndex = -1;
    map.addEventListener("click", (event) => {
      const at = place(event.target);
      if (at !== null) choose(map, at[0], at[1], true);
    });
    map.addEventListener("keydown", (event) => {
      const at = place(event.target);
      if (at === null) return;
      const [layers, heads] = data.shape;
      const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0],
        Home: [0, -at[1]], End: [0, heads - 1 - at[1]] };
      const step = steps[event.key];
      if (step === undefined) return;
      event.preventDefault();
      const layer = Math.min(layers - 1, Math.max(0, at[0] + step[0]));
      const column = Math.min(heads - 1, Math.max(0, at[1] + step[1]));
      choose(map, layer, column, true);
    });
  });

  function detect(number) {
    detector = number;
    maps.forEach((map, i) => { map.hidden = i !== number; });
    const first = data.detectors[number].heads[0];
    choose(maps[number], first[0], first[1], false);
  }

  for (const radio of root.querySelectorAll("input[type=radio]")) {
    radio.addEventListener("change", () => detect(Number(radio.value)));
  }
  asked.addEventListener("change", () => { question = Number(asked.value); show(); });
  root.classList.add("scripted");
  question = Number(asked.value) || 0;
  const ticked = root.querySelector("input[type=radio]:checked");
  detect(ticked === null ? detector : Number(ticked.value));
})();
