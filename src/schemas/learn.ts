/**
 * What is learned of one event type: a tree of fields with their JSON types and how often they are filled, and what
 * has changed of late. Part of the schemas.
 *
 * Everything counts events, never time, so that the same events in the same order teach the same.
 */
import { ARRAY_ELEMENTS_MAX, type JsonObject, type JsonValue } from "./read.ts";
import { isSecretKey, sampleOf } from "./sample.ts";

/** Levels of objects and arrays that are learned, the event's own object included. */
export const DEPTH_MAX = 16;
/** A longer key is one of "any other key". */
export const KEY_CHARS_MAX = 64;
export const FIELDS_PER_TYPE_MAX = 512;
/** An object with so many rare keys is a map: its keys are data, and are learned as one. */
const RARE_KEYS_MAX = 64;
/** Rare: in less than this share of the objects. */
const RARE_SHARE = 0.05;
/** Counts of what is filled are halved here, so that rates speak of the newest 4,096 to 8,192 events. */
const WINDOW_EVENTS = 8192;
/** How often the schema's set of expected fields is looked at again. */
const SWEEP_EVENTS = 64;
/** A field is expected where at least this share of the events fills it. */
const EXPECTED_SHARE = 0.01;
/** The first events of a type make its schema; what is new after them is drift. */
const SETTLED_EVENTS = 50;
/** Values that a field must have had before another JSON type is a change. */
const SETTLED_VALUES = 20;
/** A field has stopped coming after so many events, and after so many times its longest pause until now. */
const GONE_EVENTS_MIN = 100;
const GONE_PAUSES = 8;
/** Events with a field before its end is worth a word. */
const GONE_SIGHTINGS_MIN = 10;
/** A field is marked as new or changed for so many events of its type. */
export const MARKED_EVENTS = 1000;

export const JSON_TYPES = ["string", "integer", "number", "boolean", "null", "object", "array"] as const;
export type JsonType = (typeof JSON_TYPES)[number];
const STRING = 0;
const INTEGER = 1;
const NUMBER = 2;
const BOOLEAN = 3;
const NULL = 4;
export const OBJECT = 5;
const ARRAY = 6;

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

