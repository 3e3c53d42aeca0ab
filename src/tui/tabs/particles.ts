/** Tab 2: the newest frames as particles, placed by a projection of their embeddings: what means the same lies together. */

import { viewNothing } from "../edges.ts";
import type { DashboardSnapshot, Particle, Ui } from "../model.ts";
import { Dots } from "../pictures.ts";
import { type Area, CATEGORY_COLORS, FACT_COLUMNS, fact, STYLE, type Style } from "../screen.ts";
import { type ColorBy, colorBy } from "../state.ts";
import { clock, count, cut, duration, wrap } from "../text.ts";

const SIDE_COLUMNS = 30;
/** Particles younger than this are bright. */
const YOUNG_US = 10e6;
/** Particles older than this are dim. */
const OLD_US = 120e6;
/** How many conversations have a trail; the newest ones do. */
const TRAILS_MAX = 6;
/** The length of a trail, unless its conversation is selected. */
const TRAIL_PARTICLES_MAX = 4;
const OTHER = "others";
const UNKNOWN = "unknown";
/** Letters for categories if the terminal shows no colours. */
const LETTERS = "ABCDEF";

interface Category {
  readonly name: string;
  readonly count: number;
  readonly style: Style;
  readonly letter: string;
}

function categoryOf(particle: Particle, by: ColorBy): string {
  switch (by) {
    case "intent":
      return particle.intent ?? UNKNOWN;
    case "conversation":
      return particle.conversation ?? UNKNOWN;
    case "sentiment": {
      const { sentiment } = particle;
      if (sentiment === null) return UNKNOWN;
      if (sentiment > 0.15) return "positive";
      return sentiment < -0.15 ? "negative" : "neutral";
    }
  }
}

const SENTIMENT_STYLE: Readonly<Record<string, Style>> = {
  positive: { color: 2 },
  neutral: { color: 6 },
  negative: { color: 1 },
};

/** FNV-1a. It gives each name its colour, so that the name keeps it from screen to screen. */
function hash(name: string): number {
  let value = 2166136261;
  for (let at = 0; at < name.length; at++) value = Math.imul(value ^ name.charCodeAt(at), 16777619);
  return value >>> 0;
}

