/** The file `<ring path>.json`, which has the texts of intent, type and model ids: its writer and its reader. */
import {
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  openSync,
  readFileSync,
  renameSync,
  statSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import { messageOf } from "../errors.ts";
import { O_CLOEXEC } from "../native/libc.ts";
import type { RingLabels } from "./contract.ts";
import { errorCode, ringFailed } from "./failures.ts";
import { asidePath, isAt, isOurs, statOf } from "./found.ts";

const LABELS_BYTES_MAX = 64 * 1024 * 1024;

const NO_LABELS: RingLabels = { intents: {}, types: {}, models: {} };

/** Which file it is, so that its writer notices another one in its place. */
export interface FileIdentity {
  readonly device: bigint;
  readonly inode: bigint;
}

/**
 * Replaces the file beside the ring at `ringPath`.
 * @param mode permission bits, as 0o600
 * @returns the file that is at the path now
 * @throws GatewayError `ring_failed`
 */
export function writeLabels(ringPath: string, mode: number, labels: RingLabels): FileIdentity {
  const { intents, types, models } = labels;
  const text = `${JSON.stringify({ intents, types, models })}\n`;
  return replaceFile(`${ringPath}.json`, mode, new TextEncoder().encode(text));
}

/**
 * Shows that the file beside the ring can be replaced, by replacing it: a file of this user by its own content, anything
 * else by no labels. Call it before the first event is accepted.
 * @throws GatewayError `ring_failed` if the file cannot be replaced
 */
export function claimLabels({ path, mode }: { path: string; mode: number }): void {
  const own = ownContent(`${path}.json`);
  if (own === null) writeLabels(path, mode, NO_LABELS);
  else replaceFile(`${path}.json`, mode, own);
}

function replaceFile(path: string, mode: number, bytes: Uint8Array): FileIdentity {
  const aside = asidePath(path);
  try {
    const { O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;
    const fd = openSync(aside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o600);
    try {
      fchmodSync(fd, mode);
      for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done);
      renameSync(aside, path);
      const { dev, ino } = fstatSync(fd, { bigint: true });
      return { device: dev, inode: ino };
    } catch (error) {
      unlinkSync(aside);
      throw error;
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    const hint = "remove what is there, make its folder writable, or pass another --ring-path";
    throw ringFailed("replace labels", path, whyNotReplaced(path, error), hint, error);
  }
}

/** Why a file could not be replaced, in words. */
function whyNotReplaced(path: string, error: unknown): string {
  const found = statOf(path);
  if (found?.isDirectory()) return "is a folder";
  const code = errorCode(error);
  if (found !== null && (code === "EPERM" || code === "EACCES") && !isOurs(found)) {
    return `belongs to user ${found.uid}, and this user may not replace it`;
  }
  return messageOf(error);
}

/** The bytes of a regular file of this user; null for anything else, whose content need not be labels. */
function ownContent(path: string): Uint8Array | null {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK | O_CLOEXEC);
  } catch {
    return null;
  }
  try {
    const stat = fstatSync(fd, { bigint: true });
    return stat.isFile() && isOurs(stat) && stat.size <= LABELS_BYTES_MAX ? readFileSync(fd) : null;
  } finally {
    closeSync(fd);
  }
}

/** Whether the path still leads to this file. */
export function isInPlace(ringPath: string, { device, inode }: FileIdentity): boolean {
  return isAt(`${ringPath}.json`, { dev: device, ino: inode });
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
      const content: unknown = JSON.parse(readWithoutWaiting(this.#path));
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

/** Reads a file. A named pipe that has just taken its place must not make the reader wait for ever. */
function readWithoutWaiting(path: string): string {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | O_CLOEXEC);
  try {
    return readFileSync(fd, "utf8");
  } finally {
    closeSync(fd);
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
