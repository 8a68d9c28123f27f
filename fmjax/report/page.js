"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("chart-data").textContent);
  const boxes = [...document.querySelectorAll("[data-chart]")];
  const touch = matchMedia("(pointer: coarse)").matches;
  const PAPER = 680;
  const config = {
    displaylogo: false, displayModeBar: touch ? false : "hover", showSendToCloud: false, plotlyServerURL: "",
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
  };

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function look() {
    const axis = {
      gridcolor: color("--line"), linecolor: color("--line"), zerolinecolor: color("--dim"), zeroline: false,
      automargin: true, tickfont: { size: 12 }, title: { font: { size: 13 }, standoff: 8 },
    };
    return {
      layout: {
        font: { family: "inherit", size: 12, color: color("--ink") },
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
        xaxis: axis, yaxis: axis, margin: { l: 8, r: 20, t: 12, b: 8 }, hovermode: "closest",
        hoverlabel: {
          bgcolor: color("--paper"), bordercolor: color("--dim"), align: "left",
          font: { color: color("--ink"), size: 12 },
        },
        legend: {
          orientation: "h", xref: "container", x: 0, yref: "container", y: 0, yanchor: "bottom", tracegroupgap: 0,
          font: { size: 12 },
        },
        modebar: { bgcolor: "rgba(0,0,0,0)", color: color("--dim"), activecolor: color("--ink") },
        dragmode: touch ? false : "zoom",
      },
    };
  }

  function names(chart) {
    return chart.data.filter((trace) => trace.name && trace.showlegend !== false).map((trace) => trace.name);
  }

  function height(chart, width) {
    const listed = names(chart);
    const entry = 55 + 7 * Math.max(0, ...listed.map((name) => name.length));
    const rows = listed.length > 1 ? Math.ceil(listed.length / Math.max(1, Math.floor(width / entry))) : 0;
    return Math.min(420, Math.max(300, 0.6 * width)) + 20 * rows;
  }

  function layout(box, width) {
    const chart = charts[box.dataset.chart];
    return { template: look(), width, height: height(chart, width) };
  }

  const drawn = new Set();

  function redraw(width) {
    for (const box of drawn) {
      const room = width || box.clientWidth;
      if (room) {
        Plotly.relayout(box, layout(box, room));
      }
    }
  }

  for (const box of boxes) {
    const chart = charts[box.dataset.chart];
    const width = box.clientWidth || PAPER;
    const first = { ...chart.layout, showlegend: names(chart).length > 1, ...layout(box, width) };
    Plotly.newPlot(box, chart.data, first, config).then(() => {
      drawn.add(box);
      if (box.clientWidth && box.clientWidth !== width) {
        Plotly.relayout(box, layout(box, box.clientWidth));
      }
    });
  }

  addEventListener("resize", () => redraw());
  addEventListener("beforeprint", () => {
    document.documentElement.classList.add("paper");
    redraw(PAPER);
  });
  addEventListener("afterprint", () => {
    document.documentElement.classList.remove("paper");
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw());
})();
