"use strict";
// Draws the charts of #chart-data with uPlot and makes tables sortable.
(() => {
  const colours = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22"];
  const number = v => {
    const size = Math.abs(v);
    for (const [unit, name] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]])
      if (size >= unit) return String(+(v / (unit === 1e4 ? 1e3 : unit)).toPrecision(4)) + name;
    return size < 1e-3 && v !== 0 ? String(+v.toPrecision(3)) : String(+v.toPrecision(4));
  };

  function draw(chart, parent) {
    // uPlot's columns share one ascending x; each point is a row in which only its group has a value.
    const points = chart.points
      .filter(p => (!chart.logX || p.x > 0) && (!chart.logY || p.y > 0))
      .sort((a, b) => a.x - b.x);
    const box = document.createElement("div");
    box.className = "chart";
    parent.append(box);
    if (points.length === 0) {
      box.textContent = chart.title + ": no points";
      return;
    }
    const groups = [...new Set(chart.points.map(p => p.group))];  // the same colours in every chart
    const data = [points.map(p => p.x), ...groups.map(g => points.map(p => p.group === g ? p.y : null))];
    const tip = document.createElement("div");
    tip.className = "tip";
    const ring = (u, i) => {  // hollow where dominated
      const {ctx} = u;
      const radius = 4 * devicePixelRatio;
      ctx.save();
      ctx.lineWidth = 1.5 * devicePixelRatio;
      points.forEach((p, k) => {
        if (p.group !== groups[i - 1]) return;
        const x = u.valToPos(p.x, "x", true), y = u.valToPos(p.y, "y", true);
        ctx.beginPath();
        ctx.arc(x, y, radius, 0, 2 * Math.PI);
        ctx.strokeStyle = colours[(i - 1) % colours.length];
        ctx.fillStyle = p.dominated ? "#fff" : ctx.strokeStyle;
        ctx.fill();
        ctx.stroke();
      });
      ctx.restore();
      return false;
    };
    const line = uPlot.paths.linear();
    const pad = log => (u, min, max) => {
      if (log) return [min / 1.4, max * 1.4];
      const margin = (max - min) * 0.06 || Math.abs(max) * 0.1 || 1;
      return [min - margin, max + margin];
    };
    const axis = label => ({label, labelSize: 22, size: 62, values: (u, values) => values.map(v => v === null ? "" : number(v))});
    const plot = new uPlot({
      title: chart.title,
      width: Math.min(560, document.body.clientWidth),
      height: 380,
      scales: {
        x: {time: false, distr: chart.logX ? 3 : 1, range: pad(chart.logX)},
        y: {distr: chart.logY ? 3 : 1, range: pad(chart.logY)},
      },
      axes: [axis(chart.x), axis(chart.y)],
      legend: {live: false},
      cursor: {drag: {x: true, y: true}, points: {show: false}},
      series: [{}, ...groups.map((g, i) => ({
        label: g,
        stroke: colours[i % colours.length],
        spanGaps: true,
        paths: chart.join ? line : () => null,
        points: {show: ring, size: 8},
      }))],
      hooks: {setCursor: [u => {
        let best = -1, least = 18 * 18;
        points.forEach((p, k) => {
          if (!u.series[1 + groups.indexOf(p.group)].show) return;
          const dx = u.valToPos(p.x, "x") - u.cursor.left, dy = u.valToPos(p.y, "y") - u.cursor.top;
          if (dx * dx + dy * dy < least) { least = dx * dx + dy * dy; best = k; }
        });
        tip.style.display = best < 0 ? "none" : "block";
        if (best < 0) return;
        const p = points[best];
        tip.textContent = `${p.name}: ${number(p.x)}, ${number(p.y)}${p.dominated ? " (dominated)" : ""}`;
        tip.style.left = u.over.offsetLeft + u.cursor.left + 12 + "px";
        tip.style.top = u.over.offsetTop + u.cursor.top + 12 + "px";
      }]},
    }, data, box);
    plot.root.querySelector(".u-wrap").append(tip);
  }

  for (const chart of JSON.parse(document.getElementById("chart-data").textContent))
    draw(chart, document.getElementById("charts"));

  for (const table of document.querySelectorAll("table.sortable")) {
    table.tHead.addEventListener("click", event => {
      const column = event.target.cellIndex;
      if (column === undefined || !table.tBodies[0]) return;
      const up = table.dataset.sorted !== String(column);
      table.dataset.sorted = up ? column : "";
      const value = row => row.cells[column].textContent;
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const x = parseFloat(value(a)), y = parseFloat(value(b));
        const order = isNaN(x) || isNaN(y) ? value(a).localeCompare(value(b)) : x - y;
        return up ? order : -order;
      });
      table.tBodies[0].append(...rows);
    });
  }
})();
