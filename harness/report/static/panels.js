// Accuracy against what it costs: one panel for each dataset and network, drawn when it comes into view.

const AXES = {
  steps: { name: 'T', title: 'Time steps T', value: (row) => row.time_steps, steps: true },
  latency: { name: 'ms', title: 'Latency, ms a sample, smallest batch', value: (row) => mean(row.latency), measured: true },
  batched: { name: 'ms, batched', title: 'Latency, ms a sample, largest batch', value: (row) => mean(row.batched), measured: true },
  energy: { name: 'Energy', title: 'Energy of an inference, µJ, arithmetic (estimated)', value: (row) => scaled(row.energy) },
  energy_memory: { name: 'Energy with memory', title: 'Energy of an inference, µJ, with memory (estimated)', value: (row) => scaled(row.energy_memory) },
  synops: { name: 'SynOps', title: 'SynOps of an inference', value: (row) => row.synops },
};

const scaled = (nanojoules) => (nanojoules === null || nanojoules === undefined ? null : nanojoules / 1000);

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) drawPanel(entry.target);
}, { rootMargin: '200px' });

const waiting = new Map();

function drawAxes() {
  const cells = report.rows.filter((row) => row.kind === 'cell' && row.accuracy);
  const there = Object.keys(AXES).filter((id) => id === 'steps' || cells.some((row) => AXES[id].value(row) > 0));
  if (!there.includes(state.x)) state.x = DEFAULTS.x;
  byId('axes').replaceChildren(...there.map((id) => el('button', {
    type: 'button', 'aria-pressed': String(id === state.x), 'data-axis': id,
    onclick: () => { update({ x: id }); document.querySelector(`[data-axis="${id}"]`)?.focus(); },
  }, AXES[id].name)));
}

function drawPanels(rows) {
  const groups = new Map();
  for (const row of rows) {
    if (row.kind !== 'cell' || !row.accuracy) continue;
    const name = JSON.stringify([row.dataset, row.network]);
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(row);
  }
  const place = byId('panels');
  seen.disconnect();
  waiting.clear();
  const before = new Map([...place.children].map((figure) => [figure.dataset.panel, figure]));
  const figures = [...groups].map(([name, cells]) => {
    const [dataset, network] = JSON.parse(name);
    const figure = before.get(name) ?? emptyPanel(name, dataset, network);
    waiting.set(figure, { cells, quoted: quotedIn(rows, dataset, network), all: rows });
    return figure;
  });
  place.replaceChildren(...figures);
  place.classList.toggle('single', figures.length === 1);
  place.classList.toggle('two', figures.length === 2 || figures.length === 4);
  // The first are drawn at once, the others when they come into view.
  figures.forEach((figure, index) => (index < 3 ? drawPanel(figure) : seen.observe(figure)));
  byId('plots-note').replaceChildren(...plotsNote(figures.length, rows.filter((row) => row.kind === 'cell')));
}

function emptyPanel(name, dataset, network) {
  return plotFigure([el('b', {}, dataset), ` ${network}`], { 'data-panel': name });
}

// A published figure stands with its network; one of a network that we have not, in every panel of its dataset.
function quotedIn(rows, dataset, network) {
  return rows.filter((row) => row.kind === 'published' && row.time_steps && letters(row.dataset) === letters(dataset)
    && (letters(row.network) === letters(network) || !report.networks.has(letters(row.network))));
}

function plotsNote(count, cells) {
  if (!count) return ['No configuration with a result matches these filters.'];
  const said = ['Bars show ± one standard deviation. Broad line: Pareto front of what a panel shows.'];
  if (state.x === 'steps') said.push('Dotted: a network without time steps. Hollow: published.');
  if (AXES[state.x].measured) said.push('Fronts join only points measured on one processor in one batch size.');
  const undrawn = cells.filter((row) => !row.accuracy || !(AXES[state.x].value(row) > 0)).length;
  if (undrawn) said.push(`Not drawn, for want of a result or of a figure above zero on this axis: ${undrawn.toLocaleString('en')} configurations; the table has them.`);
  said.push('Click a point to open its configuration and records (by keyboard: arrow keys and Enter, or through the table); drag to zoom, double-click to go back.');
  return [said.join(' ')];
}

