/** The file `<ring path>.json`, which has the texts of intent, type and model ids: its writer and its reader. */
import {
  closeSync,
  constants,
  fchmodSync,
  openSync,
  readFileSync,
  renameSync,
  statSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import { O_CLOEXEC } from "../native/libc.ts";
import type { RingLabels } from "./contract.ts";
import { asFailure } from "./failures.ts";
import { asidePath } from "./found.ts";

const LABELS_BYTES_MAX = 64 * 1024 * 1024;

/**
 * Replaces the file beside the ring at `ringPath`.
 * @param mode permission bits, as 0o600
 * @throws GatewayError `ring_failed`
 */
export function writeLabels(ringPath: string, mode: number, labels: RingLabels): void {
  const path = `${ringPath}.json`;
  const aside = asidePath(path);
  const { intents, types, models } = labels;
  try {
    const { O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;
    const fd = openSync(aside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o600);
    try {
      fchmodSync(fd, mode);
      const bytes = new TextEncoder().encode(`${JSON.stringify({ intents, types, models })}\n`);
      for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done);
      renameSync(aside, path);
    } catch (error) {
      unlinkSync(aside);
      throw error;
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    throw asFailure("write labels", path, error);
  }
}

/** The texts of ids. The file is read if an id is unknown and the file has changed. */
export class LabelsBeside {
  readonly #path: string;
  readonly #intents = new Map<number, string>();
  readonly #types = new Map<number, string>();
  readonly #models = new Map<number, { name: string; dim: number | null }>();
  #seen = "";

  constructor(ringPath: string) {
    this.#path = `${ringPath}.json`;
  }

  intent(id: number): string | null {
    return id < 0 ? null : this.#find(this.#intents, id);
  }

  /** null if the label is not known, or the event has no type. */
  type(id: number): string | null {
    return id < 0 ? null : this.#find(this.#types, id);
  }

  model(id: number): { name: string; dim: number | null } | null {
    return this.#find(this.#models, id);
  }

  #find<Text>(known: ReadonlyMap<number, Text>, id: number): Text | null {
    const text = known.get(id);
    if (text !== undefined || !this.#refresh()) return text ?? null;
    return known.get(id) ?? null;
  }

  /** Labels are a convenience: a file that cannot be read or understood leaves frames without them. */
  #refresh(): boolean {
    try {
      const stat = statSync(this.#path, { bigint: true });
      const seen = `${stat.dev} ${stat.ino} ${stat.mtimeNs} ${stat.size}`;
      if (seen === this.#seen || !stat.isFile() || stat.size > LABELS_BYTES_MAX) return false;
      const content: unknown = JSON.parse(readFileSync(this.#path, "utf8"));
      this.#seen = seen;
      const text = (value: unknown): string | null => (typeof value === "string" ? value : null);
      take(this.#intents, content, "intents", text);
      take(this.#types, content, "types", text);
      take(this.#models, content, "models", (value) => {
        const { name, dim } = Object(value) as { name?: unknown; dim?: unknown };
        return typeof name === "string" ? { name, dim: typeof dim === "number" ? dim : null } : null;
      });
      return true;
    } catch {
      return false;
    }
  }
}

function take<Value>(
  into: Map<number, Value>,
  content: unknown,
  section: string,
  parse: (value: unknown) => Value | null,
): void {
  const entries = Object(Object(content)[section]) as Record<string, unknown>;
  for (const [key, value] of Object.entries(entries)) {
    const parsed = parse(value);
    if (parsed !== null && /^\d{1,10}$/.test(key)) into.set(Number(key), parsed);
  }
}
