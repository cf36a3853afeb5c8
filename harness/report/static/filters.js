// Which rows there are, and which of them are shown.

const report = { rows: [], series: [], choice: new Set() };

function readRows(index) {
  const names = Object.keys(index.columns);
  const count = names.length ? index.columns.key.length : 0;
  for (let place = 0; place < count; place += 1) {
    const row = { kind: 'cell' };
    for (const name of names) row[name] = index.columns[name][place];
    row.series = seriesName(row, index);
    report.rows.push(row);
  }
  for (const quoted of index.published) report.rows.push(publishedRow(quoted));
  // What papers say of a dataset stands below what we measured on it.
  const order = (row) => index.datasets.findIndex((name) => letters(name) === letters(row.dataset));
  report.rows.sort((a, b) => order(a) - order(b));
  report.rows.forEach((row, place) => { row.place = place; });
  for (const row of report.rows) row.haystack = haystack(row);
  report.choice = new Set(index.choice);
  report.epochs = index.epochs;
  report.series = [...new Set(report.rows.filter((row) => row.kind === 'cell').map((row) => row.series))].sort();
  report.networks = new Map();
  for (const row of report.rows) {
    if (row.kind === 'cell') report.networks.set(letters(row.network), row.network);
  }
}

// A method; and how its epoch was chosen, where that differs on this page.
function seriesName(row, index) {
  report.mixed ??= new Set(index.columns.selection).size > 1;
  return report.mixed ? `${row.label}, ${index.epochs[row.selection]}` : row.label;
}

function publishedRow(quoted) {
  return {
    kind: 'published', key: '', dataset: quoted.dataset, network: quoted.network, label: quoted.name,
    method: quoted.method, series: '', time_steps: quoted.time_steps, spiking: (quoted.time_steps ?? 0) > 1,
    selection: quoted.selection, settings: '', accuracy: [quoted.accuracy, quoted.std, null], failures: [],
    source: quoted.source, evidence: quoted.evidence, note: quoted.note, best: true,
  };
}

function haystack(row) {
  const said = [row.dataset, row.network, row.label, row.method, row.settings, `T=${row.time_steps}`, row.source,
    row.evidence, row.note, row.condition, row.key, ...row.failures.flat(), ...marks(row)];
  return said.filter(Boolean).join(' ').toLowerCase();
}

function outcomeOf(row) {
  if (!row.failures.length) return 'complete';
  return row.accuracy ? 'partly' : 'none';
}

function shown() {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  const off = new Set(state.off ? JSON.parse(state.off) : []);
  const network = letters(state.network);
  return report.rows.filter((row) => {
    if (state.dataset && row.dataset !== state.dataset && letters(row.dataset) !== letters(state.dataset)) return false;
    if (network && letters(row.network) !== network) return false;
    if (state.T && String(row.time_steps) !== state.T) return false;
    if (row.kind === 'published') {
      if (state.published !== '1' || state.outcome) return false;
    } else {
      if (off.has(row.series)) return false;
      if (state.outcome && outcomeOf(row) !== state.outcome) return false;
      // A configuration without any result is no choice, and is never hidden.
      if (state.show === 'best' && row.accuracy && !row.best) return false;
    }
    return words.every((word) => row.haystack.includes(word));
  });
}

function fillFilters() {
  const cells = report.rows.filter((row) => row.kind === 'cell');
  const different = (name) => [...new Set(cells.map((row) => row[name]))];
  options('dataset', 'all', different('dataset').sort());
  options('network', 'all', different('network').sort());
  options('T', 'all', different('time_steps').sort((a, b) => a - b).map(String));
  options('outcome', 'all', ['complete', 'partly', 'none'], ['every seed gave a result', 'some seeds gave none', 'no seed gave a result']);
  const form = byId('filters');
  const changed = () => {
    const data = new FormData(form);
    update({ ...Object.fromEntries(['q', 'dataset', 'network', 'T', 'outcome', 'show'].map((name) => [name, data.get(name) ?? ''])),
      published: data.has('published') ? '1' : '0', page: '1' });
  };
  form.addEventListener('input', changed);
  form.addEventListener('submit', (event) => event.preventDefault());
  form.addEventListener('reset', (event) => {
    event.preventDefault();
    const { q, dataset, network, T, outcome, show: which, published, off, page } = DEFAULTS;
    update({ q, dataset, network, T, outcome, show: which, published, off, page });
    syncFilters();
  });
}

function options(name, every, values, labels = values) {
  byId('filters').elements[name].replaceChildren(
    el('option', { value: '' }, every),
    ...values.map((value, place) => el('option', { value }, labels[place])),
  );
}

// The form as the address says.
function syncFilters() {
  const form = byId('filters');
  for (const name of ['q', 'dataset', 'network', 'T', 'outcome', 'show']) form.elements[name].value = state[name];
  form.elements.published.checked = state.published === '1';
}

function drawMethods() {
  const off = new Set(state.off ? JSON.parse(state.off) : []);
  const chips = report.series.map((name) => el('button', {
    type: 'button', class: 'chip', 'aria-pressed': String(!off.has(name)), 'data-series': name,
    onclick: () => toggleMethod(name),
  }, glyph(name), name));
  byId('methods').replaceChildren(...chips);
}

function toggleMethod(name) {
  const off = new Set(state.off ? JSON.parse(state.off) : []);
  if (!off.delete(name)) off.add(name);
  update({ off: off.size ? JSON.stringify([...off].sort()) : '', page: '1' });
  document.querySelector(`[data-series="${CSS.escape(name)}"]`)?.focus();
}

function drawCount(rows) {
  const every = report.rows.filter((row) => row.kind === 'cell').length;
  const cells = rows.filter((row) => row.kind === 'cell');
  const said = [`${cells.length.toLocaleString('en')} of ${every.toLocaleString('en')} configurations`];
  const without = cells.filter((row) => !row.accuracy).length;
  if (without) said.push(`${without.toLocaleString('en')} of them without a result`);
  const quoted = rows.length - cells.length;
  if (quoted) said.push(`${quoted.toLocaleString('en')} published rows`);
  byId('count').textContent = said.join(' · ');
}
