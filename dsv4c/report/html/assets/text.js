// Elements and numbers. Names of a plan are only ever set as text.

const SVG = 'http://www.w3.org/2000/svg';

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (name === 'css') for (const [key, one] of Object.entries(value)) node.style.setProperty(key, one);
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return node;
}

const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);
const link = (href, text, attributes = {}) => el('a', { href, ...attributes }, text);
const chip = (text, kind = '') => el('span', { class: `chip ${kind}` }, text);

const count = (value) => value.toLocaleString('en-US');

function scaled(value, units, step = 1000) {
  let at = 0;
  while (Math.abs(value) >= step && at < units.length - 1) {
    value /= step;
    at += 1;
  }
  const digits = at === 0 ? (Number.isInteger(value) ? 0 : 2) : value < 10 ? 2 : value < 100 ? 1 : 0;
  return `${value.toFixed(digits)} ${units[at]}`;
}

const bytes = (value) => scaled(value, ['B', 'kB', 'MB', 'GB', 'TB']);
const flops = (value) => (value ? scaled(value, ['FLOP', 'kFLOP', 'MFLOP', 'GFLOP', 'TFLOP', 'PFLOP']) : '-');
const seconds = (value) =>
  value >= 1
    ? `${value.toFixed(2)} s`
    : value >= 1e-3
      ? `${(1e3 * value).toFixed(1)} ms`
      : `${(1e6 * value).toFixed(0)} µs`;
const micros = (value) => (value >= 1e3 ? `${(value / 1e3).toFixed(2)} ms` : `${value.toFixed(2)} µs`);
const percent = (value) => `${(100 * value).toFixed(value < 0.0995 ? 1 : 0)} %`;
const many = (number, one, more = `${one}s`) => `${count(number)} ${number === 1 ? one : more}`;

// 0, 1, 2, 5 -> "0-2, 5"
function ranges(numbers) {
  const runs = [];
  for (const one of [...new Set(numbers)].sort((a, b) => a - b)) {
    const run = runs.at(-1);
    if (run && run[1] === one - 1) run[1] = one;
    else runs.push([one, one]);
  }
  return runs.map(([from, to]) => (from === to ? `${from}` : `${from}-${to}`)).join(', ');
}

// A table; columns named in `right` hold numbers.
function table(head, rows, right = [], caption = '') {
  const side = (at) => (right.includes(at) ? 'number' : null);
  return el(
    'div',
    { class: 'scroll' },
    el(
      'table',
      {},
      caption && el('caption', {}, caption),
      el(
        'thead',
        {},
        el(
          'tr',
          {},
          head.map((text, at) => el('th', { scope: 'col', class: side(at) }, text)),
        ),
      ),
      el(
        'tbody',
        {},
        rows.map((row) =>
          el(
            'tr',
            {},
            row.map((cell, at) => el('td', { class: side(at) }, cell)),
          ),
        ),
      ),
    ),
  );
}
