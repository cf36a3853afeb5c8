// One plot as SVG: axes, lines, error bars and markers; what a point says on hover, tap or arrow keys; a click opens it.

const charts = new WeakMap();
const resized = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const chart = charts.get(target.parentNode);
    if (chart && Math.abs(chart.width - target.clientWidth) > 1) paint(target.parentNode);
  }
});

function plotFigure(title, attributes) {
  const save = el('button', { type: 'button', class: 'save', title: 'Save this plot as SVG', onclick: () => saveSvg(made) }, 'SVG');
  const place = el('div', { class: 'plot' });
  const made = el('figure', attributes, el('figcaption', {}, el('span', {}, ...title), save), place);
  resized.observe(place);
  return made;
}

// `content`: traces of points {x, y, deviation, said(), open()}, axes x and y, references (level lines), label, height.
function draw(figure, content) {
  charts.set(figure, { content, zoom: null, active: null });
  paint(figure);
}

function paint(figure) {
  const chart = charts.get(figure);
  const place = figure.lastChild;
  const { content } = chart;
  chart.width = place.clientWidth;
  if (chart.width < 60) return;
  const height = content.height ?? 320;
  const names = content.x.names;
  const slanted = names && names.length > 1;
  const box = { left: 54, right: chart.width - 16, top: 12, bottom: height - (slanted ? 92 : 48) };
  const points = content.traces.flatMap((trace) => trace.points);
  chart.x = axis(content.x, points.map((point) => point.x), chart.zoom?.x, [box.left, box.right]);
  const ends = points.flatMap((point) => [point.y - (point.deviation ?? 0), point.y + (point.deviation ?? 0)]);
  chart.y = axis(content.y, [...ends, ...content.references?.map((line) => line.y) ?? []], chart.zoom?.y, [box.bottom, box.top]);
  chart.box = box;
  const clip = `clip-${(paint.count = (paint.count ?? 0) + 1)}`;
  const canvas = svg('svg', { width: chart.width, height, viewBox: `0 0 ${chart.width} ${height}`, role: 'img', tabindex: 0, 'aria-label': `${content.label}. Arrow keys go from point to point, Enter opens one.`, 'font-family': 'system-ui, sans-serif', 'font-size': 12 },
    svg('clipPath', { id: clip }, svg('rect', { x: box.left - 7, y: box.top - 7, width: box.right - box.left + 14, height: box.bottom - box.top + 7 })),
    ...frame(chart, content, slanted),
    svg('g', { 'clip-path': `url(#${clip})` }, ...(content.references ?? []).flatMap((line) => level(chart, line)), ...content.traces.map((trace) => drawn(chart, trace))));
  chart.tip = el('div', { class: 'tip', hidden: true, role: 'status' });
  chart.canvas = canvas;
  place.replaceChildren(canvas, chart.tip);
  follow(figure, chart);
}

function axis(how, values, zoomed, [from, to]) {
  const scale = how.log ? Math.log10 : (value) => value;
  const back = how.log ? (value) => 10 ** value : (value) => value;
  const known = values.filter((value) => Number.isFinite(value) && (!how.log || value > 0));
  let [low, high] = known.length ? [Math.min(...known), Math.max(...known)].map(scale) : [0, 1];
  if (how.zero) low = Math.min(low, 0);
  const room = high > low ? (high - low) * 0.06 : (how.log ? 0.15 : Math.abs(high) * 0.05 || 0.5);
  if (!how.zero || low < 0) low -= room;
  high += room;
  if (zoomed) [low, high] = zoomed;
  const at = (value) => from + ((scale(value) - low) / (high - low)) * (to - from);
  const wanted = Math.max(2, Math.floor(Math.abs(to - from) / (from > to ? 46 : 72)));
  const [first, last] = [back(low), back(high)];
  const words = how.words ?? short;
  let ticks = how.names ? how.names.map((name, place) => [place, name]) : how.ticks ?? (how.log ? logTicks(first, last, wanted, words) : linearTicks(first, last, wanted));
  ticks = ticks.filter(([value]) => value >= first && value <= last);
  if (ticks.length < 2 && !how.names && last > first) ticks = linearTicks(first, last, wanted);
  return { at, low, high, ticks, inverse: (pixel) => low + ((pixel - from) / (to - from)) * (high - low) };
}

