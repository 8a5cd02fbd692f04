// The whole model as one picture: a box for each group, in rows. From afar a box shows the shape of
// its graph; from near, the nodes. What is out of sight is not in the document.

const NEAR = 0.32;
const READABLE = 0.5;
const HEAD = 34;
const SPACE = 70;
const ROOM = 230; // above a row, for the numbers of its layers

class ModelMap {
  constructor(choose) {
    this.choose = choose;
    this.graph = finalGraph;
    this.parts = GROUPS.filter((key) => this.graph.groups.get(key).length).map((key) => ({
      key,
      layout: groupLayout(this.graph, key),
    }));
    this.world = this.arrange();
    this.picture = new Picture(
      'The graph of the model. Arrow keys move, + and - zoom, 0 shows everything; with a node selected the arrow keys follow its edges.',
      this.world,
      () => this.refresh(),
    );
    this.picture.walk = (key) => this.walk(key);
    this.back = svg('g');
    this.picture.root.append(this.back);
    this.drawBack();
    this.hits = null;
    this.selected = null;
  }

  // Rows of boxes whose shape is the nearest to that of a screen.
  arrange() {
    let best = null;
    for (let columns = 1; columns <= this.parts.length; columns += 1) {
      const rows = [];
      this.parts.forEach((part, at) => {
        (rows[Math.floor(at / columns)] ??= []).push(part);
      });
      const sizes = rows.map((row) => ({
        width: row.reduce((sum, part) => sum + part.layout.width + SPACE, SPACE),
        height: Math.max(...row.map((part) => part.layout.height + HEAD)),
      }));
      const width = Math.max(...sizes.map((size) => size.width));
      const height = sizes.reduce((sum, size) => sum + size.height + ROOM, SPACE);
      const off = Math.abs(Math.log(width / height / 1.55));
      if (!best || off < best.off) best = { off, rows, sizes, width, height };
    }
    let y = ROOM;
    best.rows.forEach((row, at) => {
      let x = SPACE;
      for (const part of row) {
        Object.assign(part, { x, y, width: part.layout.width, height: part.layout.height + HEAD });
        x += part.width + SPACE;
      }
      y += best.sizes[at].height + ROOM;
    });
    return { width: best.width, height: best.height };
  }

  drawBack() {
    this.parts.forEach((part, at) => {
      const { x, y, width, height, key } = part;
      const layer = layerNumber(key);
      const kind = layerKind(key);
      part.box = svg(
        'g',
        { class: `box ${kind}`, transform: `translate(${x} ${y})` },
        svg('rect', { width, height, rx: 14 }),
        svg(
          'text',
          { class: 'head', x: 16, y: 23 },
          groupTitle(key),
          kind && svg('tspan', { dx: 8 }, kind.toUpperCase()),
        ),
        (part.inside = svg('g', { transform: `translate(0 ${HEAD})` })),
        layer !== null && svg('text', { class: 'big', y: -28 }, String(layer)),
        svg('title', {}, groupTitle(key)),
      );
      part.box.addEventListener('dblclick', () => this.picture.fit(part, READABLE));
      const after = this.parts[at + 1];
      if (after) {
        const level = y + HEAD / 2;
        const same = after.y === y;
        const d = same
          ? `M${x + width} ${level}H${after.x}`
          : `M${x + width} ${level}h${SPACE / 2}V${after.y - ROOM + SPACE / 2}H${after.x - SPACE / 2}V${after.y + HEAD / 2}h${SPACE / 2}`;
        this.back.append(svg('path', { class: 'flow', d }));
      }
      this.back.append(part.box);
    });
  }

