/** The texts of the hashes by which frames name intents, types and models. Part of the journal. */

import type { Database } from "bun:sqlite";
import { type PreparedStatement, prepare } from "./file.ts";
import type { Label } from "./rows.ts";
import type { Transactions } from "./transactions.ts";

export class Labels {
  readonly #transactions: Transactions;
  readonly #all: PreparedStatement;
  readonly #insert: PreparedStatement;

  constructor(database: Database, transactions: Transactions) {
    this.#transactions = transactions;
    this.#all = prepare(database, "SELECT kind, id, label, dim FROM labels ORDER BY kind, id");
    this.#insert = prepare(
      database,
      "INSERT OR IGNORE INTO labels(kind, id, label, dim) VALUES (?, ?, ?, ?)",
    );
  }

  all(): Label[] {
    const rows = this.#transactions.reading(() => this.#all.all());
    return rows.map((row) => ({
      kind: row.kind as Label["kind"],
      id: row.id as number,
      label: row.label as string,
      dim: row.dim as number,
    }));
  }

  add(labels: readonly Label[]): void {
    if (labels.length === 0) return;
    this.#transactions.change("add labels", () => {
      for (const { kind, id, label, dim } of labels) this.#insert.run(kind, id, label, dim);
    });
  }
}
