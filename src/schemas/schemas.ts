/**
 * What the traffic looks like: for each event type the fields that its bodies have, learned from the events
 * themselves, how often each is filled, and what has changed.
 *
 * `observe` is called once an event, in the order in which frames are decided, and costs microseconds; what it
 * answers depends on nothing but the events before. What was learned is kept in the journal's table `schemas`, a few
 * seconds late: a kill loses those seconds, so that counts are approximate after it, and nothing else.
 */
import { messageOf } from "../errors.ts";
import { UNKNOWN_EVENT } from "../frame.ts";
import type { SmallTable } from "../journal/journal.ts";
import type { Log } from "../log.ts";
import { type DriftKind, type Field, TypeSchema } from "./learn.ts";
import { packed, restore } from "./pack.ts";
import { fingerprintOf, type JsonObject, textToRead } from "./read.ts";
import {
  fieldsInOrder,
  JSON_SCHEMA_DIALECT,
  jsonSchemaText,
  pathOf,
  type ShownField,
  schemaJson,
  shownField,
} from "./show.ts";

export type { DriftKind } from "./learn.ts";
export type { ShownField } from "./show.ts";

/** Types that are remembered, and fields of all of them together (about 300 bytes each). */
const TYPES_MAX = 1000;
const FIELDS_MAX = 20_000;
/** What was learned is written so long after it, and so much of it at a time. */
const WRITE_DELAY_MS = 5000;
const WRITE_BYTES_MAX = 256 * 1024;
/** Changes that the Snapshot tells. */
const DRIFT_MAX = 20;

/** A change in what a type's events look like. */
export interface Drift {
  readonly kind: DriftKind;
  readonly type: string;
  readonly path: string;
  /** When the event that showed it was received, Unix µs. */
  readonly at_us: number;
}

export interface SchemasOptions {
  /** Where what was learned is kept; null: nowhere. */
  readonly table: SmallTable | null;
  readonly log: Log;
}

/** One type, as chat needs to know it. */
export interface KnownType {
  readonly type: string;
  readonly events: number;
  readonly fields: readonly ShownField[];
}

/** One type, as a list of them shows it. */
export interface ShownType {
  readonly type: string;
  readonly events: number;
  /** Unix µs of receipt. */
  readonly first_seen_us: number;
  readonly last_seen_us: number;
  readonly fields: readonly ShownField[];
  /** JSON: a sample by path, of the fields that have one; null where none has. */
  readonly sample: string | null;
}

export class Schemas implements Disposable {
  readonly #o: SchemasOptions;
  readonly #types = new Map<string, TypeSchema>();
  #fields = 0;
  /** The schema that learns now: room is never made by dropping it. */
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
  /** Types of which the table lacks something, the longest waiting first; dropped ones are among them. */
  readonly #unwritten = new Set<string>();
  #timer: Timer | null = null;

  /** Reads what was kept. @throws GatewayError journal_failed */
  constructor(options: SchemasOptions) {
    this.#o = options;
    for (const { key, value } of options.table?.all() ?? []) this.#restore(key, value);
  }

