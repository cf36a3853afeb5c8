// The table: sorted by a column, a hundred rows at a time.

const PAGE = 100;

const COLUMNS = [
  { id: 'dataset', name: 'Dataset', value: (row) => row.dataset },
  { id: 'network', name: 'Network', value: (row) => row.network },
  { id: 'method', name: 'Method', value: (row) => row.label },
  { id: 'T', name: 'T', title: 'time steps', number: true, value: (row) => row.time_steps },
  { id: 'settings', name: 'Settings', value: (row) => row.settings || row.note || '' },
  { id: 'accuracy', name: 'Accuracy', title: 'test accuracy, percent', number: true, down: true, value: (row) => mean(row.accuracy) },
  { id: 'marks', name: 'Marks', down: true, value: (row) => marks(row).join(' ') || null },
  { id: 'top5', name: 'Top-5', title: 'the right class among the five likeliest, percent', number: true, down: true, value: (row) => mean(row.top5) },
  { id: 'ms', name: 'ms', title: 'median latency of a sample in the smallest batch', number: true, value: (row) => mean(row.latency) },
  { id: 'batched', name: 'ms, batched', title: 'median latency of a sample in the largest batch', number: true, value: (row) => mean(row.batched) },
  { id: 'energy', name: 'Energy', title: 'estimated, arithmetic only, one inference', number: true, value: (row) => row.energy },
  { id: 'synops', name: 'SynOps', title: 'one inference', number: true, value: (row) => row.synops },
  { id: 'rate', name: 'Firing rate', title: 'mean over layers', number: true, value: (row) => row.firing_rate },
  { id: 'parameters', name: 'Parameters', number: true, value: (row) => row.parameters },
  { id: 'training', name: 'Training', title: 'time, mean over seeds', number: true, value: (row) => row.train_seconds },
];

const CELLS = {
  method: (row) => methodCell(row),
  accuracy: (row) => accuracyCell(row),
  marks: (row) => marks(row).map((mark) => el('span', { class: `mark ${mark.split(' ')[0].toLowerCase()}` }, mark)),
  settings: (row) => settingsCell(row),
  top5: (row) => [row.top5 ? row.top5[0].toFixed(2) : NONE],
  ms: (row) => latencyCell(row.latency),
  batched: (row) => latencyCell(row.batched),
  energy: (row) => [energyText(row.energy)],
  synops: (row) => [counted(row.synops)],
  rate: (row) => [percent(row.firing_rate)],
  parameters: (row) => [counted(row.parameters)],
  training: (row) => [durationText(row.train_seconds)],
};

function methodCell(row) {
  if (row.kind === 'published') return [row.label];
  const pin = el('input', { type: 'checkbox', class: 'pin', 'aria-label': `Curves of ${nameOf(row)}`, title: 'show its curves' });
  pin.checked = pins().includes(row.key);
  pin.addEventListener('change', () => togglePin(row.key, pin.checked));
  const open = el('button', { type: 'button', class: 'link', 'data-cell': row.key, 'aria-label': `Open ${nameOf(row)}`,
    onclick: () => openDetails({ cell: row.key, record: '' }) }, row.series);
  return [el('span', { class: 'method' }, pin, glyph(row.series), open)];
}

function accuracyCell(row) {
  const lines = failureText(row).map((text) => el('span', { class: 'failure' }, text));
  if (row.kind === 'published') {
    const [value, deviation] = row.accuracy;
    return [deviation === null ? value.toFixed(2) : `${value.toFixed(2)} ± ${deviation.toFixed(2)}`];
  }
  return [row.accuracy ? accuracyText(row.accuracy) : el('b', {}, 'no result'), ...lines];
}

function settingsCell(row) {
  if (row.kind !== 'published') return [row.settings];
  const said = [row.note, row.source, row.evidence, report.epochs[row.selection]];
  return [el('span', { class: 'source' }, said.filter(Boolean).join(' · '))];
}

function latencyCell(found) {
  if (!found) return [NONE];
  return [short(found[0]), el('span', { class: 'aside' }, `p95 ${short(found[1])} · batch ${found[2]}`)];
}

