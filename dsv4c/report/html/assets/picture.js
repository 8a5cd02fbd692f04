// An SVG that pans and zooms with mouse, touch and keys, and the drawing of one group in it.

const MIN_SCALE = 0.01;
const MAX_SCALE = 3;

class Picture {
  // `world` is { width, height }; `onview` is called after each change of the view.
  constructor(label, world, onview = () => {}) {
    this.world = world;
    this.onview = onview;
    this.view = { x: 0, y: 0, scale: 1 };
    this.root = svg('g');
    this.svg = svg('svg', { class: 'picture', tabindex: 0, role: 'group', 'aria-label': label }, this.root);
    this.node = el('div', { class: 'pane' }, this.svg, this.buttons());
    this.pointers = new Map();
    this.listen();
    this.watch = new ResizeObserver(() => {
      if (this.fitted) this.fit(...this.fitted);
      else this.apply();
    });
    this.watch.observe(this.node);
  }

  buttons() {
    const button = (text, label, onclick) =>
      el('button', { type: 'button', title: label, 'aria-label': label, onclick }, text);
    return el(
      'div',
      { class: 'zoom' },
      button('+', 'Zoom in', () => this.zoom(1.4)),
      button('−', 'Zoom out', () => this.zoom(1 / 1.4)),
      button('⤢', 'Show everything', () => this.fit()),
    );
  }

  get size() {
    return { width: this.node.clientWidth || 800, height: this.node.clientHeight || 600 };
  }

  apply() {
    const { x, y, scale } = this.view;
    this.root.setAttribute('transform', `translate(${x} ${y}) scale(${scale})`);
    this.onview(this);
  }

  // The visible part of the world.
  visible() {
    const { width, height } = this.size;
    const { x, y, scale } = this.view;
    return { x: -x / scale, y: -y / scale, width: width / scale, height: height / scale };
  }

  // Show a box, or its upper part where it would be smaller than `least`.
  fit(box = { x: 0, y: 0, ...this.world }, least = MIN_SCALE) {
    this.fitted = [box, least];
    const { width, height } = this.size;
    const scale = Math.min(
      1.1,
      Math.max(least, Math.min((width - 24) / box.width, (height - 24) / box.height)),
    );
    this.view = {
      scale,
      x: (width - box.width * scale) / 2 - box.x * scale,
      y: Math.max(12, (height - box.height * scale) / 2) - box.y * scale,
    };
    this.apply();
  }

  // Show a point in the middle, at least at `scale`.
  center(x, y, scale = 0.85) {
    this.fitted = null;
    const { width, height } = this.size;
    const to = Math.max(this.view.scale, scale);
    this.view = { scale: to, x: width / 2 - x * to, y: height / 2 - y * to };
    this.apply();
  }

  zoom(factor, px = this.size.width / 2, py = this.size.height / 2) {
    this.fitted = null;
    const { x, y, scale } = this.view;
    const to = Math.min(MAX_SCALE, Math.max(MIN_SCALE, scale * factor));
    this.view = { scale: to, x: px - (px - x) * (to / scale), y: py - (py - y) * (to / scale) };
    this.apply();
  }

  pan(dx, dy) {
    this.fitted = null;
    this.view.x += dx;
    this.view.y += dy;
    this.apply();
  }

  listen() {
    const area = this.svg;
    const spot = (event) => {
      const box = area.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    area.addEventListener(
      'wheel',
      (event) => {
        event.preventDefault();
        this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.04 : 0.0016)), ...spot(event));
      },
      { passive: false },
    );
    area.addEventListener('pointerdown', (event) => {
      this.pointers.set(event.pointerId, spot(event));
      this.moved = 0;
    });
    area.addEventListener('pointermove', (event) => {
      const from = this.pointers.get(event.pointerId);
      if (!from) return;
      const to = spot(event);
      const others = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
      if (others.length) {
        const span = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
        this.zoom(span(to, others[0]) / Math.max(1, span(from, others[0])), ...others[0]);
      } else {
        this.moved += Math.abs(to[0] - from[0]) + Math.abs(to[1] - from[1]);
        if (this.moved > 4) area.setPointerCapture(event.pointerId);
        this.pan(to[0] - from[0], to[1] - from[1]);
      }
      this.pointers.set(event.pointerId, to);
    });
    for (const type of ['pointerup', 'pointercancel'])
      area.addEventListener(type, (event) => this.pointers.delete(event.pointerId));
    area.addEventListener('keydown', (event) => this.key(event));
  }

  key(event) {
    const step = 80;
    const moves = { ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === '+' || event.key === '=') this.zoom(1.4);
    else if (event.key === '-') this.zoom(1 / 1.4);
    else if (event.key === '0') this.fit();
    else if (this.walk && !event.shiftKey && this.walk(event.key)) {
      /* the selection moved */
    } else if (moves[event.key]) this.pan(...moves[event.key]);
    else return;
    event.preventDefault();
  }
}

// The nodes and edges of a group; `mark` gives a class for a record, `choose` is called on a click.
function drawGroup(layout, mark, choose) {
  const edges = svg(
    'g',
    { class: 'edges' },
    layout.paths.map((d) => svg('path', { d })),
  );
  const nodes = layout.entries.map((entry, at) => {
    const { x, y, w, h } = layout.spots[at];
    if (entry.port) {
      return svg(
        'g',
        { class: 'port', transform: `translate(${x} ${y})` },
        svg('rect', { width: w, height: h, rx: h / 2 }),
        svg('text', { x: w / 2, y: 18 }, '↓'),
        svg('text', { x: w / 2, y: 33 }, entry.name),
      );
    }
    const text = `${entry.kind}, ${nameOf(entry.id)}`;
    return svg(
      'g',
      {
        class: `node ${mark(entry.id)}`,
        transform: `translate(${x} ${y})`,
        'data-id': entry.id,
        role: 'button',
        'aria-label': text,
        onclick: () => choose(entry.id),
      },
      svg('title', {}, text),
      svg('rect', { width: w, height: h, rx: 7 }),
      svg('text', { class: 'kind', x: 11, y: 18 }, entry.kind),
      svg('text', { class: 'name', x: 11, y: 33 }, entry.name),
      entry.badge && svg('text', { class: 'badge', x: w - 10, y: 17 }, entry.badge),
    );
  });
  return svg('g', { class: 'group' }, edges, nodes);
}

// The same from afar: one path for all edges and one for each sort of box.
function drawFar(layout, mark) {
  const boxes = new Map();
  layout.entries.forEach((entry, at) => {
    const { x, y, w, h } = layout.spots[at];
    const kind = entry.port ? 'port' : `node ${mark(entry.id)}`;
    boxes.set(kind, `${boxes.get(kind) ?? ''}M${x.toFixed(0)} ${y.toFixed(0)}h${w}v${h}h${-w}z`);
  });
  return svg(
    'g',
    { class: 'far' },
    svg('path', { class: 'edges', d: layout.paths.join('') }),
    [...boxes].map(([kind, d]) => svg('path', { class: kind, d })),
  );
}

const sortOf = (id) => (runsOnKernel(id) ? 'kernel' : records[id].body.length ? 'fused' : '');
