// From the address to the page, and again after every change.

function update(changes) {
  show(changes);
  drawAll();
}

function drawAll() {
  const rows = shown();
  drawCount(rows);
  drawMethods();
  drawAxes();
  drawTable(rows);
  drawPanels(rows);
  seenCurves.observe(byId('curves'));
}

// Curves are loaded once somebody comes near them.
const seenCurves = new IntersectionObserver((entries) => {
  if (!entries.some((entry) => entry.isIntersecting)) return;
  seenCurves.unobserve(byId('curves'));
  drawCurves(shown());
}, { rootMargin: '300px' });

const THEMES = { '': 'as the system', light: 'light', dark: 'dark' };

function setTheme(name) {
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
  byId('theme').textContent = `Theme: ${THEMES[name]}`;
}

// A browser may forbid a page from a file to remember anything.
function remembered(write) {
  try { return write === undefined ? localStorage.getItem('theme') ?? '' : localStorage.setItem('theme', write); } catch { return ''; }
}

function redraw() {
  drawAll();
  drawDetails();
}

function measured() {
  if (document.documentElement.dataset.ready) return;
  performance.mark('plotted');
  document.documentElement.dataset.ready = 'yes';
}

function start() {
  if (!store.index) {
    byId('count').textContent = 'data/index.js cannot be read; it belongs beside this page.';
    return;
  }
  readAddress();
  const theme = remembered();
  setTheme(theme in THEMES ? theme : '');
  for (const name of ['facts', 'cares']) byId(name).open = matchMedia('(min-width: 800px)').matches;
  readRows(store.index);
  fillFilters();
  syncFilters();
  drawAll();
  performance.mark('listed');
  document.documentElement.dataset.listed = 'yes';
  listen();
  drawDetails();
}

function listen() {
  addEventListener('popstate', () => { readAddress(); syncFilters(); redraw(); });
  byId('details').addEventListener('close', closeDetails);
  byId('details').addEventListener('click', (event) => { if (event.target === byId('details')) byId('details').close(); });
  byId('theme').addEventListener('click', () => {
    const names = Object.keys(THEMES);
    const next = names[(names.indexOf(document.documentElement.dataset.theme ?? '') + 1) % names.length];
    setTheme(next);
    remembered(next);
    redraw();
  });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
  // Paper is white, and has every plot.
  let chosen;
  addEventListener('beforeprint', () => {
    chosen = document.documentElement.dataset.theme ?? '';
    setTheme('light');
    redraw();
    for (const figure of waiting.keys()) drawPanel(figure);
  });
  addEventListener('afterprint', () => { setTheme(chosen); redraw(); });
  document.querySelector('[data-jump]').addEventListener('click', (event) => {
    event.preventDefault();
    byId('table').focus();
  });
}

document.addEventListener('DOMContentLoaded', start);