/** The most frequent categories, each with a colour: its own by hash, or the next free one. All others share one category. */
function categories(points: readonly Particle[], by: ColorBy): Map<string, Category> {
  const counts = new Map<string, number>();
  for (const particle of points) {
    const name = categoryOf(particle, by);
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  const ranked = [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
  const known = ranked.filter(([name]) => name !== UNKNOWN).slice(0, CATEGORY_COLORS.length);
  const colors = CATEGORY_COLORS.length;
  const taken = new Set<number>();
  const found = new Map<string, Category>();
  known.forEach(([name, amount], index) => {
    let slot = hash(name) % colors;
    while (taken.has(slot)) slot = (slot + 1) % colors;
    taken.add(slot);
    const style = SENTIMENT_STYLE[name] ?? { color: CATEGORY_COLORS[slot] ?? null };
    found.set(name, { name, count: amount, style, letter: LETTERS[index] ?? "?" });
  });
  const rest = ranked.filter(([name]) => !found.has(name) && name !== UNKNOWN);
  const others = rest.reduce((sum, [, amount]) => sum + amount, 0);
  if (others > 0)
    found.set(OTHER, { name: `${rest.length} ${OTHER}`, count: others, style: STYLE.plain, letter: "o" });
  const unknown = counts.get(UNKNOWN) ?? 0;
  if (unknown > 0) found.set(UNKNOWN, { name: UNKNOWN, count: unknown, style: STYLE.dim, letter: "·" });
  return found;
}

export function viewParticles(area: Area, snapshot: DashboardSnapshot, ui: Ui): void {
  const points = snapshot.particles.points.slice(-ui.window);
  const { none, explained } = snapshot.particles;
  const right = points.length === 0 ? "" : `${Math.round(100 * explained)}% of the variance`;
  const by = colorBy(ui, points);
  const title = [
    ["particles", STYLE.title],
    [`newest ${ui.window}`, STYLE.plain],
    [`by ${by}`, STYLE.accent],
  ] as const;
  if (points.length === 0) {
    viewNothing(area.box(title), [none, "Only frames with an embedding are shown"]);
    return;
  }
  const canvas = area.sub(0, 0, area.width - SIDE_COLUMNS).box(title, right);
  const side = area.sub(area.width - SIDE_COLUMNS, 0, SIDE_COLUMNS);
  const found = categories(points, by);
  const selected = points.find(({ frameId }) => frameId === ui.selectedFrame) ?? null;
  drawParticles(canvas, snapshot, { by, colors: ui.colors }, points, found, selected);
  drawSide(side, snapshot, points, found, selected, ui.colors);
}

/** Maps −1…1 to itself and widens the middle, so that a few far points do not press all others into one. */
function spread(value: number): number {
  return Math.sign(value) * Math.min(1, Math.abs(value)) ** 0.6;
}

function drawParticles(
  area: Area,
  { nowUs }: DashboardSnapshot,
  { by, colors }: { readonly by: ColorBy; readonly colors: boolean },
  points: readonly Particle[],
  found: ReadonlyMap<string, Category>,
  selected: Particle | null,
): void {
  const dots = new Dots(area.width, area.height);
  const place = ({ x, y }: Particle): { x: number; y: number } => ({
    x: Math.round(((spread(x) + 1) / 2) * (2 * area.width - 1)),
    y: Math.round((1 - (spread(y) + 1) / 2) * (4 * area.height - 1)),
  });
  const category = (particle: Particle): Category | undefined =>
    found.get(categoryOf(particle, by)) ?? found.get(OTHER);
  const styleOf = (particle: Particle): Style => category(particle)?.style ?? STYLE.plain;
  for (const trail of trails(points, selected)) {
    for (let at = 1; at < trail.length; at++) {
      const [from, to] = [trail[at - 1] as Particle, trail[at] as Particle];
      dots.trail(place(from), place(to), { ...styleOf(to), dim: true }, -1);
    }
  }
  points.forEach((particle, rank) => {
    const age = nowUs - particle.timeUs;
    const own = styleOf(particle);
    // The category "unknown" stays in the background, however young its particles are.
    const faint = own.dim === true;
    const style = { ...own, bold: age < YOUNG_US && !faint, dim: age > OLD_US || faint };
    const { x, y } = place(particle);
    // Young particles are larger.
    for (const side of [x, x ^ 1]) {
      dots.set(side, y, style, rank);
      if (age < YOUNG_US) dots.set(side, y ^ 1, style, rank);
    }
    area.zone(Math.floor(x / 2), Math.floor(y / 4), 1, 1, { kind: "particle", frameId: particle.frameId });
  });
  dots.draw(area);
  if (!colors) {
    for (const particle of points) {
      const { x, y } = place(particle);
      area.put(Math.floor(x / 2), Math.floor(y / 4), category(particle)?.letter ?? "?", styleOf(particle));
    }
  }
  if (selected === null) return;
  const { x, y } = place(selected);
  area.put(Math.floor(x / 2), Math.floor(y / 4), "◉", { ...styleOf(selected), bold: true });
}

/** The particles of each conversation that has a trail: the selected particle's conversation, or else the newest ones. */
function trails(points: readonly Particle[], selected: Particle | null): Particle[][] {
  const byConversation = new Map<string, Particle[]>();
  for (const particle of points) {
    const { conversation } = particle;
    if (conversation === null) continue;
    const trail = byConversation.get(conversation) ?? [];
    trail.push(particle);
    // Moved to the end, so that the newest conversations are last.
    byConversation.delete(conversation);
    byConversation.set(conversation, trail);
  }
  if (selected !== null) {
    const own = selected.conversation === null ? undefined : byConversation.get(selected.conversation);
    return own === undefined ? [] : [own];
  }
  return [...byConversation.values()]
    .filter((trail) => trail.length > 1)
    .slice(-TRAILS_MAX)
    .map((trail) => trail.slice(-TRAIL_PARTICLES_MAX));
}

function drawSide(
  area: Area,
  snapshot: DashboardSnapshot,
  points: readonly Particle[],
  found: ReadonlyMap<string, Category>,
  selected: Particle | null,
  colors: boolean,
): void {
  const legendRows = Math.min(found.size, 8) + 2;
  const legend = area.sub(0, 0, area.width, legendRows).box([["legend", STYLE.title]]);
  [...found.values()].slice(0, legend.height).forEach(({ name, count: amount, style, letter }, y) => {
    legend.put(0, y, colors ? "⣿" : letter, style);
    legend.put(2, y, cut(name, legend.width - 8));
    const figure = count(amount);
    legend.put(legend.width - figure.length, y, figure, STYLE.dim);
  });
  const shown = selected ?? points.at(-1);
  if (shown === undefined) return;
  const panel = area
    .sub(0, legendRows)
    .box([[selected === null ? "newest" : "selected", STYLE.title]], `frame ${shown.frameId}`)
    .sub(0, 0);
  let y = 0;
  const age = snapshot.nowUs - shown.timeUs;
  y = fact(panel, y, "time", `${clock(shown.timeUs)}, ${duration(age)}`);
  y = fact(panel, y, "intent", cut(shown.intent ?? UNKNOWN, panel.width - FACT_COLUMNS));
  y = fact(panel, y, "sentiment", shown.sentiment === null ? UNKNOWN : shown.sentiment.toFixed(2));
  y = fact(panel, y, "conversation", cut(shown.conversation ?? "none", panel.width - FACT_COLUMNS));
  y = fact(
    panel,
    y,
    "since last",
    shown.deltaSeconds === null ? "first" : `${shown.deltaSeconds.toFixed(1)} s`,
  );
  y = fact(panel, y, "velocity", `${shown.velocity.toFixed(0)}/min`);
  if (shown.interrupt) y = fact(panel, y, "interrupt", "yes");
  for (const line of wrap(shown.message, panel.width, Math.max(0, panel.height - y - 1))) {
    y += 1;
    panel.put(0, y, line, STYLE.strong);
  }
}
