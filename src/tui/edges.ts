/** What surrounds the tabs: header, footer, help and the drawer with the log; and the notice that the terminal is too small. */
import { basename } from "node:path";
import type { DashboardSnapshot, KeyRow, PartView, Ui } from "./model.ts";
import { spark } from "./pictures.ts";
import { type Area, keyLine, type Size, STYLE, type Style } from "./screen.ts";
import { TABS } from "./tabs/tabs.ts";
import { clock, count, cut, duration, fit, short, widthOf, wrap } from "./text.ts";

/** Figures older than this are shown as stale. */
const STALE_US = 3e6;
const GAP = "  ";

type Piece = readonly (readonly [string, Style])[];

const columnsOf = (piece: Piece): number => piece.reduce((sum, [text]) => sum + widthOf(text), 0);

/** Draws pieces side by side and leaves out those that do not fit. */
function pieces(area: Area, y: number, all: readonly Piece[]): void {
  let at = 1;
  for (const piece of all) {
    const columns = columnsOf(piece);
    if (at > 1 && at + columns > area.width - 1) continue;
    area.line(at, y, piece);
    at += columns + GAP.length;
  }
}

export function styleOfState(state: string): Style {
  if (state === "ok") return STYLE.good;
  if (state === "off" || state === "absent") return STYLE.dim;
  if (state === "down" || state === "failed") return STYLE.bad;
  return STYLE.warn;
}

/**
 * Draws the name, address and database, the main figures, the tabs, and one more line if something is wrong.
 * @returns the height of that line, 0 or 1
 */
