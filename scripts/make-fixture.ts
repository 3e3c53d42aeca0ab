/**
 * Writes the files that every later version must open: a database, its journal and its ring, once after a clean stop and
 * once after a SIGKILL that leaves rows above the last checkpoint.
 *
 *   bun scripts/make-fixture.ts test/fixtures/v1
 *
 * Run it once per version of a format, with that version's executable, and commit the result. It is never made again.
 */
import { copyFileSync, existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { apiFrames, Gateway, ringHead, TempFolder, until } from "../test/e2e/gateway.ts";

const CAPACITY = 16;

function events(from: number, count: number): Record<string, unknown>[] {
  return Array.from({ length: count }, (_, index) => {
    const n = from + index;
    if (n % 7 === 6) return { type: "OrderPaid", order: { number: n, total: 12.5 }, id: `order-${n}` };
    return {
      message: `mensagem número ${n}: ação, coração 👍`,
      conversation_id: `c${n % 4}`,
      type: n % 3 === 0 ? "UserMessage" : "AgentReply",
      idempotency_key: `key-${n}`,
      timestamp: 1_700_000_000 + 7 * n,
      ...(n % 2 === 0 ? { intent: n % 4 === 0 ? "CancelPlan" : "AskLimit", sentiment: n / 100 - 0.2 } : {}),
      ...(n % 5 === 0 ? { workflow_node: n, case_status: "open", lead_status: "hot", actor: "agent" } : {}),
    };
  });
}

async function make(target: string, killed: boolean): Promise<void> {
  using folder = new TempFolder();
  const db = folder.file("events.duckdb");
  const args = ["--db-path", db, "--ring-capacity", String(CAPACITY)];
  let gateway = await Gateway.start(folder, { args });
  const send = async (from: number, count: number): Promise<void> => {
    for (const event of events(from, count)) {
      const response = await gateway.post(event);
      if (response.status !== 200)
        throw new Error(`make-fixture: ${response.status} ${await response.text()}`);
    }
    const last = from + count;
    await until("framed", () => (ringHead(folder.ring)?.head ?? 0) === last + 1);
    await until("stored", async () => (await gateway.metrics()).gateway_store_lag_frames === 0);
  };
  await send(0, 25);
  await gateway.stop();
  gateway = await Gateway.start(folder, { args });
  await send(25, 15);
  const frames = await apiFrames(gateway);
  await (killed ? gateway.kill() : gateway.stop());
  mkdirSync(target, { recursive: true });
  for (const suffix of ["", ".wal", ".journal", ".journal-wal"]) {
    if (existsSync(db + suffix)) copyFileSync(db + suffix, join(target, `events.duckdb${suffix}`));
  }
  for (const suffix of ["", ".json"]) copyFileSync(folder.ring + suffix, join(target, `ring${suffix}`));
  writeFileSync(join(target, "frames.bin"), Buffer.concat(frames));
  writeFileSync(
    join(target, "bodies.json"),
    JSON.stringify(events(0, 40).map((event) => JSON.stringify(event))),
  );
}

const [target] = process.argv.slice(2);
if (target === undefined) throw new Error("make-fixture: say where, as test/fixtures/v1");
rmSync(target, { recursive: true, force: true });
await make(join(target, "stopped"), false);
await make(join(target, "killed"), true);