  #restore(type: string, text: string): void {
    const schema = this.#newSchema(type);
    const room = this.#types.size < TYPES_MAX;
    if (room && restore(schema, text) && this.#fields + schema.fields.length <= FIELDS_MAX) {
      this.#types.set(type, schema);
      this.#fields += schema.fields.length;
      return;
    }
    this.#o.log(
      "warn",
      `schemas: what was kept of ${JSON.stringify(type)} cannot be used; it is learned anew`,
    );
    this.#unwritten.add(type);
  }

  /**
   * Learns from one event of a type; null where the type is not known.
   * @param body one JSON object, checked.
   * @param receivedUs Unix µs.
   * @returns the share, 0 to 1, of the type's expected fields that this event fills: an expected field was filled
   *   (with something other than null, "" and empty brackets) by at least 1 % of the type's newest 4,096 to 8,192
   *   events before this one, and has not stopped coming. 0 where there is none, and for events of unknown type.
   */
  observe(type: string | null, body: Uint8Array, receivedUs: number): { readonly fillRate: number } {
    this.#counters.schema_events_total += 1;
    const name = type ?? UNKNOWN_EVENT;
    let text: string;
    let value: JsonObject;
    try {
      text = textToRead(body);
      value = JSON.parse(text);
    } catch {
      // Bodies are checked where they come in; should one get past that, its frame is worth more than its statistics.
      this.#counters.schema_unread_events_total += 1;
      return NOTHING_FILLED;
    }
    const schema = this.#types.get(name) ?? this.#addType(name);
    this.#learning = schema;
    const fillRate = schema.observe(value, text, receivedUs);
    this.#learning = null;
    this.#unwritten.add(name);
    this.#schedule();
    return name === UNKNOWN_EVENT ? NOTHING_FILLED : { fillRate };
  }

  /** The same for bodies of the same shape, whatever their values and the order of their keys; 32 hexadecimal digits. */
  fingerprint(body: Uint8Array): string {
    return fingerprintOf(JSON.parse(textToRead(body)));
  }

  // ------------------------------------------------------------------------------------------- room

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
   * Drops the type with the fewest events, of these the one that was not seen for longest: a flood of made-up types
   * drops itself, and not what is known well.
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
    this.#unwritten.add(least.type);
    this.#counters.schema_dropped_types_total += 1;
    return true;
  }

  #onDrift(type: string, kind: DriftKind, field: Field): void {
    this.#counters[DRIFT_COUNTER[kind]] += 1;
    const at_us = this.#types.get(type)?.lastUs ?? 0;
    this.#drift.push({ kind, type, path: pathOf(field), at_us });
    if (this.#drift.length > DRIFT_MAX) this.#drift.shift();
  }

  // ------------------------------------------------------------------------------------------ showing

  /** Names of the types that are known, in the order in which they came. */
  types(): string[] {
    return [...this.#types.keys()];
  }

  /** The JSON text of one type's schema, or its JSON Schema; null where the type is not known. */
  show(type: string, format: "plain" | "jsonschema", o: { readonly dialect: boolean }): string | null {
    const schema = this.#types.get(type);
    if (schema === undefined) return null;
    return format === "plain" ? schemaJson(schema) : jsonSchemaText(schema, o.dialect);
  }

  /** What JSON Schema's `$schema` says here. */
  readonly dialect = JSON_SCHEMA_DIALECT;

  /** The types with the most events, at most `limit`, with all of their fields. */
  shown(limit: number): ShownType[] {
    return [...this.#types.values()]
      .sort((a, b) => b.events - a.events)
      .slice(0, limit)
      .map((schema) => {
        const fields = [...fieldsInOrder(schema.root)];
        const samples = fields.filter(({ sample }) => sample !== null);
        return {
          type: schema.type,
          events: schema.events,
          first_seen_us: schema.firstUs,
          last_seen_us: schema.lastUs,
          fields: fields.map((field) => shownField(schema, field)),
          sample:
            samples.length === 0
              ? null
              : `{${samples.map((field) => `${JSON.stringify(pathOf(field))}:${field.sample}`).join(",")}}`,
        };
      });
  }

  /** The types with the most events, at most `limit`, and those of `also`; the unknown type is none. */
  mostFrequent(limit: number, also: readonly string[]): KnownType[] {
    const named = new Set(also);
    return [...this.#types.values()]
      .filter(({ type }) => type !== UNKNOWN_EVENT)
      .sort((a, b) => b.events - a.events)
      .filter(({ type }, index) => index < limit || named.has(type))
      .map((schema) => ({
        type: schema.type,
        events: schema.events,
        fields: [...fieldsInOrder(schema.root)]
          .filter((field) => field.expected)
          .map((field) => shownField(schema, field)),
      }));
  }

  /** For the Snapshot. */
  get counters(): Readonly<Record<string, number>> {
    return this.#counters;
  }

  get gauges(): Readonly<Record<string, number>> {
    return { schema_types: this.#types.size, schema_fields: this.#fields };
  }

  /** The newest changes, the newest last. */
  get drift(): readonly Drift[] {
    return this.#drift;
  }

  // ------------------------------------------------------------------------------------------ keeping

  #schedule(): void {
    if (this.#o.table === null || this.#timer !== null) return;
    this.#timer = setTimeout(() => {
      this.#timer = null;
      this.#write(WRITE_BYTES_MAX);
      if (this.#unwritten.size > 0) this.#schedule();
    }, WRITE_DELAY_MS);
    this.#timer.unref();
  }

  /** Writes what has waited longest, about `bytesMax`, in one commit. */
  #write(bytesMax: number): void {
    const { table, log } = this.#o;
    if (table === null || this.#unwritten.size === 0) return;
    const rows: { key: string; value: string | null }[] = [];
    for (let bytes = 0; bytes < bytesMax; ) {
      const [type] = this.#unwritten;
      if (type === undefined) break;
      this.#unwritten.delete(type);
      const schema = this.#types.get(type);
      const value = schema === undefined ? null : packed(schema);
      rows.push({ key: type, value });
      bytes += type.length + (value?.length ?? 0);
    }
    try {
      table.write(rows);
    } catch (error) {
      // Statistics that cannot be written now are written later; events are not held up by them.
      this.#counters.schema_write_failures_total += 1;
      log("warn", `schemas: ${messageOf(error)}; trying again`);
      for (const { key } of rows) this.#unwritten.add(key);
    }
  }

  /** Writes all that was learned. */
  [Symbol.dispose](): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#write(Number.POSITIVE_INFINITY);
  }
}

const NOTHING_FILLED = { fillRate: 0 };
const DRIFT_COUNTER = {
  new_field: "schema_new_fields_total",
  type_change: "schema_type_changes_total",
  gone: "schema_gone_fields_total",
} as const;
