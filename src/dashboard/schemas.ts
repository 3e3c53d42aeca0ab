/** The learned schemas as the dashboard lists them, with their rates. */

import type { Drift, ShownType } from "../schemas/schemas.ts";
import type { SchemaView } from "../tui/model.ts";
import { prettyJson } from "./json.ts";

/** The list is rebuilt at most this often: a thousand types take some milliseconds. */
const REFRESH_MS = 1000;
/** @bound schemas listed | the less frequent types are left out */
const TYPES_MAX = 200;
const RATE_SECONDS = 60;
/** @bound changes of a schema | older ones are left out */
const CHANGES_MAX = 5;
/** @bound the sample of a schema | it is cut */
const SAMPLE_LINES_MAX = 200;

export interface SchemaSource {
  /** The most frequent types. */
  shown(limit: number): readonly ShownType[];
  /** Recent changes, newest last. */
  readonly drift: readonly Drift[];
}

const DRIFT_TEXT = { new_field: "new field", type_change: "type changed", gone: "no longer sent" } as const;

export class SchemaList {
  readonly #source: SchemaSource;
  /** The newest RATE_SECONDS refreshes, oldest first: their time, and how many events each type had. */
  #counted: { readonly atMs: number; readonly events: ReadonlyMap<string, number> }[] = [];
  #views: readonly SchemaView[] = [];
  #builtMs = Number.NEGATIVE_INFINITY;

  constructor(source: SchemaSource) {
    this.#source = source;
  }

  /** @param nowMs by the monotonic clock. */
  views(nowMs: number): readonly SchemaView[] {
    if (nowMs - this.#builtMs < REFRESH_MS) return this.#views;
    this.#builtMs = nowMs;
    const types = this.#source.shown(TYPES_MAX);
    const events = new Map(types.map(({ type, events }) => [type, events]));
    this.#counted = [...this.#counted.slice(1 - RATE_SECONDS), { atMs: nowMs, events }];
    const { drift } = this.#source;
    this.#views = types.map((type) => ({
      name: type.type,
      events: type.events,
      perMinute: this.#perMinute(type.type, nowMs),
      firstSeenUs: type.first_seen_us,
      lastSeenUs: type.last_seen_us,
      fields: type.fields.map(({ path, types: jsonTypes, fill_rate, drift: changed }) => ({
        path,
        types: jsonTypes,
        fillRate: fill_rate,
        drift: changed === null ? null : DRIFT_TEXT[changed],
      })),
      drift: drift
        .filter((change) => change.type === type.type)
        .slice(-CHANGES_MAX)
        .reverse()
        .map(({ kind, path }) => `${path}: ${DRIFT_TEXT[kind]}`),
      sample: type.sample === null ? null : prettyJson(type.sample, SAMPLE_LINES_MAX).join("\n"),
    }));
    return this.#views;
  }

  /** Null until the type was counted twice. */
  #perMinute(type: string, nowMs: number): number | null {
    const oldest = this.#counted.find(({ events }) => events.has(type));
    const then = oldest?.events.get(type);
    const now = this.#counted.at(-1)?.events.get(type);
    if (oldest === undefined || then === undefined || now === undefined || oldest.atMs >= nowMs) return null;
    return ((now - then) * 60_000) / (nowMs - oldest.atMs);
  }
}
