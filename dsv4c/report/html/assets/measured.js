// Measured times of the plan's kernels beside their floors.

function measuredView(main) {
  const run = data.measured;
  main.append(el('h2', {}, 'Measured time against the floor'));
  if (!run) {
    main.append(
      el(
        'p',
        { class: 'lead' },
        'No measurement was given. ',
        el('code', {}, 'dsv4c report PLAN -o report.html --bench gpu_kernels.json'),
        ' adds one: a result of ',
        el('code', {}, 'scripts/gpu_kernels.py'),
        '.',
      ),
    );
    return;
  }
  const rate = run.mma_rate ? ` or the arithmetic at ${flops(run.mma_rate)}/s, whichever takes longer` : '';
  main.append(
    el(
      'p',
      { class: 'lead' },
      `${run.device}, torch ${run.torch}. The floor of a case: the bytes that must move at ${bytes(run.copy_rate)}/s, the copy rate of the same run${rate}. A full bar is the floor.`,
    ),
  );
  const kernels = new Map();
  for (const one of run.timings) kernels.set(one.kernel, [...(kernels.get(one.kernel) ?? []), one]);
  const mine = [...kernels].filter(([, cases]) => cases[0].in_plan);
  const others = [...kernels].filter(([, cases]) => !cases[0].in_plan);
  if (!mine.length) main.append(el('p', { class: 'lead' }, 'None of the timed kernels is in this plan.'));
  main.append(
    ...mine.map(([name, cases]) => timings(link(`#/kernels/${encodeURIComponent(name)}`, name), cases)),
  );
  if (others.length)
    main.append(
      el(
        'details',
        { class: 'others', open: !mine.length },
        el('summary', {}, `${many(others.length, 'kernel')} that this plan does not use`),
        others.map(([name, cases]) => timings(name, cases)),
      ),
    );
  if (run.untimed)
    main.append(
      el(
        'p',
        { class: 'sub' },
        `${many(run.untimed, 'case')} of the result ${run.untimed === 1 ? 'was' : 'were'} checked but not timed.`,
      ),
    );
}

function timings(title, cases) {
  const others = [...new Set(cases.flatMap((one) => Object.keys(one.others)))];
  const rows = cases.map((one) => {
    const share = one.floor_us / one.us;
    return [
      one.case
        .split('/')
        .at(-1)
        .replace(/_time$/, ''),
      micros(one.us),
      micros(one.floor_us),
      one.floor,
      gauge(share, 1, percent(share), share < 0.5),
      one.flops ? `${flops(one.flops / (one.us * 1e-6))}/s` : '-',
      ...others.map((name) =>
        one.others[name] ? `${micros(one.others[name])} (${(one.others[name] / one.us).toFixed(2)}×)` : '-',
      ),
      one.ratio === null ? '-' : el('span', { class: one.ok ? '' : 'bad' }, one.ratio.toFixed(3)),
    ];
  });
  return el(
    'section',
    {},
    el('h3', { class: 'mono' }, title),
    table(['case', 'time', 'floor', 'bound by', 'floor / time', 'rate', ...others, 'error / bound'], rows, [
      1,
      2,
      5,
      ...others.map((_, at) => 6 + at),
      6 + others.length,
    ]),
  );
}