function used(rows) {
  const filled = COLUMNS.filter((column) => rows.some((row) => ![null, undefined, ''].includes(column.value(row))));
  const several = filled.filter((column) => column.id !== 'dataset' || new Set(rows.map((row) => row.dataset)).size > 1);
  if (!matchMedia('(max-width: 560px)').matches) return several;
  // On a phone what matters most comes first; the rest is a swipe away.
  const first = ['method', 'T', 'accuracy', 'marks'];
  return [...first.map((id) => several.find((column) => column.id === id)).filter(Boolean), ...several.filter((column) => !first.includes(column.id))];
}

function sorted(rows) {
  const column = COLUMNS.find((each) => each.id === state.sort);
  if (!column) return rows;
  const sign = state.dir === 'down' ? -1 : 1;
  const empty = (value) => value === null || value === undefined || value === '';
  const keyed = rows.map((row) => [column.value(row), row]);
  keyed.sort(([a, first], [b, second]) => {
    if (empty(a) || empty(b)) return empty(a) - empty(b) || first.place - second.place;
    const difference = typeof a === 'number' ? a - b : String(a).localeCompare(String(b), 'en', { numeric: true });
    return sign * difference || first.place - second.place;
  });
  return keyed.map(([, row]) => row);
}

function drawTable(rows) {
  const columns = used(rows);
  const pages = Math.max(1, Math.ceil(rows.length / PAGE));
  const page = Math.min(Math.max(1, Number.parseInt(state.page, 10) || 1), pages);
  const table = byId('table');
  table.tHead.replaceChildren(el('tr', {}, ...columns.map(header)));
  const part = sorted(rows).slice((page - 1) * PAGE, page * PAGE);
  table.tBodies[0].replaceChildren(...part.map((row) => line(row, columns)));
  if (!part.length) {
    table.tBodies[0].append(el('tr', {}, el('td', { colspan: Math.max(1, columns.length) }, 'Nothing matches these filters.')));
  }
  drawPages(page, pages, rows.length);
}

function header(column) {
  const sorting = state.sort === column.id;
  const button = el('button', { type: 'button', title: column.title, 'data-sort': column.id, onclick: () => sortBy(column) },
    column.name, el('span', { class: 'arrow', 'aria-hidden': 'true' }, sorting ? (state.dir === 'down' ? '↓' : '↑') : ''));
  const direction = state.dir === 'down' ? 'descending' : 'ascending';
  return el('th', { scope: 'col', class: `${column.number ? 'number ' : ''}of-${column.id}`, 'aria-sort': sorting ? direction : 'none' }, button);
}

// First the useful end, then the other, then the order as it was.
function sortBy(column) {
  const first = column.down ? 'down' : 'up';
  const other = column.down ? 'up' : 'down';
  if (state.sort !== column.id) update({ sort: column.id, dir: first, page: '1' });
  else if (state.dir === first) update({ dir: other, page: '1' });
  else update({ sort: '', dir: DEFAULTS.dir, page: '1' });
  document.querySelector(`[data-sort="${column.id}"]`)?.focus();
}

function line(row, columns) {
  const cells = columns.map((column) => {
    const inside = CELLS[column.id] ? CELLS[column.id](row) : [String(column.value(row) ?? NONE)];
    const tag = column.id === 'method' ? 'th' : 'td';
    return el(tag, { class: `${column.number ? 'number ' : ''}of-${column.id}`, scope: tag === 'th' ? 'row' : null }, ...inside);
  });
  return el('tr', { class: `${row.kind}${row.accuracy ? '' : ' without'}` }, ...cells);
}

function drawPages(page, pages, count) {
  const go = (target) => () => { update({ page: String(target) }); byId('table-title').scrollIntoView(); };
  byId('pages').replaceChildren(...(pages < 2 ? [] : [
    el('button', { type: 'button', class: 'quiet', disabled: page === 1, onclick: go(page - 1) }, '← Earlier'),
    el('span', {}, `Rows ${((page - 1) * PAGE + 1).toLocaleString('en')} to ${Math.min(page * PAGE, count).toLocaleString('en')} of ${count.toLocaleString('en')}`),
    el('button', { type: 'button', class: 'quiet', disabled: page === pages, onclick: go(page + 1) }, 'Later →'),
  ]));
}
