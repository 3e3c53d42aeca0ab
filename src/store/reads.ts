/**
 * The queue of the reading connection: one query at a time, in order of arrival, each with a deadline. If the writing connection must
 * do something while no query runs, it takes its turn in the same queue. Part of the store's Worker.
 */

import type { Clock } from "../clock.ts";
import { GatewayError } from "../errors.ts";
import { type duckdb, failureOf } from "./database.ts";

/** @bound a query of DuckDB | 503 */
const READ_MS_MAX = 10_000;
/** @bound reads that wait for DuckDB | 503 */
const READS_MAX = 256;

export class Reads {
  readonly #clock: Clock;
  /** The database file, for errors. */
  readonly #path: string;
  /** null while the database is closed: reads are refused. */
  #connection: duckdb.DuckDBConnection | null = null;
  /** Resolves after everything that is queued; never rejects. */
  #last: Promise<unknown> = Promise.resolve();
  #waiting = 0;

  constructor(o: { clock: Clock; path: string }) {
    this.#clock = o.clock;
    this.#path = o.path;
  }

  open(connection: duckdb.DuckDBConnection): void {
    this.#connection = connection;
  }

  /** Runs a query when its turn comes. @throws GatewayError store_unavailable, overloaded */
  run<T>(work: (connection: duckdb.DuckDBConnection) => Promise<T>): Promise<T> {
    if (this.#waiting >= READS_MAX) {
      return Promise.reject(this.#refusal("overloaded", `${READS_MAX} reads are waiting already`));
    }
    this.#waiting++;
    return this.exclusive(() => {
      this.#waiting--;
      return this.#bounded(work);
    });
  }

  /** Runs `work` while no query runs; queries that come meanwhile wait behind it. */
  exclusive<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#last.then(work);
    this.#last = turn.catch(() => {});
    return turn;
  }

  async #bounded<T>(work: (connection: duckdb.DuckDBConnection) => Promise<T>): Promise<T> {
    const connection = this.#connection;
    if (connection === null) throw this.#refusal("store_unavailable", "the database is being reopened");
    let late = false;
    using _deadline = this.#clock.after(READ_MS_MAX, () => {
      late = true;
      connection.interrupt();
    });
    try {
      return await work(connection);
    } catch (thrown) {
      if (!late) throw failureOf(thrown, this.#path);
      throw this.#refusal("store_unavailable", `the query took more than ${READ_MS_MAX / 1000} s`);
    }
  }

  /** Ends the running read, refuses those that wait and those to come, and resolves when the connection is free. */
  async interrupt(): Promise<void> {
    const connection = this.#connection;
    this.#connection = null;
    connection?.interrupt();
    await this.#last;
  }

  /** Lets what is queued finish, then refuses reads. */
  async stop(): Promise<void> {
    await this.#last;
    this.#connection = null;
  }

  #refusal(code: "overloaded" | "store_unavailable", detail: string): GatewayError {
    return new GatewayError({ code, operation: "store: read", object: this.#path, detail });
  }
}
