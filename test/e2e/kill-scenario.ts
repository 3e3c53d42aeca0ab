/**
 * The crash scenario: clients post, a follower reads the ring, and the gateway is killed at random instants and
 * started again. At the end the promises are checked against DuckDB, the ring and everything that the clients and the
 * follower saw.
 */
import { closeSync, existsSync, fstatSync, openSync, readSync, rmSync } from "node:fs";
import {
  apiFrames,
  duckRows,
  Gateway,
  ringFrames,
  ringHead,
  type seededRandom,
  TempFolder,
  until,
} from "./gateway.ts";

export interface ScenarioOptions {
  readonly binary: string;
  readonly rounds: number;
  readonly random: ReturnType<typeof seededRandom>;
  /** Ends at the first violation. For builds that are known to be wrong. */
  readonly stopEarly?: boolean;
}

export interface ScenarioReport {
  readonly violations: string[];
  readonly acknowledged: number;
  readonly framesSeen: number;
  readonly restarts: number;
  readonly readyMs: number[];
  readonly checkpointRounds: number;
  readonly refusals: number;
}

interface Sent {
  readonly n: number;
  readonly key: string | null;
  seq: number | null;
}

/** A frame's event, and a fingerprint of everything that may never change: all but sequence and refill flag. */
interface Meaning {
  readonly eventSeq: number;
  readonly fingerprint: bigint;
}

const REFILLED = 16;

function meaningOf(frame: Uint8Array): Meaning {
  const copy = frame.slice(8);
  const view = new DataView(copy.buffer);
  const flagsAt = 4202 - 8;
  view.setUint16(flagsAt, view.getUint16(flagsAt, true) & ~REFILLED, true);
  return { eventSeq: Number(view.getBigUint64(4192 - 8, true)), fingerprint: BigInt(Bun.hash(copy)) };
}

/** What one reader saw, across all kills. */
class Follower {
  readonly seen = new Map<number, Meaning>();
  readonly violations: string[] = [];
  #stop = false;
  readonly #done: Promise<void>;

  constructor(path: string) {
    this.#done = this.#follow(path);
  }

  async #follow(path: string): Promise<void> {
    const header = new Uint8Array(64);
    const frame = new Uint8Array(4224);
    const view = new DataView(frame.buffer);
    let position = 1;
    while (!this.#stop) {
      let descriptor: number;
      try {
        descriptor = openSync(path, "r");
      } catch {
        await Bun.sleep(2);
        continue;
      }
      try {
        const inode = fstatSync(descriptor).ino;
        while (!this.#stop) {
          readSync(descriptor, header, 0, 64, 0);
          const head = ringOf(header);
          if (head === null || head.state === 3 || !existsSync(path)) break;
          position = Math.max(position, head.tail);
          for (; position < head.head; position++) {
            const at = 64 + (position % head.capacity) * 4224;
            readSync(descriptor, frame, 0, 4224, at);
            const first = view.getBigUint64(0, true);
            const whole = BigInt(2 * (Math.floor(position / head.capacity) + 1));
            const meaning = meaningOf(frame);
            const id = Number(view.getBigUint64(8, true));
            readSync(descriptor, frame, 0, 8, at);
            readSync(descriptor, header, 0, 64, 0);
            const now = ringOf(header);
            // The writer lapped this frame while it was read. A reader drops such a frame.
            if (
              first !== whole ||
              view.getBigUint64(0, true) !== whole ||
              now === null ||
              now.tail > position
            )
              continue;
            if (id !== position) this.violations.push(`slot of frame ${position} says ${id}`);
            const before = this.seen.get(position);
            if (before !== undefined && before.fingerprint !== meaning.fingerprint) {
              this.violations.push(`frame ${position} had two contents`);
            }
            this.seen.set(position, meaning);
          }
          await Bun.sleep(1);
          if (fstatSync(descriptor).nlink === 0 || fstatSync(descriptor).ino !== inode) break;
        }
      } finally {
        closeSync(descriptor);
      }
    }
  }

  async stop(): Promise<void> {
    this.#stop = true;
    await this.#done;
  }
}

