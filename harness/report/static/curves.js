// Curves of a few configurations: accuracy over the steps of one simulation, training, firing rates, convergence.

const MOST = 8;

const KINDS = {
  anytime: { name: 'Anytime', note: 'Accuracy after each step of one simulation; dashed: stopping early once the network is sure, against the mean of the steps that it took.', plots: anytimePlots },
  training: { name: 'Training', note: 'Mean over seeds, epoch by epoch; dashed: validation.', plots: trainingPlots },
  rates: { name: 'Firing rates', note: 'Share of steps in which a neuron of a layer spikes, and share of neurons that no sample made spike.', plots: ratePlots },
  convergence: { name: 'Convergence', note: 'What the method’s theory says vanishes with the number of steps, measured layer by layer.', plots: convergencePlots },
};

const pins = () => state.pins.split(',').filter(Boolean);

function togglePin(key, on) {
  const kept = pins().filter((each) => each !== key);
  const next = on ? [...kept, key].slice(-MOST) : kept;
  show({ pins: next.join(',') });
  // The oldest goes when there are too many.
  for (const box of document.querySelectorAll('.pin')) {
    const own = box.closest('tr').querySelector('[data-cell]').dataset.cell;
    box.checked = next.includes(own);
  }
  drawCurves(shown());
}

// The chosen rows; without any, the longest simulation of each method, on the network that most methods ran on.
function curveRows(rows) {
  const chosen = pins();
  const cells = report.rows.filter((row) => row.kind === 'cell' && row.accuracy);
  if (chosen.length) return cells.filter((row) => chosen.includes(row.key));
  const groups = new Map();
  for (const row of rows.filter((each) => each.kind === 'cell' && each.accuracy && each.best)) {
    const name = JSON.stringify([row.dataset, row.network]);
    if (!groups.has(name)) groups.set(name, new Map());
    const longest = groups.get(name).get(row.series);
    if (!longest || longest.time_steps < row.time_steps) groups.get(name).set(row.series, row);
  }
  const [most] = [...groups.values()].sort((a, b) => b.size - a.size);
  return [...most?.values() ?? []].slice(0, MOST);
}

async function drawCurves(rows) {
  if (!(state.curves in KINDS)) state.curves = DEFAULTS.curves;
  byId('kinds').replaceChildren(...Object.entries(KINDS).map(([id, kind]) => el('button', {
    type: 'button', 'aria-pressed': String(id === state.curves), 'data-kind': id,
    onclick: () => { show({ curves: id }); drawCurves(shown()).then(() => document.querySelector(`[data-kind="${id}"]`)?.focus()); },
  }, kind.name)));
  const chosen = curveRows(rows);
  const asked = JSON.stringify([state.curves, chosen.map((row) => row.key), isDark()]);
  drawCurves.asked = asked;
  const details = await Promise.all(chosen.map((row) => fetched('cells', row.key)));
  // Another choice may have been made meanwhile.
  if (drawCurves.asked !== asked) return;
  const curves = chosen.map((row, place) => ({ row, detail: details[place], ...curveLook(row, chosen) })).filter((curve) => curve.detail);
  const plots = KINDS[state.curves].plots(curves).map(filled).filter((plot) => plot.traces.length);
  byId('curves-note').textContent = curvesNote(chosen, plots);
  byId('curves-key').replaceChildren(...(plots.length ? curves.map((curve) => el('button', {
    type: 'button', class: 'link', onclick: () => openDetails({ cell: curve.row.key, record: '' }),
  }, glyph('', curve), curveName(curve.row, chosen))) : []));
  setPlots(byId('curves'), plots);
  byId('curves').dataset.drawn = state.curves;
}

// A method keeps its look; two configurations of one method are told apart.
function curveLook(row, chosen) {
  const alike = chosen.filter((each) => each.series === row.series).length > 1;
  return alike ? look(chosen.indexOf(row)) : lookOf(row.series);
}

function curveName(row, chosen) {
  const mixed = new Set(chosen.map((each) => each.dataset + each.network)).size > 1;
  return mixed ? `${nameOf(row)}; ${row.dataset}, ${row.network}` : nameOf(row);
}

function curvesNote(chosen, plots) {
  if (!chosen.length) return 'No configuration with a result matches these filters.';
  const which = pins().length ? `${chosen.length === 1 ? 'The configuration' : `The ${chosen.length} configurations`} ticked in the table.`
    : `Each method’s longest simulation on ${chosen[0].dataset}, ${chosen[0].network}; tick rows of the table to see others (${MOST} at most).`;
  return plots.length ? `${KINDS[state.curves].note} ${which}` : `Nothing of this was measured here. ${which}`;
}

