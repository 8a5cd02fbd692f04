// The kernels: resources, users, and the generated source with what it was generated from.

const LIMITS = { registers: 255, smem: 232448 }; // per thread; bytes per block on sm_90 and sm_100
const WORDS = new Set(
  'False None True and as assert break class continue def del elif else except finally for from global if import in is lambda nonlocal not or pass raise return try while with yield'.split(
    ' ',
  ),
);
const TOKENS =
  /("""[\s\S]*?"""|'''[\s\S]*?'''|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|(#[^\n]*)|(@[\w.]+)|(\b\d[\w.]*)|([A-Za-z_]\w*)/g;

function kernelsView(main, [name]) {
  if (!data.kernels.length) {
    main.append(
      el('h2', {}, 'Kernels'),
      el(
        'p',
        { class: 'lead' },
        data.plan.target === 'cpu'
          ? 'A plan for cpu has no kernels: every node runs by its torch reference.'
          : 'This plan has no kernels.',
      ),
    );
    return;
  }
  const shown = kernelOf.get(name) ?? data.kernels[0];
  main.append(el('h2', {}, many(data.kernels.length, 'kernel')), kernelTable(shown), kernelPage(shown));
}

function gauge(value, most, text, warn = false) {
  const share = Math.min(1, value / most);
  return el(
    'div',
    { class: `gauge ${warn ? 'warn' : ''}` },
    el('span', {}, text),
    el('i', { css: { width: `${100 * share}%` } }),
  );
}

function kernelTable(shown) {
  const rows = data.kernels.map((kernel) => [
    link(`#/kernels/${encodeURIComponent(kernel.name)}`, kernel.name, {
      class: 'mono',
      'aria-current': kernel === shown ? 'true' : null,
    }),
    count(kernel.nodes.length),
    ranges(layersOf(kernel)) || '-',
    gauge(kernel.registers, LIMITS.registers, String(kernel.registers)),
    el('span', { class: kernel.spills ? 'bad' : '' }, count(kernel.spills)),
    gauge(kernel.smem, LIMITS.smem, bytes(kernel.smem)),
    best(kernel.name),
  ]);
  return table(
    ['kernel', 'nodes', 'layers', 'registers', 'spilled bytes', 'shared memory', 'of the floor'],
    rows,
    [1, 4, 6],
  );
}

const layersOf = (kernel) =>
  kernel.nodes
    .map((name) => records[finalIds.get(name)]?.layer)
    .filter((layer) => layer !== null && layer !== undefined);

function best(name) {
  const timings = data.measured?.timings.filter((one) => one.kernel === name) ?? [];
  return timings.length
    ? `${percent(Math.min(...timings.map((one) => one.floor_us / one.us)))} - ${percent(Math.max(...timings.map((one) => one.floor_us / one.us)))}`
    : '-';
}

function kernelPage(kernel) {
  const users = kernel.nodes.map((name) => valueLink(name));
  const tensors = [...new Set(kernel.nodes.flatMap((name) => records[finalIds.get(name)]?.tensors ?? []))];
  const fold = (title, items) =>
    el(
      'details',
      { open: items.length <= 8 },
      el('summary', {}, title),
      el('p', { class: 'flow mono' }, items),
    );
  return el(
    'section',
    { class: 'kernel' },
    el('h3', { class: 'mono' }, kernel.name),
    el(
      'p',
      {},
      chip(kernel.kind, 'kernel'),
      ' ',
      chip(kernel.arch),
      ' ',
      Object.entries(kernel.params).map(([key, value]) => [
        el('span', { class: 'param' }, `${key} = ${value}`),
        ' ',
      ]),
    ),
    fold(`Runs ${many(kernel.nodes.length, 'node')}`, users),
    fold(
      `From ${many(tensors.length, 'checkpoint tensor')}`,
      tensors.map((name) => el('span', {}, name)),
    ),
    sourceBlock(kernel),
  );
}

// The header says where the kernel comes from: its names become links. In the body the constants
// that stand for parameters are marked, with their values as titles.
function sourceBlock(kernel) {
  const lines = kernel.source.split('\n');
  const end = lines.findIndex((line) => !line.startsWith('#'));
  const head = lines.slice(0, end).join('\n');
  const body = lines.slice(end).join('\n');
  const constants = new Map(
    [...body.matchAll(/^([A-Z][A-Z0-9_]*) = (.+)$/gm)].map((match) => [match[1], match[2]]),
  );
  const numbers = lines.map((_, at) => `${at + 1}\n`).join('');
  return el(
    'div',
    { class: 'source' },
    el('pre', { class: 'numbers', 'aria-hidden': 'true' }, numbers),
    el(
      'pre',
      { tabindex: 0, 'aria-label': `Source of ${kernel.name}` },
      el('span', { class: 'origin' }, header(head)),
      highlighted(body, constants),
    ),
  );
}

function header(text) {
  const tensors = new Set(data.weights.weights.flatMap((weight) => weight.tensors));
  return text.split(/(%[\w.]+|(?<=[( ])[\w.{}]+(?=[),]))/).map((part) => {
    if (part.startsWith('%')) return valueLink(part.slice(1));
    return tensors.has(part) ? el('span', { class: 'tensor' }, part) : part;
  });
}

function highlighted(text, constants) {
  const parts = [];
  let at = 0;
  for (const match of text.matchAll(TOKENS)) {
    const [word, string, comment, decorator, number] = match;
    const kind = string
      ? 's'
      : comment
        ? 'c'
        : decorator
          ? 'd'
          : number
            ? 'n'
            : WORDS.has(word)
              ? 'k'
              : constants.has(word)
                ? 'param'
                : null;
    if (!kind) continue;
    parts.push(
      text.slice(at, match.index),
      el('span', { class: kind, title: kind === 'param' ? `${word} = ${constants.get(word)}` : null }, word),
    );
    at = match.index + word.length;
  }
  return [...parts, text.slice(at)];
}