function drawPanel(figure) {
  const content = waiting.get(figure);
  if (!content) return;
  seen.unobserve(figure);
  const axis = AXES[state.x];
  const cells = content.cells.filter((row) => axis.value(row) > 0);
  // A network without time steps is a level; were there several of one method, they would be a curve.
  const isLevel = (row) => !row.spiking && cells.filter((each) => each.best && each.series === row.series).length === 1;
  const spiking = cells.filter((row) => !isLevel(row));
  const ordinary = cells.filter(isLevel);
  const quoted = axis.steps ? content.quoted.filter((row) => row.spiking) : [];
  const best = spiking.filter((row) => row.best);
  const traces = [
    ...fronts(best.filter((row) => row.spiking), axis),
    ...report.series.map((series) => pale(series, spiking.filter((row) => !row.best && row.series === series), axis)),
    ...report.series.map((series) => lines(series, best.filter((row) => row.series === series), axis)),
    ...(axis.steps ? [] : report.series.map((series) => lines(series, ordinary.filter((row) => row.series === series), axis))),
    ...quoted.map(hollow),
  ].filter((trace) => trace.points.length);
  draw(figure, {
    traces,
    x: { title: axis.title, log: true, ticks: axis.steps ? stepTicks([...spiking, ...quoted].map(axis.value)) : null, words: state.x === 'synops' ? counted : short },
    y: { title: 'Test accuracy, %' },
    height: waiting.size === 1 ? 440 : 320,
    references: axis.steps ? ordinary.filter((row) => row.best).map(reference) : [],
    label: `${figure.querySelector('figcaption span').textContent}: accuracy against ${axis.title}, ${cells.length} configurations; the table holds the same figures`,
  });
  figure.dataset.drawn = state.x;
  measured();
}

function point(row, axis) {
  const open = row.key ? () => openDetails({ cell: row.key, record: '' }) : null;
  return { x: axis.value(row), y: row.accuracy[0], deviation: row.accuracy[1], said: () => hover(row), open, key: row.key };
}

function lines(series, rows, axis) {
  const inOrder = [...rows].sort((a, b) => a.time_steps - b.time_steps || axis.value(a) - axis.value(b));
  return { ...lookOf(series), points: inOrder.map((row) => point(row, axis)), line: true };
}

function pale(series, rows, axis) {
  const points = rows.map((row) => ({ ...point(row, axis), deviation: null }));
  return { ...lookOf(series), points, small: true };
}

function hollow(row) {
  const { colour: shade, symbol } = likeMeasured(row) ?? { colour: colour('soft'), symbol: 'circle' };
  return { colour: shade, symbol, hollow: true, points: [point(row, AXES.steps)] };
}

// A published row of one of our methods, or of a variant of it, has that method's colour and marker.
function likeMeasured(row) {
  const first = (name) => name.toLowerCase().split(/[\W_]/)[0];
  const cell = report.rows.find((each) => each.kind === 'cell' && first(each.method) === first(row.method));
  return cell && lookOf(cell.series);
}

function fronts(rows, axis) {
  const groups = new Map();
  for (const row of rows) {
    const condition = axis.measured ? row.alike : '';
    if (!groups.has(condition)) groups.set(condition, []);
    groups.get(condition).push(row);
  }
  return [...groups.values()].map((group) => front(group, axis)).filter((found) => found.length > 1).map((found) => ({
    colour: colour('front'), line: true, width: 10, silent: true, points: found.map((row) => ({ x: axis.value(row), y: row.accuracy[0] })),
  }));
}

// From cheap to dear, every one better than all before it.
function front(rows, axis) {
  const found = [];
  for (const row of [...rows].sort((a, b) => axis.value(a) - axis.value(b) || b.accuracy[0] - a.accuracy[0])) {
    if (!found.length || row.accuracy[0] > found.at(-1).accuracy[0]) found.push(row);
  }
  return found;
}

const reference = (row) => ({ y: row.accuracy[0], colour: lookOf(row.series).colour, text: `${row.series} ${accuracyText(row.accuracy)}` });

// What a point says, line by line.
function hover(row) {
  if (row.kind === 'published') {
    return [nameOf(row), `${accuracyCell(row)[0]} %`, `published, ${row.network}`, row.source, row.evidence, row.note].filter(Boolean);
  }
  return [
    nameOf(row), percentText(row.accuracy), row.latency && `${short(row.latency[0])} ms, batch ${row.latency[2]}: ${row.condition}`,
    row.energy !== null && `${energyText(row.energy)} arithmetic${row.energy_ann ? `; ordinary network ${energyText(row.energy_ann)}` : ''}`,
    row.synops !== null && `${counted(row.synops)} SynOps`, marks(row).join(', '), ...failureText(row),
  ].filter(Boolean);
}
