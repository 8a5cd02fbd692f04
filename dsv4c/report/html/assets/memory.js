// The arena over the schedule: bytes that are live, and which value lies where and when.

const CHART = 110;
const BAND = 420;
const LEFT = 64;

function memoryView(main) {
  const { bytes: total, intervals, live, least } = data.memory.arena;
  main.append(el('h2', {}, 'The memory arena over time'));
  main.append(
    el(
      'p',
      { class: 'lead' },
      `${bytes(total)} for a step of ${data.plan.steps.prefill.T} tokens hold ${many(intervals.length, 'value')}; at most ${bytes(least)} are live at once. Across: the ${many(live.length, 'node')} of the schedule. Up: offsets, each value as high as it is large.`,
    ),
  );
  if (!live.length) return;
  const arena = new Arena();
  main.append(arena.node, stateTable());
  requestAnimationFrame(() => arena.resize());
}

class Arena {
  constructor() {
    this.from = 0;
    this.to = data.memory.arena.live.length;
    this.at = data.memory.arena.live.indexOf(Math.max(...data.memory.arena.live));
    this.canvas = el('canvas', {
      tabindex: 0,
      role: 'img',
      'aria-label':
        'The arena over the schedule. Left and right move the cursor, + and - zoom, 0 shows everything.',
    });
    this.text = el('div', { class: 'now', 'aria-live': 'polite' });
    const layers = [
      ['', 'All layers'],
      ...data.plan.layers.map((_, layer) => [layerKey(layer), `Layer ${layer}`]),
    ];
    const choose = el(
      'select',
      { 'aria-label': 'Layer', onchange: (event) => this.showLayer(event.target.value) },
      layers.map(([key, text]) => el('option', { value: key }, text)),
    );
    const colors = el(
      'p',
      { class: 'legend' },
      [
        ['a', 'even layer'],
        ['b', 'odd layer'],
        ['c', 'outside of layers'],
        ['hit', 'live at the cursor'],
      ].map(([kind, text]) => [el('i', { class: `arena-${kind}` }), ` ${text} `]),
    );
    this.node = el(
      'section',
      {},
      el('div', { class: 'bar' }, choose, colors),
      el('div', { class: 'canvas' }, this.canvas),
      this.text,
    );
    this.layerAt = stages[LAST].nodes.map((id) => records[id].layer);
    this.listen();
    new ResizeObserver(() => this.resize()).observe(this.node);
  }

  resize() {
    const ratio = devicePixelRatio || 1;
    this.width = this.node.clientWidth;
    this.height = CHART + BAND + 52;
    this.canvas.width = this.width * ratio;
    this.canvas.height = this.height * ratio;
    this.canvas.style.setProperty('height', `${this.height}px`);
    this.ratio = ratio;
    this.draw();
  }

  x(step) {
    return LEFT + ((step - this.from) / (this.to - this.from)) * (this.width - LEFT - 8);
  }
  step(px) {
    return Math.floor(this.from + ((px - LEFT) / (this.width - LEFT - 8)) * (this.to - this.from));
  }

  draw() {
    if (!this.width) return;
    const draw = this.canvas.getContext('2d');
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    draw.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    draw.clearRect(0, 0, this.width, this.height);
    draw.font = '11px system-ui, sans-serif';
    this.drawLive(draw, color);
    draw.save();
    draw.beginPath();
    draw.rect(LEFT, 0, this.width - LEFT - 8, this.height);
    draw.clip();
    for (const one of data.memory.arena.intervals) {
      if (one.end < this.from || one.begin > this.to) continue;
      const h = Math.max(2, (BAND * one.bytes) / data.memory.arena.bytes);
      const y = CHART + 24 + BAND - (BAND * one.offset) / data.memory.arena.bytes - h;
      const layer = this.layerAt[one.begin];
      const now = one.begin <= this.at && this.at <= one.end;
      draw.fillStyle = color(
        now ? '--hit' : layer === null ? '--arena-c' : layer % 2 ? '--arena-b' : '--arena-a',
      );
      draw.fillRect(
        this.x(one.begin),
        y,
        Math.max(1, this.x(one.end + 1) - this.x(one.begin) - (this.to - this.from < 400 ? 1 : 0)),
        Math.max(1, h - 0.5),
      );
    }
    draw.restore();
    this.drawAxes(draw, color);
    this.tell();
  }

  drawLive(draw, color) {
    const total = data.memory.arena.bytes;
    const y = (value) => CHART - (value / total) * (CHART - 16);
    draw.fillStyle = color('--soft');
    draw.fillRect(LEFT, y(total), this.width - LEFT - 8, CHART - y(total));
    draw.fillStyle = color('--arena-a');
    draw.beginPath();
    draw.moveTo(this.x(this.from), CHART);
    for (let step = Math.floor(this.from); step < Math.min(this.to, data.memory.arena.live.length); step += 1) {
      draw.lineTo(Math.max(LEFT, this.x(step)), y(data.memory.arena.live[step]));
      draw.lineTo(this.x(step + 1), y(data.memory.arena.live[step]));
    }
    draw.lineTo(this.x(this.to), CHART);
    draw.fill();
    draw.fillStyle = color('--muted');
    draw.textAlign = 'right';
    draw.fillText(bytes(total), LEFT - 6, y(total) + 8);
    draw.fillText('live', LEFT - 6, CHART);
    draw.fillText('arena', LEFT - 6, CHART + 36);
  }

