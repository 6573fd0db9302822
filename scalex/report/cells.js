// Two maps of the cells, each coloured by a column that the reader chooses. They move together.
(function () {
  const source = document.getElementById("cells");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const GREY = "#d3d3d3";

  function decode(text, Kind) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return new Kind(bytes.buffer);
  }
  function place(coordinate) {
    const [low, high] = coordinate.range;
    return Float32Array.from(decode(coordinate.values, Uint16Array), (value) => low + (value * (high - low)) / 65535);
  }
  const x = place(data.x), y = place(data.y);
  const behind = data.behind ? { x: place(data.behind.x), y: place(data.behind.y) } : null;
  for (const column of data.columns) {
    const values = decode(column.values, column.names ? Uint16Array : Uint8Array);
    column.decoded = column.names ? values : Float32Array.from(values, (value) => column.range[0] + (value * (column.range[1] - column.range[0])) / 255);
  }

  function makeBackground() {
    if (!behind) return [];
    return [{ type: "scattergl", mode: "markers", x: behind.x, y: behind.y, name: "reference", hoverinfo: "skip", marker: { size: data.size, color: GREY } }];
  }
  function makeGroups(column, hidden) {
    const n = column.names.length;
    const rows = [];
    for (let i = 0; i < x.length; i++) if (!hidden.has(column.decoded[i])) rows.push(i);
    const code = rows.map((i) => column.decoded[i]);
    const scale = n < 2 ? [[0, column.colors[0]], [1, column.colors[0]]] : column.colors.flatMap((color, k) => [[k / n, color], [(k + 1) / n, color]]);
    const cells = {
      type: "scattergl", mode: "markers", showlegend: false,
      x: rows.map((i) => x[i]), y: rows.map((i) => y[i]), text: code.map((k) => column.names[k]), hoverinfo: "text",
      marker: { size: data.size, color: code, colorscale: scale, cmin: -0.5, cmax: Math.max(n, 1) - 0.5, symbol: n > 20 ? code.map((k) => column.symbols[k]) : "circle" },
    };
    const legend = column.names.map((name, k) => ({
      type: "scatter", mode: "markers", x: [null], y: [null], name: `${name} (${column.counts[k].toLocaleString("en")})`,
      marker: { size: 9, color: column.colors[k], symbol: column.symbols[k] }, visible: hidden.has(k) ? "legendonly" : true,
    }));
    return [cells, ...legend];
  }
  function makeValues(column) {
    return [{
      type: "scattergl", mode: "markers", showlegend: false, x: x, y: y, text: Array.from(column.decoded, (value) => value.toPrecision(3)), hoverinfo: "text",
      marker: { size: data.size, color: column.decoded, colorscale: "Viridis", showscale: true, colorbar: { thickness: 12, len: 0.6 } },
    }];
  }

  const plots = [];
  let busy = false;
  for (const box of document.querySelectorAll(".map")) {
    const plot = box.querySelector(".plot"), select = box.querySelector("select");
    data.columns.forEach((column, k) => select.add(new Option(column.name, k)));
    select.value = Math.min(Number(box.dataset.column), data.columns.length - 1);
    let hidden = new Set();
    const layout = {
      margin: { l: 5, r: 5, t: 30, b: 5 }, dragmode: "pan", hovermode: "closest", uirevision: "kept",
      xaxis: { visible: false, range: data.x.view }, yaxis: { visible: false, range: data.y.view, scaleanchor: "x" },
      legend: { orientation: "h", y: -0.02, font: { size: 11 }, itemsizing: "constant" },
    };
    const draw = () => {
      const column = data.columns[Number(select.value)];
      const traces = column.names ? makeGroups(column, hidden) : makeValues(column);
      return Plotly.react(plot, [...makeBackground(), ...traces], layout, { responsive: true, scrollZoom: true, displaylogo: false });
    };
    draw().then(() => {
      plots.push(plot);
      plot.on("plotly_legendclick", (event) => {
        const first = (behind ? 1 : 0) + 1, k = event.curveNumber - first;
        if (k < 0) return true;
        if (hidden.has(k)) hidden.delete(k); else hidden.add(k);
        draw();
        return false;
      });
      plot.on("plotly_legenddoubleclick", (event) => {
        const column = data.columns[Number(select.value)], k = event.curveNumber - (behind ? 1 : 0) - 1;
        if (k < 0) return true;
        hidden = hidden.size ? new Set() : new Set(column.names.map((_, other) => other).filter((other) => other !== k));
        draw();
        return false;
      });
      plot.on("plotly_relayout", (change) => {
        if (busy || !("xaxis.range[0]" in change)) return;
        busy = true;
        const ranges = { "xaxis.range": [change["xaxis.range[0]"], change["xaxis.range[1]"]], "yaxis.range": [change["yaxis.range[0]"], change["yaxis.range[1]"]] };
        Promise.all(plots.filter((other) => other !== plot).map((other) => Plotly.relayout(other, ranges))).then(() => { busy = false; });
      });
    });
    select.addEventListener("change", () => { hidden = new Set(); draw(); });
  }
})();
