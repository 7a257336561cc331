"use strict";
// Read-outs: a hair line at the step under the pointer, the same step in every chart, and the numbers in the legend.
(() => {
  const charts = [...document.querySelectorAll(".chart")].map((figure) => ({
    figure,
    area: figure.querySelector(".area"),
    hair: figure.querySelector(".hair"),
    keys: [...figure.querySelectorAll(".key b")],
    name: figure.querySelector(".name"),
    title: figure.querySelector(".name").textContent,
    ...JSON.parse(figure.querySelector("script").textContent),
  }));

  const nearest = (xs, x) => {
    let low = 0, high = xs.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (xs[middle] < x) low = middle; else high = middle;
    }
    return Math.abs(xs[low] - x) <= Math.abs(xs[high] - x) ? low : high;
  };

  const show = (step) => {
    for (const chart of charts) {
      const [low, high] = chart.x;
      const share = Math.min(1, Math.max(0, (step - low) / (high - low)));
      chart.hair.style.left = `${100 * share}%`;
      chart.hair.style.opacity = 0.7;
      chart.name.textContent = `${chart.title} at step ${Math.round(step).toLocaleString("en")}`;
      chart.lines.forEach((line, at) => { chart.keys[at].textContent = line.text[nearest(line.x, step)]; });
    }
  };

  const hide = () => {
    for (const chart of charts) {
      chart.hair.style.opacity = 0;
      chart.name.textContent = chart.title;
      chart.keys.forEach((key) => { key.textContent = ""; });
    }
  };

  for (const chart of charts) {
    const longest = chart.lines.reduce((a, b) => (b.x.length > a.x.length ? b : a)).x;
    let at = longest.length - 1;
    const go = (index) => { at = Math.min(longest.length - 1, Math.max(0, index)); show(longest[at]); };
    chart.area.addEventListener("pointermove", (event) => {
      const box = chart.area.getBoundingClientRect();
      const [low, high] = chart.x;
      go(nearest(longest, low + ((event.clientX - box.left) / box.width) * (high - low)));
    });
    chart.area.addEventListener("pointerleave", hide);
    chart.figure.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (by) { event.preventDefault(); go(at + by); }
    });
    chart.figure.addEventListener("blur", hide);
  }

  for (const figure of document.querySelectorAll(".heat")) {
    const { names, x, text } = JSON.parse(figure.querySelector("script").textContent);
    const area = figure.querySelector(".area"), readout = figure.querySelector(".readout");
    area.addEventListener("pointermove", (event) => {
      const box = area.getBoundingClientRect();
      const row = Math.min(names.length - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * names.length)));
      const column = Math.min(x.length - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * x.length)));
      readout.textContent = `${names[row]} at step ${x[column]}: ${text[row][column] ?? "–"}`;
    });
    area.addEventListener("pointerleave", () => { readout.textContent = "\u00a0"; });
  }
})();
