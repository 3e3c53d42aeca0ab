/** Shows schemas: field paths, the JSON of responses, and JSON Schema. Part of the schemas. */
import { type DriftKind, type Field, fieldsInOrder, JSON_TYPES, type JsonType, OBJECT } from "./field.ts";
import type { TypeSchema } from "./learn.ts";

/** A key that needs no brackets in a path. */
const PLAIN_KEY = /^[\p{L}\p{N}_$@:-]+$/u;

/**
 * The path of a field, such as `customer.items[].name`. `[]` stands for the elements of an array and `*` for any other
 * key of a map. A key with special characters stands in brackets: `labels["a.b"]`.
 */
export function pathOf(field: Field): string {
  const steps: Field[] = [];
  for (let at: Field = field; at.parent !== null; at = at.parent) steps.push(at);
  let path = "";
  for (const { step } of steps.reverse()) {
    if (step === "element") path += "[]";
    else if (step !== "any key" && !PLAIN_KEY.test(step.key)) path += `[${JSON.stringify(step.key)}]`;
    else path += `${path === "" ? "" : "."}${step === "any key" ? "*" : step.key}`;
  }
  return path;
}

/** The JSON types of a field's values, the most frequent first. */
export function typesOf({ values }: Field): JsonType[] {
  return JSON_TYPES.map((type, index) => ({ type, count: values[index] as number }))
    .filter(({ count }) => count > 0)
    .sort((a, b) => b.count - a.count)
    .map(({ type }) => type);
}

/** The share of the newest events of its type that fill the field, rounded to four digits. */
export function fillRateOf(schema: TypeSchema, { filled }: Field): number {
  return schema.windowEvents === 0 ? 0 : Math.round((1e4 * filled) / schema.windowEvents) / 1e4;
}

/** One learned field, as /api/schemas shows it. */
export interface ShownField {
  readonly path: string;
  readonly types: readonly JsonType[];
  readonly fill_rate: number;
  /** Unix µs of receipt. */
  readonly first_seen_us: number;
  readonly last_seen_us: number;
  readonly drift: DriftKind | null;
}

export function shownField(schema: TypeSchema, field: Field): ShownField {
  return {
    path: pathOf(field),
    types: typesOf(field),
    fill_rate: fillRateOf(schema, field),
    first_seen_us: field.firstUs,
    last_seen_us: field.lastUs,
    drift: schema.driftOf(field),
  };
}

/** A type as chat uses it, with its expected fields. */
export interface KnownType {
  readonly type: string;
  readonly events: number;
  readonly fields: readonly ShownField[];
}

/** A type as a list shows it, with all its fields. */
export interface ShownType {
  readonly type: string;
  readonly events: number;
  /** Unix µs of receipt. */
  readonly first_seen_us: number;
  readonly last_seen_us: number;
  readonly fields: readonly ShownField[];
  /** A JSON object with the sample of each field that has one, by path; null: no field has one. */
  readonly sample: string | null;
}

export function knownType(schema: TypeSchema): KnownType {
  const expected = [...fieldsInOrder(schema.root)].filter((field) => field.expected);
  return {
    type: schema.type,
    events: schema.events,
    fields: expected.map((field) => shownField(schema, field)),
  };
}

export function shownType(schema: TypeSchema): ShownType {
  const fields = [...fieldsInOrder(schema.root)];
  const samples = fields
    .filter(({ sample }) => sample !== null)
    .map((field) => `${JSON.stringify(pathOf(field))}:${field.sample}`);
  return {
    type: schema.type,
    events: schema.events,
    first_seen_us: schema.firstUs,
    last_seen_us: schema.lastUs,
    fields: fields.map((field) => shownField(schema, field)),
    sample: samples.length === 0 ? null : `{${samples.join(",")}}`,
  };
}

/** The plain JSON text of a schema. Samples are already JSON texts, so their numbers keep all digits. */
export function schemaJson(schema: TypeSchema): string {
  const fields: string[] = [];
  const drift = { new_field: 0, type_change: 0, gone: 0 };
  for (const field of fieldsInOrder(schema.root)) {
    const shown = shownField(schema, field);
    if (shown.drift !== null) drift[shown.drift] += 1;
    fields.push(`${JSON.stringify(shown).slice(0, -1)},"sample":${field.sample ?? "null"}}`);
  }
  const head = JSON.stringify({
    type: schema.type,
    events: schema.events,
    first_seen_us: schema.firstUs,
    last_seen_us: schema.lastUs,
    expected_fields: schema.expected,
    drift,
  });
  return `${head.slice(0, -1)},"fields":[${fields.join(",")}]}`;
}

export const JSON_SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema";

/** The JSON Schema (draft 2020-12) that all events so far satisfy, except for fields that a bound left out. */
export function jsonSchemaText(schema: TypeSchema, dialect: boolean): string {
  const head = [
    ...(dialect ? [`"$schema":${JSON.stringify(JSON_SCHEMA_DIALECT)}`] : []),
    `"title":${JSON.stringify(schema.type)}`,
    `"description":${JSON.stringify(`Learned from ${schema.events} events.`)}`,
  ];
  return `{${[...head, ...keywordsOf(schema.root)].join(",")}}`;
}

/** The keywords of a field as JSON texts. Text is safer than an object, because a key may be `__proto__`. */
function keywordsOf(field: Field): string[] {
  const { children, anyKey, elements, sample, values } = field;
  const types = typesOf(field).filter((type, _, all) => type !== "integer" || !all.includes("number"));
  const keywords: string[] = [];
  if (types.length > 0) keywords.push(`"type":${JSON.stringify(types.length === 1 ? types[0] : types)}`);
  if (children !== null && children.size > 0) {
    const properties = [...children].map(([key, child]) => `${JSON.stringify(key)}:${objectOf(child)}`);
    keywords.push(`"properties":{${properties.join(",")}}`);
    // A member is required if every object so far had it.
    const required = [...children].filter(([, child]) => child.occurrences === values[OBJECT]);
    if (required.length > 0) keywords.push(`"required":${JSON.stringify(required.map(([key]) => key))}`);
  }
  if (anyKey !== null) keywords.push(`"additionalProperties":${objectOf(anyKey)}`);
  if (elements !== null) keywords.push(`"items":${objectOf(elements)}`);
  if (sample !== null && !field.hidden) keywords.push(`"examples":[${sample}]`);
  return keywords;
}

function objectOf(field: Field): string {
  return `{${keywordsOf(field).join(",")}}`;
}
