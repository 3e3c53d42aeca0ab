/** Tab 3: the schemas that were learned from the events. */

import { viewNothing } from "../edges.ts";
import type { DashboardSnapshot, SchemaView, Ui } from "../model.ts";
import { bar } from "../pictures.ts";
import { type Area, STYLE, type Style } from "../screen.ts";
import { count, cut, duration, fit, short } from "../text.ts";
import { jsonPieces } from "./events.ts";

const DRIFT = "▲";
/** If a path takes more, its types and fill rate stand too far away to be read as one line. */
const PATH_COLUMNS_MAX = 48;

export function viewSchemas(area: Area, snapshot: DashboardSnapshot, ui: Ui): void {
  const { schemas } = snapshot;
  if (schemas === null || schemas.length === 0) {
    const inside = area.box([["schemas", STYLE.title]]);
    viewNothing(
      inside,
      schemas === null
        ? ["No schemas", "This gateway learns none"]
        : [
            "No schemas yet",
            "They are learned from incoming events: the fields of each type, and how often they are filled",
          ],
    );
    return;
  }
  const selected = schemas.find(({ name }) => name === ui.schema) ?? (schemas[0] as SchemaView);
  if (ui.schemaOpen) {
    viewSchema(area, selected, snapshot.nowUs, ui.schemaScroll);
    return;
  }
  const listColumns = Math.min(56, Math.floor(area.width * 0.55));
  viewList(area.sub(0, 0, listColumns), schemas, selected, snapshot.nowUs);
  viewFields(area.sub(listColumns, 0), selected);
}

function viewList(area: Area, schemas: readonly SchemaView[], selected: SchemaView, nowUs: number): void {
  const drifting = schemas.filter(({ drift }) => drift.length > 0).length;
  const inside = area.box(
    [
      ["schemas", STYLE.title],
      [`${count(schemas.length)} learned`, STYLE.plain],
    ],
    drifting === 0 ? "" : `${DRIFT} ${drifting} changed`,
  );
  const name = inside.width - 29;
  inside.put(
    1,
    0,
    `${fit("type", name)} ${fit("events", 7, "right")} ${fit("/min", 6, "right")} ${fit("last", 8, "right")}`,
    STYLE.dim,
  );
  const list = inside.sub(0, 1);
  const at = schemas.indexOf(selected);
  const top = Math.max(0, Math.min(at - Math.floor(list.height / 2), schemas.length - list.height));
  for (let y = 0; y < list.height && top + y < schemas.length; y++) {
    const schema = schemas[top + y] as SchemaView;
    if (schema === selected) list.put(0, y, "▶", STYLE.title);
    list.put(1, y, fit(schema.name, name), schema === selected ? STYLE.strong : STYLE.accent);
    const rate = schema.perMinute === null ? "–" : short(schema.perMinute);
    const last = duration(nowUs - schema.lastSeenUs);
    list.put(
      name + 2,
      y,
      `${fit(short(schema.events), 7, "right")} ${fit(rate, 6, "right")} ${fit(last, 8, "right")}`,
    );
    if (schema.drift.length > 0) list.put(list.width - 2, y, DRIFT, STYLE.warn);
    list.zone(0, y, list.width, 1, { kind: "row", id: schema.name });
  }
}

type FieldLine = readonly (readonly [string, Style])[];

function fieldLine(field: SchemaView["fields"][number], columns: number): FieldLine {
  const barColumns = 8;
  const types = columns >= 60 ? 16 : 8;
  const path = Math.min(PATH_COLUMNS_MAX, Math.max(8, columns - types - barColumns - 8));
  // A field that only contains other fields has no fill rate of its own.
  const holds = field.types.every((type) => type === "object" || type === "array");
  const fill: FieldLine = holds
    ? [[" ".repeat(barColumns + 5), STYLE.plain]]
    : [
        [bar(field.fillRate, barColumns), STYLE.accent],
        [fit(`${Math.round(100 * field.fillRate)}%`, 5, "right"), STYLE.plain],
      ];
  return [
    [fit(field.path, path), field.drift === null ? STYLE.plain : STYLE.warn],
    [` ${fit(field.types.join("|"), types)} `, STYLE.dim],
    ...fill,
    ...(field.drift === null ? [] : [[` ${DRIFT}`, STYLE.warn] as const]),
  ];
}

function viewFields(area: Area, schema: SchemaView): void {
  const inside = area.box([[schema.name, STYLE.title]], `${schema.fields.length} fields`).sub(1, 0);
  const rows = inside.height;
  schema.fields.slice(0, rows).forEach((field, y) => {
    inside.line(0, y, fieldLine(field, inside.width - 1));
  });
  const more = schema.fields.length - rows;
  if (more > 0) inside.put(0, rows - 1, fit(`${more + 1} more: Enter`, inside.width), STYLE.dim);
  // If there is room, the beginning of what Enter shows.
  const beside: FieldLine[] = [];
  for (const change of schema.drift) beside.push([[`${DRIFT} ${change}`, STYLE.warn]]);
  if (beside.length > 0) beside.push([]);
  if (schema.sample !== null)
    beside.push([["sample", STYLE.title]], ...schema.sample.split("\n").map(jsonPieces));
  let y = schema.fields.length + 1;
  for (const line of beside) {
    if (y >= rows) return;
    inside.line(0, y, line);
    y += 1;
  }
}

function viewSchema(area: Area, schema: SchemaView, nowUs: number, scroll: number): void {
  const inside = area.box([[schema.name, STYLE.title]], "↑ ↓ scroll · Esc back").sub(1, 0);
  const rate = schema.perMinute === null ? "" : `, ${short(schema.perMinute)} a minute`;
  const lines: FieldLine[] = [
    [
      ["events ", STYLE.dim],
      [`${count(schema.events)}${rate}`, STYLE.plain],
    ],
    [
      ["seen ", STYLE.dim],
      [
        `first ${duration(nowUs - schema.firstSeenUs)} ago, last ${duration(nowUs - schema.lastSeenUs)} ago`,
        STYLE.plain,
      ],
    ],
    [],
    [["fields", STYLE.title]],
  ];
  for (const field of schema.fields) {
    lines.push(fieldLine(field, inside.width - 1));
    if (field.drift !== null) lines.push([[`  ${DRIFT} ${field.drift}`, STYLE.warn]]);
  }
  if (schema.drift.length > 0) lines.push([], [["changes", STYLE.title]]);
  for (const change of schema.drift) lines.push([[`${DRIFT} ${change}`, STYLE.warn]]);
  if (schema.sample !== null) {
    lines.push([], [["sample", STYLE.title]]);
    for (const line of schema.sample.split("\n")) lines.push(jsonPieces(line));
  }
  const top = Math.min(scroll, Math.max(0, lines.length - inside.height));
  for (let y = 0; y < inside.height; y++) inside.line(0, y, lines[top + y] ?? []);
  const below = lines.length - top - inside.height;
  if (below > 0)
    area.put(area.width - 18, area.height - 1, cut(` ${count(below)} more below `, 16), STYLE.dim);
}
