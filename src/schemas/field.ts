/** One path of a learned schema, and what is counted of it. Part of the schemas. */
import type { JsonValue } from "./read.ts";

/** Values that a field must have had before another JSON type is a change. */
const SETTLED_VALUES = 20;

export const JSON_TYPES = ["string", "integer", "number", "boolean", "null", "object", "array"] as const;
export type JsonType = (typeof JSON_TYPES)[number];
const STRING = 0;
const INTEGER = 1;
const NUMBER = 2;
const BOOLEAN = 3;
export const NULL = 4;
export const OBJECT = 5;
export const ARRAY = 6;

export type DriftKind = "new_field" | "type_change" | "gone";

/** How a field is reached from the one around it. */
export type Step = { readonly key: string } | "any key" | "element";

/** One path of a schema: a member, "any other key" of a map, or the elements of an array. */
export class Field {
  /** By name; null where there is no named member. */
  children: Map<string, Field> | null = null;
  /** What keys hold that have no name here. */
  anyKey: Field | null = null;
  elements: Field | null = null;
  /** Values of each of JSON_TYPES, never halved; several of one event count each. */
  readonly values = [0, 0, 0, 0, 0, 0, 0];
  /** Events that had it, null included; never halved. */
  sightings = 0;
  /** Events of the window that filled it with something other than null, "" and brackets. */
  filled = 0;
  /** The newest event of the type that filled it. */
  filledEvent = 0;
  /** First and newest event of the type that had it, and the longest pause between two of these. */
  firstEvent = 0;
  lastEvent = 0;
  pauseEvents = 0;
  /** Unix µs of receipt. */
  firstUs = 0;
  lastUs = 0;
  /** The event that brought a JSON type which is a change; 0: none did. */
  changedEvent = 0;
  /** It came after the schema had settled. */
  late = false;
  gone = false;
  /** An object whose keys are data: those without a name of their own are all learned as `anyKey`. */
  map = false;
  expected = false;
  removed = false;
  /** JSON text of one value that it had, safe to show; null: none yet. */
  sample: string | null = null;

  constructor(
    public parent: Field | null,
    readonly step: Step,
    /** Its values are not shown. */
    readonly hidden: boolean,
  ) {}

  /** Values of any type. */
  get occurrences(): number {
    return this.values.reduce((sum, count) => sum + count, 0);
  }
}

export function typeOf(value: JsonValue): number {
  switch (typeof value) {
    case "string":
      return STRING;
    case "number":
      return Number.isInteger(value) ? INTEGER : NUMBER;
    case "boolean":
      return BOOLEAN;
    default:
      return value === null ? NULL : Array.isArray(value) ? ARRAY : OBJECT;
  }
}

/** Integers are numbers: a price that has cents for once is no change. */
export function isChange(field: Field, type: number): boolean {
  if (type === NULL) return false;
  let others = 0;
  for (let other = 0; other < JSON_TYPES.length; other++) {
    if (other === type || other === NULL) continue;
    const sameFamily = (type === INTEGER && other === NUMBER) || (type === NUMBER && other === INTEGER);
    if (sameFamily && (field.values[other] as number) > 0) return false;
    others += field.values[other] as number;
  }
  return others >= SETTLED_VALUES;
}
