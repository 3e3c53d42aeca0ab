/**
 * Learns the schema of one event type: a tree of fields with their JSON types and how often they are filled, and what
 * has changed recently. Part of the schemas.
 *
 * Everything counts events and never time, so the same events in the same order give the same schema.
 */
import { ARRAY_ELEMENTS_MAX } from "./condense.ts";
import { isDataKey, shapeOf } from "./data-key.ts";
import {
  ARRAY,
  type DriftKind,
  Field,
  fieldsInOrder,
  isChange,
  NULL,
  OBJECT,
  type Step,
  typeOf,
} from "./field.ts";
import { mergeField } from "./merge.ts";
import type { JsonObject, JsonValue } from "./read.ts";
import { exactDigits, isSecretKey, sampleOf } from "./sample.ts";

/**
 * Levels of objects and arrays that are learned. The event's own object is level 1.
 * @bound levels of a body that a schema learns | not looked at
 */
export const DEPTH_MAX = 16;
/**
 * A longer key is learned as "any key".
 * @bound UTF-16 units of a key that a schema learns | longer keys are learned as one
 */
export const KEY_CHARS_MAX = 64;
/** @bound fields of one type | new fields are not learned, and counted */
export const FIELDS_PER_TYPE_MAX = 512;
/**
 * An object with this many rare keys is a map: its keys are data, so they are learned as one field.
 * @bound rare keys of one object | they are learned as one, `*`
 */
const RARE_KEYS_MAX = 64;
/** A key is rare if less than this share of the objects have it. */
const RARE_SHARE = 0.05;
/**
 * Keys that differ only in their numbers, like `u-17` and `u-18`, are data if there are this many and all of them hold
 * objects or arrays.
 * @bound keys of one object that hold objects and differ only in their numbers | they are learned as one, `*`
 */
const ALIKE_OBJECTS_MAX = 16;
/**
 * They are also data if there are this many and less than this share of the objects have each.
 * @bound rare keys of one object that differ only in their numbers | they are learned as one, `*`
 */
const ALIKE_RARE_KEYS_MAX = 32;
const ALIKE_SHARE = 0.25;
/** In a schema that is full, this many keys that differ only in their numbers are data in any case. */
const ALIKE_KEYS_FULL_MAX = 64;
/** At this many events all `filled` counts are halved, so fill rates describe the newest 4,096 to 8,192 events. */
const WINDOW_EVENTS = 8192;
/** The set of expected fields is computed again after this many events. */
const SWEEP_EVENTS = 64;
/** A field is expected if at least this share of the events fill it. */
const EXPECTED_SHARE = 0.01;
/** The first events of a type make its schema. A field that first comes after them is drift. */
const SETTLED_EVENTS = 50;
/** A field has stopped coming if it misses this many events, and this many times its longest pause until then. */
const GONE_EVENTS_MIN = 100;
const GONE_PAUSES = 8;
/** A field that came fewer times than this is not reported when it stops coming. */
const GONE_SIGHTINGS_MIN = 10;
/** A field is marked as new or changed for this many events of its type. */
export const MARKED_EVENTS = 1000;

export interface TypeSchemaOptions {
  readonly type: string;
  /** Whether changes of this type are reported as drift. */
  readonly drifts: boolean;
  /** Reserves room for one more field; false: there is no room, counted over all types. */
  readonly takeRoom: () => boolean;
  readonly giveRoom: (fields: number) => void;
  readonly onDrift: (kind: DriftKind, field: Field) => void;
  /** Called if a key is not learned because of a bound. */
  readonly onSkipped: () => void;
}

export class TypeSchema {
  readonly type: string;
  readonly root = new Field(null, "element", false);
  /** All fields but the root; each stands after its parent. */
  fields: Field[] = [];
  /** Observed events of this type: all, and those that `filled` counts refer to. */
  events = 0;
  windowEvents = 0;
  firstUs = 0;
  lastUs = 0;
  /** The number of expected fields. */
  expected = 0;
  readonly #o: TypeSchemaOptions;
  #nowUs = 0;
  /** How many expected fields the current event has filled so far. */
  #filledExpected = 0;
  /** Fields that the current event filled for the first time. */
  #firstFilled: Field[] = [];
  /** Numbers of the current event that need a sample and whose digits a double cannot hold. */
  #inexact: { readonly field: Field; readonly value: number }[] = [];
  /** How many keys the objects had when the current event made the schema look whether they are data. */
  readonly #lookedSizes = new Map<Field, number>();
  /** The event before which a full schema does not try to make room. */
  #makeRoomEvent = 0;

