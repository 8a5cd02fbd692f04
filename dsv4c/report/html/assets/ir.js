// One node as a line of IR, with the names as links.

const attrText = (value) => (Array.isArray(value) ? `[${value.join(', ')}]` : JSON.stringify(value));
const nodeHref = (name) => `#/graph/node/${encodeURIComponent(name)}`;

// The node of the last stage where a value can be looked up.
function homeOf(value) {
  const producer = finalGraph.producer.get(value);
  if (producer !== undefined) return nameOf(producer);
  const owner = ownerOf.get(value);
  if (owner !== undefined) return nameOf(owner);
  const user = finalGraph.consumers.get(value)?.[0];
  return user === undefined ? null : nameOf(user);
}

function valueLink(value, text = `%${value}`) {
  const home = homeOf(value);
  return home === null
    ? el('span', { class: 'value' }, text)
    : link(nodeHref(home), text, { class: 'value' });
}

function irLine(id) {
  const record = records[id];
  const commas = (parts) => parts.flatMap((part, at) => (at ? [', ', part] : [part]));
  const attrs = Object.entries(record.attrs).filter(([key]) => !(record.body.length && key === 'kind'));
  return [
    ...commas(
      record.outputs.map(([value, type]) => [valueLink(value), el('span', { class: 'type' }, `: ${type}`)]),
    ),
    ' = ',
    el('b', {}, record.kind),
    '(',
    ...commas(record.inputs.map((value) => valueLink(value))),
    ')',
    attrs.length
      ? el(
          'span',
          { class: 'attrs' },
          ` {${attrs.map(([key, value]) => `${key}=${attrText(value)}`).join(', ')}}`,
        )
      : '',
    record.tensors.length ? el('span', { class: 'tensor' }, ` @ ${record.tensors.join(' ')}`) : '',
  ];
}
