// A slider over the passes: what each did to the structure, in all layers and in one, as pictures
// before and after and as IR.

const passState = { index: null, group: null };

function passesView(main, [index, group]) {
  const first = stages.findIndex((stage, at) => at > 0 && stageDiff(at).touched.size > 0);
  passState.index = Math.min(LAST, Math.max(0, Number(index ?? passState.index ?? Math.max(first, 0)) || 0));
  passState.group = GROUPS.includes(group) ? group : passState.group;
  const stage = stages[passState.index];
  const go = (to, key = passState.group) => {
    location.replace(`#/passes/${to}${key ? `/${key}` : ''}`);
  };
  const slider = el('input', {
    type: 'range',
    id: 'pass',
    min: 0,
    max: LAST,
    step: 1,
    value: passState.index,
    'aria-label': 'Pass',
    'aria-valuetext': `${passState.index}: ${stage.name}`,
    oninput: (event) => go(event.target.value),
  });
  const ticks = el(
    'ol',
    { class: 'ticks' },
    stages.map((one, at) =>
      el(
        'li',
        {},
        link(`#/passes/${at}`, one.name.replaceAll('_', ' '), {
          class: stageDiff(at).touched.size ? 'structural' : one.modified ? '' : 'idle',
          'aria-current': at === passState.index ? 'step' : null,
        }),
      ),
    ),
  );
  main.append(el('div', { class: 'slider', css: { '--count': stages.length } }, slider, ticks));
  const diff = stageDiff(passState.index);
  main.append(
    el('h2', {}, passState.index ? `${passState.index}. ${stage.name}` : 'The model as built'),
    el('p', { class: 'lead' }, passSummary(stage, diff)),
  );
  if (diff.touched.size) {
    const touched = GROUPS.filter((key) => groupTouched(key));
    if (!touched.includes(passState.group)) passState.group = touched[0];
    main.append(changeTable(diff, go), groupDiff(diff, touched, go));
  }
}

// After the slider moved, the new page has a new slider: it gets the focus back.
function keepSlider(wasFocused) {
  if (wasFocused) document.getElementById('pass')?.focus();
}

function passSummary(stage, diff) {
  const rules =
    stage.applied || stage.refused
      ? ` Its rules applied ${count(stage.applied)} and refused ${count(stage.refused)} times.`
      : '';
  if (stage.index === 0)
    return `${many(stage.after, 'node')} in ${many(data.plan.layers.length, 'layer')}, before the first pass.`;
  if (!stage.modified) return `Changed nothing in ${seconds(stage.seconds)}.${rules}`;
  const nodes =
    stage.before === stage.after
      ? many(stage.after, 'node')
      : `${count(stage.before)} → ${many(stage.after, 'node')}`;
  const rest = diff.touched.size
    ? ''
    : ` The structure stays: ${many(stage.annotated, 'node')} got ${stage.stage === 'planned' ? 'places in the arena' : 'what runs them'}.`;
  return `${nodes} in ${seconds(stage.seconds)}.${rules}${rest}`;
}

const groupsOfDiff = (id) =>
  [stageGraph(passState.index), stageGraph(Math.max(0, passState.index - 1))]
    .map((graph) => graph.groupOf.get(id))
    .find((key) => key);
function groupTouched(key) {
  const diff = stageDiff(passState.index);
  return [passState.index, passState.index - 1].some((at) =>
    stageGraph(at)
      .groups.get(key)
      .some((id) => diff.touched.has(id)),
  );
}

// The changes with layer numbers taken out, so that equal ones of many layers are one line.
function changeTable(diff, go) {
  const lines = new Map();
  const note = (sort, text, id, nodes) => {
    const key = `${sort} ${text}`;
    const line = lines.get(key) ?? { sort, text, groups: [], nodes: 0 };
    lines.set(key, line);
    line.groups.push(groupsOfDiff(id));
    line.nodes += nodes;
  };
  const short = (id) => nameOf(id).replace(/^L\d+\./, '');
  for (const [id, parts] of diff.fused)
    note(
      'fused',
      `${parts.map((part) => records[part].kind).join(' + ')} → ${records[id].kind}`,
      id,
      parts.length,
    );
  for (const id of diff.added) note('added', `${records[id].kind} ${short(id)}`, id, 1);
  for (const id of diff.removed) note('removed', `${records[id].kind} ${short(id)}`, id, 1);
  for (const [old, id] of diff.changed)
    note('changed', `${records[id].kind} ${short(id)}: ${changeOf(old, id)}`, id, 1);
  const rows = [...lines.values()].map((line) => {
    const layers = ranges(line.groups.map(layerNumber).filter((layer) => layer !== null));
    const first = line.groups[0];
    return [
      chip(line.sort, line.sort),
      el('code', {}, line.text),
      count(line.nodes),
      layers || groupTitle(first),
      el('button', { type: 'button', onclick: () => go(passState.index, first) }, 'show'),
    ];
  });
  const many = rows.length > 14;
  const shown = table(['change', 'what', 'nodes', 'layers', ''], rows, [2]);
  return el('section', {}, el('h3', {}, 'Changes'), many ? el('div', { class: 'short' }, shown) : shown);
}

