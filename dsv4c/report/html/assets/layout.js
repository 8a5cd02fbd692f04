// Layered layout (Sugiyama): ranks by longest path, crossings reduced by medians, positions by
// least squares under the order (pool adjacent violators). Cached by structure.

const GAP_X = 22;
const GAP_Y = 40;
const PAD = 18;
const CHAR = 6.7;

function nodeSize(kind, name, badge) {
  const first = kind.length * 7.2 + (badge ? badge.length * 5.6 + 18 : 0);
  return { w: Math.ceil(Math.max(96, first, name.length * CHAR)) + 22, h: 42 };
}

// `boxes`: [{ w, h }]; `edges`: [[from, to]] between their places, along the order of `boxes`.
function layered(boxes, edges) {
  const n = boxes.length;
  const next = boxes.map(() => []);
  const before = boxes.map(() => []);
  for (const [a, b] of edges) {
    next[a].push(b);
    before[b].push(a);
  }
  const rank = new Array(n).fill(0);
  for (let i = 0; i < n; i += 1) for (const a of before[i]) rank[i] = Math.max(rank[i], rank[a] + 1);
  const alone = boxes.map((_, i) => i).filter((i) => !next[i].length && !before[i].length);
  alone.forEach((i, at) => {
    rank[i] = Math.floor(at / 4);
  });
  for (let i = n - 1; i >= 0; i -= 1) {
    if (next[i].length) rank[i] = Math.max(rank[i], Math.min(...next[i].map((b) => rank[b])) - 1);
  }
  const items = boxes.map((box, i) => ({ w: box.w, rank: rank[i], up: [], down: [], weight: 1 }));
  const chains = edges.map(([a, b]) => {
    const chain = [a];
    for (let at = rank[a] + 1; at < rank[b]; at += 1) {
      items.push({ w: 6, rank: at, up: [], down: [], weight: 20 });
      chain.push(items.length - 1);
    }
    chain.push(b);
    for (let i = 1; i < chain.length; i += 1) {
      items[chain[i - 1]].down.push(chain[i]);
      items[chain[i]].up.push(chain[i - 1]);
    }
    return chain;
  });
  const rows = [];
  items.forEach((item, i) => {
    (rows[item.rank] ??= []).push(i);
  });
  order(items, rows);
  place(items, rows);
  const heights = rows.map((row) => Math.max(12, ...row.filter((i) => i < n).map((i) => boxes[i].h)));
  const tops = [];
  heights.reduce((y, height, at) => {
    tops[at] = y;
    return y + height + GAP_Y;
  }, PAD);
  const left = Math.min(...items.map((item) => item.x - item.w / 2)) - PAD;
  const width = Math.max(...items.map((item) => item.x + item.w / 2)) + PAD - left;
  const height = (tops.at(-1) ?? 0) + (heights.at(-1) ?? 0) + PAD;
  const spots = boxes.map((box, i) => ({ x: items[i].x - left - box.w / 2, y: tops[rank[i]], ...box }));
  const paths = chains.map((chain) => curve(chain, items, left, tops, heights, spots));
  return { width, height, spots, paths };
}

function order(items, rows) {
  const spot = new Array(items.length);
  const settle = (row) =>
    row.forEach((i, at) => {
      spot[i] = at / row.length;
    });
  rows.forEach(settle);
  const median = (list) => {
    const places = list.map((i) => spot[i]).sort((a, b) => a - b);
    const half = places.length >> 1;
    return places.length % 2 ? places[half] : (places[half - 1] + places[half]) / 2;
  };
  let best = null;
  let fewest = Infinity;
  for (let sweep = 0; sweep < 14; sweep += 1) {
    const down = sweep % 2 === 0;
    for (const row of down ? rows : [...rows].reverse()) {
      const wish = new Map(
        row.map((i) => {
          const list = down ? items[i].up : items[i].down;
          return [i, list.length ? median(list) : spot[i]];
        }),
      );
      row.sort((a, b) => wish.get(a) - wish.get(b) || spot[a] - spot[b]);
      settle(row);
    }
    const crossings = rows.reduce((sum, row) => sum + crossed(row, items, spot), 0);
    if (crossings < fewest) {
      fewest = crossings;
      best = rows.map((row) => [...row]);
    }
  }
  best.forEach((row, at) => {
    rows[at] = row;
  });
}

function crossed(row, items, spot) {
  const ends = row.flatMap((i) => items[i].down.map((b) => spot[b]).sort((a, b) => a - b));
  let sum = 0;
  for (let i = 0; i < ends.length; i += 1)
    for (let j = i + 1; j < ends.length; j += 1) if (ends[j] < ends[i]) sum += 1;
  return sum;
}

