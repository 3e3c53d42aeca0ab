/**
 * The labelled examples of intents, and remembered replies of the language model about texts. These small tables of the
 * journal are not pruned with events; the caller bounds their rows. Part of the journal.
 */
import type { Database } from "bun:sqlite";
import { type PreparedStatement, prepare } from "./file.ts";
import type { Transactions } from "./transactions.ts";

/** Run at each start, because older journals lack these tables. */
export const INTENTS_SCHEMA_SQL = `
  CREATE TABLE IF NOT EXISTS intent_examples(label TEXT NOT NULL, position INTEGER NOT NULL, text TEXT NOT NULL,
    model TEXT, vector BLOB, PRIMARY KEY(label, position)) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS remembered_answers(key BLOB PRIMARY KEY, said INTEGER NOT NULL, answer TEXT NOT NULL)
    WITHOUT ROWID;`;

export interface StoredExample {
  readonly label: string;
  readonly position: number;
  readonly text: string;
  /** The embedder that computed the vector; null if there is no vector yet. */
  readonly model: string | null;
  readonly vector: Float32Array | null;
}

export interface RememberedRow {
  /** 16 bytes. */
  readonly key: Uint8Array;
  /** Higher for a later reply. */
  readonly said: number;
  readonly answer: string;
}

export class IntentRows {
  readonly #transactions: Transactions;
  readonly #labels: PreparedStatement;
  readonly #examples: PreparedStatement;
  readonly #clear: PreparedStatement;
  readonly #insert: PreparedStatement;
  readonly #setVector: PreparedStatement;
  readonly #answers: PreparedStatement;
  readonly #putAnswer: PreparedStatement;
  readonly #dropAnswer: PreparedStatement;

  constructor(database: Database, transactions: Transactions) {
    database.run(INTENTS_SCHEMA_SQL);
    this.#transactions = transactions;
    this.#labels = prepare(database, "SELECT label, text FROM intent_examples ORDER BY label, position");
    this.#examples = prepare(
      database,
      "SELECT position, text, model, vector FROM intent_examples WHERE label = ? ORDER BY position",
    );
    this.#clear = prepare(database, "DELETE FROM intent_examples WHERE label = ?");
    this.#insert = prepare(database, "INSERT INTO intent_examples(label, position, text) VALUES (?, ?, ?)");
    this.#setVector = prepare(
      database,
      "UPDATE intent_examples SET model = ?, vector = ? WHERE label = ? AND position = ? AND text = ?",
    );
    this.#answers = prepare(database, "SELECT key, said, answer FROM remembered_answers ORDER BY said");
    this.#putAnswer = prepare(
      database,
      `INSERT INTO remembered_answers(key, said, answer) VALUES (?, ?, ?)
       ON CONFLICT(key) DO UPDATE SET said = excluded.said, answer = excluded.answer`,
    );
    this.#dropAnswer = prepare(database, "DELETE FROM remembered_answers WHERE key = ?");
  }

  /** Every label with its texts, without vectors, in the order of labels. */
  texts(): { label: string; text: string }[] {
    return this.#labels.all().map(({ label, text }) => ({ label: label as string, text: text as string }));
  }

  /** The examples of one label, with the vectors that are known. */
  of(label: string): StoredExample[] {
    return this.#examples.all(label).map(({ position, text, model, vector }) => {
      const bytes = vector as Uint8Array | null;
      return {
        label,
        position: position as number,
        text: text as string,
        model: model as string | null,
        // Copied, because SQLite's bytes may not be aligned for floats.
        vector: bytes === null ? null : new Float32Array(bytes.slice().buffer),
      };
    });
  }

  /** Replaces the examples of a label. With no texts the label is removed. */
  replace(label: string, texts: readonly string[]): void {
    this.#transactions.change("write examples", () => {
      this.#clear.run(label);
      texts.forEach((text, position) => {
        this.#insert.run(label, position, text);
      });
    });
  }

  /** Stores the vectors of examples whose text has not changed. */
  setVectors(model: string, examples: readonly StoredExample[]): void {
    this.#transactions.change("write the vectors of examples", () => {
      for (const { label, position, text, vector } of examples) {
        if (vector === null) continue;
        const bytes = new Uint8Array(vector.buffer, vector.byteOffset, vector.byteLength);
        this.#setVector.run(model, bytes, label, position, text);
      }
    });
  }

  /** All remembered replies, oldest first. */
  answers(): RememberedRow[] {
    return this.#answers.all().map(({ key, said, answer }) => ({
      key: key as Uint8Array,
      said: said as number,
      answer: answer as string,
    }));
  }

  /** Stores replies and removes those with the keys in `dropped`, in one commit. */
  changeAnswers(put: readonly RememberedRow[], dropped: readonly Uint8Array[]): void {
    this.#transactions.change("remember replies", () => {
      for (const key of dropped) this.#dropAnswer.run(key);
      for (const { key, said, answer } of put) this.#putAnswer.run(key, said, answer);
    });
  }
}
