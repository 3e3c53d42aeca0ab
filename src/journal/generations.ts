/**
 * The generations of the three logs. A kept journal has one. A temporary journal has several and empties the oldest when
 * it needs room. Part of the journal.
 */

import type { Database } from "bun:sqlite";
import { GENERATION_SUFFIXES, Inserter, type JournalKind, type PreparedStatement, prepare } from "./file.ts";
import { EVENT_COLUMNS, FRAME_READ, UPDATE_READ } from "./rows.ts";

/** The tables of one generation. */
export class Generation {
  /** The lowest seq that can be in this generation. */
  firstSeq = 1;
  /** They take the values of EVENT_COLUMNS, FRAME_READ and UPDATE_READ, in this order. */
  readonly insertEvents: Inserter;
  readonly insertFrames: Inserter;
  readonly insertUpdates: Inserter;
  readonly suffix: string;
  readonly #database: Database;
  readonly #statements = new Map<string, PreparedStatement>();

  constructor(database: Database, suffix: string) {
    this.#database = database;
    this.suffix = suffix;
    this.insertEvents = new Inserter(database, `INSERT INTO events${suffix}(${EVENT_COLUMNS})`, 11);
    this.insertFrames = new Inserter(database, `INSERT INTO frames${suffix}(${FRAME_READ})`, 9);
    this.insertUpdates = new Inserter(database, `INSERT INTO answers${suffix}(${UPDATE_READ})`, 9);
  }

  /** Prepares `sql` once, with this generation's tables in place of `{events}`, `{frames}` and `{answers}`. */
  query(sql: string): PreparedStatement {
    let statement = this.#statements.get(sql);
    if (statement === undefined) {
      statement = prepare(this.#database, sql.replace(/\{(\w+)\}/g, `$1${this.suffix}`));
      this.#statements.set(sql, statement);
    }
    return statement;
  }
}

export class Generations {
  /** Oldest first. New events go to the last one. */
  readonly #generations: Generation[];

  constructor(database: Database, kind: JournalKind) {
    this.#generations = GENERATION_SUFFIXES[kind].map((suffix) => new Generation(database, suffix));
  }

  /** Oldest first. */
  get all(): readonly Generation[] {
    return this.#generations;
  }

  /** The generation that takes new events. */
  get current(): Generation {
    const generation = this.#generations.at(-1);
    if (generation === undefined) throw new Error("journal: no generation");
    return generation;
  }

  /** The generation that holds event `seq`; undefined if that generation was emptied. */
  of(seq: number): Generation | undefined {
    return this.#generations.findLast((generation) => seq >= generation.firstSeq);
  }

  /** What `read` returns for each generation, in one array, oldest generation first. */
  each<T>(read: (generation: Generation) => T[]): T[] {
    return this.#generations.flatMap(read);
  }

  /** Deletes all rows of the oldest generation. */
  emptyOldest(): void {
    // Without WHERE, SQLite frees whole pages and does not visit the rows.
    for (const name of ["events", "frames", "answers"])
      this.#generations[0]?.query(`DELETE FROM {${name}}`).run();
  }

  /**
   * Makes the oldest generation, which must be empty, the one that takes events, from `firstSeq` on.
   * @returns that generation, and the first event that is still in the journal.
   */
  rotate(firstSeq: number): { emptied: Generation; oldestSeq: number } {
    const [oldest, next] = this.#generations;
    if (oldest === undefined || next === undefined) throw new Error("journal: there is only one generation");
    oldest.firstSeq = firstSeq;
    this.#generations.push(...this.#generations.splice(0, 1));
    return { emptied: oldest, oldestSeq: next.firstSeq };
  }
}
