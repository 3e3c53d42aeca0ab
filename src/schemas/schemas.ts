/**
 * Learns from the events what the traffic looks like: for each event type the fields of its bodies, how often each field
 * is filled, and what has changed.
 *
 * `observe` is called once per event, in the order in which frames are decided, and takes microseconds. Its result
 * depends on nothing but the events before. The journal's table `schemas` keeps what was learned, a few seconds late: a
 * kill loses these seconds, so counts are approximate after it.
 */
import { type Clock, systemClock } from "../clock.ts";
import { messageOf } from "../errors.ts";
import { UNKNOWN_EVENT } from "../frame.ts";
import type { SmallTable } from "../journal/journal.ts";
import type { Log } from "../log.ts";
import type { DriftKind, Field } from "./field.ts";
import { fingerprintOf } from "./fingerprint.ts";
import { LateWriter } from "./late-writer.ts";
import { TypeSchema } from "./learn.ts";
import { packed, restore } from "./pack.ts";
import { type JsonObject, textToRead, textToShow } from "./read.ts";
import {
  JSON_SCHEMA_DIALECT,
  jsonSchemaText,
  type KnownType,
  knownType,
  pathOf,
  type ShownType,
  schemaJson,
  shownType,
} from "./show.ts";

export type { DriftKind } from "./field.ts";
export type { KnownType, ShownField, ShownType } from "./show.ts";

/**
 * The number of types, and of the fields of all types together (about 300 bytes each).
 * @bound event types with a schema | the type with the fewest events is forgotten
 */
const TYPES_MAX = 1000;
/** @bound fields of all schemas | new fields are not learned, and counted */
const FIELDS_MAX = 20_000;
/**
 * Changes that the Snapshot contains.
 * @bound changes that the Snapshot lists | the oldest go
 */
const DRIFT_MAX = 20;

/** A change in the shape of a type's events. */
export interface Drift {
  readonly kind: DriftKind;
  readonly type: string;
  readonly path: string;
  /** When the event that brought the change was received, Unix µs. */
  readonly at_us: number;
}

export interface SchemasOptions {
  /** Keeps what was learned over restarts; null: nothing does. */
  readonly table: SmallTable | null;
  readonly log: Log;
  readonly clock?: Clock;
}

interface ReadBody {
  readonly body: Uint8Array;
  readonly text: string;
  readonly value: JsonObject;
}

