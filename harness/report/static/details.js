// One configuration with its seeds, or one record with all it knows, above the page.

function openDetails(changes) {
  show(changes, { step: true });
  drawDetails();
}

function closeDetails() {
  if (!state.cell && !state.record) return;
  const opener = document.querySelector(`[data-cell="${CSS.escape(state.cell)}"]`);
  show({ cell: '', record: '' }, { step: true });
  opener?.focus();
}

async function drawDetails() {
  const place = byId('details');
  const wanted = [state.cell, state.record].join();
  if (wanted === ',') { if (place.open) place.close(); return; }
  const found = state.record ? await fetched('records', state.record) : await fetched('cells', state.cell);
  if (wanted !== [state.cell, state.record].join()) return;
  const row = report.rows.find((each) => each.key && each.key === state.cell);
  const missing = !found || (!state.record && !row);
  const content = missing ? missingContent() : state.record ? recordContent(found, row) : cellContent(row, found);
  place.replaceChildren(...content.nodes);
  if (!place.open) place.showModal();
  place.scrollTop = 0;
  byId('details-title').focus();
  setPlots(place.querySelector('.panels'), content.plots.map(filled).filter((plot) => plot.traces.length));
  place.dataset.drawn = state.record || state.cell;
}

const filled = (plot) => ({ ...plot, traces: plot.traces.filter((trace) => trace.points.length) });

function missingContent() {
  const what = state.record ? `record ${state.record}` : `configuration ${state.cell}`;
  return { nodes: [...heading('Not on this page', what), el('p', { class: 'note' }, 'The address names something that this report does not hold, or its file in data/ is not there.'), plotsPlace()], plots: [] };
}

function heading(kicker, title, back) {
  return [el('div', { class: 'head' },
    el('div', {}, el('p', { class: 'kicker' }, kicker), el('h2', { id: 'details-title', tabindex: '-1' }, title)),
    el('div', { class: 'actions' }, back, el('button', { type: 'button', class: 'quiet', 'data-close': true, onclick: () => byId('details').close() }, 'Close')))];
}

const plotsPlace = () => el('div', { class: 'panels two' });

function pairs(entries, emphasised = []) {
  const kept = entries.filter(([, value]) => ![null, undefined, '', NONE].includes(value));
  return el('dl', { class: 'facts' }, ...kept.map(([name, value]) => el('div', { class: emphasised.includes(name) ? 'varies' : null },
    el('dt', {}, name, emphasised.includes(name) ? ' (varies)' : ''), el('dd', {}, typeof value === 'object' && !(value instanceof Node) ? JSON.stringify(value) : value))));
}

function part(title, ...content) {
  return el('section', {}, el('h3', {}, title), ...content);
}

function grid(title, names, lines) {
  return el('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': title }, el('table', {},
    el('thead', {}, el('tr', {}, ...names.map((name) => el('th', { scope: 'col' }, name)))),
    el('tbody', {}, ...lines.map((cells) => el('tr', {}, ...cells.map((cell) => el('td', {}, cell instanceof Node ? cell : String(cell ?? NONE))))))));
}

function cellContent(row, detail) {
  const seeds = detail.seeds.map((seed) => [
    seed.seed,
    el('button', { type: 'button', class: 'link mono', 'data-record': seed.id, onclick: () => openDetails({ record: seed.id }) }, seed.id),
    seed.accuracy === null ? NONE : `${seed.accuracy.toFixed(2)} %`, seed.reason ? `${seed.outcome}: ${seed.reason}` : seed.outcome, seed.commit,
  ]);
  const curve = { row, detail, ...lookOf(row.series) };
  const { energy } = detail;
  return {
    nodes: [
      ...heading(`${row.dataset} · ${row.network}`, nameOf(row)),
      el('p', { class: 'result' }, el('strong', {}, row.accuracy ? percentText(row.accuracy) : 'no result'), ' ', ...CELLS.marks(row)),
      ...failureText(row).map((text) => el('p', { class: 'failure' }, text)),
      part('Seeds and their records', grid('Seeds', ['Seed', 'Record', 'Accuracy', 'Outcome', 'Commit'], seeds)),
      part('Measured', pairs([
        ['Accuracy on validation', row.validation && percentText(row.validation)], ['Top-5', row.top5 && percentText(row.top5)],
        ['Weights scored', report.epochs[row.selection]], ['Firing rate', row.firing_rate === null ? null : percent(row.firing_rate)],
        ['Parameters', counted(row.parameters)], ['Neurons', counted(detail.neurons)], ['SynOps', counted(row.synops)],
        ['Effective_MACs', counted(detail.operations?.Effective_MACs)], ['Effective_ACs', counted(detail.operations?.Effective_ACs)], ['Dense', counted(detail.operations?.Dense)],
        ['Energy, arithmetic', energyText(energy?.nanojoules)], ['Energy, memory besides', energyText(energy?.memory_nanojoules)],
        ['Ordinary network, arithmetic', energyText(energy?.ann_nanojoules)], ['Ordinary network, memory', energyText(energy?.ann_memory_nanojoules)],
        ['Energy assumes', energy && `${energy.mac_picojoules} pJ a MAC, ${energy.ac_picojoules} pJ an AC; ${energy.source}`], ['Memory assumes', energy?.memory_source],
        ['Peak memory', row.memory === null ? null : `${counted(row.memory)}B`], ['Training samples a second', counted(detail.throughput)],
        ['Training', durationText(row.train_seconds)], ['Worker hours', short(detail.worker_hours)], ['Accelerator hours', short(detail.accelerator_hours)],
        ['Processors', detail.processors.join(', ')],
      ])),
      detail.latencies.length ? part('Latency, ms a sample', latencies(detail.latencies)) : null,
      plotsPlace(),
      part('Configuration', pairs(Object.entries(detail.configuration), detail.varying)),
    ].filter(Boolean),
    plots: [...anytimePlots([curve]), ...trainingPlots([curve]), ...ratePlots([curve]), ...convergencePlots([curve])],
  };
}

