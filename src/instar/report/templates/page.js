(() => {
  const specs = JSON.parse(document.getElementById("specs").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const views = new Map();
  const style = () => {
    const css = getComputedStyle(document.documentElement);
    const [ink, soft, line] = ["--ink", "--soft", "--line"].map((name) => css.getPropertyValue(name).trim());
    return {
      font: "system-ui, sans-serif",
      view: { stroke: null },
      axis: { labelColor: soft, titleColor: soft, domainColor: line, tickColor: line, gridColor: line, gridOpacity: 0.6, titleFontWeight: "normal" },
      legend: { labelColor: ink, titleColor: soft, titleFontWeight: "normal" },
    };
  };
  const drawOne = async (box) => {
    const old = views.get(box);
    const made = await window.vegaEmbed(box, specs[box.dataset.chart], { actions: false, renderer: "svg", config: style() });
    if (old) old.finalize();
    views.set(box, made);
  };
  const drawAll = () => Promise.all([...document.querySelectorAll("[data-chart]")].map(drawOne))
    .then(() => { document.documentElement.dataset.drawn = "yes"; });
  dark.addEventListener("change", drawAll);
  drawAll();
})();
