// The picture of the graph in the plan.

let map = null;
let wantedHits = null;

function graphView(main, args) {
  map ??= new ModelMap((id) => {
    location.hash = nodeHref(nameOf(id));
  });
  const legend = el(
    'p',
    { class: 'legend over' },
    el('i', { class: 'kernel' }),
    ' kernel ',
    el('i', { class: 'fused' }),
    ' fused, by reference ',
    el('i', { class: 'plain' }),
    ' one op, by reference ',
    el('i', { class: 'hit' }),
    ' match ',
  );
  main.append(el('div', { class: 'stage' }, map.picture.node, legend));
  main.classList.add('full');
  map.highlight(wantedHits);
  requestAnimationFrame(() => goInGraph(args));
}

function goInGraph([what, which]) {
  if (what === 'node' && finalIds.has(which)) {
    const id = finalIds.get(which);
    map.select(id);
    showDetails(id);
    markTree(finalGraph.groupOf.get(id), which);
  } else if (what === 'layer') {
    map.showGroup(layerKey(which));
    markTree(layerKey(which));
  } else {
    map.select(null, false);
    if (!map.seen) map.picture.fit();
    markTree(null);
  }
  map.seen = true;
}

function searchInGraph(ids) {
  wantedHits = ids;
  map?.highlight(ids);
}