function latencies(found) {
  const order = [...found].sort((a, b) => a.batch_size - b.batch_size || a.time_steps - b.time_steps);
  return grid('Latency', ['Batch', 'T', 'Median', 'p95', 'p99', 'Calls', 'Device'],
    order.map((each) => [each.batch_size, each.time_steps, short(each.median_ms), short(each.p95_ms), short(each.p99_ms), each.repeats, each.device]));
}

function flat(tree, prefix = '') {
  return Object.entries(tree ?? {}).flatMap(([name, value]) => (value && typeof value === 'object' && !Array.isArray(value)
    ? flat(value, `${prefix}${name}.`) : [[prefix + name, Array.isArray(value) ? JSON.stringify(value) : String(value)]]));
}

function command(text) {
  const shownText = el('code', { tabindex: '0' }, text);
  const button = el('button', { type: 'button', class: 'quiet', onclick: () => copy(text, shownText, button) }, 'Copy');
  return el('div', { class: 'command' }, shownText, button);
}

async function copy(text, shownText, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = 'Copied';
  } catch {
    // Where a page may not write there, the text is selected for the reader's own keys.
    getSelection().selectAllChildren(shownText);
    button.textContent = 'Selected';
  }
}

function recordContent(record, row) {
  const back = row ? el('button', { type: 'button', class: 'quiet', onclick: () => openDetails({ record: '' }) }, '← All seeds') : null;
  const { trial, history } = record;
  const steps = Object.keys(record.accuracy ?? {}).map(Number).sort((a, b) => a - b);
  const name = `${trial.label ?? trial.method}, T=${trial.time_steps}, seed ${trial.seed}`;
  const own = { row: { ...(row ?? {}), label: name, time_steps: null, settings: '' }, ...(row ? lookOf(row.series) : look(0)),
    detail: { training: history, anytime: steps.map((t) => [t, record.accuracy[t], null]), early_exit: record.early_exit ?? [],
      firing_rates: record.cost?.firing_rates ?? {}, dead: record.cost?.dead ?? {}, saturated: record.cost?.saturated ?? {}, convergence: record.convergence ?? {} } };
  return {
    nodes: [
      ...heading(`Record ${record.id} · ${record.experiment}`, name, back),
      el('p', { class: 'result' }, el('strong', {}, record.outcome), record.reason ? ` ${record.reason}` : '',
        trial.time_steps in (record.accuracy ?? {}) ? ` ${Number(record.accuracy[trial.time_steps]).toFixed(2)} % on test` : ''),
      part('Run it again', command(record.reproduce), el('p', { class: 'note' }, 'Reruns this record from its own content and says what differs.'),
        ...(record.command ? [el('h4', {}, 'Command that made it'), command(record.command)] : [])),
      part('Where it comes from', pairs([
        ['Record', record.path], ['Commit', record.commit && record.commit + (record.dirty ? ' with changes that were not committed' : '')],
        ['Started', record.started], ['Took', durationText(record.wall_seconds)], ['Continued from a checkpoint', record.restarts ? `${record.restarts} times` : null],
        ['Weights scored', `${report.epochs[record.selection]}${record.selected_epoch === undefined ? '' : `: epoch ${record.selected_epoch}`}`],
        ['Accuracy on validation', record.validation_accuracy === undefined ? null : `${Number(record.validation_accuracy).toFixed(2)} %`],
        ['Test samples', record.test_samples], ['Schema', record.schema_version],
      ])),
      part('Configuration', pairs(flat(trial))),
      part('Environment', pairs([...flat(record.machine), ...flat(record.versions)])),
      part('Data', pairs(flat(record.data))),
      record.cost?.latency?.length ? part('Latency, ms a sample', latencies(record.cost.latency)) : null,
      plotsPlace(),
      Object.keys(history).length ? folded('History, epoch by epoch', () => grid('History', Object.keys(history), history.epoch.map((_, place) => Object.values(history).map((column) => short(column[place]))))) : null,
      folded('Everything, as JSON', () => el('pre', { tabindex: '0' }, JSON.stringify(record, null, 1))),
    ].filter(Boolean),
    plots: [...anytimePlots([own]), ...trainingPlots([own]), ...ratePlots([own]), ...convergencePlots([own])],
  };
}

// Made when it is opened.
function folded(title, content) {
  const made = el('details', {}, el('summary', {}, title));
  made.addEventListener('toggle', () => { if (made.open && made.children.length === 1) made.append(content()); });
  return made;
}