function setPlots(place, plots) {
  const figures = plots.map((plot) => plotFigure([plot.title], {}));
  place.replaceChildren(...figures);
  place.classList.toggle('single', plots.length === 1);
  plots.forEach((plot, index) => draw(figures[index], { ...plot, label: plot.title }));
}

// A curve's values at some places; a gap where there is none.
function trace(curve, xs, ys, said, more = {}) {
  const points = xs.map((x, place) => ({ x, y: ys[place] })).filter((each) => typeof each.y === 'number');
  for (const each of points) each.said = () => [nameOf(curve.row), ...said(each)];
  return { colour: curve.colour, dash: curve.dash, symbol: curve.symbol, line: true, bare: xs.length > 40, points, ...more };
}

const dashed = { dash: '4 3', hollow: true, thin: true };

function anytimePlots(curves) {
  const traces = [];
  for (const curve of curves) {
    const { anytime, early_exit: exits } = curve.detail;
    if (anytime.length > 1) {
      const drawn = trace(curve, anytime.map((found) => found[0]), anytime.map((found) => found[1]), ({ x, y }) => [`${y.toFixed(2)} % after ${x} steps`]);
      drawn.points.forEach((each, place) => { each.deviation = anytime.length > 40 ? null : anytime[place][2]; });
      traces.push(drawn);
    }
    const sure = new Map(exits.map((exit) => [exit.mean_time_steps, exit.confidence]));
    traces.push(trace(curve, exits.map((exit) => exit.mean_time_steps), exits.map((exit) => exit.accuracy),
      ({ x, y }) => ['early exit', `sure by ${sure.get(x)}: ${y.toFixed(2)} % after ${x.toFixed(2)} steps in the mean`], dashed));
  }
  const ticks = stepTicks(curves.flatMap((curve) => curve.detail.anytime.map((found) => found[0])));
  return [{ title: 'Accuracy after t steps', traces, height: 380, x: { title: 'Time steps t of one simulation', log: true, ticks }, y: { title: 'Test accuracy, %' } }];
}

function trainingPlots(curves) {
  const plot = (title, names, log) => ({
    title,
    traces: curves.flatMap((curve) => names.filter((name) => curve.detail.training[name]).map((name, place) => trace(
      curve, curve.detail.training.epoch, curve.detail.training[name], ({ x, y }) => [`${name.replace('_', ' ')} ${short(y)} in epoch ${x}`],
      { bare: true, ...(place ? dashed : { dash: '' }) },
    ))),
    x: { title: 'Epoch' }, y: { title, log },
  });
  return [plot('Loss', ['train_loss', 'validation_loss'], true), plot('Accuracy, %', ['train_accuracy', 'validation_accuracy'])];
}

function ratePlots(curves) {
  const plot = (title, name) => {
    const layers = [...new Set(curves.flatMap((curve) => Object.keys(curve.detail[name])))];
    return {
      title,
      traces: curves.map((curve) => trace(
        curve, Object.keys(curve.detail[name]).map((layer) => layers.indexOf(layer)), Object.values(curve.detail[name]).map((share) => 100 * share),
        ({ x, y }) => [`${layers[x]}: ${y.toFixed(2)} %`],
      )),
      x: { title: 'Layer, from input to output', names: layers }, y: { title: `${title}, %`, zero: true },
    };
  };
  const always = curves.some((curve) => Object.values(curve.detail.saturated).some((share) => share > 0));
  return [plot('Firing rate', 'firing_rates'), plot('Neurons that never spike', 'dead'), ...(always ? [plot('Neurons that spike at every step', 'saturated')] : [])];
}

function convergencePlots(curves) {
  const measures = [...new Set(curves.flatMap((curve) => Object.keys(curve.detail.convergence)))];
  return measures.map((measure) => ({
    title: measure.replaceAll('_', ' '),
    traces: curves.flatMap((curve) => Object.entries(curve.detail.convergence[measure] ?? {}).map(([layer, values], place, layers) => trace(
      curve, values.map((_, step) => step + 1), values, ({ x, y }) => [`${layer}: ${short(y)} after ${x} steps`], { opacity: 1 - (0.65 * place) / layers.length },
    ))),
    x: { title: 'Time steps t', log: true, ticks: stepTicks(curves.flatMap((curve) => curve.detail.anytime.map((found) => found[0]))) },
    y: { title: measure.replaceAll('_', ' '), log: true },
  }));
}