  drawAxes(draw, color) {
    const bottom = CHART + 24 + BAND;
    draw.strokeStyle = color('--line');
    draw.fillStyle = color('--muted');
    draw.textAlign = 'left';
    let last = -Infinity;
    this.layerAt.forEach((layer, step) => {
      if (
        layer === null ||
        this.layerAt.slice(Math.max(0, step - 6), step).includes(layer) ||
        step < this.from ||
        step > this.to
      )
        return;
      const x = this.x(step);
      if (x - last < 30) return;
      last = x;
      draw.beginPath();
      draw.moveTo(x, CHART + 24);
      draw.lineTo(x, bottom + 6);
      draw.stroke();
      draw.fillText(`L${layer}`, x + 2, bottom + 18);
    });
    const x = (this.x(this.at) + this.x(this.at + 1)) / 2;
    draw.strokeStyle = color('--text');
    draw.beginPath();
    draw.moveTo(x, 0);
    draw.lineTo(x, bottom);
    draw.stroke();
  }

  // What lies where at the cursor, as text.
  tell() {
    if (this.told === this.at) return;
    this.told = this.at;
    const id = stages[LAST].nodes[this.at];
    const here = data.memory.arena.intervals
      .filter((one) => one.begin <= this.at && this.at <= one.end)
      .sort((a, b) => b.bytes - a.bytes);
    const rows = here
      .slice(0, 12)
      .map((one) => [
        valueLink(one.value),
        el('span', { class: 'sub' }, typeOf.get(one.value)),
        bytes(one.bytes),
        String(one.offset),
        `${one.begin}-${one.end}`,
      ]);
    this.text.replaceChildren(
      el(
        'h3',
        {},
        `Node ${this.at}: `,
        valueLink(nameOf(id)),
        ` ${records[id].kind}`,
        el('small', {}, ` ${bytes(data.memory.arena.live[this.at])} live in ${many(here.length, 'value')}`),
      ),
      table(['live value', 'type', 'size', 'offset', 'nodes'], rows, [2, 3, 4]),
      here.length > 12 ? el('p', { class: 'sub' }, `and ${here.length - 12} smaller ones`) : '',
    );
  }

  move(to) {
    this.at = Math.min(data.memory.arena.live.length - 1, Math.max(0, to));
    this.keepInSight();
    this.draw();
  }

  keepInSight() {
    const span = this.to - this.from;
    if (this.at < this.from) this.range(this.at, this.at + span);
    else if (this.at >= this.to) this.range(this.at + 1 - span, this.at + 1);
  }

  range(from, to) {
    const most = data.memory.arena.live.length;
    const span = Math.min(most, Math.max(12, to - from));
    this.from = Math.min(most - span, Math.max(0, from));
    this.to = this.from + span;
  }

  zoom(factor, around = this.at + 0.5) {
    this.range(around - (around - this.from) / factor, around + (this.to - around) / factor);
    this.draw();
  }

  showLayer(key) {
    const steps = this.layerAt.flatMap((layer, step) => (layerKey(layer) === key ? [step] : []));
    if (steps.length) {
      this.range(Math.min(...steps), Math.max(...steps) + 1);
      this.at = Math.floor(this.from);
    } else this.range(0, Infinity);
    this.draw();
  }

  listen() {
    const spot = (event) => event.clientX - this.canvas.getBoundingClientRect().left;
    this.canvas.addEventListener('pointerdown', (event) => {
      this.drag = [spot(event), this.from];
      this.canvas.setPointerCapture(event.pointerId);
    });
    this.canvas.addEventListener('pointermove', (event) => {
      if (!this.drag) return;
      const span = this.to - this.from;
      const by = ((this.drag[0] - spot(event)) / (this.width - LEFT)) * span;
      this.range(this.drag[1] + by, this.drag[1] + by + span);
      this.draw();
    });
    this.canvas.addEventListener('pointerup', (event) => {
      const still = this.drag && Math.abs(this.drag[0] - spot(event)) < 4;
      this.drag = null;
      if (still) this.move(this.step(spot(event)));
    });
    this.canvas.addEventListener(
      'wheel',
      (event) => {
        event.preventDefault();
        this.zoom(Math.exp(-event.deltaY * 0.0016), this.step(spot(event)));
      },
      { passive: false },
    );
    this.canvas.addEventListener('keydown', (event) => {
      const step = event.shiftKey ? 20 : 1;
      if (event.key === 'ArrowRight') this.move(this.at + step);
      else if (event.key === 'ArrowLeft') this.move(this.at - step);
      else if (event.key === '+' || event.key === '=') this.zoom(1.5);
      else if (event.key === '-') this.zoom(1 / 1.5);
      else if (event.key === '0') {
        this.range(0, Infinity);
        this.draw();
      } else return;
      event.preventDefault();
    });
  }
}

function stateTable() {
  const sorts = new Map();
  for (const state of data.memory.states) {
    const sort = sorts.get(state.type) ?? { layers: [], slot: 0, page: 0, number: 0 };
    sorts.set(state.type, sort);
    sort.number += 1;
    sort.slot += state.bytes_per_slot;
    sort.page += state.bytes_per_page;
    if (state.layer !== null) sort.layers.push(state.layer);
  }
  const rows = [...sorts].map(([type, sort]) => [
    el('code', {}, type),
    count(sort.number),
    ranges(sort.layers),
    bytes(sort.slot),
    bytes(sort.page),
  ]);
  return el(
    'section',
    {},
    el('h3', {}, 'States: caches and partial rows'),
    table(
      ['type', 'states', 'layers', 'per sequence', `per ${data.memory.page_tokens} tokens`],
      rows,
      [1, 3, 4],
    ),
  );
}
