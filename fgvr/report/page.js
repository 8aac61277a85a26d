"use strict";
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const say = text => { $("#said").textContent = text; };
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter(child => child !== null && child !== undefined));
  return element;
};
// Okabe and Ito's colours, which colour-blind people tell apart
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];

// --- tables: sort, filter, export ---

const value = cell => cell === undefined ? null : cell.dataset.v !== undefined ? Number(cell.dataset.v) : cell.textContent.trim();
const compare = (a, b) => {
  const [x, y] = [a === "" || a === null, b === "" || b === null];
  if (x || y) return x - y;
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", {numeric: true});
};
const sort = (table, column) => {
  const heads = $$("thead th", table), head = heads[column], body = table.tBodies[0];
  const numeric = head.classList.contains("n"), now = head.getAttribute("aria-sort");
  const down = now === "none" ? numeric : now === "ascending";
  const rows = [...body.rows].map((row, i) => [value(row.cells[column]), i, row]);
  const empty = key => key === "" || key === null;
  rows.sort((a, b) => (empty(a[0]) || empty(b[0]) || !down ? compare(a[0], b[0]) : compare(b[0], a[0])) || a[1] - b[1]);
  body.append(...rows.map(row => row[2]));
  heads.forEach(other => other.setAttribute("aria-sort", "none"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  say(`Sorted by ${head.textContent}, ${down ? "descending" : "ascending"}`);
};
const filter = (box, text) => {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean), rows = $$("tbody tr", box);
  let shown = 0;
  for (const row of rows) {
    const content = row.textContent.toLowerCase();
    row.hidden = !words.every(word => content.includes(word));
    shown += !row.hidden;
  }
  $(".count", box).textContent = words.length ? `${shown} of ${rows.length}` : "";
};
const plain = cell => $("button.show", cell) ? null : cell.textContent.replace(/\s+/g, " ").trim();
const escapes = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "−": "$-$"};
const tex = text => text.replace(/[\\~^−&%$#_{}]/g, c => escapes[c] || "\\" + c);
const quoted = text => /[",\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
const forms = {
  CSV(table, heads, rows) {
    const parts = heads.map((_, i) => ["l", "h", "p"].filter(part => rows.some(row => row[i] && row[i].dataset[part] !== undefined)));
    const words = {l: "low", h: "high", p: "p"};
    const first = heads.flatMap((head, i) => [head, ...parts[i].map(part => `${head} ${words[part]}`)]);
    const body = rows.map(row => heads.flatMap((_, i) => {
      const cell = row[i];
      return [cell.dataset.v ?? plain(cell), ...parts[i].map(part => cell.dataset[part] ?? "")];
    }));
    return [first, ...body].map(line => line.map(quoted).join(",")).join("\n") + "\n";
  },
  Markdown(table, heads, rows) {
    const marks = $$("thead th", table).map(head => head.classList.contains("n") ? "---:" : "---");
    const lines = [heads, marks, ...rows.map(row => heads.map((_, i) => plain(row[i]).replace(/\|/g, "\\|")))];
    return lines.map(line => `| ${line.join(" | ")} |`).join("\n") + "\n";
  },
  LaTeX(table, heads, rows) {
    const shape = $$("thead th", table).map(head => head.classList.contains("n") ? "r" : "l").join("");
    const line = cells => cells.map(tex).join(" & ") + " \\\\";
    const body = rows.map(row => line(heads.map((_, i) => plain(row[i]))));
    return ["\\begin{tabular}{" + shape + "}", "\\toprule", line(heads), "\\midrule", ...body, "\\bottomrule", "\\end{tabular}", ""].join("\n");
  },
};
const write = (box, form) => {
  const table = $("table", box), heads = $$("thead th", table).map(head => head.textContent.trim());
  const rows = $$("tbody tr", table).filter(row => !row.hidden).map(row => [...row.cells]);
  const text = forms[form](table, heads, rows);
  const ending = {CSV: "csv", Markdown: "md", LaTeX: "tex"}[form];
  const link = make("a", {href: URL.createObjectURL(new Blob([text], {type: "text/plain;charset=utf-8"})), download: `${box.dataset.key}.${ending}`});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  say(`${link.download} saved`);
};
for (const box of $$(".table")) {
  $$("thead th button", box).forEach((button, i) => button.addEventListener("click", () => sort($("table", box), i)));
  $$(".export", box).forEach(button => button.addEventListener("click", () => write(box, button.dataset.form)));
  const input = $(".filter", box);
  if (input) input.addEventListener("input", () => filter(box, input.value));
}

// --- charts: each drawn when it comes into view, and again when light turns dark ---

const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const layout = more => ({
  paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: {color: css("--ink"), family: "system-ui,sans-serif", size: 12},
  margin: {l: 60, r: 16, t: 12, b: 44}, hoverlabel: {bgcolor: css("--card"), bordercolor: css("--line"), font: {color: css("--ink")}},
  modebar: {bgcolor: "rgba(0,0,0,0)", color: css("--soft"), activecolor: css("--mark")},
  legend: {orientation: "h", y: 1.02, yanchor: "bottom", x: 0}, ...more,
});
const axis = more => ({gridcolor: css("--line"), zerolinecolor: css("--line"), linecolor: css("--line"), automargin: true, ...more});
const config = {displaylogo: false, responsive: true, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]]};
const box = key => $(`#chart-${key}`);
const draw = (element, traces, more) => Plotly.react(element, traces, layout(more), config);
const tip = $("#tip");
const hover = (element, content) => {
  element.removeAllListeners?.("plotly_hover");
  element.on("plotly_hover", event => {
    tip.replaceChildren(...content(event.points[0]));
    tip.hidden = false;
    const place = event.event, wide = tip.offsetWidth + 18, high = tip.offsetHeight + 18;
    tip.style.left = `${Math.max(4, place.clientX + wide > innerWidth ? place.clientX - wide : place.clientX + 14)}px`;
    tip.style.top = `${Math.max(4, place.clientY + high > innerHeight ? place.clientY - high : place.clientY + 14)}px`;
  });
  element.on("plotly_unhover", () => { tip.hidden = true; });
};
const options = (select, names) => select.replaceChildren(...names.map((name, i) => make("option", {value: i, textContent: name})));
const percent = number => `${(100 * number).toFixed(1)} %`;
const charts = {
  summary(element) {
    const names = data.runs.length > 1 ? data.runs : [undefined];
    const kinds = [...new Set(data.accuracy.map(bar => bar.kind))].reverse();
    const traces = names.map((run, i) => {
      const bars = kinds.map(kind => data.accuracy.find(bar => bar.kind === kind && (run === undefined || bar.run === run)));
      const there = bars.filter(Boolean), offset = (i - (names.length - 1) / 2) * -0.16;
      return {
        type: "scatter", mode: "markers", name: run ?? data.runs[0], x: there.map(bar => bar.value),
        y: there.map(bar => kinds.indexOf(bar.kind) + offset), marker: {size: 10, color: COLOURS[i % 6]},
        error_x: {type: "data", symmetric: false, array: there.map(bar => bar.high - bar.value), arrayminus: there.map(bar => bar.value - bar.low), thickness: 1.5, width: 4},
        text: there.map(bar => `${bar.kind}, ${bar.metric}: ${percent(bar.value)} [${percent(bar.low)}, ${percent(bar.high)}], n ${bar.n}`),
        hovertemplate: "%{text}<extra>%{fullData.name}</extra>",
      };
    });
    draw(element, traces, {
      height: 90 + 54 * kinds.length + 22, xaxis: axis({range: [-0.01, 1.01], tickformat: ".0%"}), showlegend: true,
      yaxis: axis({tickvals: kinds.map((_, i) => i), ticktext: kinds, range: [-0.6, kinds.length - 0.4], fixedrange: true, zeroline: false}),
    });
  },
  categories(element) {
    const kinds = new Set(data.sorted.map(one => one.kind)).size;
    const traces = data.sorted.map((one, i) => ({
      type: "scatter", mode: "lines+markers", name: kinds > 1 ? `${one.kind}, ${one.run}` : one.run, line: {width: 1, color: COLOURS[i % 6]},
      marker: {size: 5, color: COLOURS[i % 6]}, x: one.points.map((_, n) => n + 1), y: one.points.map(point => point[0]),
      text: one.points.map(point => `${point[3].replace(/</g, "&lt;")}: ${percent(point[0])} [${percent(point[1])}, ${percent(point[2])}]`),
      hovertemplate: "%{text}<extra>%{fullData.name}</extra>",
    }));
    draw(element, traces, {
      height: 340, hovermode: "closest", showlegend: true, xaxis: axis({title: {text: "categories, hardest first"}}),
      yaxis: axis({range: [-0.03, 1.03], tickformat: ".0%", title: {text: "accuracy"}}),
    });
  },
  confusion(element) {
    const chosen = data.confusion[Number($(".pick", box("confusion")).value) || 0], names = data.categories, n = names.length;
    const columns = [...names, "(another name)", "(no answer read)"];
    const last = Math.max(n - 1, ...chosen.cells.filter((_, i) => i % 3 === 1));
    const z = names.map(() => new Array(last + 1).fill(null));
    const totals = new Array(n).fill(0);
    for (let i = 0; i < chosen.cells.length; i += 3) totals[chosen.cells[i]] += chosen.cells[i + 2];
    for (let i = 0; i < chosen.cells.length; i += 3) z[chosen.cells[i]][chosen.cells[i + 1]] = chosen.cells[i + 2] / totals[chosen.cells[i]];
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const scale = dark ? [[0, "#2a2a26"], [0.05, "#4a3326"], [0.4, "#c05a2b"], [1, "#ffd9c4"]] : [[0, "#f3efe9"], [0.05, "#f6d3bf"], [0.4, "#d9703c"], [1, "#6d1f05"]];
    const side = Math.min(element.clientWidth, 860), few = n <= 45 && side > 200 + 11 * n;
    const ticks = count => few ? {tickvals: columns.slice(0, count).map((_, i) => i), ticktext: columns.slice(0, count)} : {showticklabels: false, ticks: ""};
    draw(element, [{
      type: "heatmap", z, colorscale: scale, zmin: 0, zmax: 1, hoverongaps: false, showscale: side > 480,
      colorbar: {thickness: 10, tickformat: ".0%", outlinewidth: 0}, hoverinfo: "none", xgap: few ? 1 : 0, ygap: few ? 1 : 0,
    }], {
      height: side * 0.9, hovermode: "closest", margin: {l: few ? 90 : 30, r: 10, t: 10, b: few ? 90 : 34},
      xaxis: axis({title: {text: few ? "" : "given"}, showgrid: false, zeroline: false, tickangle: -60, ...ticks(last + 1)}),
      yaxis: axis({title: {text: few ? "" : "right"}, showgrid: false, zeroline: false, autorange: "reversed", ...ticks(n)}),
    });
    hover(element, point => [
      make("b", {textContent: names[point.y]}), make("div", {textContent: point.x === point.y ? "right" : `taken for ${columns[point.x]}`}),
      make("div", {className: "ci", textContent: `${Math.round(point.z * totals[point.y])} of ${totals[point.y]} (${percent(point.z)})`}),
    ]);
    element.on("plotly_click", event => {
      const point = event.points[0];
      if (point.x !== point.y && point.x < n) pairs(chosen.run, chosen.kind, names[point.y], names[point.x]);
    });
  },
  map(element) {
    const chosen = data.map[Number($(".pick", box("map")).value) || 0], wanted = $(".find", box("map")).value.trim().toLowerCase();
    const names = [...new Set(chosen.traces.flatMap(trace => trace.category))].sort();
    const hue = name => `hsl(${Math.round(names.indexOf(name) * 137.508) % 360} 60% 50%)`;
    const symbols = {objects: "circle", names: "star", descriptions: "diamond"};
    const sizes = {objects: 6, names: 13, descriptions: 7};
    const traces = chosen.traces.map(trace => ({
      type: "scatter", mode: "markers", name: trace.of, x: trace.x, y: trace.y, customdata: trace.image, text: trace.category, hoverinfo: "none",
      marker: {
        symbol: symbols[trace.of] || "circle", size: sizes[trace.of] || 7, color: trace.category.map(hue), line: {width: trace.of === "names" ? 1 : 0, color: css("--ink")},
        opacity: trace.category.map(name => !wanted || name.toLowerCase().includes(wanted) ? 0.9 : 0.06),
      },
    }));
    draw(element, traces, {
      height: Math.min(620, element.clientWidth * 0.8 + 60), hovermode: "closest", showlegend: true,
      xaxis: axis({showticklabels: false, zeroline: false}), yaxis: axis({showticklabels: false, zeroline: false, scaleanchor: "x"}),
    });
    hover(element, point => [
      point.customdata === null || point.customdata === undefined ? null : make("img", {alt: "", src: data.mapImages[point.customdata]}),
      make("b", {textContent: point.text}), make("div", {className: "ci", textContent: point.data.name}),
    ].filter(Boolean));
  },
  training(element) {
    const traces = [], count = data.curves.length, more = {height: 300, showlegend: true, grid: {rows: 1, columns: count, pattern: "independent"}};
    const names = [...new Set(data.curves.flatMap(curve => curve.series.map(one => one.name)))];
    data.curves.forEach((curve, i) => {
      const suffix = i ? String(i + 1) : "";
      more[`xaxis${suffix}`] = axis({title: {text: `${curve.name}, step`}});
      more[`yaxis${suffix}`] = axis({});
      for (const one of curve.series) {
        const n = names.indexOf(one.name);
        if (n >= 0) traces.push({
          type: "scatter", mode: "lines", name: one.name, legendgroup: one.name, showlegend: !traces.some(trace => trace.name === one.name),
          x: one.x, y: one.y, xaxis: `x${suffix}`, yaxis: `y${suffix}`, line: {color: COLOURS[n % 6], width: one.name === "loss" ? 2 : 1.3},
        });
      }
    });
    draw(element, traces, more);
  },
};
const drawn = new Set();
const show = key => { drawn.add(key); charts[key]($(".plot", box(key))); };
if (window.Plotly) {
  const seen = new IntersectionObserver(entries => entries.forEach(entry => {
    if (entry.isIntersecting) {
      seen.unobserve(entry.target);
      show(entry.target.id.slice("chart-".length));
    }
  }), {rootMargin: "200px"});
  for (const [key, list] of [["confusion", data.confusion.map(one => `${one.kind}, ${one.run}`)], ["map", data.map.map(one => `${one.name} ${one.method}`)]]) {
    const chart = box(key);
    if (!chart) continue;
    options($(".pick", chart), list);
    $(".pick", chart).addEventListener("change", () => show(key));
    $(".find", chart)?.addEventListener("input", () => show(key));
  }
  $$(".chart").forEach(chart => seen.observe(chart));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach(show));
}