  constructor(options: TypeSchemaOptions) {
    this.type = options.type;
    this.#o = options;
  }

  /**
   * Learns from one event.
   * @param text the JSON text of `value`.
   * @returns the share of the fields expected before this event that it fills; 0 if none was expected.
   */
  observe(value: JsonObject, text: string, receivedUs: number): number {
    const { expected } = this;
    if (this.events === 0) this.firstUs = receivedUs;
    this.events += 1;
    this.windowEvents += 1;
    this.lastUs = receivedUs;
    this.#nowUs = receivedUs;
    this.#filledExpected = 0;
    if (this.fields.length >= FIELDS_PER_TYPE_MAX && this.events >= this.#makeRoomEvent) this.#makeRoom();
    this.#members(this.root, value, 1);
    const fillRate = expected === 0 ? 0 : this.#filledExpected / expected;
    if (this.#firstFilled.length > 0) this.#expectNew();
    if (this.#inexact.length > 0) this.#sampleExactly(text);
    if (this.#lookedSizes.size > 0) this.#lookedSizes.clear();
    if (this.events % SWEEP_EVENTS === 0) this.#sweep();
    return fillRate;
  }

  /** The share of the expected fields that an event fills, without learning from it. */
  fillRate(value: JsonObject): number {
    if (this.expected === 0) return 0;
    const filled = new Set<Field>();
    expectedIn(this.root, value, 1, filled);
    return filled.size / this.expected;
  }

  /** Takes over the stored counts and fields; `root` is restored already. */
  take(kept: Pick<TypeSchema, "events" | "windowEvents" | "firstUs" | "lastUs" | "fields">): void {
    Object.assign(this, kept);
    this.expected = kept.fields.filter((field) => field.expected).length;
  }

  /** Merges keys that are data. Earlier versions learned each under its name. */
  mergeDataKeys(): void {
    this.#nowUs = this.lastUs;
    const visit = (field: Field): void => {
      const data = [...(field.children ?? [])].filter(([key]) => isDataKey(key) && !isSecretKey(key));
      if (data.length > 0) this.#merge(field, data);
      for (const inner of [...(field.children?.values() ?? []), field.anyKey, field.elements])
        if (inner !== null) visit(inner);
    };
    visit(this.root);
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

  #childOf(parent: Field, key: string): Field | null {
    if (isAnyKey(parent, key)) return this.#anyKeyOf(parent);
    const children = parent.children;
    if (children !== null && children.size >= ALIKE_OBJECTS_MAX && this.#collapse(parent, children, key))
      return this.#anyKeyOf(parent);
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
      // If a whole new object comes, only the object itself is reported, and not its members.
      if (parent.firstEvent !== this.events) this.#o.onDrift("new_field", field);
    }
    return field;
  }

  /**
   * Merges keys of an object into one field if they are data, judged by how rare and how alike they are.
   * @param key the key that is new in the object.
   * @returns false: they are not.
   */
  #collapse(parent: Field, children: Map<string, Field>, key: string): boolean {
    // Looking takes time in proportion to the keys, so one event makes the schema look only when they have doubled.
    if (children.size < 2 * (this.#lookedSizes.get(parent) ?? 0)) return false;
    this.#lookedSizes.set(parent, children.size);
    const objects = parent.values[OBJECT] as number;
    const rare = [...children].filter(([, child]) => child.occurrences < RARE_SHARE * objects);
    const shape = shapeOf(key);
    const alike = shape === null ? [] : [...children].filter(([name]) => shapeOf(name) === shape);
    const alikeData =
      (alike.length >= ALIKE_OBJECTS_MAX && alike.every(([, child]) => holdsOthers(child))) ||
      (alike.length >= ALIKE_RARE_KEYS_MAX &&
        alike.every(([, child]) => child.occurrences < ALIKE_SHARE * objects));
    const data = rare.length >= RARE_KEYS_MAX ? rare : alikeData ? alike : [];
    if (data.length === 0) return false;
    this.#merge(parent, data);
    parent.map = true;
    return true;
  }

  /** Merges keys that differ only in their numbers, because the schema has no room for more fields. */
  #makeRoom(): void {
    this.#makeRoomEvent = this.events + SWEEP_EVENTS;
    for (const field of [this.root, ...this.fields]) {
      if (field.removed || field.children === null || field.children.size < ALIKE_KEYS_FULL_MAX) continue;
      const byShape = Map.groupBy(field.children, ([key]) => shapeOf(key));
      for (const [shape, alike] of byShape) {
        if (shape === null || alike.length < ALIKE_KEYS_FULL_MAX) continue;
        this.#merge(field, alike);
        field.map = true;
      }
    }
  }

  /** Merges members of an object into the field of any key. */
  #merge(parent: Field, members: readonly (readonly [string, Field])[]): void {
    if (parent.anyKey === null) {
      parent.anyKey = new Field(parent, "any key", parent.hidden);
      this.#o.giveRoom(-1);
    }
    const merging = {
      events: this.events,
      windowEvents: this.windowEvents,
      nowUs: this.#nowUs,
      onRemoved: (field: Field) => this.#remove(field),
    };
    for (const [key, child] of members) {
      parent.children?.delete(key);
      mergeField(parent.anyKey, child, merging);
    }
    this.fields = [...fieldsInOrder(this.root)];
  }

  #remove(field: Field): void {
    field.removed = true;
    if (field.expected) this.expected -= 1;
    field.expected = false;
    this.#o.giveRoom(1);
  }

  #sample(field: Field, value: string | number | boolean): void {
    const inexact = typeof value === "number" && Math.abs(value) > Number.MAX_SAFE_INTEGER;
    if (inexact && !field.hidden) this.#inexact.push({ field, value });
    else field.sample = sampleOf(value, field.hidden);
  }

  #sampleExactly(text: string): void {
    const digits = exactDigits(text);
    for (const { field, value } of this.#inexact) {
      const source = digits.get(value);
      if (source !== undefined && source.length <= KEY_CHARS_MAX) field.sample = source;
    }
    this.#inexact = [];
  }

