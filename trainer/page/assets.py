"""Style and script of the page. Both are constants: nothing that comes from data is written into them."""

CHARTS = "Charts are drawn in the browser by Vega, which the page carries; nothing is fetched."

STYLE = """
:root {
  color-scheme: light;
  --paper: #fbfbfa; --card: #ffffff; --ink: #1c2126; --muted: #5d6771; --line: #c9ced3; --grid: #eceef0;
  --accent: #00558c; --good: #00694f; --bad: #b03a00; --mark: #e8f2f8;
  --c0: #0072b2; --c1: #d55e00; --c2: #00875f; --c3: #a3478c; --c4: #c08a00; --c5: #35a7e0; --c6: #5b4bb5;
  --c7: #9aa2a9;
}
@media (prefers-color-scheme: dark) {
  :root:not([data-theme="light"]) {
    color-scheme: dark;
    --paper: #14171a; --card: #1b1f23; --ink: #e6e9ec; --muted: #9aa5af; --line: #454d55; --grid: #2a3036;
    --accent: #6cbcf0; --good: #4fc7a1; --bad: #f0935a; --mark: #20313d;
    --c0: #56b4e9; --c1: #f0803c; --c2: #2fc491; --c3: #dd8cc4; --c4: #f0c53c; --c5: #3f8fd0; --c6: #a598f0;
    --c7: #78828b;
  }
}
:root[data-theme="dark"] {
  color-scheme: dark;
  --paper: #14171a; --card: #1b1f23; --ink: #e6e9ec; --muted: #9aa5af; --line: #454d55; --grid: #2a3036;
  --accent: #6cbcf0; --good: #4fc7a1; --bad: #f0935a; --mark: #20313d;
  --c0: #56b4e9; --c1: #f0803c; --c2: #2fc491; --c3: #dd8cc4; --c4: #f0c53c; --c5: #3f8fd0; --c6: #a598f0;
  --c7: #78828b;
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
main { max-width: 1080px; margin: 0 auto; padding: 28px 24px 60px; }
header { display: flex; justify-content: space-between; align-items: flex-start; gap: 16px; }
h1 { font-size: 27px; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 20px; margin: 44px 0 12px; padding-top: 14px; border-top: 1px solid var(--line); }
h3 { font-size: 14px; font-weight: 600; margin: 20px 0 6px; }
p { margin: 8px 0; max-width: 78ch; }
.subtitle { color: var(--muted); margin: 4px 0 0; }
.lead { font-size: 17px; margin: 18px 0; }
.note, figcaption, footer { color: var(--muted); font-size: 13px; }
.missing { border-left: 3px solid var(--line); padding-left: 12px; color: var(--muted); }
button {
  font: inherit; font-size: 13px; color: var(--ink); background: var(--card); cursor: pointer;
  border: 1px solid var(--line); border-radius: 6px; padding: 5px 11px; white-space: nowrap;
}
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 22px 0 0; font-size: 14px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(205px, 1fr)); }
.tiles { gap: 12px; margin: 18px 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px 16px; }
.tile .name { color: var(--muted); font-size: 13px; }
.tile .value { font-size: 27px; font-weight: 600; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile .detail { font-size: 13px; color: var(--muted); }
.good { color: var(--good); } .bad { color: var(--bad); }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); }
.facts { gap: 8px 24px; margin: 12px 0; }
.facts dt { color: var(--muted); font-size: 13px; }
.facts dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: 10px 0; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--muted); font-size: 13px; }
th { border-bottom: 1px solid var(--line); }
th, td { padding: 5px 18px 5px 0; vertical-align: top; }
td { border-bottom: 1px solid var(--grid); }
th.number, td.number { text-align: right; white-space: nowrap; }
td small { display: block; color: var(--muted); font-size: 12px; }
td b { font-weight: 600; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(235px, 1fr)); gap: 6px 28px; }
figure { margin: 0; min-width: 0; }
.chart { width: 100%; }
.chart svg { max-width: 100%; height: auto; }
.chart.vega-embed { display: block; padding: 0; }
.plan { background: #ffffff; border: 1px solid var(--line); border-radius: 8px; }
.plan { overflow-x: auto; padding: 8px; }
.plan svg { display: block; min-width: 620px; max-width: 100%; height: auto; margin: 0 auto; }
details { margin: 14px 0; }
summary { cursor: pointer; color: var(--accent); }
.users { display: grid; grid-template-columns: repeat(auto-fill, minmax(450px, 1fr)); }
.users { gap: 14px; margin-top: 14px; }
.user { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px 16px; }
.user h3 { margin: 0 0 4px; }
.user h3 .note { font-weight: normal; }
.user .columns { display: grid; grid-template-columns: 1fr 1fr; gap: 0 18px; }
.user h4 { font-size: 12px; font-weight: 600; color: var(--muted); margin: 6px 0 2px; }
.user ol, .user ul { margin: 0; padding-left: 22px; font-size: 13px; overflow-wrap: anywhere; }
.user ul { list-style: none; padding-left: 0; }
.user .hit { background: var(--mark); font-weight: 600; border-radius: 3px; }
.user .hit::after { content: "\\00a0\\2713"; color: var(--good); }
footer { margin-top: 48px; border-top: 1px solid var(--line); padding-top: 10px; }
#vg-tooltip-element {
  background: var(--card) !important; color: var(--ink) !important; border: 1px solid var(--line) !important;
  font-family: inherit !important; max-width: 320px;
}
#vg-tooltip-element td.key { color: var(--muted) !important; }
@media (max-width: 560px) {
  main { padding: 16px 14px 40px; }
  h1 { font-size: 22px; }
  .lead { font-size: 16px; }
  .tiles { grid-template-columns: 1fr 1fr; gap: 8px; }
  .tile { padding: 10px 12px; }
  .tile .value { font-size: 22px; }
  .facts { grid-template-columns: 1fr 1fr; }
  .users { grid-template-columns: 1fr; }
  th, td { padding-right: 12px; }
}
@media print {
  :root:root:root {
    color-scheme: light;
    --paper: #ffffff; --card: #ffffff; --ink: #000000; --muted: #4a4a4a; --line: #b5b5b5; --grid: #e6e6e6;
    --accent: #000000; --good: #00543f; --bad: #8a2d00; --mark: #eeeeee;
    --c0: #0072b2; --c1: #d55e00; --c2: #00875f; --c3: #a3478c; --c4: #c08a00; --c5: #35a7e0; --c6: #5b4bb5;
    --c7: #9aa2a9;
  }
  main { max-width: none; padding: 0; }
  body { font-size: 11pt; }
  button, nav { display: none; }
  h2 { break-after: avoid; }
  figure, .user, .tile, tr, .plan { break-inside: avoid; }
  .grid { grid-template-columns: 1fr 1fr; }
  .tiles, .facts { grid-template-columns: repeat(4, 1fr); }
  .users { grid-template-columns: 1fr 1fr; }
  .user { font-size: 9pt; }
  .chart { min-height: 0 !important; }
  .scroll, .plan { overflow: visible; }
  .plan svg { min-width: 0; }
}
"""

PAGE_SCRIPT = """
(() => {
  const read = (element) => JSON.parse(element.textContent);
  const config = read(document.getElementById("chart-config"));
  for (const spec of document.querySelectorAll("script.spec")) {
    const place = spec.parentElement.querySelector(".chart");
    const options = { renderer: "svg", actions: false, config, tooltip: { theme: "custom" } };
    vegaEmbed(place, read(spec), options).catch((error) => { place.textContent = String(error); });
  }
  const themes = [["", "system"], ["light", "light"], ["dark", "dark"]];
  const button = document.getElementById("theme");
  let chosen = 0;
  button.addEventListener("click", () => {
    chosen = (chosen + 1) % themes.length;
    const [theme, name] = themes[chosen];
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    button.textContent = "Theme: " + name;
  });
  addEventListener("beforeprint", () => {
    for (const each of document.querySelectorAll("details")) each.open = true;
  });
})();
"""