function frame(chart, content, slanted) {
  const { x, y, box } = chart;
  const soft = colour('soft');
  const parts = [];
  for (const [value, text] of y.ticks) {
    parts.push(svg('path', { d: `M${box.left} ${y.at(value)}H${box.right}`, stroke: colour('grid') }));
    parts.push(svg('text', { x: box.left - 9, y: y.at(value) + 4, 'text-anchor': 'end', fill: soft }, text));
  }
  for (const [value, text] of x.ticks) {
    const at = x.at(value);
    parts.push(svg('path', { d: `M${at} ${box.bottom}v5`, stroke: colour('line') }));
    const turned = slanted ? { transform: `translate(${at + 4} ${box.bottom + 16}) rotate(-35)`, 'text-anchor': 'end' } : { x: at, y: box.bottom + 19, 'text-anchor': 'middle' };
    parts.push(svg('text', { ...turned, fill: soft }, text.length > 16 ? `${text.slice(0, 15)}…` : text));
  }
  parts.push(svg('path', { d: `M${box.left} ${box.bottom}H${box.right}`, stroke: colour('line') }));
  const bottom = box.bottom + (slanted ? 84 : 41);
  parts.push(svg('text', { x: (box.left + box.right) / 2, y: bottom, 'text-anchor': 'middle', fill: soft }, content.x.title));
  parts.push(svg('text', { transform: `translate(13 ${(box.top + box.bottom) / 2}) rotate(-90)`, 'text-anchor': 'middle', fill: soft }, content.y.title));
  return parts;
}

function level(chart, line) {
  const at = chart.y.at(line.y);
  return [
    svg('path', { d: `M${chart.box.left} ${at}H${chart.box.right}`, stroke: line.colour, 'stroke-width': 1.5, 'stroke-dasharray': '1.5 3' }),
    svg('text', { x: chart.box.right - 2, y: at + (at - chart.box.top < 18 ? 15 : -6), 'text-anchor': 'end', fill: colour('soft'), 'font-size': 11.5 }, line.text),
  ];
}

function drawn(chart, trace) {
  const group = svg('g', { opacity: trace.opacity ?? (trace.small ? 0.45 : null) });
  const places = trace.points.map((point) => [chart.x.at(point.x), chart.y.at(point.y), point]);
  const fine = places.filter(([px, py]) => Number.isFinite(px) && Number.isFinite(py));
  if (trace.line && fine.length > 1) {
    group.append(svg('path', { d: `M${fine.map(([px, py]) => `${px.toFixed(1)} ${py.toFixed(1)}`).join('L')}`, fill: 'none', stroke: trace.colour, 'stroke-width': trace.width ?? (trace.thin ? 1.4 : 2),
      'stroke-dasharray': trace.dash || null, 'stroke-linejoin': 'round', 'stroke-linecap': trace.silent ? 'round' : null }));
  }
  if (trace.silent) return group;
  for (const [px, py, point] of fine) {
    if (point.deviation) {
      const [top, low] = [chart.y.at(point.y + point.deviation), chart.y.at(point.y - point.deviation)];
      group.append(svg('path', { d: `M${px} ${top}V${low}M${px - 3} ${top}h6M${px - 3} ${low}h6`, stroke: trace.colour, 'stroke-width': 1.1, fill: 'none', opacity: 0.75 }));
    }
    if (trace.bare && fine.length > 1) continue;
    const size = trace.small ? 0.7 : 1;
    group.append(svg('path', { d: OUTLINES[trace.symbol], transform: `translate(${px.toFixed(1)} ${py.toFixed(1)}) scale(${size})`, class: point.open ? 'point' : null, 'data-point': point.key || null,
      fill: trace.hollow ? colour('card') : trace.colour, stroke: trace.hollow ? trace.colour : colour('card'), 'stroke-width': trace.hollow ? 1.8 : 1 }));
  }
  return group;
}

