"use strict";
/* Draws the page's charts where they come into view, and tells the decision of the moment that the reader picks.
   Everything that is written into the page goes through textContent: names come from tenants. */
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  root.classList.add("js");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isCoarse = matchMedia("(pointer: coarse)").matches;
  const end = data.steps - 1;
  const ms = (at) => (data.start + at * data.step) * 1000;
  const stepOf = (time) => Math.min(end, Math.max(0, Math.floor((time / 1000 - data.start) / data.step + 1e-6)));
  const clock = (at, withDay) => {
    const text = new Date(ms(at)).toISOString();
    return withDay ? `${text.slice(0, 10)} ${text.slice(11, 19)}` : text.slice(11, 19);
  };
  let cursor = null;  // the step that the reader looks at
  let pick = () => {};  // what a click does; without decisions on the page, nothing

  // ---- charts

  function palette() {
    const style = getComputedStyle(root);
    const of = (name) => style.getPropertyValue(`--${name}`).trim();
    const [text, real, ours, card] = ["text", "real", "ours", "card"].map(of);
    return {
      text, ground: of("ground"), muted: of("muted"), grid: of("grid"), veto: of("veto"), ours,
      font: getComputedStyle(document.body).fontFamily,
      roles: {
        real: { color: real, width: 3 },
        asked: { color: real, width: 1.5, dash: "6px,3px" },
        ours: { color: ours, width: 2 },
        other: { color: ours, width: 2, dash: "dash" },
        demand: { color: ours, width: 1.5, dash: "dot" },
        card: { color: card, width: 1 },
        tightest: { color: text, width: 2 },
        watermark: { color: text, width: 1.5, dash: "dash" },
        failures: { color: real, width: 1, fill: of("failures") },
        plain: { color: of("muted"), width: 1.5 },
      },
    };
  }

  // A step curve holds its value up to the next change: it gets a point at each step, or the pointer would be told the
  // nearest change instead of the value in force.
  function points(curve) {
    if (!curve.step) return [curve.at.map(ms), curve.values];
    const stride = Math.max(1, Math.ceil(data.steps / 3000));
    const times = [], values = [];
    curve.at.forEach((from, i) => {
      const to = i + 1 < curve.at.length ? curve.at[i + 1] : data.steps;
      for (let at = from; at < to; at += stride) { times.push(ms(at)); values.push(curve.values[i]); }
    });
    if (times.length && times[times.length - 1] < ms(end)) { times.push(ms(end)); values.push(values[values.length - 1]); }
    return [times, values];
  }

  function traces(chart, colours) {
    return chart.curves.map((curve) => {
      const look = colours.roles[curve.role];
      const [x, y] = points(curve);
      return {
        type: "scatter", mode: end ? "lines" : "markers", name: plain(curve.name), x, y, yaxis: axis("y", curve.row), connectgaps: false,
        line: { color: look.color, width: look.width, dash: look.dash || "solid", shape: curve.step ? "hv" : "linear" },
        ...(look.fill ? { fill: "tozeroy", fillcolor: look.fill } : {}),
        ...(curve.quiet ? { hoverinfo: "skip" } : { hovertemplate: "%{y:.4~g}" }),
      };
    });
  }

  const axis = (letter, row) => (row ? `${letter}${row + 1}` : letter);
  // plotly reads a little HTML in names, links among it: a name is text, and never longer than a line.
  const plain = (text) => text.slice(0, 120).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  function shapes(chart, colours) {
    const found = chart.bands.map(([from, to, isOther]) => ({
      type: "rect", xref: "x", yref: "paper", layer: "below", x0: ms(from), x1: ms(to),
      ...(isOther ? { y0: 1, y1: 1.018 } : { y0: 0, y1: 1 }),
      line: { width: 0 }, fillcolor: isOther ? colours.ours : colours.veto,
    }));
    if (cursor !== null) {
      found.push({
        type: "line", xref: "x", yref: "paper", x0: ms(cursor), x1: ms(cursor), y0: 0, y1: 1,
        line: { color: colours.text, width: 1.2 },
      });
    }
    return found;
  }

  function layout(chart, colours, width) {
    const heights = chart.rows.map((row) => row.height);
    const whole = heights.reduce((sum, height) => sum + height, 0);
    const made = {
      paper_bgcolor: colours.ground, plot_bgcolor: colours.ground, showlegend: false,
      font: { family: colours.font, size: 12, color: colours.text },
      margin: { l: 42, r: 8, t: 8, b: 34 },
      hovermode: "x unified", hoverdistance: -1, hoversubplots: "axis", dragmode: isCoarse ? false : "zoom",
      hoverlabel: { bgcolor: colours.ground, bordercolor: colours.muted, font: { color: colours.text, size: 12 } },
      shapes: shapes(chart, colours), annotations: [],
      xaxis: {
        type: "date", range: end ? [ms(0), ms(end)] : [ms(-1), ms(1)], anchor: axis("y", chart.rows.length - 1), gridcolor: colours.grid,
        linecolor: colours.muted, showspikes: !isCoarse, spikemode: "across", spikethickness: 1, spikedash: "solid",
        spikecolor: colours.muted, hoverformat: data.clock ? "%d %b %H:%M:%S UTC" : "%H:%M:%S since the start",
        tickformat: data.steps * data.step > 2 * 86400 ? "%d %b" : "%H:%M", automargin: false, tickangle: 0,
        nticks: Math.max(3, Math.min(12, Math.floor(width / 75))),
      },
    };
    let top = 1;
    chart.rows.forEach((row, i) => {
      const share = heights[i] / whole;
      made[`yaxis${i ? i + 1 : ""}`] = {
        domain: [Math.max(0, top - share + (i < heights.length - 1 ? 10 / whole : 0)), top - 24 / whole], rangemode: "tozero", gridcolor: colours.grid, zeroline: false,
        nticks: 5, fixedrange: true, automargin: false,
      };
      made.annotations.push({
        text: plain(row.title), showarrow: false, xref: "paper", yref: "paper", x: 0, y: top, xanchor: "left",
        yanchor: "top", xshift: -40, font: { size: 12, color: colours.muted },
      });
      top -= share;
    });
    return made;
  }

  const drawn = new Map();

  function draw(plot) {
    if (drawn.has(plot)) return;
    const chart = data.charts[Number(plot.dataset.chart)];
    drawn.set(plot, chart);
    const colours = palette();
    const config = { displayModeBar: false, responsive: true, showTips: false, doubleClick: "reset" };
    Plotly.newPlot(plot, traces(chart, colours), layout(chart, colours, plot.clientWidth), config).then(() => {
      const pickAt = (event) => {
        const left = plot.getBoundingClientRect().left + plot._fullLayout.xaxis._offset;
        pick(stepOf(plot._fullLayout.xaxis.p2c(event.clientX - left)), chart.subject);
      };
      plot.on("plotly_click", (event) => pickAt(event.event));
      // Between two rows plotly hears nothing.
      plot.addEventListener("click", (event) => { if (!event.target.closest(".draglayer")) pickAt(event); });
      plot.dataset.drawn = "yes";
    });
  }

  const near = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
      near.unobserve(entry.target);
      draw(entry.target);
    }),
    { rootMargin: "400px" },
  );
  const plots = [...document.querySelectorAll(".plot")];
  plots.forEach((plot) => near.observe(plot));
  dark.addEventListener("change", () => {
    const colours = palette();
    drawn.forEach((chart, plot) => Plotly.react(plot, traces(chart, colours), layout(chart, colours, plot.clientWidth)));
  });

  // ---- the moment

  const panel = document.getElementById("moment");
  const subjects = Object.keys(data.tellings);
  if (!panel || !subjects.length) return;
  root.classList.add("with-moment");
  const [toggle, select, time, told] = ["toggle", "subject", "time", "told"].map((name) =>
    document.getElementById(`moment-${name}`));
  const element = (name, text, parent, className) => {
    const made = document.createElement(name);
    made.textContent = text;
    if (className) made.className = className;
    parent.append(made);
    return made;
  };
  subjects.forEach((subject) => { element("option", subject, select).value = subject; });
  // "2025-06-18 00:03:00"; a time of day alone is the first such moment from the beginning on.
  function typed(text) {
    const [, day, hours, minutes, seconds] = /^\s*(?:(\d{4}-\d\d-\d\d)[ T]+)?(\d\d?):(\d\d)(?::(\d\d))?Z?\s*$/.exec(text) || [];
    if (hours === undefined) return null;
    const of = (date) => Date.parse(`${date}T${hours.padStart(2, "0")}:${minutes}:${seconds || "00"}Z`);
    if (day) return of(day);
    const first = of(clock(0, true).slice(0, 10));
    return first < ms(0) ? first + 86400000 : first;
  }


  // The last one at or before the step; -1 before the first.
  function place(tellings) {
    let low = 0, high = tellings.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (tellings[middle][0] <= cursor) low = middle + 1; else high = middle;
    }
    return low - 1;
  }

  // What the service's curves of counts say at that step: they are whole, where decisions may have been left out.
  function now() {
    const chart = data.charts.find((each) => each.subject === select.value);
    const texts = !chart ? [] : chart.curves.filter((each) => each.step && each.row === 0).map((curve) => {
      const after = curve.at.findIndex((at) => at > cursor);
      const value = curve.values[(after < 0 ? curve.at.length : after) - 1];
      return `${curve.name} ${value === null || value === undefined ? "unknown" : value}`;
    });
    if (texts.length) element("p", `${clock(cursor, false)} UTC: ${texts.join("; ")}.`, told);
  }

  function tell() {
    const of = data.tellings[select.value];
    told.replaceChildren();
    now();
    of.settings.forEach(([name, tellings]) => {
      const at = place(tellings);
      if (of.settings.length > 1) element("h4", name, told);
      if (at < 0) { element("p", "No decision yet.", told); return; }
      const [since, headline, steps, reasons, without, changedBy] = tellings[at];
      const until = at + 1 < tellings.length ? tellings[at + 1][0] : null;
      element("h3", headline, told);
      const next = until === null ? "the last one" : `the next one is of ${clock(until, false)}`;
      const between = of.leftOut ? "; some in between were left out" : "";
      element("p", `The decision of ${clock(since, false)} with its figures; ${next}${between}.`, told, "age");
      const list = (title, texts) => {
        if (!texts.length) return;
        element("h4", title, told);
        texts.forEach((text) => element("p", text, told));
      };
      list("decided by", reasons);
      list("it would have been", without);
      list("what would change it", changedBy);
      element("h4", "step by step", told);
      const items = element("ol", "", told);
      steps.forEach(([step, value, text]) => {
        const item = element("li", "", items);
        element("span", value, item);
        element("b", step, item);
        element("small", text, item);
      });
    });
    if (of.leftOut) {
      element("p", `${of.leftOut} changes of this service are not told here; the curves of its replicas have them all.`, told, "age");
    }
  }

  pick = (at, subject, isQuiet) => {
    cursor = Math.min(end, Math.max(0, at));
    if (subject && subject in data.tellings) select.value = subject;
    time.value = clock(cursor, true);
    const short = select.value.split("/").pop();
    toggle.textContent = isQuiet ? `Why? Pick a moment in a chart` : `${clock(cursor, false)} UTC · ${short}`;
    if (!isQuiet) open(true);
    tell();
    const colours = palette();
    drawn.forEach((chart, plot) => Plotly.relayout(plot, { shapes: shapes(chart, colours) }));
  };

  function open(isOpen) {
    panel.classList.toggle("is-open", isOpen);
    toggle.setAttribute("aria-expanded", String(isOpen));
  }

  function change(direction) {
    const starts = data.tellings[select.value].settings.flatMap(([, tellings]) => tellings.map((each) => each[0]));
    const ahead = starts.filter((at) => (direction > 0 ? at > cursor : at < cursor));
    if (ahead.length) pick(direction > 0 ? Math.min(...ahead) : Math.max(...ahead));
  }

  toggle.addEventListener("click", () => open(!panel.classList.contains("is-open")));
  select.addEventListener("change", () => pick(cursor));
  document.getElementById("moment-form").addEventListener("submit", (event) => event.preventDefault());
  time.addEventListener("change", () => {
    const at = typed(time.value);
    pick(at === null || Number.isNaN(at) ? cursor : stepOf(at));
  });
  document.getElementById("moment-before").addEventListener("click", () => change(-1));
  document.getElementById("moment-after").addEventListener("click", () => change(1));
  plots.forEach((plot) => plot.addEventListener("keydown", (event) => {
    const direction = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!direction) return;
    event.preventDefault();
    const subject = data.charts[Number(plot.dataset.chart)].subject;
    if (subject) select.value = subject;
    if (event.shiftKey) change(direction); else pick(cursor + direction);
  }));
  select.value = subjects[0];
  pick(data.tellings[subjects[0]].start, subjects[0], true);
})();