function place(items, rows) {
  for (const row of rows) {
    let x = 0;
    for (const i of row) {
      items[i].x = x + items[i].w / 2;
      x += items[i].w + GAP_X;
    }
    for (const i of row) items[i].x -= x / 2;
  }
  for (let sweep = 0; sweep < 30; sweep += 1) {
    const down = sweep % 2 === 0;
    for (const row of down ? rows : [...rows].reverse()) {
      pool(row, items, (item) => {
        const list = sweep >= 18 ? [...item.up, ...item.down] : down ? item.up : item.down;
        return list.length ? list.reduce((sum, i) => sum + items[i].x, 0) / list.length : item.x;
      });
    }
  }
}

// The positions nearest to the wished ones that keep the order and the gaps.
function pool(row, items, wish) {
  let offset = 0;
  const blocks = [];
  const offsets = row.map((i, at) => {
    if (at) offset += (items[row[at - 1]].w + items[i].w) / 2 + GAP_X;
    return offset;
  });
  row.forEach((i, at) => {
    const weight = items[i].weight;
    blocks.push({ sum: (wish(items[i]) - offsets[at]) * weight, weight, size: 1 });
    while (blocks.length > 1) {
      const [a, b] = blocks.slice(-2);
      if (a.sum / a.weight <= b.sum / b.weight) break;
      blocks.splice(-2, 2, { sum: a.sum + b.sum, weight: a.weight + b.weight, size: a.size + b.size });
    }
  });
  let at = 0;
  for (const block of blocks)
    for (let i = 0; i < block.size; i += 1, at += 1)
      items[row[at]].x = block.sum / block.weight + offsets[at];
}

function curve(chain, items, left, tops, heights, spots) {
  const at = (i) => items[i].x - left;
  const first = spots[chain[0]];
  let x = at(chain[0]);
  let y = first.y + first.h;
  let path = `M${x.toFixed(1)} ${y.toFixed(1)}`;
  for (const i of chain.slice(1)) {
    const top = tops[items[i].rank];
    const half = (top - y) / 2;
    path += `C${x.toFixed(1)} ${(y + half).toFixed(1)} ${at(i).toFixed(1)} ${(top - half).toFixed(1)} ${at(i).toFixed(1)} ${top.toFixed(1)}`;
    x = at(i);
    y = top;
    if (i >= spots.length) {
      y = top + heights[items[i].rank];
      path += `V${y.toFixed(1)}`;
    }
  }
  return path;
}

const layouts = new Map();

// One group of a stage: boxes for its nodes, and a port for what earlier groups hand over.
function groupLayout(graph, key) {
  const ids = graph.groups.get(key);
  const inside = new Set(ids.flatMap((id) => records[id].outputs.map(([value]) => value)));
  const strip = (value) => value.replace(/^L\d+\./, '');
  const ports = [...new Set(ids.flatMap((id) => records[id].inputs))].filter(
    (value) => graph.producer.has(value) && !inside.has(value) && graph.carries.has(value),
  );
  const entries = [
    ...ports.map((value) => ({ port: value, kind: 'from above', name: value, badge: '' })),
    ...ids.map((id) => ({ id, kind: records[id].kind, name: strip(nameOf(id)), badge: badgeOf(id) })),
  ];
  const from = new Map(ports.map((value, at) => [value, at]));
  ids.forEach((id, at) => records[id].outputs.forEach(([value]) => from.set(value, ports.length + at)));
  const edges = [];
  ids.forEach((id, at) => {
    for (const value of new Set(records[id].inputs)) {
      const source = from.get(value);
      const target = ports.length + at;
      if (source !== undefined && source < target && !edges.some(([a, b]) => a === source && b === target))
        edges.push([source, target]);
    }
  });
  const signature = JSON.stringify([
    entries.map((entry) => [entry.kind, entry.port ? '' : entry.name, entry.badge]),
    edges,
  ]);
  if (!layouts.has(signature))
    layouts.set(
      signature,
      layered(
        entries.map((entry) => nodeSize(entry.kind, entry.port ? entry.port : entry.name, entry.badge)),
        edges,
      ),
    );
  return { entries, edges, ...layouts.get(signature) };
}

function badgeOf(id) {
  const formats = records[id].inputs.map((value) => weightOf.get(value)?.format).filter(Boolean);
  return formats.find((format) => !['bf16', 'f32', 'i64'].includes(format)) ?? formats[0] ?? '';
}
