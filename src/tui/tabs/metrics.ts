/** Tab 5: the gateway's figures over the last minute, ten or sixty minutes. */

import { styleOfState } from "../edges.ts";
import type { DashboardSnapshot, Ui } from "../model.ts";
import { bar, graph } from "../pictures.ts";
import { type Area, FACT_COLUMNS, fact, STYLE, type Style } from "../screen.ts";
import { count, cut, fit, short, wrap } from "../text.ts";
import { PANELS } from "./panels.ts";

/** Joins values, one a second, into `columns` columns; the last column ends with the newest value. */
export function columnsOf(values: readonly number[], columns: number, join: "max" | "mean"): number[] {
  const per = values.length / columns;
  return Array.from({ length: columns }, (_, column) => {
    const part = values.slice(
      Math.floor(column * per),
      Math.max(Math.floor((column + 1) * per), Math.floor(column * per) + 1),
    );
    const known = part.filter((value) => !Number.isNaN(value));
    if (known.length === 0) return Number.NaN;
    return join === "max" ? Math.max(...known) : known.reduce((sum, value) => sum + value, 0) / known.length;
  });
}

export function viewMetrics(area: Area, snapshot: DashboardSnapshot, ui: Ui): void {
  const sideColumns = 34;
  const inside = area.sub(0, 0, area.width - sideColumns).box(
    [
      ["metrics", STYLE.title],
      [`${ui.spanMinutes} min`, STYLE.accent],
    ],
    "← → 1, 10, 60 min",
  );
  const columns = inside.width >= 150 ? 3 : inside.width >= 44 ? 2 : 1;
  const rows = Math.ceil(PANELS.length / columns);
  const height = Math.max(2, Math.floor(inside.height / rows));
  const width = Math.floor(inside.width / columns);
  PANELS.forEach((panel, index) => {
    const x = (index % columns) * width;
    const y = Math.floor(index / columns) * height;
    viewPanel(inside.sub(x + 1, y, width - 2, height), snapshot, panel, ui.spanMinutes * 60);
  });
  viewFigures(area.sub(area.width - sideColumns, 0), snapshot);
}

function viewPanel(
  area: Area,
  { metrics }: DashboardSnapshot,
  panel: (typeof PANELS)[number],
  seconds: number,
): void {
  const values = metrics.series[panel.name](seconds);
  const columns = columnsOf(values, Math.min(area.width, seconds), panel.join);
  const known = columns.filter((value) => !Number.isNaN(value));
  const max = known.length === 0 ? 0 : Math.max(...known);
  const last = values.at(-1) ?? Number.NaN;
  const say = (value: number): string => (Number.isNaN(value) ? "no data" : `${short(value)}${panel.unit}`);
  area.line(0, 0, [
    [`${panel.title} `, STYLE.dim],
    [say(last), STYLE.strong],
  ]);
  const top = `max ${say(max)}`;
  if (area.width >= 30 && known.length > 0) area.put(area.width - top.length, 0, top, STYLE.dim);
  if (area.height > 1)
    graph(area.sub(0, 1, area.width, Math.min(area.height - 1, 8)), columns, panel.top ?? max, {
      color: panel.color,
    });
}

function viewFigures(area: Area, snapshot: DashboardSnapshot): void {
  const { metrics, parts, llm } = snapshot;
  const { gauges, counters } = metrics;
  const inside = area.box([["state", STYLE.title]]).sub(1, 0, area.width - 3);
  let y = 0;
  const says = (label: string, state: string, style: Style = styleOfState(state)): void => {
    y = fact(inside, y, label, cut(state, inside.width - FACT_COLUMNS), style);
  };
  for (const [name, { state }] of Object.entries(parts)) says(name, state);
  const capacity = gauges.ring_capacity_frames ?? 0;
  const head = gauges.ring_head_frame_id ?? 0;
  const held = Math.max(0, head - (gauges.ring_tail_frame_id ?? 0));
  const fill = capacity === 0 ? 0 : held / capacity;
  y = fact(inside, y, "ring fill", `${bar(fill, 8)} ${Math.round(100 * fill)}%`, STYLE.accent);
  y = fact(inside, y, "wraps", capacity === 0 ? "–" : count(Math.max(0, Math.floor((head - 1) / capacity))));
  y = fact(inside, y, "reader", (gauges.ring_reader_waiting ?? 0) > 0 ? "waiting" : "none waiting");
  y = fact(inside, y, "unframed", count(gauges.unframed_events ?? 0));
  y = fact(inside, y, "without vector", count(counters.frames_without_vector_total ?? 0));
  if (llm === null) says("LLM", "absent");
  else {
    says("LLM", llm.state);
    says("breaker", llm.breaker, STYLE.plain);
    y = fact(inside, y, "calls, failed", `${count(llm.calls)}, ${count(llm.failures)}`);
    const { used, limit } = llm.budget;
    y = fact(inside, y, "daily budget", limit === null ? "none set" : `${count(used)} of ${count(limit)}`);
  }
  y += 1;
  inside.put(0, y, "refused, by code", STYLE.dim);
  y += 1;
  const refusals = metrics.refusals.toSorted((a, b) => b.count - a.count);
  if (refusals.length === 0) inside.put(0, y, "none", STYLE.good);
  for (const { code, count: amount } of refusals.slice(0, Math.max(0, inside.height - y))) {
    inside.line(0, y, [
      [fit(code, inside.width - 8), STYLE.plain],
      [fit(count(amount), 8, "right"), STYLE.warn],
    ]);
    y += 1;
  }
  const detail = Object.entries(parts).find(([, part]) => part.detail !== "" && part.state !== "off");
  if (detail === undefined || y + 2 >= inside.height) return;
  y += 1;
  for (const line of wrap(`${detail[0]}: ${detail[1].detail}`, inside.width, inside.height - y)) {
    inside.put(0, y, line, STYLE.dim);
    y += 1;
  }
}
