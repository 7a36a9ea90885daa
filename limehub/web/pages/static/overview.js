// The overview moves: numbers come as server-sent events and are written as text, never as HTML.
// When rows or problems come or go (the shape changes), the page asks for those parts anew.
"use strict";

(() => {
  const IDLE = new Set(["0", "–", "0/s"]);
  const live = document.getElementById("live");
  const pulse = document.getElementById("pulse");
  const pause = document.getElementById("pause");
  const said = document.getElementById("said");
  const plots = new Map();
  let source = null;
  let waiting = false;
  let paused = false;
  let last = null;
  let kept = { focus: "", open: [] };

  const shape = () => document.getElementById("verdict").dataset.shape;
  const headline = () => document.getElementById("headline").textContent;

  function write(cells) {
    for (const place of document.querySelectorAll("[data-live]")) {
      const text = cells[place.dataset.live];
      if (text === undefined || text === place.textContent) continue;
      place.textContent = text;
      place.toggleAttribute("data-idle", IDLE.has(text));
    }
  }

  function colour() {
    return getComputedStyle(document.documentElement).getPropertyValue("--chart").trim();
  }

  function plotted(place, data) {
    const stroke = colour();
    const fill = `${stroke}22`;
    const options = {
      width: place.clientWidth, height: place.clientHeight, padding: [4, 0, 2, 0],
      legend: { show: false }, cursor: { show: false }, select: { show: false },
      axes: [{ show: false }, { show: false }],
      scales: { x: { time: true }, y: { range: (_plot, _low, high) => [0, Math.max(1, high * 1.15)] } },
      series: [{}, { stroke, fill, width: 1.5, points: { show: false }, spanGaps: true }],
    };
    return new uPlot(options, data, place);
  }

  function draw(charts) {
    for (const place of document.querySelectorAll("[data-chart]")) {
      const data = [charts.at, charts[place.dataset.chart]];
      const plot = plots.get(place);
      if (plot) plot.setData(data);
      else if (charts.at.length > 1) plots.set(place, plotted(place, data));
    }
  }

  function resize() {
    for (const [place, plot] of plots) {
      plot.setSize({ width: place.clientWidth, height: place.clientHeight });
    }
  }

  // Colours are fixed when a plot is made.
  function recolour() {
    for (const plot of plots.values()) plot.destroy();
    plots.clear();
    if (last) draw(last);
  }

  function take(event) {
    const message = JSON.parse(event.data);
    write(message.cells);
    last = message.charts;
    draw(last);
    show(true);
    if (message.shape !== shape() && !waiting) {
      waiting = true;
      htmx.trigger(live, "reshape");
    }
  }

  function show(isLive) {
    pulse.hidden = !isLive;
    pause.hidden = !isLive && !paused;
    pause.textContent = paused ? "Go on" : "Pause";
  }

  function open() {
    if (source || paused || document.hidden) return;
    source = new EventSource("/live");
    source.onmessage = take;
    source.onerror = () => {
      show(false);
      if (source.readyState === EventSource.CLOSED) close();
    };
  }

  // A browser has six connections to a server: a page that nobody sees gives its one back.
  function close() {
    if (source) source.close();
    source = null;
    show(false);
  }

  // New parts must not take away what somebody reads or has under the keyboard.
  function keep() {
    const open = [...document.querySelectorAll("details[open][id]")];
    kept = { focus: document.activeElement.id, open: open.map((each) => each.id) };
  }

  function restore() {
    for (const id of kept.open) document.getElementById(id)?.setAttribute("open", "");
    if (kept.focus && document.activeElement === document.body) {
      document.getElementById(kept.focus)?.focus({ preventScroll: true });
    }
    document.title = `${headline()} · limehub`;
    if (said.textContent !== headline()) said.textContent = headline();
  }

  live.addEventListener("htmx:afterRequest", () => { waiting = false; });
  document.addEventListener("htmx:beforeSwap", keep);
  document.addEventListener("htmx:afterSettle", restore);
  pause.addEventListener("click", () => {
    paused = !paused;
    if (paused) close();
    else open();
  });
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("pagehide", close);
  addEventListener("resize", resize);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  setInterval(open, 15000);
  open();
})();
