// The layers at the side; a layer's nodes are listed when it is opened.

function buildTree(holder) {
  const names = { attn: 'attention', ffn: 'experts' };
  const fillGroup = (details, key) => {
    const parts = new Map();
    for (const id of finalGraph.groups.get(key)) {
      const words = nameOf(id).split('.');
      const part = layerNumber(key) !== null && words.length > 2 ? words[1] : '';
      if (!parts.has(part)) parts.set(part, []);
      parts.get(part).push(id);
    }
    for (const [part, ids] of parts) {
      if (part) details.append(el('h4', {}, names[part] ?? part));
      details.append(
        el(
          'ul',
          {},
          ids.map((id) =>
            el(
              'li',
              {},
              link(nodeHref(nameOf(id)), nameOf(id).replace(/^L\d+\.(attn|ffn)\./, ''), {
                class: `leaf ${sortOf(id)}`,
                title: records[id].kind,
                'data-node': nameOf(id),
              }),
            ),
          ),
        ),
      );
    }
  };
  for (const key of GROUPS) {
    const ids = finalGraph.groups.get(key);
    if (!ids.length) continue;
    const layer = layerNumber(key);
    const kind = layerKind(key);
    const open =
      layer !== null &&
      link(`#/graph/layer/${layer}`, 'show', {
        class: 'show',
        'aria-label': `Show layer ${layer} in the graph`,
      });
    const details = el(
      'details',
      { 'data-group': key },
      el(
        'summary',
        {},
        el('span', {}, groupTitle(key)),
        kind && chip(kind.toUpperCase(), kind),
        open,
        el('small', {}, count(ids.length)),
      ),
    );
    details.addEventListener('toggle', () => {
      if (details.open && details.childElementCount === 1) fillGroup(details, key);
    });
    holder.append(details);
  }
}

// Mark the layer and the node that are shown.
function markTree(key, name) {
  for (const old of document.querySelectorAll('#tree [aria-current]')) old.removeAttribute('aria-current');
  if (!key) return;
  const details = document.querySelector(`#tree details[data-group="${CSS.escape(key)}"]`);
  if (!details) return;
  details.querySelector('summary').setAttribute('aria-current', 'true');
  if (name && details.open)
    details.querySelector(`[data-node="${CSS.escape(name)}"]`)?.setAttribute('aria-current', 'true');
  details.scrollIntoView({ block: 'nearest' });
}
