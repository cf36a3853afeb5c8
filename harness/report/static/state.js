// What is shown, kept in the address after '#', so that a view can be linked; and the data, loaded by scripts.

const DEFAULTS = {
  q: '', dataset: '', network: '', T: '', outcome: '', show: 'best', published: '1', off: '',
  x: 'steps', sort: '', dir: 'up', page: '1', curves: 'anytime', pins: '', cell: '', record: '',
};
const state = { ...DEFAULTS };

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const name of Object.keys(DEFAULTS)) state[name] = given.get(name) ?? DEFAULTS[name];
}

function address(changes) {
  const next = { ...state, ...changes };
  const kept = Object.entries(next).filter(([name, value]) => value !== DEFAULTS[name]);
  return '#' + new URLSearchParams(kept).toString();
}

// Opening something is a step that the browser's back button undoes; a filter is not.
function show(changes, { step = false } = {}) {
  const target = address(changes);
  Object.assign(state, changes);
  if (step) history.pushState(null, '', target);
  else history.replaceState(null, '', target);
}

const store = { index: null, cells: new Map(), records: new Map() };
const loading = new Map();

window.harnessReport = (kind, content) => {
  if (kind === 'index') store.index = content;
  else for (const [name, value] of Object.entries(content)) store[kind].set(name, value);
};

function script(file) {
  if (!loading.has(file)) {
    loading.set(file, new Promise((resolve, reject) => {
      const tag = document.createElement('script');
      tag.src = file;
      tag.onload = resolve;
      tag.onerror = () => { loading.delete(file); reject(new Error(`${file} cannot be read`)); };
      document.head.append(tag);
    }));
  }
  return loading.get(file);
}

// One cell or record; undefined where there is none of this name.
async function fetched(kind, name) {
  const digits = /^[0-9a-f]{2}/.test(name) ? name.slice(0, 2) : '00';
  if (!store[kind].has(name)) {
    try { await script(`data/${kind}/${digits}.js`); } catch { return undefined; }
  }
  return store[kind].get(name);
}

// Elements from strings: what a record says becomes text, never markup.
function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name === 'onclick') made.addEventListener('click', value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? '' : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== ''));
  return made;
}

const byId = (id) => document.getElementById(id);
