// The plan as the views see it: stages, groups of nodes, and who makes and who uses a value.

const data = JSON.parse(document.getElementById('data').textContent);
const REFERENCE = 'reference';
const { records, stages } = data;
stages.forEach((stage, at) => {
  stage.nodes ??= stages[at - 1].nodes;
});
const LAST = stages.length - 1;

const nameOf = (id) => records[id].outputs[0][0];
const kernelOf = new Map(data.kernels.map((kernel) => [kernel.name, kernel]));
const weightOf = new Map(data.weights.weights.map((weight) => [weight.name, weight]));
const stateOf = new Map(data.memory.states.map((state) => [state.name, state]));
const isTensorType = (type) => !/^(weight|cache|rows)\b/.test(type);

// Groups in execution order: what comes before the layers, each layer, what comes after them.
const BEFORE = 'before';
const AFTER = 'after';
const layerKey = (layer) => `L${layer}`;
const GROUPS = [BEFORE, ...data.plan.layers.map((_, layer) => layerKey(layer)), AFTER];
const layerNumber = (key) => (key === BEFORE || key === AFTER ? null : Number(key.slice(1)));
const layerKind = (key) => data.plan.layers[layerNumber(key)]?.kind ?? '';

function groupTitle(key) {
  if (key === BEFORE) return 'Before the layers';
  if (key === AFTER) return 'After the layers';
  return `Layer ${layerNumber(key)}`;
}

const stageCache = new Map();

// The graph after a pass: groups, producers, consumers, and which values depend on a weight.
function stageGraph(index) {
  if (stageCache.has(index)) return stageCache.get(index);
  const groups = new Map(GROUPS.map((key) => [key, []]));
  const producer = new Map();
  const consumers = new Map();
  const groupOf = new Map();
  const carries = new Set(weightOf.keys());
  const late = new Set();
  for (const id of stages[index].nodes) {
    const record = records[id];
    const deep = record.inputs.some((value) => late.has(value));
    const key = record.layer !== null ? layerKey(record.layer) : deep ? AFTER : BEFORE;
    const group = groups.has(key) ? key : AFTER;
    groups.get(group).push(id);
    groupOf.set(id, group);
    for (const value of new Set(record.inputs)) {
      if (!consumers.has(value)) consumers.set(value, []);
      consumers.get(value).push(id);
    }
    const heavy = record.inputs.some((value) => carries.has(value));
    for (const [value] of record.outputs) {
      producer.set(value, id);
      if (heavy) carries.add(value);
      if (deep || record.layer !== null) late.add(value);
    }
  }
  const graph = { index, groups, producer, consumers, groupOf, carries };
  stageCache.set(index, graph);
  return graph;
}

const finalGraph = stageGraph(LAST);
const placeOf = new Map(stages[LAST].nodes.map((id, place) => [id, place]));
const finalIds = new Map(stages[LAST].nodes.map((id) => [nameOf(id), id]));
const scheduled = (id) => (placeOf.has(id) ? data.schedule[placeOf.get(id)] : null);
const runsOnKernel = (id) => {
  const impl = scheduled(id)?.impl;
  return Boolean(impl) && impl !== REFERENCE;
};

// Where a node of an earlier stage went: the node of the last stage that has it in its body.
const ownerOf = new Map();
for (const id of stages[LAST].nodes) {
  const walk = (parts) => {
    for (const part of parts) {
      ownerOf.set(nameOf(part), id);
      walk(records[part].body);
    }
  };
  walk(records[id].body);
}

const typeOf = new Map(Object.entries(data.inputs));
for (const record of records) for (const [value, type] of record.outputs) typeOf.set(value, type);

const intervalOf = new Map(data.memory.arena.intervals.map((interval) => [interval.value, interval]));
const remarksOf = new Map();
for (const remark of data.remarks) {
  if (!remarksOf.has(remark.node)) remarksOf.set(remark.node, []);
  remarksOf.get(remark.node).push(remark);
}

// What a pass did to the structure: sets of records, and the fused nodes with their parts.
const diffCache = new Map();
function stageDiff(index) {
  if (diffCache.has(index)) return diffCache.get(index);
  const now = stages[index].nodes;
  const then = index > 0 ? stages[index - 1].nodes : [];
  const nowSet = new Set(now);
  const thenSet = new Set(then);
  const added = index > 0 ? now.filter((id) => !thenSet.has(id)) : [];
  const removed = then.filter((id) => !nowSet.has(id));
  const gone = new Map(removed.map((id) => [nameOf(id), id]));
  const fused = new Map();
  const partOf = new Map();
  for (const id of added.filter((one) => records[one].body.length)) {
    const parts = records[id].body.map((part) => gone.get(nameOf(part))).filter((part) => part !== undefined);
    if (!parts.length) continue;
    fused.set(id, parts);
    parts.forEach((part) => partOf.set(part, id));
  }
  const made = new Map(added.map((id) => [nameOf(id), id]));
  const changed = new Map();
  for (const id of removed) {
    const other = made.get(nameOf(id));
    if (!partOf.has(id) && other !== undefined && !fused.has(other)) changed.set(id, other);
  }
  const changedTo = new Set(changed.values());
  const diff = {
    fused,
    partOf,
    changed,
    added: added.filter((id) => !fused.has(id) && !changedTo.has(id)),
    removed: removed.filter((id) => !partOf.has(id) && !changed.has(id)),
    changedTo,
    touched: new Set([...added, ...removed]),
  };
  diffCache.set(index, diff);
  return diff;
}
