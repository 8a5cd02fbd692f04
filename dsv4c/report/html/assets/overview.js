// What the plan is, where the compile's time went, which rules applied and which refused.

function overview(main) {
  const { plan } = data;
  const ids = stages[LAST].nodes;
  const onKernel = ids.filter(runsOnKernel).length;
  const { arena } = data.memory;
  const figure = (value, label, more = '') =>
    el('div', { class: 'figure' }, el('b', {}, value), el('span', {}, label), more && el('small', {}, more));
  const weights = data.weights.formats.reduce((total, one) => total + one.bytes, 0);
  const parameters = data.weights.formats.reduce((total, one) => total + one.parameters, 0);
  main.append(
    el('h2', {}, plan.model),
    el(
      'p',
      { class: 'lead' },
      `Compiled for ${plan.target} by dsv4c ${plan.dsv4c}: ${Object.entries(plan.options)
        .map(([key, value]) => `${key} ${value}`)
        .join(', ')}. ${Object.entries(plan.tools)
        .map(([key, value]) => `${key} ${value}`)
        .join(', ')}.`,
    ),
    el(
      'div',
      { class: 'figures' },
      figure(count(plan.layers.length), 'layers', layerKinds()),
      figure(count(ids.length), 'nodes', `from ${count(stages[0].nodes.length)} in the model`),
      figure(count(data.kernels.length), 'kernels', `run ${count(onKernel)} of the nodes`),
      figure(bytes(weights), 'weights', scaled(parameters, ['', 'k', 'M', 'G', 'T']).concat(' parameters')),
      figure(bytes(arena.bytes), `arena for ${plan.steps.prefill.T} tokens`, `${bytes(arena.least)} live at once`),
      figure(
        bytes(data.memory.bytes_per_page),
        `state per ${data.memory.page_tokens} tokens`,
        `and ${bytes(data.memory.bytes_per_slot)} a sequence`,
      ),
    ),
    layerStrip(),
    phaseBar(),
    ruleTable(),
    formatTable(),
    runsTable(),
  );
}

function layerKinds() {
  const kinds = new Map();
  for (const layer of data.plan.layers) kinds.set(layer.kind, (kinds.get(layer.kind) ?? 0) + 1);
  return [...kinds].map(([kind, number]) => `${number} ${kind.toUpperCase()}`).join(', ');
}

function layerStrip() {
  return el(
    'section',
    {},
    el('h3', {}, 'Layers'),
    el(
      'div',
      { class: 'strip' },
      data.plan.layers.map((layer, at) =>
        link(`#/graph/layer/${at}`, String(at), {
          class: layer.kind,
          title: `layer ${at}: ${layer.kind.toUpperCase()}${layer.ratio ? `, one entry for ${layer.ratio} tokens` : ''}${layer.hash_routing ? ', experts by token' : ''}`,
        }),
      ),
    ),
    el(
      'p',
      { class: 'legend' },
      [
        ['swa', 'window only'],
        ['csa', 'compressed, with an indexer'],
        ['hca', 'highly compressed'],
      ].map(([kind, text]) => [el('i', { class: kind }), ` ${kind.toUpperCase()} ${text} `]),
    ),
  );
}

function phaseBar() {
  const phases = Object.entries(data.plan.phases);
  const total = phases.reduce((sum, [, spent]) => sum + spent, 0);
  const shade = (at) => `var(--series-${(at % 6) + 1})`;
  return el(
    'section',
    {},
    el('h3', {}, `Compile: ${seconds(total)}`),
    el(
      'div',
      {
        class: 'stack',
        role: 'img',
        'aria-label': phases.map(([name, spent]) => `${name} ${seconds(spent)}`).join(', '),
      },
      phases.map(([name, spent], at) =>
        el('span', {
          title: `${name}: ${seconds(spent)}`,
          css: { 'flex-grow': spent / total, background: shade(at) },
        }),
      ),
    ),
    el(
      'p',
      { class: 'legend' },
      phases.map(([name, spent], at) =>
        el('span', {}, el('i', { css: { background: shade(at) } }), ` ${name} ${seconds(spent)} `),
      ),
    ),
  );
}

function ruleTable() {
  const rules = new Map();
  for (const remark of data.remarks) {
    const rule = rules.get(remark.rule) ?? { applied: [], refused: [], reasons: new Map() };
    rules.set(remark.rule, rule);
    rule[remark.status].push(remark);
    if (remark.status === 'refused')
      rule.reasons.set(remark.text, [...(rule.reasons.get(remark.text) ?? []), remark]);
  }
  const layers = (remarks) =>
    ranges(remarks.map((remark) => remark.layer).filter((layer) => layer !== null)) || '-';
  const why = (rule) =>
    rule.reasons.size
      ? el(
          'ul',
          { class: 'plain' },
          [...rule.reasons].map(([text, remarks]) =>
            el(
              'li',
              {},
              text,
              el('span', { class: 'sub' }, ` ${remarks.length} × , first at `, valueLink(remarks[0].node)),
            ),
          ),
        )
      : '';
  return el(
    'section',
    {},
    el('h3', {}, 'Rules'),
    table(
      ['rule', 'applied', 'in layers', 'refused', 'why'],
      [...rules].map(([name, rule]) => [
        el('code', {}, name),
        count(rule.applied.length),
        layers(rule.applied),
        count(rule.refused.length),
        why(rule),
      ]),
      [1, 3],
    ),
  );
}

function formatTable() {
  const rows = data.weights.formats.map((one) => [
    chip(one.format, 'weight'),
    count(one.weights),
    count(one.parameters),
    bytes(one.bytes),
  ]);
  return el(
    'section',
    {},
    el('h3', {}, 'Weights'),
    table(['format', 'weights', 'parameters', 'size'], rows, [1, 2, 3]),
  );
}

function runsTable() {
  const kinds = new Map();
  for (const id of stages[LAST].nodes) {
    const kind = kinds.get(records[id].kind) ?? { nodes: 0, kernels: new Set(), decode: 0, prefill: 0 };
    kinds.set(records[id].kind, kind);
    const got = scheduled(id);
    kind.nodes += 1;
    kind.decode += got.decode.read + got.decode.write;
    kind.prefill += got.prefill.flops;
    if (runsOnKernel(id)) kind.kernels.add(got.impl);
  }
  const rows = [...kinds]
    .sort((a, b) => b[1].decode - a[1].decode)
    .map(([kind, one]) => [
      el('code', {}, kind),
      count(one.nodes),
      one.kernels.size
        ? [...one.kernels].map((name) =>
            el('div', {}, link(`#/kernels/${encodeURIComponent(name)}`, name, { class: 'mono' })),
          )
        : 'torch reference',
      bytes(one.decode),
      flops(one.prefill),
    ]);
  return el(
    'section',
    {},
    el('h3', {}, 'What runs the nodes'),
    table(
      ['kind', 'nodes', 'runs on', 'bytes, one token', `arithmetic, ${data.plan.steps.prefill.T} tokens`],
      rows,
      [1, 3, 4],
    ),
  );
}
