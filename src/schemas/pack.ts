/** Writes a schema as the text of its row in the journal, and reads it back. Part of the schemas. */
import * as v from "valibot";
import { Field, type Step } from "./field.ts";
import { DEPTH_MAX, FIELDS_PER_TYPE_MAX, type TypeSchema } from "./learn.ts";

/** Raise it if the rows of older gateways can no longer be read. Their schemas are then learned again. */
const PACK_VERSION = 1;

const count = v.pipe(v.number(), v.integer(), v.minValue(0));
const FLAGS = ["hidden", "late", "gone", "map", "expected"] as const;
const NUMBERS = [
  ...["sightings", "filled", "filledEvent", "firstEvent", "lastEvent", "pauseEvents"],
  ...["firstUs", "lastUs", "changedEvent"],
] as readonly (
  | "sightings"
  | "filled"
  | "filledEvent"
  | "firstEvent"
  | "lastEvent"
  | "pauseEvents"
  | "firstUs"
  | "lastUs"
  | "changedEvent"
)[];

/** Responses contain it unchanged, so it must be the JSON text of one string, number or boolean. */
const sampleText = v.pipe(
  v.string(),
  v.check((text) => {
    try {
      return typeof JSON.parse(text) !== "object";
    } catch {
      return false;
    }
  }),
);

/** A field: its step ([key], 0 for any key, 1 for elements), counts, flags as bits, sample, and the fields inside it. */
type Packed = [
  step: [string] | 0 | 1,
  values: number[],
  numbers: number[],
  flags: number,
  sample: string | null,
  inner: Packed[],
];

const packedSchema: v.GenericSchema<Packed> = v.tuple([
  v.union([v.tuple([v.string()]), v.literal(0), v.literal(1)]),
  v.pipe(v.array(count), v.length(7)),
  v.pipe(v.array(count), v.length(NUMBERS.length)),
  count,
  v.nullable(sampleText),
  v.lazy(() => v.array(packedSchema)),
]);

const rowSchema = v.object({
  version: v.literal(PACK_VERSION),
  events: count,
  windowEvents: count,
  firstUs: count,
  lastUs: count,
  root: packedSchema,
});

export function packed(schema: TypeSchema): string {
  const { events, windowEvents, firstUs, lastUs } = schema;
  return JSON.stringify({
    version: PACK_VERSION,
    events,
    windowEvents,
    firstUs,
    lastUs,
    root: packField(schema.root),
  });
}

function packField(field: Field): Packed {
  const { step, values, sample, children, anyKey, elements } = field;
  const inner = [...(children?.values() ?? []), anyKey, elements].filter((child) => child !== null);
  return [
    step === "element" ? 1 : step === "any key" ? 0 : [step.key],
    [...values],
    NUMBERS.map((name) => field[name]),
    FLAGS.reduce((bits, name, index) => bits | (field[name] ? 1 << index : 0), 0),
    sample,
    inner.map(packField),
  ];
}

/**
 * Fills an empty schema from the text of its row.
 * @returns false: this gateway cannot have written the text, and the schema must not be used.
 */
export function restore(schema: TypeSchema, text: string): boolean {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    return false;
  }
  const row = v.safeParse(rowSchema, json);
  if (!row.success) return false;
  const fields: Field[] = [];
  fillField(schema.root, row.output.root);
  if (!restoreInner(schema.root, row.output.root[5], fields, 1)) return false;
  const { events, windowEvents, firstUs, lastUs } = row.output;
  schema.take({ events, windowEvents, firstUs, lastUs, fields });
  return true;
}

function fillField(field: Field, [, values, numbers, flags, sample]: Packed): void {
  values.forEach((value, index) => {
    field.values[index] = value;
  });
  NUMBERS.forEach((name, index) => {
    field[name] = numbers[index] as number;
  });
  for (const [index, name] of FLAGS.entries()) {
    if (name !== "hidden") field[name] = (flags & (1 << index)) !== 0;
  }
  field.sample = sample;
}

function restoreInner(parent: Field, inner: readonly Packed[], fields: Field[], depth: number): boolean {
  if (depth > DEPTH_MAX + 1) return false;
  for (const packedField of inner) {
    const [kind, , , flags, , within] = packedField;
    const step: Step = kind === 1 ? "element" : kind === 0 ? "any key" : { key: kind[0] };
    const field = new Field(parent, step, (flags & 1) !== 0);
    fillField(field, packedField);
    fields.push(field);
    if (fields.length > FIELDS_PER_TYPE_MAX) return false;
    if (step === "element") parent.elements = field;
    else if (step === "any key") parent.anyKey = field;
    else {
      parent.children ??= new Map();
      parent.children.set(step.key, field);
    }
    if (!restoreInner(field, within, fields, depth + 1)) return false;
  }
  return true;
}
