// The page: views by the part of the address after `#`, so that back and forward work.

const VIEWS = {
  overview: ['Overview', overview],
  graph: ['Graph', graphView],
  passes: ['Passes', passesView],
  kernels: ['Kernels', kernelsView],
  memory: ['Memory', memoryView],
  measured: ['Measured', measuredView],
};
const main = document.getElementById('main');
let current = null;

function show() {
  const [name, ...args] = location.hash.replace(/^#\/?/, '').split('/').map(readPart);
  const view = VIEWS[name] ? name : 'overview';
  for (const tab of document.querySelectorAll('#views a')) {
    if (tab.dataset.view === view) tab.setAttribute('aria-current', 'page');
    else tab.removeAttribute('aria-current');
  }
  if (view === 'graph' && current === 'graph') {
    goInGraph(args);
    return;
  }
  const onSlider = document.activeElement?.id === 'pass';
  const top = view === current ? main.scrollTop : 0;
  current = view;
  main.replaceChildren();
  main.className = view;
  if (view !== 'graph') {
    hideDetails();
    markTree(null);
  }
  VIEWS[view][1](main, args);
  main.scrollTop = top;
  keepSlider(onSlider);
}

function readPart(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

document.getElementById('model').append(data.plan.model);
document.getElementById('target').append(data.plan.target);
document
  .getElementById('views')
  .append(...Object.entries(VIEWS).map(([name, [title]]) => link(`#/${name}`, title, { 'data-view': name })));
buildTree(document.getElementById('tree'));
setUpSearch(searchInGraph);
addEventListener('hashchange', show);
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
  if (current === 'memory') show();
});
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && !event.target.closest('input')) hideDetails();
});
show();
document.documentElement.dataset.ready = 'true';
