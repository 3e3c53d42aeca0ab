/** The fields of a learned schema, with their counts. Part of the schemas. */
import type { JsonValue } from "./read.ts";

/** A field must have had this many values before a value of another JSON type is a change. */
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

/** The step from a field to one inside it. */
export type Step = { readonly key: string } | "any key" | "element";

/** One path of a schema: a member of an object, any key of a map, or the elements of an array. */
export class Field {
  /** Members by name; null: there are none. */
  children: Map<string, Field> | null = null;
  /** The values of all keys that are not in `children`. */
  anyKey: Field | null = null;
  elements: Field | null = null;
  /** How many values of each of JSON_TYPES there were. Never halved; each value of an event counts. */
  readonly values = [0, 0, 0, 0, 0, 0, 0];
  /** Events with this field, even if it was null. Never halved. */
  sightings = 0;
  /** Events of the window that filled it: with something other than null, "" and brackets. */
  filled = 0;
  /** The newest event of the type that filled it. */
  filledEvent = 0;
  /** The first and the newest event with this field, by number, and the longest distance between two such events. */
  firstEvent = 0;
  lastEvent = 0;
  pauseEvents = 0;
  /** Unix µs of receipt. */
  firstUs = 0;
  lastUs = 0;
  /** The newest event that changed the JSON type; 0: none did. */
  changedEvent = 0;
  /** It first came when the schema of its type had settled. */
  late = false;
  /** It has stopped coming. */
  gone = false;
  /** Its keys are data: every key that is not in `children` is learned as `anyKey`. */
  map = false;
  expected = false;
  /** It was merged into another field. */
  removed = false;
  /** The JSON text of one of its values, safe to show; null: none yet. */
  sample: string | null = null;

  constructor(
    public parent: Field | null,
    readonly step: Step,
    /** Its values are secret, so that they are not shown. */
    readonly hidden: boolean,
  ) {}

  /** Values of any type. */
  get occurrences(): number {
    return this.values.reduce((sum, count) => sum + count, 0);
  }
}

/** All fields inside a field, each followed by those inside it. */
export function* fieldsInOrder(field: Field): Generator<Field> {
  for (const inner of innerFields(field)) {
    yield inner;
    yield* fieldsInOrder(inner);
  }
}

function innerFields({ children, anyKey, elements }: Field): Field[] {
  return [...(children?.values() ?? []), anyKey, elements].filter((field) => field !== null);
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

/**
 * Whether a value of this type is a change. Integers and numbers are one type here: a price that has cents for once is
 * not a change.
 */
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
