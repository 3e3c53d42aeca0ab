/** The learned schemas as the dashboard lists them, with their rates. Part of the dashboard. */

import type { Drift, ShownType } from "../schemas/schemas.ts";
import type { SchemaView } from "../tui/model.ts";
import { prettyJson } from "./json.ts";

/** They are made again after so long: a thousand types are some milliseconds of work. */
const REFRESH_US = 1_000_000;
/** The most frequent are listed. */
const TYPES_MAX = 200;
const RATE_SECONDS = 60;
const DRIFTS_MAX = 5;
const SAMPLE_LINES_MAX = 200;

export interface SchemaSource {
  /** The most frequent types. */
  shown(limit: number): readonly ShownType[];
  /** What changed lately, newest last. */
  readonly drift: readonly Drift[];
}

const DRIFT_WORDS = { new_field: "new field", type_change: "another type", gone: "stopped coming" } as const;

export class SchemaList {
  readonly #source: SchemaSource;
  /** Of the newest RATE_SECONDS refreshes, oldest first: when, and how many events each type had. */
  #counted: { readonly atUs: number; readonly events: ReadonlyMap<string, number> }[] = [];
  #views: readonly SchemaView[] = [];
  #madeUs = Number.NEGATIVE_INFINITY;

  constructor(source: SchemaSource) {
    this.#source = source;
  }

  views(nowUs: number): readonly SchemaView[] {
    if (nowUs - this.#madeUs < REFRESH_US) return this.#views;
    this.#madeUs = nowUs;
    const types = this.#source.shown(TYPES_MAX);
    const events = new Map(types.map(({ type, events }) => [type, events]));
    this.#counted = [...this.#counted.slice(1 - RATE_SECONDS), { atUs: nowUs, events }];
    const { drift } = this.#source;
    this.#views = types.map((type) => ({
      name: type.type,
      events: type.events,
      perMinute: this.#perMinute(type.type, nowUs),
      firstSeenUs: type.first_seen_us,
      lastSeenUs: type.last_seen_us,
      fields: type.fields.map(({ path, types: jsonTypes, fill_rate, drift: changed }) => ({
        path,
        types: jsonTypes,
        fillRate: fill_rate,
        drift: changed === null ? null : DRIFT_WORDS[changed],
      })),
      drift: drift
        .filter((change) => change.type === type.type)
        .slice(-DRIFTS_MAX)
        .reverse()
        .map(({ kind, path }) => `${path}: ${DRIFT_WORDS[kind]}`),
      sample: type.sample === null ? null : prettyJson(type.sample, SAMPLE_LINES_MAX).join("\n"),
    }));
    return this.#views;
  }

  /** Null until it was counted twice. */
  #perMinute(type: string, nowUs: number): number | null {
    const oldest = this.#counted.find(({ events }) => events.has(type));
    const then = oldest?.events.get(type);
    const now = this.#counted.at(-1)?.events.get(type);
    if (oldest === undefined || then === undefined || now === undefined || oldest.atUs >= nowUs) return null;
    return ((now - then) * 60e6) / (nowUs - oldest.atUs);
  }
}
