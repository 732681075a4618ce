/* Draws the page from the data in it: charts by Observable Plot, the table by DataTables. */
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const columns = data.functions;
  const functions = columns.id.map((_, i) =>
    Object.fromEntries(Object.entries(columns).map(([name, values]) => [name, values[i]])));

  // Okabe and Ito's colours: apart for colour-blind eyes, on light and dark paper.
  const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442"];
  const OTHER = "#999999";
  const PART_COLOURS = {
    "running": "#009e73", "transfer": "#56b4e9", "starting": "#0072b2", "scheduler": "#cc79a7",
    "waiting for room": "#e69f00", "waiting for thread": "#d55e00", "waiting for pin": "#f0e442",
    "ending": "#999999",
  };
  const spare = ["#882255", "#999933", "#332288", "#44aa99"];
  const partColour = (part) => PART_COLOURS[part] ?? (PART_COLOURS[part] = spare.shift() ?? OTHER);
  const style = { "--plot-background": "var(--paper)", background: "transparent", color: "var(--ink)", fontSize: "11px" };
  const short = d3.format("~s");
  const $ = (id) => document.getElementById(id);

  function seconds(value) {
    if (value == null) return "";
    if (value >= 7200) return (value / 3600).toPrecision(3) + " h";
    if (value >= 120) return (value / 60).toPrecision(3) + " min";
    return value >= 1 ? value.toPrecision(3) + " s" : (value * 1000).toPrecision(3) + " ms";
  }

  function width() {
    return Math.max(320, Math.min(1360, document.querySelector("main").clientWidth));
  }

  function partsLegend(parts) {
    return Plot.legend({ color: { type: "categorical", domain: parts, range: parts.map(partColour) }, style });
  }

  // Where the makespan went, one bar, with the lower bound marked on it.
  function drawPath() {
    const parts = Object.entries(data.path).map(([part, value]) => ({ part, value }));
    if (!$("path-chart") || !parts.length) return;
    $("path-chart").replaceChildren(partsLegend(parts.map((d) => d.part)), Plot.plot({
      width: width(), height: 92, marginLeft: 10, marginRight: 10, marginTop: 24, style,
      ariaLabel: "Makespan by cause, with the lower bound",
      x: { label: "seconds", domain: [0, Math.max(data.span_s, data.bound_s)] },
      color: { type: "categorical", domain: parts.map((d) => d.part), range: parts.map((d) => partColour(d.part)) },
      marks: [
        Plot.barX(parts, Plot.stackX({ x: "value", fill: "part", insetRight: 1, tip: true,
          title: (d) => `${d.part}: ${seconds(d.value)}` })),
        Plot.ruleX([data.bound_s], { stroke: "currentColor", strokeWidth: 2.5, strokeDasharray: "5,3" }),
        Plot.text([data.bound_s], { x: (d) => d, text: () => `lower bound ${seconds(data.bound_s)}`, frameAnchor: "top",
          dy: -14, fontWeight: 600, fill: "currentColor",
          textAnchor: data.bound_s > 0.7 * data.span_s ? "end" : data.bound_s < 0.3 * data.span_s ? "start" : "middle" }),
      ],
    }));
  }

  function drawActivity() {
    const names = Object.keys(data.activity.counts);
    if (!$("activity-chart") || !names.length) return;
    const rows = names.flatMap((what) => data.activity.t.map((t, i) => ({ t, what, n: data.activity.counts[what][i] })));
    $("activity-chart").replaceChildren(partsLegend(names), Plot.plot({
      width: width(), height: 190, marginLeft: 46, marginRight: 10, style,
      ariaLabel: "How many functions ran and waited, over time",
      x: { label: "seconds", domain: [0, data.span_s] }, y: { label: "functions", grid: true },
      color: { type: "categorical", domain: names, range: names.map(partColour) },
      marks: [Plot.areaY(rows, Plot.stackY({ x: "t", y: "n", fill: "what", order: names, curve: "step-after" })), Plot.ruleY([0])],
    }));
  }

  // One colour for each of the codes that ran longest together, grey for the rest.
  const spent = d3.rollup(functions, (fs) => d3.sum(fs, (f) => (f.stop ?? f.start ?? 0) - (f.start ?? 0)), (f) => f.name);
  const named = [...spent].sort((a, b) => b[1] - a[1]).map(([name]) => name);
  const shown = named.slice(0, COLOURS.length);
  const codes = named.length > shown.length ? [...shown, "other code"] : shown;
  const code = (f) => (shown.includes(f.name) ? f.name : "other code");
  const stopOf = (f) => f.stop ?? data.span_s;
  const codeScale = { type: "categorical", domain: codes, range: codes.map((_, i) => COLOURS[i] ?? OTHER) };

  function describe(f) {
    const lines = [f.id, `${f.name}, ${f.status}`, `started ${seconds(f.start)}, ran ${seconds((f.stop ?? data.span_s) - f.start)}`];
    if (f.placed != null && f.ready != null && f.placed > f.ready) {
      lines.push(`waited ${seconds(f.placed - f.ready)}` + (f.cause ? ` for ${f.cause}` : ""));
    }
    if (f.attempts > 1) lines.push(`${f.attempts} attempts`);
    if (f.cost) lines.push(f.cost);
    return lines.join("\n");
  }

  function drawNode(node, ran, domain) {
    const lane = node.lanes > 12 ? 11 : 16;
    const wide = width();
    const common = { width: wide, marginLeft: 60, marginRight: 14, style };
    const x = { domain, label: null };
    const rows = d3.range(node.lanes);
    const failed = ran.filter((f) => f.status === "failed");
    const bar = { y: "lane", x1: "start", x2: stopOf, clip: true };
    const pixels = (f) => ((stopOf(f) - f.start) / (domain[1] - domain[0])) * wide;
    const seams = d3.median(ran, pixels) > 6;
    const [broad, narrow] = [ran.filter((f) => seams && pixels(f) > 4), ran.filter((f) => !seams || pixels(f) <= 4)];
    const chart = Plot.plot({
      ...common, height: node.lanes * lane + 34, marginTop: 4, marginBottom: 24,
      ariaLabel: `Timeline of node ${node.name}: ${ran.length} functions on ${node.lanes} threads`,
      x, y: { type: "band", domain: rows, label: "thread", tickSize: 0, tickFormat: (d) => d + 1 }, color: codeScale,
      marks: [
        Plot.barX(rows, { y: (d) => d, x1: domain[0], x2: domain[1], fill: "currentColor", fillOpacity: 0.06 }),
        Plot.barX(ran.filter((f) => f.placed != null && f.placed < f.start), { y: "lane", x1: "placed", x2: "start",
          fill: code, fillOpacity: 0.35, clip: true }),
        // Seams between bars where most are wide enough; the others stay visible as hairlines.
        Plot.barX(narrow, { ...bar, fill: code, stroke: code, strokeWidth: 0.5 }),
        Plot.barX(broad, { ...bar, fill: code, stroke: "var(--paper)", strokeWidth: 0.5 }),
        Plot.barX(failed, { ...bar, fill: "none", stroke: "var(--bad)", strokeWidth: 2.5 }),
        Plot.text(failed, { y: "lane", x: "start", text: () => "✗", dx: 6, fill: "currentColor", fontWeight: 700, clip: true }),
        Plot.tip(ran, Plot.pointer({ y: "lane", x1: "start", x2: stopOf, title: describe, fill: "var(--paper)" })),
      ],
    });
    const uses = node.use.map((use) => {
      const points = use.t.map((t, i) => ({ t, used: use.used[i] })).concat([{ t: data.span_s, used: 0 }]);
      const top = Math.max(use.capacity ?? 0, d3.max(use.used));
      const has = use.capacity == null ? "" : ` of ${use.capacity.toLocaleString("en")}`;
      return Plot.plot({
        ...common, height: 58, marginTop: 18, marginBottom: 4, ariaLabel: `Use of ${use.resource} on node ${node.name}`,
        x: { ...x, axis: null }, y: { domain: [0, top || 1], ticks: top ? [0, top] : [0], tickFormat: short, label: null },
        marks: [
          Plot.areaY(points, { x: "t", y: "used", curve: "step-after", fill: "#0072b2", fillOpacity: 0.45, clip: true }),
          points.length < wide / 4
            ? Plot.lineY(points, { x: "t", y: "used", curve: "step-after", stroke: "#0072b2", strokeWidth: 1, clip: true })
            : null,
          Plot.ruleY([0], { strokeOpacity: 0.4 }),
          Plot.ruleY(use.capacity == null ? [] : [use.capacity], { stroke: "currentColor", strokeDasharray: "4,3" }),
          Plot.text([use.resource + has], { frameAnchor: "top-left", text: (d) => d, dy: -14, fill: "currentColor" }),
        ],
      });
    });
    const title = document.createElement("h3");
    title.append(`${node.name} `);
    const small = title.appendChild(document.createElement("small"));
    small.textContent = `${ran.length} function${ran.length === 1 ? "" : "s"}`;
    const box = document.createElement("div");
    box.className = "timeline-node";
    box.append(title, chart, ...uses);
    return box;
  }

  // Nodes beyond the first are folded away until asked for, or until the page is printed.
  const OPEN_NODES = 16;
  let zoom = null;

  function drawTimeline() {
    const place = $("timeline-charts");
    if (!place) return;
    const domain = zoom ?? [0, data.span_s || 1];
    const byNode = d3.group(functions.filter((f) => f.node != null && f.start != null), (f) => f.node);
    const draw = (node, i) => drawNode(node, (byNode.get(i) ?? []).filter((f) =>
      f.start <= domain[1] && (f.stop ?? data.span_s) >= domain[0]), domain);
    $("timeline-legend").replaceChildren(codes.length ? Plot.legend({ color: codeScale, style }) : "");
    place.replaceChildren(...data.nodes.slice(0, OPEN_NODES).map(draw));
    const rest = data.nodes.slice(OPEN_NODES);
    if (!rest.length) return;
    const details = place.appendChild(document.createElement("details"));
    details.appendChild(document.createElement("summary")).textContent = `${rest.length} more nodes`;
    details.addEventListener("toggle", () => details.append(...rest.map((node, i) => draw(node, i + OPEN_NODES))),
      { once: true });
  }

  function listenToZoom() {
    const form = $("zoom");
    if (!form) return;
    const fill = () => {
      $("zoom-from").value = zoom ? zoom[0] : 0;
      $("zoom-to").value = zoom ? zoom[1] : data.span_s;
    };
    fill();
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const [from, to] = [$("zoom-from").valueAsNumber, $("zoom-to").valueAsNumber];
      zoom = from >= 0 && to > from ? [from, Math.min(to, data.span_s)] : null;
      fill();
      drawTimeline();
    });
    form.addEventListener("reset", (event) => {
      event.preventDefault();
      zoom = null;
      fill();
      drawTimeline();
    });
  }

  // Without graphviz: groups in columns, producers to the left.
  function drawLayers() {
    if (!$("layers-chart") || !data.layers) return;
    const { groups, edges } = data.layers;
    const deepest = d3.max(groups, (g) => g.x) ?? 0;
    const most = d3.max(groups, (g) => g.y) ?? 1;
    const links = edges.map(([a, b, n]) => ({ x1: groups[a].x, y1: groups[a].y, x2: groups[b].x, y2: groups[b].y, n }));
    $("layers-chart").replaceChildren(Plot.plot({
      width: Math.max(width() - 30, (deepest + 1) * 150), height: 70 + most * 46 + deepest * 14, style,
      margin: 50, marginTop: 40 + deepest * 14,
      ariaLabel: "Groups of functions and the results that pass between them",
      x: { axis: null, domain: [0, Math.max(1, deepest)] }, y: { axis: null, domain: [most + 0.5, 0.5] },
      marks: [
        Plot.arrow(links, { x1: "x1", y1: "y1", x2: "x2", y2: "y2", bend: 15, stroke: "currentColor", strokeOpacity: 0.5,
          inset: 8, strokeWidth: 1.2, headLength: 6, title: (d) => `${d.n}` }),
        Plot.dot(groups, { x: "x", y: "y", r: 6, fill: "#56b4e9", stroke: (g) => (g.failed ? "#c00000" : "#404040"),
          strokeWidth: 2, symbol: "square" }),
        Plot.text(groups, { x: "x", y: "y", text: "text", dy: -14, fill: "currentColor", stroke: "var(--paper)", strokeWidth: 4 }),
      ],
    }));
  }

  // ---- the table

  const escaped = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
  const text = (value, type) => (type === "display" ? escaped(value ?? "") : value ?? "");
  const number = (digits) => (value, type) =>
    type === "display" ? (value == null ? "" : digits == null ? value.toLocaleString("en") : value.toFixed(digits)) : value;
  const less = (a, b) => (a == null || b == null ? null : Math.max(0, a - b));

  const COLUMNS = [
    { title: "Function", data: "id", kind: "text", className: "text" },
    { title: "Code", data: "name", kind: "choice", className: "text" },
    { title: "Node", data: (f) => (f.node == null ? "" : data.nodes[f.node].name), kind: "choice" },
    { title: "Status", data: "status", kind: "choice" },
    { title: "Ready", data: "ready", digits: 3 },
    { title: "Waited", data: (f) => less(f.placed, f.ready), digits: 3 },
    { title: "For", data: "cause", kind: "choice" },
    { title: "Start", data: "start", digits: 3 },
    { title: "Ran", data: (f) => less(f.stop, f.start), digits: 3 },
    { title: "Attempts", data: "attempts" },
    { title: "Bytes", data: "nbytes" },
    { title: "Cost", data: "cost", kind: "text", className: "text" },
  ];

  const tableColumns = COLUMNS.map((column) => ({
    title: column.title, data: column.data, className: column.className ?? (column.kind ? "text" : ""),
    type: column.kind ? "string" : "num",
    createdCell: (cell, value) => cell.classList.toggle("long", String(value).length > 28),
    render: column.title === "Status" ? status : column.kind ? text : number(column.digits),
  }));

  function status(value, type, f) {
    if (type !== "display" || f.error == null) return text(value, type);
    return `<a href="#error-${Number(f.error)}">${escaped(value)}</a>`;
  }

  // A filter of numbers: "3", "> 1.5", "<= 20".
  function comparison(typed) {
    const found = /^\s*(<=|>=|<|>|=)?\s*(-?\d+(?:\.\d+)?)\s*$/.exec(typed);
    if (!found) return null;
    const [operator, bound] = [found[1] ?? "=", Number(found[2])];
    return (value) => value != null && {
      "<": value < bound, "<=": value <= bound, ">": value > bound, ">=": value >= bound, "=": value === bound,
    }[operator];
  }

  function filterFor(column, index, table) {
    const name = `Filter ${column.title}`;
    const values = column.kind === "choice" ? [...new Set(functions.map((f) => valueOf(column, f)))].sort() : [];
    if (values.length && values.length <= 60) {
      const select = document.createElement("select");
      select.setAttribute("aria-label", name);
      select.append(new Option("all", "*"), ...values.map((value) => new Option(value === "" ? "(none)" : value, `=${value}`)));
      select.addEventListener("change", () => {
        const chosen = select.value;
        table.column(index).search.fixed("chosen", chosen === "*" ? null : (value) => `=${value}` === chosen).draw();
      });
      return select;
    }
    const input = document.createElement("input");
    input.setAttribute("aria-label", name);
    input.type = "search";
    input.placeholder = column.kind ? "contains" : "> 1";
    input.addEventListener("input", () => {
      const typed = input.value.trim().toLowerCase();
      const test = column.kind ? (value) => String(value).toLowerCase().includes(typed) : comparison(typed);
      input.setAttribute("aria-invalid", String(Boolean(typed) && !test));
      table.column(index).search.fixed("typed", typed && test ? (_, f) => test(valueOf(column, f)) : null).draw();
    });
    return input;
  }

  const valueOf = (column, f) => (typeof column.data === "function" ? column.data(f) : f[column.data]);

  function drawTable() {
    const element = $("functions-table");
    if (!element) return;
    const head = element.createTHead();
    const titles = head.insertRow();
    const filters = head.insertRow();
    filters.setAttribute("data-dt-order", "disable");
    for (const column of COLUMNS) {
      for (const row of [titles, filters]) row.appendChild(document.createElement("th")).scope = "col";
      titles.lastChild.textContent = column.title;
    }
    const table = new DataTable(element, {
      data: functions, columns: tableColumns, order: [[7, "asc"]], deferRender: true, autoWidth: false, titleRow: 0,
      pageLength: 25, lengthMenu: [25, 100, 500, { label: "all", value: -1 }],
      language: { search: "Find anywhere: ", entries: { _: "functions", 1: "function" } },
    });
    COLUMNS.forEach((column, index) => {
      filters.cells[index].replaceChildren(filterFor(column, index, table));
    });
    printWhole(table);
  }

  // Paper has no buttons: it gets every row that passes the filters, and everything unfolded.
  function printWhole(table) {
    let length = null;
    addEventListener("beforeprint", () => {
      length = table.page.len();
      table.page.len(-1).draw(false);
    });
    addEventListener("afterprint", () => table.page.len(length).draw(false));
  }

  function unfoldForPrint() {
    let folded = [];
    addEventListener("beforeprint", () => {
      folded = [...document.querySelectorAll("details:not([open])")];
      for (const details of folded) details.open = true;
    });
    addEventListener("afterprint", () => {
      for (const details of folded) details.open = false;
    });
  }

  // A link to an error that is folded away opens it.
  function openLinked() {
    const linked = location.hash.startsWith("#error-") && $(location.hash.slice(1));
    if (linked) linked.open = true;
  }

  function draw() {
    drawPath();
    drawActivity();
    drawTimeline();
    drawLayers();
  }

  draw();
  listenToZoom();
  drawTable();
  unfoldForPrint();
  openLinked();
  addEventListener("hashchange", openLinked);
  let drawn = width();
  let later;
  addEventListener("resize", () => {
    clearTimeout(later);
    later = setTimeout(() => {
      if (width() !== drawn) {
        drawn = width();
        draw();
      }
    }, 150);
  });
})();
