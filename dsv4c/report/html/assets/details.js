// The panel at the side: everything about one node.

const panel = document.getElementById('details');
const section = (title, ...children) => el('section', {}, el('h3', {}, title), children);
const list = (items) =>
  el(
    'ul',
    { class: 'plain' },
    items.map((item) => el('li', {}, item)),
  );

function showDetails(id) {
  panel.hidden = false;
  const record = records[id];
  const got = scheduled(id);
  const close = el(
    'button',
    { type: 'button', class: 'close', 'aria-label': 'Close the details', onclick: hideDetails },
    '×',
  );
  panel.replaceChildren();
  panel.scrollTop = 0;
  fill(panel, {}, [
    close,
    el('h2', {}, nameOf(id)),
    el(
      'p',
      {},
      chip(record.kind, sortOf(id)),
      ' ',
      record.layer !== null && link(`#/graph/layer/${record.layer}`, `layer ${record.layer}`),
      ' ',
      layerKind(layerKey(record.layer)).toUpperCase(),
    ),
    got ? runsOn(got) : goneTo(id),
    section('As IR', el('pre', { class: 'ir' }, irLine(id))),
    record.body.length > 0 &&
      section(
        `Made of ${many(record.body.length, 'node')}`,
        el(
          'pre',
          { class: 'ir' },
          record.body.map((part) => el('div', {}, irLine(part))),
        ),
      ),
    section('Reads', list(record.inputs.map(operand))),
    section('Makes', list(record.outputs.map(([value, type]) => result(value, type)))),
    record.tensors.length > 0 &&
      section('Checkpoint tensors', list(record.tensors.map((name) => el('code', {}, name)))),
    got && section('Work', costTable(got)),
    ruleSection(id),
    got && measuredSection(got.impl),
  ]);
}

function hideDetails() {
  panel.hidden = true;
  panel.replaceChildren();
}

function runsOn(got) {
  if (got.impl === REFERENCE || !got.impl) return el('p', { class: 'runs' }, 'Runs by its torch reference.');
  return el(
    'p',
    { class: 'runs' },
    'Runs on ',
    link(`#/kernels/${encodeURIComponent(got.impl)}`, got.impl, { class: 'mono' }),
  );
}

function goneTo(id) {
  const owner = ownerOf.get(nameOf(id));
  if (owner !== undefined)
    return el('p', { class: 'runs' }, 'Part of ', valueLink(nameOf(owner), nameOf(owner)));
  const heir = finalIds.get(nameOf(id));
  if (heir !== undefined)
    return el(
      'p',
      { class: 'runs' },
      'A later pass changed it: ',
      link(nodeHref(nameOf(heir)), 'as it is in the plan'),
    );
  return el('p', { class: 'runs' }, 'Not in the plan: a later pass removed it.');
}

function operand(value) {
  const weight = weightOf.get(value);
  const state = stateOf.get(value);
  if (weight)
    return [
      el('span', { class: 'mono' }, value),
      ' ',
      chip(weight.format, 'weight'),
      ` [${weight.dims.join(', ')}] ${bytes(weight.bytes)}`,
      el('div', { class: 'sub' }, weight.tensors.join(' ')),
    ];
  if (state)
    return [
      el('span', { class: 'mono' }, value),
      ' ',
      chip('state'),
      el('div', { class: 'sub' }, state.type),
    ];
  return [valueLink(value, value), el('div', { class: 'sub' }, typeOf.get(value) ?? '')];
}

function result(value, type) {
  const interval = intervalOf.get(value);
  const users = (finalGraph.consumers.get(value) ?? []).map(nameOf);
  return [
    el('span', { class: 'mono' }, value),
    el('div', { class: 'sub' }, type),
    interval &&
      el(
        'div',
        { class: 'sub' },
        `offset ${interval.offset}, ${bytes(interval.bytes)}, live ${interval.begin}-${interval.end}`,
      ),
    users.length > 0 &&
      el(
        'div',
        { class: 'sub' },
        'used by ',
        users.slice(0, 6).flatMap((name, at) => [at ? ', ' : '', link(nodeHref(name), name)]),
        users.length > 6 ? ` and ${users.length - 6} more` : '',
      ),
  ];
}

function costTable(got) {
  const row = (label, read) => [label, read(got.decode), read(got.prefill)];
  const rows = [
    row('arithmetic', (cost) => flops(cost.flops)),
    row('reads', (cost) => bytes(cost.read)),
    row('writes', (cost) => bytes(cost.write)),
  ];
  if (got.prefill.saved) rows.push(row('saved by fusing', (cost) => bytes(cost.saved)));
  return table(['', 'one token', `${data.plan.steps.prefill.T} tokens`], rows, [1, 2]);
}

function ruleSection(id) {
  const names = new Set([nameOf(id), ...records[id].body.map(nameOf)]);
  const remarks = [...names].flatMap((name) => remarksOf.get(name) ?? []);
  if (!remarks.length) return null;
  return section(
    'Rules',
    list(
      remarks.map((remark) => [
        chip(remark.status, remark.status),
        ' ',
        el('b', {}, remark.rule),
        el('div', { class: 'sub' }, remark.text),
      ]),
    ),
  );
}

function measuredSection(impl) {
  const timings = data.measured?.timings.filter((one) => one.kernel === impl) ?? [];
  if (!timings.length) return null;
  return section(
    `Measured on ${data.measured.device}`,
    table(
      ['case', 'time', 'of the floor'],
      timings.map((one) => [one.case.split('/').at(-1), micros(one.us), percent(one.floor_us / one.us)]),
      [1, 2],
    ),
  );
}
