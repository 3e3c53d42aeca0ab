/**
 * Compares the journal with what DuckDB, the ring and the journal's last acknowledgement say, before anything is
 * acknowledged. SQLite silently ignores the end of a damaged WAL, and an older copy of the journal looks like any other. New
 * events would then get numbers that others already have.
 */
import { statSync } from "node:fs";
import { ringEnd } from "../../collider.ts";
import type { Config } from "../config/config.ts";
import type { Journal, JournalCursors } from "../journal/journal.ts";
import type { Log } from "../log.ts";
import type { Store } from "../store/store.ts";
import type { Home } from "./home.ts";

/** The setting with the stamp of the database at the last clean stop. */
const STORE_LEFT = "store.left";
/**
 * If it is unknown how many numbers were given, so many are skipped: far more than a journal ever holds beyond DuckDB.
 */
const SKIPPED = 1_000_000;
/** Events that one question to DuckDB names, at most what it answers. */
const ASKED_EVENTS = 256;

export interface CompareOptions {
  readonly config: Pick<Config, "dbPath" | "ringPath">;
  readonly home: Pick<Home, "databasePath">;
  readonly journal: Journal;
  readonly log: Log;
  readonly openStore: () => Promise<Store>;
}

/**
 * Makes sure that the journal's next numbers are new. DuckDB must be opened for that first, unless it is as the last clean
 * stop left it.
 * @returns the store if it had to be opened; null: it is not open yet.
 * @throws GatewayError if DuckDB cannot be opened, or the journal cannot be written.
 */
export async function compareStore(o: CompareOptions): Promise<Store | null> {
  const { config, home, journal } = o;
  if (config.dbPath === null) return null;
  const ring = ringEnd(config.ringPath);
  const ringFrameId = ring?.journalId === journal.journalId ? ring.frameId : 0;
  const elsewhere = highest(journal.acknowledged ?? NOTHING, { ...NOTHING, frameId: ringFrameId });
  const stamp = stampOf(home.databasePath);
  const asLeft = stamp === null || stamp === journal.meta(STORE_LEFT);
  if (asLeft && !isBehind(journal.heads(), elsewhere)) return null;
  if (stamp === null) {
    mend(o, { stored: NOTHING, elsewhere });
    return null;
  }
  if (!asLeft)
    o.log(
      "info",
      "DuckDB's files are not as a clean stop left them: comparing the journal with DuckDB before listening",
    );
  const store = await o.openStore();
  const stored = store.cursors;
  if (!isBehind(journal.heads(), highest(stored, elsewhere))) return store;
  await handOver(journal, store);
  mend(o, { stored, elsewhere });
  return store;
}

/** Notes how a clean stop leaves the database, so that the next start need not open it first. */
export function noteStoreLeft({
  config,
  home,
  journal,
}: Pick<CompareOptions, "config" | "home" | "journal">): void {
  if (config.dbPath !== null) journal.setMeta(STORE_LEFT, stampOf(home.databasePath) ?? "");
}

const NOTHING: JournalCursors = { seq: 0, frameId: 0, answerId: 0 };

function highest(a: JournalCursors, b: JournalCursors): JournalCursors {
  return {
    seq: Math.max(a.seq, b.seq),
    frameId: Math.max(a.frameId, b.frameId),
    answerId: Math.max(a.answerId, b.answerId),
  };
}

function isBehind(a: JournalCursors, b: JournalCursors): boolean {
  return a.seq < b.seq || a.frameId < b.frameId || a.answerId < b.answerId;
}

/** Differs after every change of the database. null: there is none. The files are only looked up by name, never opened. */
function stampOf(databasePath: string): string | null {
  const stampOfFile = (path: string): string | null => {
    const stat = statSync(path, { throwIfNoEntry: false });
    return stat === undefined ? null : `${stat.ino} ${stat.size} ${stat.mtimeMs}`;
  };
  const file = stampOfFile(databasePath);
  return file === null ? null : `${file}, ${stampOfFile(`${databasePath}.wal`) ?? "no WAL"}`;
}

/**
 * Stores what the journal still has, and removes the events that DuckDB holds with their frames: the journal has forgotten
 * those frames, so the events would get a second one.
 */
async function handOver(journal: Journal, store: Store): Promise<void> {
  const { seq, answerId } = journal.heads();
  store.head(seq);
  store.updates(answerId);
  await store.flush(seq);
  await store.checkpoint();
  for (let after = 0; ; ) {
    const seqs = journal.unframedAfter(after, ASKED_EVENTS).map((event) => event.seq);
    const last = seqs.at(-1);
    if (last === undefined) return;
    const { rows } = await store.decided({ seqs });
    if (rows.length > 0) journal.forget(rows.map((row) => row.seq));
    after = last;
  }
}

/** Raises the journal's numbers above all that are known, and says what is missing. */
function mend(
  { journal, log }: CompareOptions,
  { stored, elsewhere }: { stored: JournalCursors; elsewhere: JournalCursors },
): void {
  const heads = journal.heads();
  const kept = highest(heads, stored);
  const known = highest(kept, elsewhere);
  const { acknowledged } = journal;
  const exact = acknowledged?.exact === true && !isBehind(acknowledged, highest(stored, elsewhere));
  const skipped = exact ? 0 : SKIPPED;
  const next = { ...known, seq: known.seq + skipped, frameId: known.frameId + skipped };
  const lostEvents = Math.max(0, known.seq - kept.seq);
  const parts = [
    `journal ${journal.path} is behind: it ends at event ${heads.seq} and frame ${heads.frameId}, ` +
      `but event ${known.seq} and frame ${known.frameId} existed`,
    "its WAL was lost or damaged, or an older copy was put back",
  ];
  if (stored.seq > heads.seq) parts.push(`DuckDB holds events up to ${stored.seq}`);
  if (lostEvents > 0) parts.push(`events ${kept.seq + 1} to ${known.seq} are lost: send them again`);
  if (!exact) parts.push("whether later ones are lost is unknown");
  parts.push(`events that follow begin at ${next.seq + 1}, frames at ${next.frameId + 1}`);
  const why = parts.join("; ");
  journal.raise(next, { lostEvents, why });
  log("error", why);
}