// Pointer and keys: the nearest point speaks, a click or Enter opens it; dragging zooms, a double click goes back.
function follow(figure, chart) {
  const { canvas } = chart;
  const all = chart.content.traces.filter((trace) => !trace.silent).flatMap((trace) => trace.points).filter((point) => point.said);
  const where = (point) => [chart.x.at(point.x), chart.y.at(point.y)];
  const inside = (point) => { const [px, py] = where(point); return px >= chart.box.left - 2 && px <= chart.box.right + 2 && py >= chart.box.top - 2 && py <= chart.box.bottom + 2; };
  const nearest = (event) => {
    const { left, top } = canvas.getBoundingClientRect();
    let best = null;
    for (const point of all) {
      const [px, py] = where(point);
      const distance = Math.hypot(px - (event.clientX - left), py - (event.clientY - top));
      if (distance < (best?.distance ?? 26) && inside(point)) best = { point, distance };
    }
    return best?.point ?? null;
  };
  let dragged = null;
  canvas.addEventListener('pointerdown', (event) => {
    if (event.pointerType === 'mouse' && event.button === 0) dragged = { from: [event.offsetX, event.offsetY], band: null };
    chart.touched = event.pointerType === 'mouse' ? undefined : chart.active;
  });
  canvas.addEventListener('pointermove', (event) => {
    if (dragged) band(chart, dragged, event);
    else say(chart, nearest(event), where);
  });
  canvas.addEventListener('pointerleave', () => { dragged?.band?.remove(); dragged = null; say(chart, null, where); });
  canvas.addEventListener('click', (event) => {
    const { band: drawnBand } = dragged ?? {};
    const zoomed = drawnBand && zoom(chart, dragged, event);
    drawnBand?.remove();
    dragged = null;
    if (zoomed) { paint(figure); return; }
    const point = nearest(event);
    // The first tap of a finger shows what a point says, the second opens it.
    const sure = chart.touched === undefined || chart.touched === point;
    say(chart, point, where);
    if (point?.open && sure) point.open();
  });
  canvas.addEventListener('dblclick', () => { if (chart.zoom) { chart.zoom = null; paint(figure); } });
  canvas.addEventListener('blur', () => say(chart, null, where));
  canvas.addEventListener('keydown', (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const visible = all.filter(inside);
    if (step && visible.length) {
      event.preventDefault();
      const now = visible.indexOf(chart.active);
      say(chart, visible[(now + step + visible.length + (now < 0 && step < 0 ? 1 : 0)) % visible.length], where);
    } else if (event.key === 'Enter' && chart.active?.open) chart.active.open();
    else if (event.key === 'Escape' && chart.active) { event.preventDefault(); say(chart, null, where); }
  });
}

function say(chart, point, where) {
  if (point === chart.active && !chart.tip.hidden === Boolean(point)) return;
  chart.active = point;
  chart.canvas.querySelector('.ring')?.remove();
  chart.canvas.style.cursor = point?.open ? 'pointer' : '';
  chart.tip.hidden = !point;
  if (!point) return;
  const [px, py] = where(point);
  chart.canvas.append(svg('circle', { class: 'ring', cx: px, cy: py, r: 9, fill: 'none', stroke: colour('ink'), 'stroke-width': 1.5 }));
  const [first, ...rest] = point.said();
  chart.tip.replaceChildren(el('b', {}, first), ...rest.map((text) => el('span', {}, text)));
  const { offsetWidth: width, offsetHeight: height } = chart.tip;
  chart.tip.style.left = `${Math.max(4, Math.min(px + 14, chart.width - width - 4))}px`;
  chart.tip.style.top = `${py - height - 14 > -40 ? py - height - 14 : py + 16}px`;
}

function band(chart, dragged, event) {
  const [x0, y0] = dragged.from;
  if (!dragged.band && Math.hypot(event.offsetX - x0, event.offsetY - y0) < 8) return;
  if (!dragged.band) {
    dragged.band = svg('rect', { fill: colour('accent'), opacity: 0.15 });
    chart.canvas.append(dragged.band);
    chart.tip.hidden = true;
  }
  const sizes = { x: Math.min(x0, event.offsetX), y: Math.min(y0, event.offsetY), width: Math.abs(event.offsetX - x0), height: Math.abs(event.offsetY - y0) };
  for (const [name, value] of Object.entries(sizes)) dragged.band.setAttribute(name, value);
}

function zoom(chart, { from: [x0, y0] }, { offsetX, offsetY }) {
  if (Math.abs(offsetX - x0) < 12 || Math.abs(offsetY - y0) < 12) return false;
  const range = (scale, a, b) => [scale.inverse(a), scale.inverse(b)].sort((first, second) => first - second);
  chart.zoom = { x: range(chart.x, x0, offsetX), y: range(chart.y, y0, offsetY) };
  return true;
}

function saveSvg(figure) {
  const copied = figure.querySelector('.plot svg').cloneNode(true);
  copied.querySelector('.ring')?.remove();
  copied.prepend(svg('rect', { width: '100%', height: '100%', fill: colour('card') }));
  const address = URL.createObjectURL(new Blob([new XMLSerializer().serializeToString(copied)], { type: 'image/svg+xml' }));
  el('a', { href: address, download: `${letters(figure.firstChild.firstChild.textContent)}.svg` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
