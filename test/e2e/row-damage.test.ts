/** Pages of the journal are damaged while the gateway is down: what is not damaged goes on, and nothing is ever wrong. */
import { Database } from "bun:sqlite";
import { expect, setDefaultTimeout, test } from "bun:test";
import { copyFileSync, existsSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { apiFrames, duckRows, Gateway, seededRandom, TempFolder, until } from "./gateway.ts";

// These tests start processes, which is slow on a busy machine.
setDefaultTimeout(300_000);

const LONG = process.env.LONG === "1";
const ROUNDS = LONG ? 200 : 10;
const EVENTS = 300;
const PAGE_BYTES = 4096;

type Random = ReturnType<typeof seededRandom>;

const bodyOf = (n: number): string =>
  JSON.stringify({ n, type: "Damage", message: `mensagem ${n} ${"longa ".repeat(n % 60)}` });

/** Zeroes a page of a file, or changes bytes of it. @returns what was done. */
function damagePage(path: string, random: Random): string {
  const bytes = readFileSync(path);
  const page = random.below(Math.max(1, Math.floor(bytes.length / PAGE_BYTES)));
  const at = page * PAGE_BYTES;
  const zeroed = random.below(2) === 0;
  if (zeroed) bytes.fill(0, at, at + PAGE_BYTES);
  else for (let n = 0; n < 20; n++) bytes[at + random.below(PAGE_BYTES)] = random.below(256);
  writeFileSync(path, bytes);
  return `page ${page} of ${path} was ${zeroed ? "zeroed" : "changed"}`;
}

/** Moves the journal's WAL into the journal, as SQLite does from time to time. */
function checkpoint(path: string): void {
  const journal = new Database(path);
  journal.run("PRAGMA wal_checkpoint(TRUNCATE)");
  journal.close(true);
}

/** The whole rows of the events that can still be read in a copy of the journal, by seq. */
function readableEvents(path: string, seqs: Iterable<number>): Map<number, string> {
  const copy = `${path}.read`;
  for (const suffix of ["", "-wal"])
    if (existsSync(path + suffix)) copyFileSync(path + suffix, copy + suffix);
  const found = new Map<number, string>();
  try {
    using journal = new Database(copy);
    const statement = journal.prepare("SELECT *, typeof(body), CAST(body AS TEXT) FROM events WHERE seq = ?");
    for (const seq of seqs) {
      try {
        const [row] = statement.values(seq);
        if (row !== undefined) found.set(seq, JSON.stringify(row));
      } catch {
        // It is on the damaged page.
      }
    }
  } catch {
    // Nothing can be read.
  }
  for (const suffix of ["", "-wal", "-shm"]) rmSync(copy + suffix, { force: true });
  return found;
}

interface Outcome {
  readonly faults: string[];
  readonly refused: boolean;
  readonly damagedRows: number;
}

async function round(random: Random): Promise<Outcome & { readonly what: string }> {
  using folder = new TempFolder();
  const db = folder.file("events.duckdb");
  const bodies = new Map<number, string>();
  {
    await using gateway = await Gateway.start(folder, { args: ["--db-path", db] });
    for (let n = 0; n < EVENTS; n += 50) {
      const lines = Array.from({ length: 50 }, (_, index) => bodyOf(n + index));
      const answer = await gateway.postLines(lines.join("\n"));
      const { first_seq: first } = (await answer.json()) as { first_seq?: number };
      lines.forEach((line, index) => {
        bodies.set((first ?? n + 1) + index, line);
      });
    }
    await (random.below(3) === 0 ? gateway.stop() : gateway.kill());
  }
  // So that the journal, not DuckDB, must say what there was.
  if (random.below(2) === 0) for (const suffix of ["", ".wal"]) rmSync(db + suffix, { force: true });
  const journal = `${db}.journal`;
  if (random.below(3) > 0) checkpoint(journal);
  const inWal =
    (statSync(`${journal}-wal`, { throwIfNoEntry: false })?.size ?? 0) > 0 && random.below(2) === 0;
  const before = readableEvents(journal, bodies.keys());
  const what = damagePage(inWal ? `${journal}-wal` : journal, random);
  const after = readableEvents(journal, bodies.keys());
  const readable = new Set([...after.keys()].filter((seq) => after.get(seq) === before.get(seq)));
  return { what, ...(await restarted(folder, db, { bodies, readable })) };
}

async function restarted(
  folder: TempFolder,
  db: string,
  { bodies, readable }: { bodies: Map<number, string>; readable: Set<number> },
): Promise<Outcome> {
  const faults: string[] = [];
  await using gateway = Gateway.launch(folder, { args: ["--db-path", db] });
  try {
    await gateway.listening();
  } catch {
    const code = await gateway.exited();
    const last = gateway.log.trim().split("\n").at(-1) ?? "";
    if (code !== 1 || !/^one_file_gateway: .+; .+/.test(last))
      faults.push(`ended with ${code}: ${gateway.log}`);
    return { faults, refused: true, damagedRows: 0 };
  }
  const extra = bodyOf(1_000_000);
  const answer = await gateway.post(extra);
  const { seq } = (await answer.json()) as { seq?: number };
  if (answer.status === 200 && seq !== undefined) {
    if (bodies.get(seq) !== undefined) faults.push(`seq ${seq} was given twice`);
    bodies.set(seq, extra);
    readable.add(seq);
  }
  try {
    await until(
      "everything is framed and stored, or the gateway ended",
      async () => {
        if (gateway.process.exitCode !== null) return true;
        const metrics = await gateway.metrics();
        return metrics.gateway_unframed_events === 0 && metrics.gateway_store_lag_events === 0;
      },
      30_000,
    );
  } catch (error) {
    const state = JSON.stringify(await gateway.json("/ready"));
    const waiting = JSON.stringify(await gateway.metrics());
    return {
      faults: [`${String(error)}; ${state} ${waiting}: ${gateway.log}`],
      refused: false,
      damagedRows: 0,
    };
  }
  const damagedRows = (await gateway.metrics()).gateway_journal_damaged_rows_total ?? 0;
  const ready = await gateway.json<{ parts: { journal: { state: string; detail: string } } }>("/ready");
  if (damagedRows > 0 && !/damaged/.test(JSON.stringify(ready)))
    faults.push(`/ready: ${JSON.stringify(ready)}`);
  const ids = new Map<number, number>();
  for (const frame of await apiFrames(gateway)) {
    const view = new DataView(frame.buffer, frame.byteOffset);
    const of = Number(view.getBigUint64(4192, true));
    if (of === 0) continue;
    if (!bodies.has(of)) faults.push(`a frame of event ${of}, which never was`);
    // A journal that lost the row of a frame, and not its event, decides again, with a new number.
    if (ids.has(of) && !gateway.log.includes("is behind")) faults.push(`event ${of} has two frames`);
    ids.set(of, Number(view.getBigUint64(8, true)));
  }
  const code = await gateway.stop();
  if (code !== 0) faults.push(`stopped with ${code}: ${gateway.log}`);
  if (/uncaught|unhandled|\n\s+at .+:\d+/i.test(gateway.log)) faults.push(gateway.log);
  const stored = await duckRows(db, "SELECT seq, payload FROM events");
  const storedSeqs = new Set(stored.map((row) => Number(row.seq)));
  for (const row of stored)
    if (bodies.get(Number(row.seq)) !== row.payload) faults.push(`seq ${row.seq} holds ${row.payload}`);
  for (const at of readable)
    if (!storedSeqs.has(at)) faults.push(`event ${at} was readable but is not stored`);
  return { faults, refused: false, damagedRows };
}

test(
  `${ROUNDS} damaged pages of the journal give no wrong row and no crash, and what is readable is stored`,
  async () => {
    const random = seededRandom("row damage");
    const faults: string[] = [];
    let [refused, damaged] = [0, 0];
    for (let index = 0; index < ROUNDS; index++) {
      const outcome = await round(random);
      faults.push(...outcome.faults.map((fault) => `round ${index}, ${outcome.what}: ${fault}`));
      if (outcome.refused) refused += 1;
      else if (outcome.damagedRows > 0) damaged += 1;
    }
    console.log(`row damage: ${refused} refused, ${damaged} went on with damaged rows`);
    expect(faults.slice(0, 5)).toEqual([]);
  },
  LONG ? 3_600_000 : 300_000,
);

test("texts that are odd but valid are stored, and none of them counts as damaged", async () => {
  using folder = new TempFolder();
  const db = folder.file("events.duckdb");
  await using gateway = await Gateway.start(folder, { args: ["--db-path", db] });
  const odd = [
    '\ufeff{"message":"a byte order mark before it"}',
    '  {"message":"white space around it"} \r\n',
    String.raw`{"message":"half a pair \ud83d", "id":"\udc00", "type":"\u0000", "conversation_id":"\u0000"}`,
    '{"message":"olá ☕ 𝄞 e\u0301", "timestamp":0.1, "id":""}',
    '{"message":null, "idempotency_key":"\u2028", "type":"null", "id":"null"}',
    `{"message":"${"🙂".repeat(50_000)}"}`,
  ];
  for (const body of odd) expect((await gateway.post(body)).status).toBe(200);
  await until(
    "all are stored",
    async () =>
      (await gateway.metrics()).gateway_unframed_events === 0 &&
      (await gateway.metrics()).gateway_store_lag_events === 0,
  );
  expect((await gateway.metrics()).gateway_journal_damaged_rows_total).toBe(0);
  expect(await gateway.stop()).toBe(0);
  const [stored] = await duckRows(db, "SELECT count(*) AS count FROM events");
  expect(Number(stored?.count)).toBe(odd.length);
});
