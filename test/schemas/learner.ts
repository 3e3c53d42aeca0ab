/** Shared by the tests of the schemas: a learner that takes JSON. */
import { type Clock, systemClock } from "../../src/clock.ts";
import type { SmallTable } from "../../src/journal/journal.ts";
import type { Log } from "../../src/log.ts";
import { Schemas } from "../../src/schemas/schemas.ts";

export const SEED = Number(process.env.FC_SEED ?? Date.now() % 2 ** 31);
console.log(`FC_SEED=${SEED}`);

export const encode = (text: string): Uint8Array => new TextEncoder().encode(text);
export const bytesOf = (body: unknown): Uint8Array =>
  encode(typeof body === "string" ? body : JSON.stringify(body));

export interface Shown {
  type: string;
  events: number;
  expected_fields: number;
  drift: Record<string, number>;
  fields: {
    path: string;
    types: string[];
    fill_rate: number;
    first_seen_us: number;
    last_seen_us: number;
    drift: string | null;
    sample: unknown;
  }[];
}

export class Learner {
  readonly schemas: Schemas;
  readonly logged: string[] = [];
  #us = 0;

  constructor(table: SmallTable | null = null, clock: Clock = systemClock) {
    const log: Log = (level, message) => this.logged.push(`${level} ${message}`);
    this.schemas = new Schemas({ table, log, clock });
  }

  /** Learns from events, one per body. @returns their fill rates. */
  see(type: string | null, ...bodies: unknown[]): number[] {
    return bodies.map((body) => this.schemas.observe(type, bytesOf(body), ++this.#us).fillRate);
  }

  repeat(times: number, type: string, body: (n: number) => unknown): void {
    for (let n = 0; n < times; n++) this.see(type, body(n));
  }

  shown(type: string): Shown {
    const text = this.schemas.show(type, "plain", { dialect: true });
    if (text === null) throw new Error(`there is no schema of ${type}`);
    return JSON.parse(text);
  }

  paths(type: string): string[] {
    return this.shown(type).fields.map(({ path }) => path);
  }

  field(type: string, path: string): Shown["fields"][number] {
    const field = this.shown(type).fields.find((one) => one.path === path);
    if (field === undefined) throw new Error(`${type} has no ${path}, but ${this.paths(type).join(", ")}`);
    return field;
  }

  drift(): string[] {
    return this.schemas.drift.map(({ kind, type, path }) => `${kind} ${type} ${path}`);
  }

  counter(name: string): number {
    const value = this.schemas.counters[name];
    if (value === undefined) throw new Error(`there is no counter ${name}`);
    return value;
  }
}
