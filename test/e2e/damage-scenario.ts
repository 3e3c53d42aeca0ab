/**
 * The damage scenario: the gateway is killed under load, its files are damaged while it is down, and it is started again.
 * What is acknowledged after that must be kept, no number may get a second meaning, and what cannot be mended must be
 * refused by name, the same way each time.
 */
import { Database } from "bun:sqlite";
import {
  copyFileSync,
  existsSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { apiFrames, duckRows, Gateway, type seededRandom, TempFolder } from "./gateway.ts";

export const DAMAGES = [
  "the journal's WAL is removed",
  "the journal's WAL is cut",
  "a bit of the journal's WAL is flipped",
  "an older journal is put back",
  "an older journal is put back with its WAL",
  "DuckDB's WAL is removed",
  "the file with the last acknowledgement is removed, and the journal's WAL",
  "a page of the journal is zeroed",
  "a page of DuckDB is zeroed",
] as const;
type Damage = (typeof DAMAGES)[number];

type Random = ReturnType<typeof seededRandom>;

export interface DamageReport {
  readonly violations: string[];
  readonly acknowledged: number;
  readonly refused: number;
  readonly said: number;
}

interface Home {
  readonly folder: TempFolder;
  readonly db: string;
  /** The event of each seq that was ever acknowledged here. */
  readonly eventOf: Map<number, number>;
  /** The event of each frame that was ever seen here. */
  readonly frameOf: Map<number, number>;
  /** Acknowledged since the last damage. */
  recent: Map<number, number>;
}

const PAGE_BYTES = 4096;
/** Rounds in one folder. */
const FOLDER_ROUNDS = 20;

function newHome(): Home {
  const folder = new TempFolder();
  const db = folder.file("events.duckdb");
  return { folder, db, eventOf: new Map(), frameOf: new Map(), recent: new Map() };
}

/** Changes the files of a gateway that is down. @returns whether there was anything to damage. */
function damage(db: string, kind: Damage, random: Random): boolean {
  const wal = `${db}.journal-wal`;
  const size = (path: string): number => statSync(path, { throwIfNoEntry: false })?.size ?? 0;
  const zeroPage = (path: string): boolean => {
    const pages = Math.floor(size(path) / PAGE_BYTES);
    if (pages < 2) return false;
    const bytes = readFileSync(path);
    const at = PAGE_BYTES * (1 + random.below(pages - 1));
    writeFileSync(path, bytes.fill(0, at, at + PAGE_BYTES));
    return true;
  };
  switch (kind) {
    case "the file with the last acknowledgement is removed, and the journal's WAL":
    case "the journal's WAL is removed":
      if (kind !== "the journal's WAL is removed") rmSync(`${db}.heads`, { force: true });
      for (const suffix of ["-wal", "-shm"]) rmSync(`${db}.journal${suffix}`, { force: true });
      return true;
    case "the journal's WAL is cut":
      if (size(wal) > 0) truncateSync(wal, random.below(size(wal)));
      return size(wal) > 0;
    case "a bit of the journal's WAL is flipped": {
      if (size(wal) === 0) return false;
      const bytes = readFileSync(wal);
      const at = random.below(bytes.length);
      bytes[at] = (bytes[at] as number) ^ (1 << random.below(8));
      writeFileSync(wal, bytes);
      return true;
    }
    case "an older journal is put back":
    case "an older journal is put back with its WAL":
      if (!existsSync(`${db}.copy`)) return false;
      for (const suffix of ["-wal", "-shm"]) rmSync(`${db}.journal${suffix}`, { force: true });
      copyFileSync(`${db}.copy`, `${db}.journal`);
      if (kind !== "an older journal is put back" && existsSync(`${db}.copy-wal`))
        copyFileSync(`${db}.copy-wal`, wal);
      return true;
    case "DuckDB's WAL is removed":
      rmSync(`${db}.wal`, { force: true });
      return true;
    case "a page of the journal is zeroed":
      return zeroPage(`${db}.journal`);
    case "a page of DuckDB is zeroed":
      return zeroPage(db);
  }
}

function copyJournal(db: string): void {
  for (const suffix of ["", "-wal"]) {
    rmSync(`${db}.copy${suffix}`, { force: true });
    if (existsSync(`${db}.journal${suffix}`)) copyFileSync(`${db}.journal${suffix}`, `${db}.copy${suffix}`);
  }
}

/** The bodies of the events in a journal that is down, by seq. Reads around damaged pages. */
function readableEvents(path: string): Map<number, string> {
  const bodies = new Map<number, string>();
  try {
    using journal = new Database(path, { readonly: true });
    const statement = journal.prepare(
      "SELECT seq, CAST(body AS TEXT) FROM events WHERE seq >= ? AND seq <= ?",
    );
    const read = (low: number, high: number): void => {
      try {
        for (const [seq, body] of statement.values(low, high)) bodies.set(Number(seq), String(body));
      } catch {
        if (low >= high) return;
        const middle = low + Math.floor((high - low) / 2);
        read(low, middle);
        read(middle + 1, high);
      }
    };
    const [[newest] = []] = journal.prepare("SELECT seq FROM sqlite_sequence WHERE name = 'events'").values();
    read(1, Number(newest ?? 0));
  } catch {
    // No row of it can be read.
  }
  return bodies;
}

/** The events that DuckDB or the journal holds after a stop: n by seq. A file that cannot be read holds nothing. */
async function keptEvents(db: string): Promise<Map<number, number>> {
  const kept = new Map<number, number>();
  const take = (seq: unknown, body: unknown): void => {
    const n = /^\{"n":(\d+),.*\}$/.exec(String(body))?.[1];
    // What is not whole was damaged.
    if (n !== undefined) kept.set(Number(seq), Number(n));
  };
  const rows = await duckRows(db, "SELECT seq, payload FROM events").catch(() => []);
  for (const row of rows) take(row.seq, row.payload);
  for (const [seq, body] of readableEvents(`${db}.journal`)) take(seq, body);
  return kept;
}

export async function damageScenario(o: {
  readonly binary: string;
  readonly rounds: number;
  readonly random: Random;
  readonly say?: (line: string) => void;
}): Promise<DamageReport> {
  const { random, rounds } = o;
  const violations: string[] = [];
  let [acknowledged, refused, said, sent] = [0, 0, 0, 0];
  let home = newHome();
  const start = async (): Promise<Gateway | string> => {
    const gateway = Gateway.launch(home.folder, { args: ["--db-path", home.db], binary: o.binary });
    try {
      await gateway.listening();
      return gateway;
    } catch {
      await gateway.exited();
      return gateway.log.trim().split("\n").at(-1) ?? "";
    }
  };
  const leave = (): void => {
    home.folder[Symbol.dispose]();
    home = newHome();
  };
  const post = async (gateway: Gateway, stopped: () => boolean, what: string): Promise<void> => {
    while (!stopped()) {
      const n = sent++;
      try {
        const response = await gateway.post({ n, type: "Damage", message: `mensagem ${n}` });
        const { seq } = (await response.json()) as { seq?: number };
        if (response.status !== 200 || seq === undefined) continue;
        acknowledged += 1;
        const before = home.eventOf.get(seq);
        if (before !== undefined) violations.push(`${what}: seq ${seq} was event ${before}, then ${n}`);
        home.eventOf.set(seq, n);
        home.recent.set(seq, n);
      } catch {
        return;
      }
    }
  };
  const look = async (gateway: Gateway, what: string): Promise<void> => {
    const frames = await apiFrames(gateway).catch(() => []);
    for (const frame of frames) {
      const view = new DataView(frame.buffer, frame.byteOffset);
      const id = Number(view.getBigUint64(8, true));
      const seq = Number(view.getBigUint64(4192, true));
      const before = home.frameOf.get(id);
      if (before !== undefined && before !== seq)
        violations.push(`${what}: frame ${id} was of event ${before}, then ${seq}`);
      home.frameOf.set(id, seq);
    }
  };
  let what = "no damage yet";
  for (let round = 0; round < rounds; round++) {
    const gateway = await start();
    if (typeof gateway === "string") {
      refused += 1;
      if (!/^one_file_gateway: \w+: .+; .+/.test(gateway)) violations.push(`${what}: ended with ${gateway}`);
      const again = await start();
      if (typeof again !== "string") await again.kill();
      leave();
      what = "a new folder";
      continue;
    }
    if (gateway.log.includes("is behind")) said += 1;
    let stopped = false;
    const clients = Array.from({ length: 4 }, () => post(gateway, () => stopped, what));
    await Bun.sleep(150 + random.below(500));
    await look(gateway, what);
    const clean = random.below(3) === 0;
    stopped = clean;
    if (clean) {
      await Promise.all(clients);
      await gateway.stop();
    } else {
      await gateway.kill();
      stopped = true;
      await Promise.all(clients);
    }
    const kept = await keptEvents(home.db);
    const lost = [...home.recent].filter(([seq, n]) => kept.get(seq) !== n);
    if (lost.length > 0) violations.push(`${what}: ${lost.length} lost, the first is seq ${lost[0]?.[0]}`);
    home.recent = new Map();
    // A look reads every frame of a folder, so that no folder becomes too old.
    if (round % FOLDER_ROUNDS === FOLDER_ROUNDS - 1) {
      leave();
      what = "a new folder";
      continue;
    }
    const kind = DAMAGES[random.below(DAMAGES.length)] as Damage;
    const copies = random.below(2) === 0;
    const damaged = damage(home.db, kind, random);
    what = damaged ? `round ${round}, ${clean ? "stopped" : "killed"}, ${kind}` : "no damage";
    o.say?.(what);
    if (copies && !/page/.test(what)) copyJournal(home.db);
  }
  home.folder[Symbol.dispose]();
  return { violations, acknowledged, refused, said };
}
