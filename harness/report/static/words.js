// Figures as words: the same in the table, at a point and in the details.

const NONE = '–';

const mean = (found) => (found ? found[0] : null);

function accuracyText(found) {
  if (!found) return NONE;
  const [value, deviation, count] = found;
  return deviation === null ? `${value.toFixed(2)} (${count})` : `${value.toFixed(2)} ± ${deviation.toFixed(2)} (${count})`;
}

// The same with its unit and the count in words.
function percentText(found) {
  if (!found) return NONE;
  return `${accuracyText(found).replace(/ \(\d+\)$/, '')} % (${found[2]} ${found[2] === 1 ? 'seed' : 'seeds'})`;
}

// Three digits, in plain notation.
function short(value) {
  if (value === null || value === undefined) return NONE;
  if (typeof value !== 'number') return String(value);
  if (value === 0) return '0';
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-4) return value.toExponential(2);
  return value.toLocaleString('en', { maximumSignificantDigits: 3 });
}

const SIZES = [[1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e3, 'k']];

function counted(value) {
  if (value === null || value === undefined) return NONE;
  for (const [size, letter] of SIZES) {
    if (Math.abs(value) >= size) return `${(value / size).toPrecision(3)} ${letter}`;
  }
  return short(value);
}

function energyText(nanojoules) {
  if (nanojoules === null || nanojoules === undefined) return NONE;
  for (const [size, unit] of [[1e9, 'J'], [1e6, 'mJ'], [1e3, 'µJ']]) {
    if (nanojoules >= size) return `${(nanojoules / size).toPrecision(3)} ${unit}`;
  }
  return `${short(nanojoules)} nJ`;
}

const percent = (share) => (share === null || share === undefined ? NONE : `${(100 * share).toFixed(1)} %`);

function durationText(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  if (seconds < 100) return `${short(seconds)} s`;
  return seconds < 6000 ? `${(seconds / 60).toFixed(1)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function failureText(row) {
  return row.failures.map(([outcome, reason, count]) => `${count} of ${row.seeds} ${outcome}: ${reason}`);
}

function marks(row) {
  if (row.kind === 'published') return ['published'];
  const found = [];
  if (row.best && report.choice.has(row.dataset)) found.push('best');
  if (row.front_steps) found.push('Pareto T');
  if (row.front_latency) found.push('Pareto ms');
  return found;
}

function nameOf(row) {
  const parts = [row.label, row.time_steps ? `T=${row.time_steps}` : null, row.settings];
  return parts.filter(Boolean).join(', ');
}

const letters = (name) => name.toLowerCase().replace(/[^\p{L}\p{N}]/gu, '');