export function viewHeader(area: Area, snapshot: DashboardSnapshot, ui: Ui): number {
  const { nowUs, startedUs, version, address, database, tokenSet, embedder, llm, metrics } = snapshot;
  const up = duration(nowUs - startedUs);
  pieces(area, 0, [
    [
      ["● ", STYLE.good],
      ["one-file gateway ", STYLE.title],
      [version, STYLE.dim],
    ],
    [[address.replace(/^https?:\/\//, ""), STYLE.plain]],
    [
      ["up ", STYLE.dim],
      [up, STYLE.plain],
    ],
    [
      ["db ", STYLE.dim],
      database === null ? ["temporary", STYLE.warn] : [cut(basename(database), 32), STYLE.plain],
    ],
    [["token ", STYLE.dim], tokenSet ? ["set", STYLE.good] : ["not set", STYLE.plain]],
  ]);
  const wide = area.width >= 110;
  const rates = metrics.series.ingest_rate(wide ? 12 : 8);
  const max = Math.max(1, ...rates.filter((rate) => !Number.isNaN(rate)));
  const state = snapshot.parts.embedder?.state ?? "starting";
  const schemas = snapshot.schemas === null ? "none" : count(snapshot.schemas.length);
  pieces(area, 1, [
    [
      [count(snapshot.events.total), STYLE.strong],
      [" events", STYLE.dim],
    ],
    [
      [short(rates.at(-1) ?? 0), STYLE.strong],
      ["/s ", STYLE.dim],
      [spark(rates, max), STYLE.accent],
    ],
    [
      ["LLM ", STYLE.dim],
      ...(llm === null
        ? [["absent", STYLE.dim] as const]
        : [
            [llm.state, styleOfState(llm.state)] as const,
            ...(llm.state === "ok" && wide ? [[` ${cut(llm.model ?? "", 24)}`, STYLE.plain] as const] : []),
          ]),
    ],
    [
      ["schemas ", STYLE.dim],
      [schemas, STYLE.plain],
    ],
    [
      ["embedder ", STYLE.dim],
      [embedder ?? "being chosen", STYLE.plain],
      ...(state === "ok" ? [] : [[` ${state}`, styleOfState(state)] as const]),
    ],
  ]);
  viewTabs(area, snapshot, ui);
  const trouble = troubleOf(snapshot);
  if (trouble === null) return 0;
  area.put(1, 3, cut(`▲ ${trouble.text}`, area.width - 2), trouble.style);
  return 1;
}

function viewTabs(area: Area, snapshot: DashboardSnapshot, ui: Ui): void {
  let at = 1;
  TABS.forEach((tab, index) => {
    const text = ` ${index + 1} ${tab[0]?.toUpperCase()}${tab.slice(1)} `;
    area.put(at, 2, text, tab === ui.tab ? { ...STYLE.title, inverse: true } : STYLE.plain);
    area.zone(at, 2, widthOf(text), 1, { kind: "tab", index });
    at += widthOf(text) + 1;
  });
  if (snapshot.unseen === 0) return;
  const text = `▲ ${snapshot.unseen} in the log (l)`;
  area.put(Math.max(at, area.width - widthOf(text) - 1), 2, text, STYLE.warn);
}

/** The worst problem, with what to do about it; null if there is none. */
function troubleOf(snapshot: DashboardSnapshot): { text: string; style: Style } | null {
  const { nowUs, sampledUs, draining, parts, llm } = snapshot;
  if (draining)
    return { text: "draining: finishing what was received; q again quits at once", style: STYLE.warn };
  const say = (name: string, { state, detail }: PartView): string =>
    `${name} ${state}${detail === "" ? "" : `: ${detail}`}`;
  // The model comes last, because everything else works without it.
  const all: [string, PartView][] = Object.entries(parts);
  if (llm !== null && llm.state !== "starting") all.push(["LLM", llm]);
  const down = all.find(([, { state }]) => state === "down");
  if (down !== undefined) return { text: say(...down), style: STYLE.bad };
  const age = nowUs - sampledUs;
  if (age > STALE_US)
    return {
      text: `stale for ${duration(age)}: the gateway is too busy to update its figures`,
      style: STYLE.warn,
    };
  const weak = all.find(([, { state }]) => !["ok", "off", "absent", "unknown"].includes(state));
  return weak === undefined ? null : { text: say(...weak), style: STYLE.warn };
}

/** Draws the keys of the current tab, the most useful first. */
export function viewFooter(area: Area, snapshot: DashboardSnapshot, ui: Ui, keys: readonly KeyRow[]): void {
  const { input } = ui;
  if (input !== null) {
    const hints: [string, string][] =
      input.kind === "filter"
        ? [
            ["Enter", "keep the filter"],
            ["Esc", "clear it"],
          ]
        : [
            ["Enter", "send"],
            ["Alt-Enter", "new line"],
            ["↑ ↓", "earlier messages"],
            ["Esc", "leave"],
          ];
    keyLine(area, 1, 0, hints);
    return;
  }
  const shown = keys.filter(({ tab, footer }) => footer !== null && (tab === null || tab === ui.tab));
  const fixed = shown.filter(({ footer }) => footer === "quit" || footer === "help");
  const rest = shown.filter((entry) => !fixed.includes(entry));
  const back: [string, string][] = ui.detail !== null || ui.help || ui.schemaOpen ? [["Esc", "back"]] : [];
  const name = (entry: KeyRow): [string, string] => [entry.label, entry.footer ?? ""];
  const time = area.width < 100 ? "" : ` ${clock(snapshot.nowUs)} `;
  const keysArea = area.sub(0, 0, area.width - time.length);
  keyLine(keysArea, 1, 0, [...back, ...fixed.map(name), ...rest.map(name)]);
  area.put(area.width - time.length, 0, time, STYLE.dim);
}

/** The least width of a column of the help. */
const HELP_COLUMNS = 72;

/** Draws all keys: those of the current tab first, then the others. They scroll if they do not fit. */
export function viewHelp(area: Area, keys: readonly KeyRow[], ui: Ui): void {
  const inside = area.box([["keys", STYLE.title]], "↑ ↓ scroll · ? or Esc closes");
  const others = new Set(keys.map((key) => key.tab).filter((name) => name !== ui.tab && name !== null));
  const lines: (readonly [string, string] | string)[] = [];
  for (const name of [ui.tab, null, ...others]) {
    lines.push(name === null ? "everywhere" : name);
    for (const key of keys) if (key.tab === name && key.help !== "") lines.push([key.label, key.help]);
  }
  const columns = Math.max(1, Math.floor(inside.width / HELP_COLUMNS));
  const width = Math.floor(inside.width / columns);
  const top = Math.min(ui.helpScroll, Math.max(0, lines.length - columns * inside.height));
  lines.slice(top, top + columns * inside.height).forEach((line, index) => {
    const x = Math.floor(index / inside.height) * width + 1;
    const cell = inside.sub(x, index % inside.height, width - 2, 1);
    if (typeof line === "string") cell.put(0, 0, line, STYLE.title);
    else {
      cell.put(1, 0, fit(line[0], 10), STYLE.key);
      cell.put(12, 0, cut(line[1], cell.width - 12));
    }
  });
}

const LEVEL_STYLE = { debug: STYLE.dim, info: STYLE.plain, warn: STYLE.warn, error: STYLE.bad } as const;

/** Draws the newest lines of the log, wrapped. They scroll one by one. */
export function viewDrawer(area: Area, snapshot: DashboardSnapshot, ui: Ui): void {
  const { log } = snapshot;
  const end = Math.max(1, log.length - ui.drawerScroll);
  const place = ui.drawerScroll === 0 ? "newest" : `${ui.drawerScroll} up`;
  const inside = area.box([["log", STYLE.title]], `${place} · ↑ ↓ scroll · l closes`);
  if (log.length === 0) return void inside.put(1, 0, "nothing logged yet", STYLE.dim);
  let y = inside.height;
  for (let at = end - 1; at >= 0 && y > 0; at--) {
    const entry = log[at];
    if (entry === undefined) break;
    const lines = wrap(entry.message, inside.width - 18, 4);
    y -= lines.length;
    lines.forEach((line, index) => {
      if (y + index < 0) return;
      if (index === 0) {
        inside.put(1, y, clock(entry.timeUs), STYLE.dim);
        inside.put(10, y, fit(entry.level, 5), LEVEL_STYLE[entry.level]);
      }
      inside.put(16, y + index, line, entry.level === "debug" ? STYLE.dim : STYLE.plain);
    });
  }
}

export function viewTooSmall(area: Area, least: Size): void {
  const lines = [
    `The dashboard needs ${least.width}×${least.height},`,
    `this terminal has ${area.width}×${area.height}.`,
    "The gateway keeps running.",
    "q quits",
  ];
  const top = Math.max(0, Math.floor((area.height - lines.length) / 2));
  lines.forEach((line, index) => {
    area.put(Math.max(0, Math.floor((area.width - widthOf(line)) / 2)), top + index, line);
  });
}

/** Draws a few lines in the middle of an otherwise empty area: first the fact, then what to do. */
export function viewNothing(area: Area, lines: readonly string[]): void {
  const wrapped = lines.flatMap((line) => wrap(line, Math.min(area.width - 4, 76)));
  const top = Math.max(0, Math.floor((area.height - wrapped.length) / 2) - 1);
  wrapped.forEach((line, index) => {
    const x = Math.max(0, Math.floor((area.width - widthOf(line)) / 2));
    area.put(x, top + index, line, index === 0 ? STYLE.strong : STYLE.dim);
  });
}
