// One box that finds nodes, kernels, weights, checkpoint tensors, states and passes.

const MOST = 40;
const NO_HITS = new Set();

function searchIndex() {
  const entries = [];
  const add = (sort, text, href, more = '') =>
    entries.push({ sort, text, href, more, key: `${text} ${more}`.toLowerCase() });
  for (const kernel of data.kernels)
    add('kernel', kernel.name, `#/kernels/${encodeURIComponent(kernel.name)}`, kernel.kind);
  for (const id of stages[LAST].nodes) {
    add('node', nameOf(id), nodeHref(nameOf(id)), records[id].kind);
    for (const part of records[id].body)
      if (nameOf(part) !== nameOf(id)) add('fused', nameOf(part), nodeHref(nameOf(id)), records[part].kind);
  }
  const user = (value) => nameOf(finalGraph.consumers.get(value)?.[0] ?? stages[LAST].nodes[0]);
  for (const weight of data.weights.weights)
    add('weight', weight.name, nodeHref(user(weight.name)), `${weight.format} ${weight.tensors.join(' ')}`);
  for (const state of data.memory.states) add('state', state.name, nodeHref(user(state.name)), state.type);
  stages.forEach((stage) => add('pass', stage.name, `#/passes/${stage.index}`));
  return entries;
}

function setUpSearch(onquery) {
  const input = document.getElementById('query');
  const hits = document.getElementById('hits');
  let entries = null;
  let active = 0;
  const options = () => [...hits.querySelectorAll('[role=option]')];
  const close = () => {
    hits.hidden = true;
    input.setAttribute('aria-expanded', 'false');
    input.removeAttribute('aria-activedescendant');
  };
  const point = (to) => {
    const all = options();
    if (!all.length) return;
    active = (to + all.length) % all.length;
    all.forEach((option, at) => option.setAttribute('aria-selected', String(at === active)));
    all[active].scrollIntoView({ block: 'nearest' });
    input.setAttribute('aria-activedescendant', all[active].id);
  };
  const run = () => {
    entries ??= searchIndex();
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.length) {
      close();
      onquery(null);
      return;
    }
    const found = entries.filter((entry) => words.every((word) => entry.key.includes(word)));
    found.sort(
      (a, b) => a.text.toLowerCase().indexOf(words[0]) - b.text.toLowerCase().indexOf(words[0]) || 0,
    );
    const rows = found
      .slice(0, MOST)
      .map((entry, at) =>
        el(
          'a',
          { role: 'option', id: `hit${at}`, href: entry.href, tabindex: -1, onclick: close },
          chip(entry.sort),
          el('span', { class: 'mono' }, entry.text),
          el('small', {}, entry.more),
        ),
      );
    hits.replaceChildren(
      ...rows,
      el(
        'p',
        { class: 'sub' },
        found.length > MOST
          ? `${count(found.length)} matches, the first ${MOST} shown`
          : many(found.length, 'match', 'matches'),
      ),
    );
    hits.hidden = false;
    input.setAttribute('aria-expanded', 'true');
    point(0);
    const nodes = found
      .filter((entry) => entry.sort === 'node' || entry.sort === 'fused')
      .map((entry) => finalIds.get(decodeURIComponent(entry.href.split('/').at(-1))));
    onquery(nodes.length ? new Set(nodes) : NO_HITS);
  };
  input.addEventListener('input', run);
  input.addEventListener('focus', () => {
    if (input.value) run();
  });
  input.addEventListener('keydown', (event) => {
    if (event.key === 'ArrowDown') point(active + 1);
    else if (event.key === 'ArrowUp') point(active - 1);
    else if (event.key === 'Enter') {
      options()[active]?.click();
    } else if (event.key === 'Escape') {
      input.value = '';
      close();
      onquery(null);
    } else return;
    event.preventDefault();
  });
  document.addEventListener('click', (event) => {
    if (!event.target.closest('#search')) close();
  });
  document.addEventListener('keydown', (event) => {
    if (event.key !== '/' || event.target.closest('input, select, textarea')) return;
    event.preventDefault();
    input.focus();
    input.select();
  });
}