  refresh() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = null;
      this.draw();
    });
  }

  draw() {
    const { x, y, width, height } = this.picture.visible();
    const near = this.picture.view.scale >= NEAR;
    this.picture.svg.classList.toggle('near', near);
    for (const part of this.parts) {
      const seen =
        part.x < x + width && part.x + part.width > x && part.y < y + height && part.y + part.height > y;
      const wanted = !seen ? null : near ? 'near' : 'far';
      if (part.shown === wanted) continue;
      part.shown = wanted;
      part.inside.replaceChildren(
        ...(wanted === null
          ? []
          : [wanted === 'near' ? drawGroup(part.layout, sortOf, this.choose) : drawFar(part.layout, sortOf)]),
      );
      this.mark(part);
    }
  }

  // Mark the selection and the matches of the search in one box.
  mark(part) {
    const none = this.hits !== null && !part.layout.entries.some((entry) => this.hits.has(entry.id));
    part.box.classList.toggle('dim', none);
    for (const old of part.inside.querySelectorAll('.spotlight')) old.remove();
    for (const node of part.inside.querySelectorAll('.node[data-id]')) {
      const id = Number(node.dataset.id);
      node.classList.toggle('dim', this.hits !== null && !none && !this.hits.has(id));
      node.classList.toggle('selected', id === this.selected);
    }
    part.layout.entries.forEach((entry, at) => {
      const hit = this.hits?.has(entry.id);
      if (!part.shown || (!hit && entry.id !== this.selected)) return;
      const { x, y, w, h } = part.layout.spots[at];
      part.inside.append(
        svg('rect', {
          class: `spotlight ${entry.id === this.selected ? 'selected' : ''}`,
          x: x - 4,
          y: y - 4,
          width: w + 8,
          height: h + 8,
          rx: 10,
        }),
      );
    });
    if (part.shown === 'near') this.markEdges(part);
  }

  markEdges(part) {
    const at = part.layout.entries.findIndex((entry) => entry.id === this.selected);
    [...part.inside.querySelectorAll('.edges path')].forEach((path, number) => {
      const [a, b] = part.layout.edges[number];
      path.classList.toggle('in', b === at);
      path.classList.toggle('out', a === at);
    });
  }

  markAll() {
    this.parts.forEach((part) => this.mark(part));
  }

  highlight(ids) {
    this.hits = ids;
    this.markAll();
  }

  select(id, show = true) {
    this.selected = id;
    this.markAll();
    const found = this.find(id);
    if (!found || !show) return;
    const { part, spot } = found;
    const seen = this.picture.visible();
    const x = part.x + spot.x + spot.w / 2;
    const y = part.y + HEAD + spot.y + spot.h / 2;
    const inside = x > seen.x && x < seen.x + seen.width && y > seen.y && y < seen.y + seen.height;
    if (!inside || this.picture.view.scale < NEAR) this.picture.center(x, y);
  }

  find(id) {
    for (const part of this.parts) {
      const at = part.layout.entries.findIndex((entry) => entry.id === id);
      if (at >= 0) return { part, at, spot: part.layout.spots[at] };
    }
    return null;
  }

  showGroup(key) {
    const part = this.parts.find((one) => one.key === key);
    if (part) this.picture.fit(part, READABLE);
  }

  // Arrow keys follow the edges of the selected node: up and down along them, sideways in its row.
  walk(key) {
    const found = this.selected === null ? null : this.find(this.selected);
    if (!found) return false;
    const { layout } = found.part;
    const middle = (at) => layout.spots[at].x + layout.spots[at].w / 2;
    const here = middle(found.at);
    const nearest = (list) =>
      list
        .filter((at) => !layout.entries[at].port)
        .sort((a, b) => Math.abs(middle(a) - here) - Math.abs(middle(b) - here))[0];
    const row = layout.spots.map((spot, at) => at).filter((at) => layout.spots[at].y === found.spot.y);
    const ways = {
      ArrowUp: () => nearest(layout.edges.filter(([, b]) => b === found.at).map(([a]) => a)),
      ArrowDown: () => nearest(layout.edges.filter(([a]) => a === found.at).map(([, b]) => b)),
      ArrowLeft: () => nearest(row.filter((at) => middle(at) < here)),
      ArrowRight: () => nearest(row.filter((at) => middle(at) > here)),
    };
    const to = ways[key]?.();
    if (to === undefined) return key in ways;
    this.choose(layout.entries[to].id);
    return true;
  }
}