function changeOf(old, id) {
  const [a, b] = [records[old], records[id]];
  const parts = [];
  if (JSON.stringify(a.inputs) !== JSON.stringify(b.inputs)) parts.push('reads other values');
  if (JSON.stringify(a.attrs) !== JSON.stringify(b.attrs)) parts.push('attributes');
  if (JSON.stringify(a.outputs) !== JSON.stringify(b.outputs)) parts.push('results');
  if (a.layer !== b.layer || JSON.stringify(a.tensors) !== JSON.stringify(b.tensors)) parts.push('origin');
  return parts.join(', ') || 'body';
}

function groupDiff(diff, touched, go) {
  const key = passState.group;
  const before = stageGraph(passState.index - 1);
  const after = stageGraph(passState.index);
  const choose = el(
    'select',
    { 'aria-label': 'Layer', onchange: (event) => go(passState.index, event.target.value) },
    touched.map((one) =>
      el(
        'option',
        { value: one, selected: one === key },
        `${groupTitle(one)} ${layerKind(one).toUpperCase()}`,
      ),
    ),
  );
  const old = (id) =>
    diff.partOf.has(id) ? 'fused' : diff.changed.has(id) ? 'changed' : diff.touched.has(id) ? 'removed' : '';
  const made = (id) =>
    diff.fused.has(id) ? 'fused' : diff.changedTo.has(id) ? 'changed' : diff.touched.has(id) ? 'added' : '';
  const lines = [
    ...before.groups
      .get(key)
      .filter((id) => diff.touched.has(id))
      .map((id) => el('div', { class: `line minus ${old(id)}` }, '− ', irLine(id))),
    ...after.groups
      .get(key)
      .filter((id) => diff.touched.has(id))
      .map((id) =>
        el(
          'div',
          { class: `line plus ${made(id)}` },
          '+ ',
          irLine(id),
          records[id].body.map((part) => el('div', { class: 'body' }, irLine(part))),
        ),
      ),
  ];
  return el(
    'section',
    {},
    el('h3', {}, 'In ', choose),
    el('div', { class: 'pair' }, half('Before', before, key, old), half('After', after, key, made)),
    el(
      'p',
      { class: 'legend' },
      [
        ['fused', 'fused'],
        ['added', 'added'],
        ['removed', 'removed'],
        ['changed', 'changed'],
      ].map(([kind, text]) => [el('i', { class: kind }), ` ${text} `]),
    ),
    el('pre', { class: 'ir diff' }, lines),
  );
}

function half(title, graph, key, mark) {
  const layout = groupLayout(graph, key);
  const picture = new Picture(`${title}: ${groupTitle(key)}`, layout);
  picture.svg.classList.add('near');
  picture.root.append(drawGroup(layout, (id) => mark(id) || 'still', showDetails));
  requestAnimationFrame(() => focusOn(picture, layout, mark));
  return el(
    'figure',
    {},
    el('figcaption', {}, `${title}: ${many(layout.entries.filter((entry) => !entry.port).length, 'node')}`),
    picture.node,
  );
}

// Show the changed part, so that it can be read.
function focusOn(picture, layout, mark) {
  const spots = layout.spots.filter(
    (_, at) => layout.entries[at].id !== undefined && mark(layout.entries[at].id),
  );
  if (!spots.length) {
    picture.fit();
    return;
  }
  const left = Math.min(...spots.map((spot) => spot.x)) - 30;
  const top = Math.min(...spots.map((spot) => spot.y)) - 30;
  const right = Math.max(...spots.map((spot) => spot.x + spot.w)) + 30;
  const bottom = Math.max(...spots.map((spot) => spot.y + spot.h)) + 30;
  picture.fit({ x: left, y: top, width: right - left, height: bottom - top });
}