// --- gallery ---

const errors = data.errors, form = $(".filters"), STEP = 12;
let limit = STEP;
const picture = (number, alt, path) => number === null || number === undefined
  ? make("div", {className: "none", textContent: "no image", title: path ?? ""})
  : make("img", {alt, loading: "lazy", src: data.images[number]});
const line = (name, text, kind = "") => text === null || text === undefined ? null
  : make("p", {}, make("span", {className: "tag", textContent: `${name} `}), make("span", {className: kind, textContent: text}));
const differences = item => {
  const [one, other] = [errors.attributes[item.from], errors.attributes[item.to]];
  if (!one || !other) return null;
  const names = Object.keys(one).filter(name => name in other && one[name] !== other[name]);
  if (!names.length) return make("p", {className: "q", textContent: "No attribute differs between the two categories."});
  const head = ["attribute", item.right, item.given].map(text => make("th", {scope: "col", textContent: text}));
  const rows = names.map(name => make("tr", {}, make("th", {scope: "row", textContent: name}), make("td", {textContent: one[name]}), make("td", {textContent: other[name]})));
  return make("table", {}, make("caption", {textContent: `${names.length} of ${Object.keys(one).length} attributes differ`}), make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
};
const card = item => {
  const examples = errors.examples[item.to] || [];
  const there = make("div", {}, picture(item.image, `An image of ${item.right}`, item.path), line("is", item.right, "yes"));
  const other = make("div", {}, examples.length ? picture(examples[0], `An image of ${item.given}`) : make("div", {className: "none", textContent: "no example image"}));
  if (examples.length > 1) other.append(make("div", {className: "few"}, ...examples.slice(1).map(n => picture(n, `An image of ${item.given}`))));
  other.append(line("taken for", item.given ?? "(no answer read)", "no"));
  return make("li", {}, make("div", {className: "sides"}, there, other),
    item.question ? make("p", {className: "q", textContent: item.question}) : null,
    line("options", item.options ? item.options.map(name => name.replace(/_/g, " ")).join(" · ") : null), line("reply", item.reply),
    ...item.others.map(([run, reply]) => line(`${run}:`, reply ?? "(none)")),
    differences(item), make("p", {className: "tag", textContent: `${item.kind}, ${item.run} · ${item.id}`}));
};
// what an answer is called in the confusion table: its own name, or that it is none of the categories or none at all
const called = item => item.given === null || item.given === undefined ? "(no answer read)" : data.categories.includes(item.given) ? item.given : `${item.given} (another name)`;
const list = () => {
  const wanted = Object.fromEntries(new FormData(form)), has = (text, part) => String(text ?? "").toLowerCase().includes(part.trim().toLowerCase());
  const found = errors.items.filter(item => (!wanted.run || item.run === wanted.run) && (!wanted.kind || item.kind === wanted.kind)
    && has(item.right, wanted.right) && has(called(item), wanted.given)
    && has([item.question, item.reply, item.id, item.right, item.given].join(" "), wanted.text));
  const cards = found.slice(0, limit).map(card);
  $("#cards").replaceChildren(...cards);
  $("#found").textContent = found.length === cards.length ? `${found.length} errors` : `${cards.length} of ${found.length} errors`;
  $("#more").hidden = cards.length === found.length;
};
const pairs = (run, kind, right, given) => {
  if (!form) return;
  Object.entries({run, kind, right, given, text: ""}).forEach(([name, text]) => { form.elements[name].value = text; });
  limit = STEP;
  list();
  $("#errors").scrollIntoView();
  $("#errors h2").tabIndex = -1;
  $("#errors h2").focus({preventScroll: true});
};
$("#names").replaceChildren(...data.categories.map(name => make("option", {value: name})));
if (form) {
  for (const [name, values] of [["run", data.runs], ["kind", [...new Set(errors.items.map(item => item.kind))]]]) {
    form.elements[name].replaceChildren(make("option", {value: "", textContent: "all"}), ...values.map(text => make("option", {value: text, textContent: text})));
  }
  form.addEventListener("input", () => { limit = STEP; list(); });
  form.addEventListener("submit", event => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => { limit = STEP; list(); }));
  $("#more").addEventListener("click", () => {
    const count = $("#cards").children.length;
    limit += 2 * STEP;
    list();
    const next = $("#cards").children[count];
    if (next) { next.tabIndex = -1; next.focus(); }
  });
  list();
}
$$("button.show").forEach(button => button.addEventListener("click", () => {
  const cells = [...button.closest("tr").cells].map(cell => cell.textContent.trim());
  pairs(cells[0], cells[1], cells[2], cells[3]);
}));
document.documentElement.dataset.ready = "yes";
})();