function ringOf(header: Uint8Array): { capacity: number; head: number; tail: number; state: number } | null {
  const view = new DataView(header.buffer);
  if (view.getBigUint64(0, true) !== 0x5048595349435300n) return null;
  return {
    capacity: Number(view.getBigUint64(16, true)),
    head: Number(view.getBigUint64(24, true)),
    tail: Number(view.getBigUint64(32, true)),
    state: view.getUint32(60, true),
  };
}

export async function killScenario(options: ScenarioOptions): Promise<ScenarioReport> {
  const { random } = options;
  using folder = new TempFolder();
  const db = folder.file("events.duckdb");
  const sent: Sent[] = [];
  const violations: string[] = [];
  const readyMs: number[] = [];
  const follower = new Follower(folder.ring);
  let capacity = 2000;
  let refusals = 0;
  let checkpointRounds = 0;

  const args = (): string[] => [
    "--db-path",
    db,
    "--ring-capacity",
    String(capacity),
    // At half of this backlog the gateway checkpoints, and then prunes.
    "--max-backlog",
    "6000",
  ];

  const client = async (gateway: Gateway, stopped: () => boolean): Promise<void> => {
    while (!stopped()) {
      const n = sent.length;
      const keyed = n % 3 === 0;
      const entry: Sent = { n, key: keyed ? `k${n}` : null, seq: null };
      sent.push(entry);
      const batch = random.below(10) === 0;
      const body = {
        n,
        message: `mensagem número ${n}`,
        conversation_id: `c${n % 20}`,
        type: "Kill",
        ...(keyed ? { idempotency_key: entry.key } : {}),
      };
      try {
        const response = batch
          ? await gateway.postLines(`${JSON.stringify(body)}\n`)
          : await gateway.post(body);
        if (response.status === 503) {
          refusals += 1;
          await response.arrayBuffer();
          await Bun.sleep(20);
          continue;
        }
        const reply = (await response.json()) as { seq?: number; first_seq?: number };
        if (response.status !== 200)
          violations.push(`event ${n}: status ${response.status} ${JSON.stringify(reply)}`);
        entry.seq = reply.seq ?? reply.first_seq ?? null;
        // Paced, because otherwise the backlog fills at once and most kills hit a gateway that refuses events.
        await Bun.sleep(1);
      } catch {
        return;
      }
    }
  };

  /** Checks that a repeat of an acknowledged key gets the first seq, also after a kill. */
  const repeatKeys = async (gateway: Gateway): Promise<void> => {
    const keyed = sent.filter((entry) => entry.key !== null && entry.seq !== null);
    for (let tries = 0; tries < 5 && keyed.length > 0; tries++) {
      const entry = keyed[random.below(keyed.length)] as Sent;
      const response = await gateway.post({ n: entry.n, idempotency_key: entry.key });
      if (response.status === 503) continue;
      const reply = (await response.json()) as { seq: number; duplicate: boolean };
      if (!reply.duplicate || reply.seq !== entry.seq) {
        violations.push(`key ${entry.key} was event ${entry.seq}, its repeat ${JSON.stringify(reply)}`);
      }
    }
  };

  for (
    let round = 0;
    round < options.rounds &&
    (options.stopEarly !== true || violations.length + follower.violations.length === 0);
    round++
  ) {
    const kind = ["load", "load", "start", "checkpoint"][random.below(4)];
    if (random.below(3) === 0) rmSync(folder.ring, { force: true });
    if (random.below(3) === 0) capacity = [16, 500, 2000][random.below(3)] ?? 2000;
    const gateway = Gateway.launch(folder, { args: args(), binary: options.binary });
    if (kind === "start" && round > 0) {
      await Bun.sleep(random.below(400));
      await gateway.kill();
      continue;
    }
    await gateway.listening();
    readyMs.push(gateway.readyMs);
    let stopped = false;
    await repeatKeys(gateway);
    const clients = Array.from({ length: 8 }, () => client(gateway, () => stopped));
    if (kind === "checkpoint") {
      checkpointRounds += 1;
      await until(
        "rows were pruned, or the gateway ended",
        async () => ((await gateway.metrics()).gateway_pruned_events_total ?? 0) > 0,
        20_000,
      );
      await Bun.sleep(random.below(50));
    } else {
      await Bun.sleep(100 + random.below(900));
    }
    await gateway.kill();
    stopped = true;
    await Promise.all(clients);
  }

  // The last run is clean, so everything received gets its frame and its row.
  const last = await Gateway.start(folder, { args: args(), binary: options.binary });
  await repeatKeys(last);
  await until(
    "every received event is framed and stored",
    async () => {
      const metrics = await last.metrics();
      return (
        metrics.gateway_unframed_events === 0 &&
        metrics.gateway_store_lag_events === 0 &&
        metrics.gateway_store_lag_frames === 0
      );
    },
    60_000,
  );
  const frames = new Map<number, Meaning>();
  for (const frame of await apiFrames(last)) {
    frames.set(Number(new DataView(frame.buffer).getBigUint64(8, true)), meaningOf(frame));
  }
  await last.stop();
  await follower.stop();
  violations.push(...follower.violations);

  const events = await duckRows(db, "SELECT seq, payload FROM events ORDER BY seq");
  const seqsOf = new Map<number, number[]>();
  for (const row of events) {
    const { n } = JSON.parse(String(row.payload)) as { n: number };
    seqsOf.set(n, [...(seqsOf.get(n) ?? []), Number(row.seq)]);
  }
  for (const { n, seq } of sent) {
    const found = seqsOf.get(n) ?? [];
    if (found.length > 1) violations.push(`event ${n} is in DuckDB ${found.length} times: ${found}`);
    if (seq !== null && found[0] !== seq)
      violations.push(`event ${n} was acknowledged as ${seq}, DuckDB has ${found}`);
  }
  const enrichments = await duckRows(db, "SELECT frame_id, seq FROM enrichments ORDER BY frame_id");
  const eventOf = new Map(enrichments.map((row) => [Number(row.frame_id), Number(row.seq)]));
  enrichments.forEach((row, index) => {
    if (Number(row.frame_id) !== index + 1)
      violations.push(`frame ${index + 1} is missing or repeated in DuckDB`);
  });
  const framed = new Set(enrichments.map((row) => Number(row.seq)));
  if (framed.size !== enrichments.length) violations.push("an event has two frames in DuckDB");
  for (const row of events)
    if (!framed.has(Number(row.seq))) violations.push(`event ${row.seq} has no frame`);
  for (const [frameId, seen] of follower.seen) {
    const kept = frames.get(frameId);
    if (kept?.fingerprint !== seen.fingerprint || kept.eventSeq !== eventOf.get(frameId)) {
      violations.push(`a reader saw frame ${frameId} of event ${seen.eventSeq} otherwise than it is kept`);
    }
  }
  try {
    for (const frame of ringFrames(folder.ring)) {
      if (eventOf.get(frame.frameId) !== frame.eventSeq)
        violations.push(`ring frame ${frame.frameId} differs from DuckDB`);
    }
  } catch (error) {
    violations.push(String(error));
  }
  const head = ringHead(folder.ring)?.head;
  if (head !== enrichments.length + 1)
    violations.push(`the ring's head is ${head}, ${enrichments.length} frames were decided`);
  const newest = new Map<number, number>();
  for (const row of enrichments) {
    const payload = events[Number(row.seq) - 1]?.payload;
    const conversation = payload === undefined ? -1 : (JSON.parse(String(payload)) as { n: number }).n % 20;
    if (Number(row.seq) < (newest.get(conversation) ?? 0))
      violations.push(`conversation ${conversation} is out of order`);
    newest.set(conversation, Number(row.seq));
  }
  return {
    violations,
    acknowledged: sent.filter((entry) => entry.seq !== null).length,
    framesSeen: follower.seen.size,
    restarts: options.rounds,
    readyMs,
    checkpointRounds,
    refusals,
  };
}
