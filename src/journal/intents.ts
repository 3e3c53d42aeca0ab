/**
 * The labelled examples of intents, and what the LLM said of texts: small tables of the journal that are not
 * pruned with events. Part of the journal. How many rows there may be is the caller's bound.
 */
import type { Database } from "bun:sqlite";
import { type PreparedStatement, prepare } from "./file.ts";
import type { Transactions } from "./transactions.ts";

/** Also for journals that were made before there were any. */
export const INTENTS_SCHEMA_SQL = `
  CREATE TABLE IF NOT EXISTS intent_examples(label TEXT NOT NULL, position INTEGER NOT NULL, text TEXT NOT NULL,
    model TEXT, vector BLOB, PRIMARY KEY(label, position)) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS remembered_answers(key BLOB PRIMARY KEY, said INTEGER NOT NULL, answer TEXT NOT NULL)
    WITHOUT ROWID;`;

export interface StoredExample {
  readonly label: string;
  readonly position: number;
  readonly text: string;
  /** Whose vector it is; null where there is none yet. */
  readonly model: string | null;
  readonly vector: Float32Array | null;
}

export interface RememberedRow {
  /** 16 bytes. */
  readonly key: Uint8Array;
  /** Grows from one answer to the next. */
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

  /** The examples of one label with what is known of their vectors. */
  of(label: string): StoredExample[] {
    return this.#examples.all(label).map(({ position, text, model, vector }) => {
      const bytes = vector as Uint8Array | null;
      return {
        label,
        position: position as number,
        text: text as string,
        model: model as string | null,
        // A copy: SQLite's bytes need not begin where floats may.
        vector: bytes === null ? null : new Float32Array(bytes.slice().buffer),
      };
    });
  }

  /** The label's examples are these from now on; none: the label is gone. */
  replace(label: string, texts: readonly string[]): void {
    this.#transactions.change("write examples", () => {
      this.#clear.run(label);
      texts.forEach((text, position) => {
        this.#insert.run(label, position, text);
      });
    });
  }

  /** Keeps vectors beside the examples that still are what they were made of. */
  setVectors(model: string, examples: readonly StoredExample[]): void {
    this.#transactions.change("write examples' vectors", () => {
      for (const { label, position, text, vector } of examples) {
        if (vector === null) continue;
        const bytes = new Uint8Array(vector.buffer, vector.byteOffset, vector.byteLength);
        this.#setVector.run(model, bytes, label, position, text);
      }
    });
  }

  /** In the order in which they were said. */
  answers(): RememberedRow[] {
    return this.#answers.all().map(({ key, said, answer }) => ({
      key: key as Uint8Array,
      said: said as number,
      answer: answer as string,
    }));
  }

  changeAnswers(put: readonly RememberedRow[], dropped: readonly Uint8Array[]): void {
    this.#transactions.change("remember answers", () => {
      for (const key of dropped) this.#dropAnswer.run(key);
      for (const { key, said, answer } of put) this.#putAnswer.run(key, said, answer);
    });
  }
}