export class Schemas implements Disposable {
  readonly #o: SchemasOptions;
  readonly #types = new Map<string, TypeSchema>();
  #fields = 0;
  /** The schema that is learning from an event now. It is never dropped to make room. */
  #learning: TypeSchema | null = null;
  readonly #counters = {
    schema_events_total: 0,
    schema_unread_events_total: 0,
    schema_new_fields_total: 0,
    schema_type_changes_total: 0,
    schema_gone_fields_total: 0,
    schema_skipped_fields_total: 0,
    schema_dropped_types_total: 0,
    schema_write_failures_total: 0,
  };
  #drift: Drift[] = [];
  /** The body that was previewed last. */
  #read: ReadBody | null = null;
  readonly #writer: LateWriter | null;

  /** Reads the table. @throws GatewayError journal_failed */
  constructor(options: SchemasOptions) {
    this.#o = options;
    this.#writer = options.table === null ? null : this.#newWriter(options.table);
    for (const { key, value } of options.table?.all() ?? []) this.#restore(key, value);
  }

  #newWriter(table: SmallTable): LateWriter {
    return new LateWriter({
      table,
      textOf: (type) => {
        const schema = this.#types.get(type);
        return schema === undefined ? null : packed(schema);
      },
      failed: (error) => {
        this.#counters.schema_write_failures_total += 1;
        this.#o.log("warn", `schemas: ${messageOf(error)}; trying again`);
      },
      clock: this.#o.clock ?? systemClock,
    });
  }

  #restore(type: string, text: string): void {
    const schema = this.#newSchema(type);
    const room = this.#types.size < TYPES_MAX;
    if (room && restore(schema, text) && this.#fields + schema.fields.length <= FIELDS_MAX) {
      this.#types.set(type, schema);
      this.#fields += schema.fields.length;
      schema.mergeDataKeys();
      return;
    }
    this.#o.log(
      "warn",
      `schemas: cannot use the stored schema of ${JSON.stringify(type)}; learning it again`,
    );
    this.#writer?.outdated(type);
  }

  /**
   * Learns from one event.
   * @param type null: the type is unknown.
   * @param body one valid JSON object.
   * @param receivedUs Unix µs.
   * @returns the share, 0 to 1, of the type's expected fields that this event fills. A field is expected if at least
   *   1 % of the type's newest 4,096 to 8,192 events before this one filled it (with something other than null, "" and
   *   empty brackets), and if it has not stopped coming. 0 if no field is expected, and for events of unknown type.
   */
  observe(type: string | null, body: Uint8Array, receivedUs: number): { readonly fillRate: number } {
    this.#counters.schema_events_total += 1;
    const name = type ?? UNKNOWN_EVENT;
    const read = this.#bodyOf(body);
    this.#read = null;
    if (read === null) {
      this.#counters.schema_unread_events_total += 1;
      return NOTHING_FILLED;
    }
    const { text, value } = read;
    const schema = this.#types.get(name) ?? this.#addType(name);
    this.#learning = schema;
    const fillRate = schema.observe(value, text, receivedUs);
    this.#learning = null;
    this.#writer?.changed(name);
    return name === UNKNOWN_EVENT ? NOTHING_FILLED : { fillRate };
  }

  /**
   * What {@link observe} would return for the next event, without learning from it. (If the event makes the schema merge
   * fields, the share of those before the merge.)
   */
  preview(type: string | null, body: Uint8Array): { readonly fillRate: number } {
    const schema = type === null || type === UNKNOWN_EVENT ? undefined : this.#types.get(type);
    const read = schema === undefined ? null : this.#bodyOf(body);
    if (schema === undefined || read === null) return NOTHING_FILLED;
    this.#read = read;
    return { fillRate: schema.fillRate(read.value) };
  }

  /** Parses a body, unless {@link preview} has just done it. */
  #bodyOf(body: Uint8Array): ReadBody | null {
    if (this.#read?.body === body) return this.#read;
    try {
      const text = textToRead(body);
      return { body, text, value: JSON.parse(text) };
    } catch {
      // Ingest checks all bodies. If one gets past it all the same, its frame is worth more than its statistics.
      return null;
    }
  }

  /** 32 hexadecimal digits: the same for all bodies of one shape. Values and the order of keys do not matter. */
  fingerprint(body: Uint8Array): string {
    return fingerprintOf(JSON.parse(textToRead(body)));
  }

  /** The text of a body for a reader of few words: long strings, arrays and byte arrays lose their ends. */
  excerpt(body: Uint8Array): string {
    return textToShow(body);
  }

  #newSchema(type: string): TypeSchema {
    return new TypeSchema({
      type,
      drifts: type !== UNKNOWN_EVENT,
      takeRoom: () => this.#takeRoom(),
      giveRoom: (fields) => {
        this.#fields -= fields;
      },
      onDrift: (kind, field) => this.#onDrift(type, kind, field),
      onSkipped: () => {
        this.#counters.schema_skipped_fields_total += 1;
      },
    });
  }

  #addType(type: string): TypeSchema {
    if (this.#types.size >= TYPES_MAX) this.#dropLeast();
    const schema = this.#newSchema(type);
    this.#types.set(type, schema);
    return schema;
  }

  #takeRoom(): boolean {
    while (this.#fields >= FIELDS_MAX) if (!this.#dropLeast()) return false;
    this.#fields += 1;
    return true;
  }

  /**
   * Drops the type with the fewest events; among equals, the one whose last event is oldest. So a flood of invented types
   * drops its own types, and not those that are known well.
   * @returns false: there is no type to drop.
   */
  #dropLeast(): boolean {
    let least: TypeSchema | null = null;
    for (const schema of this.#types.values()) {
      if (schema === this.#learning) continue;
      const fewer = least === null || schema.events < least.events;
      if (fewer || (schema.events === least?.events && schema.lastUs < least.lastUs)) least = schema;
    }
    if (least === null) return false;
    this.#types.delete(least.type);
    this.#fields -= least.fields.length;
    this.#writer?.changed(least.type);
    this.#counters.schema_dropped_types_total += 1;
    return true;
  }

  #onDrift(type: string, kind: DriftKind, field: Field): void {
    this.#counters[DRIFT_COUNTER[kind]] += 1;
    const at_us = this.#types.get(type)?.lastUs ?? 0;
    this.#drift.push({ kind, type, path: pathOf(field), at_us });
    if (this.#drift.length > DRIFT_MAX) this.#drift.shift();
  }

  /** The names of the known types, in the order in which they first came. */
  types(): string[] {
    return [...this.#types.keys()];
  }

  /** The JSON text of a type's schema, plain or as JSON Schema; null: the type is not known. */
  show(type: string, format: "plain" | "jsonschema", o: { readonly dialect: boolean }): string | null {
    const schema = this.#types.get(type);
    if (schema === undefined) return null;
    return format === "plain" ? schemaJson(schema) : jsonSchemaText(schema, o.dialect);
  }

  /** The value of `$schema` in the JSON Schemas of this gateway. */
  readonly dialect = JSON_SCHEMA_DIALECT;

  /** The `limit` types with the most events, with all their fields. */
  shown(limit: number): ShownType[] {
    return [...this.#types.values()]
      .sort((a, b) => b.events - a.events)
      .slice(0, limit)
      .map(shownType);
  }

  /** The `limit` types with the most events and those named in `also`, without the unknown type. */
  mostFrequent(limit: number, also: readonly string[]): KnownType[] {
    const named = new Set(also);
    return [...this.#types.values()]
      .filter(({ type }) => type !== UNKNOWN_EVENT)
      .sort((a, b) => b.events - a.events)
      .filter(({ type }, index) => index < limit || named.has(type))
      .map(knownType);
  }

  /** For the Snapshot. */
  get counters(): Readonly<Record<string, number>> {
    return this.#counters;
  }

  get gauges(): Readonly<Record<string, number>> {
    return { schema_types: this.#types.size, schema_fields: this.#fields };
  }

  /** The last DRIFT_MAX changes, the newest last. */
  get drift(): readonly Drift[] {
    return this.#drift;
  }

  /** Writes everything that is not written yet. */
  [Symbol.dispose](): void {
    this.#writer?.[Symbol.dispose]();
  }
}

const NOTHING_FILLED = { fillRate: 0 };
const DRIFT_COUNTER = {
  new_field: "schema_new_fields_total",
  type_change: "schema_type_changes_total",
  gone: "schema_gone_fields_total",
} as const;