function typeOf(value: JsonValue): number {
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
function isChange(field: Field, type: number): boolean {
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

export interface TypeSchemaOptions {
  readonly type: string;
  /** Whether changes of this type are drift. */
  readonly drifts: boolean;
  /** Takes room for one more field of all types together; false: there is none. */
  readonly takeRoom: () => boolean;
  readonly giveRoom: (fields: number) => void;
  readonly onDrift: (kind: DriftKind, field: Field) => void;
  /** A key was not learned because a bound is reached. */
  readonly onSkipped: () => void;
}

export class TypeSchema {
  readonly type: string;
  readonly root = new Field(null, "element", false);
  /** All fields but the root, in the order in which they came. */
  fields: Field[] = [];
  /** Events of this type that were observed, and those of the window. */
  events = 0;
  windowEvents = 0;
  firstUs = 0;
  lastUs = 0;
  /** Number of expected fields. */
  expected = 0;
  readonly #o: TypeSchemaOptions;
  #nowUs = 0;
  /** Expected fields that the event at hand fills. */
  #filledExpected = 0;
  /** Fields that the event at hand filled for the first time. */
  #firstFilled: Field[] = [];
  /** Numbers whose digits a double does not keep, of which a sample is wanted. */
  #inexact: { readonly field: Field; readonly value: number }[] = [];
  #collapseTriedEvent = 0;

  constructor(options: TypeSchemaOptions) {
    this.type = options.type;
    this.#o = options;
  }

  /**
   * Learns from one event.
   * @param text what `value` was parsed from.
   * @returns the share of the fields expected before it that it fills; 0 where none was.
   */
  observe(value: JsonObject, text: string, receivedUs: number): number {
    const { expected } = this;
    if (this.events === 0) this.firstUs = receivedUs;
    this.events += 1;
    this.windowEvents += 1;
    this.lastUs = receivedUs;
    this.#nowUs = receivedUs;
    this.#filledExpected = 0;
    this.#members(this.root, value, 1);
    const fillRate = expected === 0 ? 0 : this.#filledExpected / expected;
    if (this.#firstFilled.length > 0) this.#expectNew();
    if (this.#inexact.length > 0) this.#sampleExactly(text);
    if (this.events % SWEEP_EVENTS === 0) this.#sweep();
    return fillRate;
  }

  /** Goes on from what was kept; `root` is filled already. */
  take(kept: Pick<TypeSchema, "events" | "windowEvents" | "firstUs" | "lastUs" | "fields">): void {
    Object.assign(this, kept);
    this.expected = kept.fields.filter((field) => field.expected).length;
  }

  #members(field: Field, value: JsonObject, depth: number): void {
    field.values[OBJECT] = (field.values[OBJECT] as number) + 1;
    for (const key in value) {
      const child = field.children?.get(key) ?? this.#childOf(field, key);
      if (child !== null) this.#value(child, value[key] as JsonValue, depth + 1);
    }
  }

  #value(field: Field, value: JsonValue, depth: number): void {
    if (field.lastEvent !== this.events) this.#sight(field);
    const type = typeOf(value);
    if (type >= OBJECT) {
      if (field.values[type] === 0) this.#newType(field, type);
      if (type === OBJECT) {
        if (depth <= DEPTH_MAX) this.#members(field, value as JsonObject, depth);
        else field.values[OBJECT] = (field.values[OBJECT] as number) + 1;
        return;
      }
      field.values[ARRAY] = (field.values[ARRAY] as number) + 1;
      if (depth <= DEPTH_MAX) this.#elements(field, value as JsonValue[], depth);
      return;
    }
    if (field.values[type] === 0) this.#newType(field, type);
    field.values[type] = (field.values[type] as number) + 1;
    if (type === NULL || value === "" || field.filledEvent === this.events) return;
    field.filledEvent = this.events;
    field.filled += 1;
    if (field.expected) this.#filledExpected += 1;
    else if (field.filled === 1) this.#firstFilled.push(field);
    if (field.sample === null) this.#sample(field, value as string | number | boolean);
  }

  #elements(field: Field, values: readonly JsonValue[], depth: number): void {
    if (values.length === 0) return;
    field.elements ??= this.#add(field, "element");
    if (field.elements === null) return;
    const count = Math.min(values.length, ARRAY_ELEMENTS_MAX);
    for (let index = 0; index < count; index++) {
      this.#value(field.elements, values[index] as JsonValue, depth + 1);
    }
  }

  #sight(field: Field): void {
    if (field.firstEvent === 0) {
      field.firstEvent = this.events;
      field.firstUs = this.#nowUs;
    } else field.pauseEvents = Math.max(field.pauseEvents, this.events - field.lastEvent);
    field.sightings += 1;
    field.lastEvent = this.events;
    field.lastUs = this.#nowUs;
    field.gone = false;
  }

  #newType(field: Field, type: number): void {
    if (!isChange(field, type)) return;
    field.sample = null;
    if (!this.#o.drifts) return;
    field.changedEvent = this.events;
    this.#o.onDrift("type_change", field);
  }

  // ---------------------------------------------------------------------------------------- new fields

  #childOf(parent: Field, key: string): Field | null {
    if (parent.map || key.length > KEY_CHARS_MAX) return this.#anyKeyOf(parent);
    const children = parent.children;
    if (children !== null && children.size >= RARE_KEYS_MAX && this.#collapse(parent, children)) {
      return this.#anyKeyOf(parent);
    }
    const child = this.#add(parent, { key });
    if (child === null) return null;
    parent.children ??= new Map();
    parent.children.set(key, child);
    return child;
  }

  #anyKeyOf(parent: Field): Field | null {
    parent.anyKey ??= this.#add(parent, "any key");
    return parent.anyKey;
  }

  #add(parent: Field, step: Step): Field | null {
    if (this.fields.length >= FIELDS_PER_TYPE_MAX || !this.#o.takeRoom()) {
      this.#o.onSkipped();
      return null;
    }
    const hidden = parent.hidden || (typeof step === "object" && isSecretKey(step.key));
    const field = new Field(parent, step, hidden);
    this.fields.push(field);
    if (this.#o.drifts && this.events > SETTLED_EVENTS) {
      field.late = true;
      // Of a new object with all its members the object alone is told.
      if (parent.firstEvent !== this.events) this.#o.onDrift("new_field", field);
    }
    return field;
  }

  /** Makes one field of the rare keys of what turns out to be a map; false where it is none. */
  #collapse(parent: Field, children: Map<string, Field>): boolean {
    if (this.#collapseTriedEvent === this.events) return false;
    this.#collapseTriedEvent = this.events;
    const rareBelow = RARE_SHARE * (parent.values[OBJECT] as number);
    const rare = [...children].filter(([, child]) => child.occurrences < rareBelow);
    if (rare.length < RARE_KEYS_MAX) return false;
    let { anyKey } = parent;
    if (anyKey === null) {
      // In the place of the first of them, so that it stands before what is inside of it.
      const place = this.fields.findIndex(
        (field) => field.parent === parent && rare.some((r) => r[1] === field),
      );
      anyKey = new Field(parent, "any key", parent.hidden);
      this.fields.splice(place, 0, anyKey);
      this.#o.giveRoom(-1);
    }
    for (const [key, child] of rare) {
      children.delete(key);
      this.#merge(anyKey, child);
    }
    this.fields = this.fields.filter((field) => !field.removed);
    parent.anyKey = anyKey;
    parent.map = true;
    return true;
  }

  /** Adds what was learned of `from` to `into`; `from` is no field any more. */
  #merge(into: Field, from: Field): void {
    from.values.forEach((count, type) => {
      into.values[type] = (into.values[type] as number) + count;
    });
    into.sightings += from.sightings;
    into.filled = Math.min(this.windowEvents, into.filled + from.filled);
    into.firstEvent =
      into.firstEvent === 0 ? from.firstEvent : Math.min(into.firstEvent, from.firstEvent || this.events);
    into.firstUs = into.firstUs === 0 ? from.firstUs : Math.min(into.firstUs, from.firstUs || this.#nowUs);
    into.filledEvent = Math.max(into.filledEvent, from.filledEvent);
    into.lastEvent = Math.max(into.lastEvent, from.lastEvent);
    into.lastUs = Math.max(into.lastUs, from.lastUs);
    into.pauseEvents = Math.max(into.pauseEvents, from.pauseEvents);
    into.sample ??= into.hidden || !from.hidden ? from.sample : null;
    for (const [key, child] of from.children ?? []) {
      into.children ??= new Map();
      this.#graft(into, child, into.children.get(key) ?? null, (field) => into.children?.set(key, field));
    }
    const { anyKey, elements } = from;
    if (anyKey !== null) {
      this.#graft(into, anyKey, into.anyKey, (field) => {
        into.anyKey = field;
      });
    }
    if (elements !== null) {
      this.#graft(into, elements, into.elements, (field) => {
        into.elements = field;
      });
    }
    this.#remove(from);
  }

  #graft(into: Field, child: Field, there: Field | null, put: (field: Field) => void): void {
    if (there !== null) {
      this.#merge(there, child);
      return;
    }
    child.parent = into;
    put(child);
  }

  #remove(field: Field): void {
    field.removed = true;
    if (field.expected) this.expected -= 1;
    field.expected = false;
    this.#o.giveRoom(1);
  }

  // ------------------------------------------------------------------------------------------- samples

  #sample(field: Field, value: string | number | boolean): void {
    const inexact = typeof value === "number" && Math.abs(value) > Number.MAX_SAFE_INTEGER;
    if (inexact && !field.hidden) this.#inexact.push({ field, value });
    else field.sample = sampleOf(value, field.hidden);
  }

  /** Takes the digits of large numbers from the text, where JSON.parse keeps a double of them. */
  #sampleExactly(text: string): void {
    const digits = new Map<number, string>();
    JSON.parse(text, (_key, value: unknown, context?: { source?: string }) => {
      if (typeof value === "number" && context?.source !== undefined) digits.set(value, context.source);
      return value;
    });
    for (const { field, value } of this.#inexact) {
      const source = digits.get(value);
      if (source !== undefined && source.length <= KEY_CHARS_MAX) field.sample = source;
    }
    this.#inexact = [];
  }

  // -------------------------------------------------------------------------- what belongs to the schema

  #expectNew(): void {
    for (const field of this.#firstFilled) {
      if (field.removed || field.expected || field.filled < EXPECTED_SHARE * this.windowEvents) continue;
      field.expected = true;
      this.expected += 1;
    }
    this.#firstFilled = [];
  }

  /** Looks for fields that stopped coming, and settles anew which ones are expected. */
  #sweep(): void {
    const halve = this.windowEvents >= WINDOW_EVENTS;
    if (halve) this.windowEvents >>= 1;
    this.expected = 0;
    for (const field of this.fields) {
      if (halve) field.filled >>= 1;
      if (!field.gone && this.#hasStopped(field)) this.#goes(field);
      field.expected = !field.gone && field.filled > 0 && field.filled >= EXPECTED_SHARE * this.windowEvents;
      if (field.expected) this.expected += 1;
    }
  }

  #hasStopped(field: Field): boolean {
    const pauseEvents = this.events - field.lastEvent;
    return (
      field.sightings >= GONE_SIGHTINGS_MIN &&
      pauseEvents >= GONE_EVENTS_MIN &&
      pauseEvents >= GONE_PAUSES * field.pauseEvents
    );
  }

  #goes(field: Field): void {
    field.gone = true;
    // Of an object that stops coming, the object alone is told: it stands before its members.
    if (this.#o.drifts && field.parent?.gone !== true) this.#o.onDrift("gone", field);
  }

  /** What is to be said of a field now; null: nothing. */
  driftOf(field: Field): DriftKind | null {
    if (!this.#o.drifts) return null;
    if (field.gone) return "gone";
    if (field.changedEvent > 0 && this.events - field.changedEvent < MARKED_EVENTS) return "type_change";
    return field.late && this.events - field.firstEvent < MARKED_EVENTS ? "new_field" : null;
  }
}