  #expectNew(): void {
    for (const field of this.#firstFilled) {
      if (field.removed || field.expected || field.filled < EXPECTED_SHARE * this.windowEvents) continue;
      field.expected = true;
      this.expected += 1;
    }
    this.#firstFilled = [];
  }

  /** Reports fields that have stopped coming, and decides again which fields are expected. */
  #sweep(): void {
    const halve = this.windowEvents >= WINDOW_EVENTS;
    if (halve) this.windowEvents >>= 1;
    this.expected = 0;
    for (const field of this.fields) {
      if (halve) field.filled >>= 1;
      if (!field.gone && this.#hasStopped(field)) this.#markGone(field);
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

  #markGone(field: Field): void {
    field.gone = true;
    // If an object stops coming, only the object itself is reported. It stands before its members.
    if (this.#o.drifts && field.parent?.gone !== true) this.#o.onDrift("gone", field);
  }

  /** The drift with which a field is marked now; null: none. */
  driftOf(field: Field): DriftKind | null {
    if (!this.#o.drifts) return null;
    if (field.gone) return "gone";
    if (field.changedEvent > 0 && this.events - field.changedEvent < MARKED_EVENTS) return "type_change";
    return field.late && this.events - field.firstEvent < MARKED_EVENTS ? "new_field" : null;
  }
}

/** Collects the expected fields that an object fills. */
function expectedIn(field: Field, value: JsonObject, depth: number, filled: Set<Field>): void {
  for (const key in value) {
    const child = field.children?.get(key) ?? (isAnyKey(field, key) ? field.anyKey : null);
    if (child !== null) expectedOf(child, value[key] as JsonValue, depth + 1, filled);
  }
}

function expectedOf(field: Field, value: JsonValue, depth: number, filled: Set<Field>): void {
  const type = typeOf(value);
  if (type < OBJECT) {
    if (field.expected && type !== NULL && value !== "") filled.add(field);
    return;
  }
  if (depth > DEPTH_MAX) return;
  if (type === OBJECT) expectedIn(field, value as JsonObject, depth, filled);
  else if (field.elements !== null) {
    const values = value as JsonValue[];
    const count = Math.min(values.length, ARRAY_ELEMENTS_MAX);
    for (let index = 0; index < count; index++)
      expectedOf(field.elements, values[index] as JsonValue, depth + 1, filled);
  }
}

/** Whether a key of an object is learned as any key. */
function isAnyKey(parent: Field, key: string): boolean {
  return parent.map || key.length > KEY_CHARS_MAX || (isDataKey(key) && !isSecretKey(key));
}

/** Whether a field has held nothing but objects and arrays. */
function holdsOthers({ values }: Field): boolean {
  return values.every((count, type) => count === 0 || type === OBJECT || type === ARRAY || type === NULL);
}
