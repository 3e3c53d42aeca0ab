/**
 * Fills a ring through collider.ts at full speed until stdin closes. Its one argument is {@link WriterOptions} as JSON. It
 * prints {@link WriterSaid} when the ring exists and when it ends.
 */
import { openSync } from "node:fs";
import { openRing, type Ring } from "../../collider.ts";
import { Mapping } from "../../src/native/libc.ts";
import { Content, FRAME_BYTES, HEADER_BYTES, JOURNAL_ID } from "./content.ts";

export interface WriterOptions {
  readonly path: string;
  readonly capacity: number;
  /** The journal's next frame_id, for an adopted ring at most a lap beyond its head. */
  readonly nextFrameId: number;
  readonly adopt: boolean;
  /** The number of frames in one call; 1 uses `publish`. */
  readonly batchFrames: number;
  /** The seed of bursts of random length with pauses between them; null: no pauses. */
  readonly burstSeed: number | null;
  /** The control: a wrong writer, see {@link publishUnmarked}. */
  readonly neverOdd: boolean;
}

export interface WriterSaid {
  readonly head: number;
  readonly adopted: boolean;
}

type Publish = (firstFrameId: number, count: number) => void;

const TURN_FRAMES = 4096;
const PAUSE_MS_MAX = 2;
const HEARTBEAT_MS = 400;

function publishSingly(ring: Ring): Publish {
  const content = new Content();
  return (firstFrameId, count) => {
    for (let id = firstFrameId; id < firstFrameId + count; id++) {
      const { physics, vector } = content.of(id);
      ring.publish(id, physics, vector);
    }
  };
}

interface BatchFrame {
  frameId: number;
  readonly physics: Uint8Array;
  readonly vector: Float32Array;
}

function publishInBatches(ring: Ring, batchFrames: number): Publish {
  const contents = Array.from({ length: batchFrames }, () => new Content());
  const batch: BatchFrame[] = contents.map(({ physics, vector }) => ({ frameId: 0, physics, vector }));
  return (firstFrameId, count) => {
    const end = firstFrameId + count;
    for (let id = firstFrameId; id < end; id += batchFrames) {
      const frames = batch.slice(0, end - id);
      frames.forEach((frame, index) => {
        frame.frameId = id + index;
        contents[index]?.of(frame.frameId);
      });
      ring.publishBatch(frames);
    }
  };
}

function publishTo(ring: Ring, batchFrames: number): Publish {
  return batchFrames > 1 ? publishInBatches(ring, batchFrames) : publishSingly(ring);
}

/**
 * A deliberately wrong writer: it changes a slot before it marks the slot as changing. The odd sequence and the raised tail
 * each show a reader that a slot is reused, and either one saves a reader that checks both. So this writer sets neither
 * until the frame is whole.
 */
function publishUnmarked(path: string, capacity: number): Publish {
  const mapping = new Mapping(openSync(path, "r+"), HEADER_BYTES + capacity * FRAME_BYTES);
  const buffer = mapping.view(0, mapping.bytes);
  const [words, floats, bytes] = [new Int32Array(buffer), new Float32Array(buffer), new Uint8Array(buffer)];
  const content = new Content();
  return (firstFrameId, count) => {
    for (let id = firstFrameId; id < firstFrameId + count; id++) {
      const { physics, vector } = content.of(id);
      const at = (HEADER_BYTES + (id % capacity) * FRAME_BYTES) / 4;
      words[at + 2] = id | 0;
      floats.set(vector, at + 4);
      bytes.set(physics, at * 4 + 4112);
      Atomics.store(words, at, 2 * (Math.floor(id / capacity) + 1));
      Atomics.store(words, 8, Math.max(1, id - capacity + 1));
      Atomics.store(words, 6, id + 1);
    }
  };
}

/** Mulberry32: a small generator, the same on every machine. */
function seeded(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return (((mixed ^ (mixed >>> 14)) >>> 0) * below) / 2 ** 32;
  };
}

async function write(o: WriterOptions): Promise<void> {
  let ended = false;
  process.stdin.on("end", () => {
    ended = true;
  });
  process.stdin.resume();
  const ring = await openRing(
    {
      path: o.path,
      capacity: o.capacity,
      mode: 0o600,
      journalId: JOURNAL_ID,
      nextFrameId: o.nextFrameId,
      adopt: o.adopt,
      log: () => {},
    },
    async () => ({ bytes: new Uint8Array(0), count: 0 }),
  );
  const say = (head: number): void => {
    const said = { head, adopted: ring.adopted } satisfies WriterSaid;
    process.stdout.write(`${JSON.stringify(said)}\n`);
  };
  const publish = o.neverOdd ? publishUnmarked(o.path, o.capacity) : publishTo(ring, o.batchFrames);
  const random = seeded(o.burstSeed ?? 0);
  let head = ring.head();
  let heartbeatMs = performance.now();
  say(head);
  while (!ended) {
    const count = o.burstSeed === null ? TURN_FRAMES : 1 + Math.floor(random(2 * TURN_FRAMES));
    publish(head, count);
    head += count;
    if (performance.now() - heartbeatMs > HEARTBEAT_MS) {
      ring.heartbeat();
      heartbeatMs = performance.now();
    }
    if (o.burstSeed === null) await new Promise((done) => setImmediate(done));
    else await Bun.sleep(random(PAUSE_MS_MAX));
  }
  say(head);
  ring.close("closed");
}

await write(JSON.parse(process.argv[2] as string) as WriterOptions);
process.exit(0);
