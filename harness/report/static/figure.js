// How a method looks, everywhere the same: colour, marker and dashes; and where an axis has its ticks.

// Okabe and Ito's colours without their yellow, which is too pale for a line on white; lighter ones for the dark.
const COLOURS = {
  light: ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#111111'],
  dark: ['#3b9fe0', '#f07a2a', '#1fbd91', '#dd93bb', '#f0b429', '#8fd0f7', '#f2f2f2'],
};
const SYMBOLS = ['circle', 'square', 'triangle-up', 'diamond', 'triangle-down', 'cross', 'x', 'triangle-left', 'triangle-right'];
const DASHES = ['', '9 3', '2 2.5', '9 3 2 3', '5 4'];
// Around the origin, about nine wide.
const OUTLINES = {
  circle: 'M-4.4 0a4.4 4.4 0 1 0 8.8 0a4.4 4.4 0 1 0 -8.8 0z', square: 'M-4 -4h8v8h-8z', 'triangle-up': 'M0 -5L4.9 3.8H-4.9z',
  diamond: 'M0 -5.4L5.4 0L0 5.4L-5.4 0z', 'triangle-down': 'M0 5L4.9 -3.8H-4.9z', cross: 'M-1.7 -5h3.4v3.3h3.3v3.4h-3.3v3.3h-3.4v-3.3h-3.3v-3.4h3.3z',
  x: 'M-4.7 -2.3L-2.3 -4.7L0 -2.4L2.3 -4.7L4.7 -2.3L2.4 0L4.7 2.3L2.3 4.7L0 2.4L-2.3 4.7L-4.7 2.3L-2.4 0z',
  'triangle-left': 'M-5 0L3.8 -4.9V4.9z', 'triangle-right': 'M5 0L-3.8 -4.9V4.9z',
};

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
}

function look(place) {
  const colours = COLOURS[isDark() ? 'dark' : 'light'];
  return { colour: colours[place % colours.length], symbol: SYMBOLS[place % SYMBOLS.length], dash: DASHES[place % DASHES.length] };
}

const lookOf = (series) => look(Math.max(0, report.series.indexOf(series)));

// Colours are read from the style sheet, so that a plot and the page around it are of one piece.
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

const SVG = 'http://www.w3.org/2000/svg';

function svg(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null && value !== undefined) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function glyph(series, { colour: shade, dash, symbol } = lookOf(series)) {
  return svg('svg', { viewBox: '-16 -7 32 14', width: 32, height: 14, class: 'glyph', 'aria-hidden': 'true' },
    svg('path', { d: 'M-16 0H16', stroke: shade, 'stroke-dasharray': dash || null, 'stroke-width': 2 }),
    svg('path', { d: OUTLINES[symbol], fill: shade }));
}

// Round numbers from low to high, about `wanted` of them.
function linearTicks(low, high, wanted) {
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((each) => each * power >= rough) * power;
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const ticks = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-9; value += step) ticks.push([value, value.toFixed(digits)]);
  return ticks;
}

// Powers of ten, with twos and fives between them where there is room.
function logTicks(low, high, wanted, words) {
  const ends = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const of = (factors) => {
    const found = [];
    for (let power = ends[0]; power <= ends[1]; power += 1) for (const factor of factors) found.push(factor * 10 ** power);
    return found.filter((value) => value >= low * 0.999 && value <= high * 1.001);
  };
  const choices = [[1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 5], [1, 3], [1]].map(of);
  const fit = choices.find((values) => values.length <= wanted) ?? choices.at(-1).filter((_, place, all) => place % Math.ceil(all.length / wanted) === 0);
  return fit.map((value) => [value, words(value)]);
}

// Those of the time steps that were measured; of many the powers of two and both ends.
function stepTicks(steps) {
  const found = [...new Set(steps)].sort((a, b) => a - b);
  const apart = found.filter((step, place) => place === 0 || place === found.length - 1 || found.length <= 7 || Number.isInteger(Math.log2(step)));
  const kept = [];
  for (const step of apart.reverse()) if (!kept.length || kept[0] / step > 1.2) kept.unshift(step);
  return kept.map((step) => [step, String(step)]);
}
