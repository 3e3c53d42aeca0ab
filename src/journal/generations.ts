/**
 * The generations in which the three logs are kept: one in a kept journal, several in a temporary one, of which the
 * oldest is emptied when there is no more room. Part of the journal.
 */

import type { Database } from "bun:sqlite";
import { GENERATION_SUFFIXES, Inserter, type JournalKind, type PreparedStatement, prepare } from "./file.ts";
import { ANSWER_READ, EVENT_COLUMNS, FRAME_READ } from "./rows.ts";

/** The tables of one generation. */
export class Generation {
  /** The first seq that is, or would be, in it. */
  firstSeq = 1;
  /** Takes the values of EVENT_COLUMNS, FRAME_READ and ANSWER_READ. */
  readonly insertEvents: Inserter;
  readonly insertFrames: Inserter;
  readonly insertAnswers: Inserter;
  readonly suffix: string;
  readonly #database: Database;
  readonly #statements = new Map<string, PreparedStatement>();

  constructor(database: Database, suffix: string) {
    this.#database = database;
    this.suffix = suffix;
    this.insertEvents = new Inserter(database, `INSERT INTO events${suffix}(${EVENT_COLUMNS})`, 10);
    this.insertFrames = new Inserter(database, `INSERT INTO frames${suffix}(${FRAME_READ})`, 8);
    this.insertAnswers = new Inserter(database, `INSERT INTO answers${suffix}(${ANSWER_READ})`, 8);
  }

  /** `sql` with `{events}`, `{frames}` and `{answers}` as the tables of this generation, prepared once. */
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
  /** Oldest first. New events go to the last. */
  readonly #generations: Generation[];

  constructor(database: Database, kind: JournalKind) {
    this.#generations = GENERATION_SUFFIXES[kind].map((suffix) => new Generation(database, suffix));
  }

  /** Oldest first. */
  get all(): readonly Generation[] {
    return this.#generations;
  }

  /** The generation that takes the new events. */
  get current(): Generation {
    const generation = this.#generations.at(-1);
    if (generation === undefined) throw new Error("journal: no generation");
    return generation;
  }

  /** The generation that event `seq` is in, or was never in any. */
  of(seq: number): Generation | undefined {
    return this.#generations.findLast((generation) => seq >= generation.firstSeq);
  }

  /** Rows of all generations, the oldest generation's first. */
  each<T>(read: (generation: Generation) => T[]): T[] {
    return this.#generations.flatMap(read);
  }

  /** Deletes everything of the oldest generation. */
  emptyOldest(): void {
    // Without WHERE, SQLite frees whole pages without a look at the rows.
    for (const name of ["events", "frames", "answers"])
      this.#generations[0]?.query(`DELETE FROM {${name}}`).run();
  }

  /**
   * The oldest generation, emptied by now, takes the events from `firstSeq` on.
   * @returns it, and the first event that is still there.
   */
  rotate(firstSeq: number): { emptied: Generation; oldestSeq: number } {
    const [oldest, next] = this.#generations;
    if (oldest === undefined || next === undefined) throw new Error("journal: there is only one generation");
    oldest.firstSeq = firstSeq;
    this.#generations.push(...this.#generations.splice(0, 1));
    return { emptied: oldest, oldestSeq: next.firstSeq };
  }
}
