/**
 * One process: a real pipeline over a real journal and a real ring, from its start to its end. At a crash everything in
 * memory is lost; the files are as they were at that instant, and the next life starts with copies of them.
 */
import { copyFileSync, existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { openRing, type Ring } from "../../../collider.ts";
import { Brain } from "../../../src/brain/brain.ts";
import { systemClock } from "../../../src/clock.ts";
import type { Embedder } from "../../../src/embed/embedder.ts";
import { GatewayError } from "../../../src/errors.ts";
import type { ParsedEvent } from "../../../src/event/event.ts";
import { labelId, UNKNOWN_EVENT } from "../../../src/frame.ts";
import { type DecidedFrame, Journal } from "../../../src/journal/journal.ts";
import { Kinetics, spin } from "../../../src/physics.ts";
import type { Pipeline } from "../../../src/pipeline/pipeline.ts";
import type { Store } from "../../../src/store/store.ts";
import { FakeClock } from "../../fake-clock.ts";
import type { Dice } from "./dice.ts";
import { JournalReader } from "./journal-reader.ts";
import { type Content, decidedOf, framesIn, type Ledger, Violation } from "./ledger.ts";
import {
  type EmbedderWeather,
  embedderOff,
  hashing,
  LlmDouble,
  type LlmWeather,
  RemoteEmbedder,
} from "./models.ts";
import { StoreDouble, type StoreFile, type StoreWeather } from "./store.ts";

export interface Weather {
  embedder: EmbedderWeather;
  llm: LlmWeather;
  store: StoreWeather;
  journal: "ok" | "flaky" | "failing";
  disk: "ok" | "full";
  ring: "ok" | "no space";
}

/** Everything that outlives a process. */
export interface World {
  readonly Pipeline: typeof Pipeline;
  readonly trace: (line: string) => void;
  readonly folder: string;
  readonly dice: Dice;
  readonly ledger: Ledger;
  readonly storeFile: StoreFile;
  readonly weather: Weather;
  readonly maxBacklogEvents: number;
  readonly ringCapacity: number;
  nowUs: number;
  boots: number;
  lives: number;
  /** The newest frame that a ring has shown. */
  published: number;
  /** When the disk last became full or empty; null: never. */
  diskFullSinceUs: number | null;
}

export interface LifeOptions {
  readonly embedder: "hashing" | "remote-a" | "remote-b" | "off";
  readonly llm: boolean;
  readonly frameWaitMs: number;
  readonly reembed: boolean;
}

/** Thrown at whatever still runs after the end of its process. */
class ProcessEnded extends Error {}

export class Life {
  readonly clock: FakeClock;
  readonly options: LifeOptions;
  readonly pipeline: Pipeline;
  readonly journal: Journal;
  readonly reader: JournalReader;
  readonly llm: LlmDouble;
  /** The first promise that was found broken, or the first error of the pipeline. */
  failure: unknown = null;
  /** Frames that were decided before it started. */
  readonly framesAtStart: number;
  /** After so many calls at {@link point} it crashes; null: it does not. */
  crashIn: number | null = null;
  /** The frame that was made last inside the transaction of its event. */
  #madeAtOnce: DecidedFrame | null = null;
  #inTransaction = false;
  #dead = false;
  readonly #world: World;
  readonly #number: number;
  readonly #real: Journal;
  /** Open rings, and the head of each when its frames were last checked. */
  readonly #rings = new Map<Ring, number>();
  /** Rejects at a crash, so that nothing waits for ever and holds a file. */
  readonly #death = Promise.withResolvers<never>();

  constructor(world: World, options: LifeOptions) {
    this.#world = world;
    this.options = options;
    this.#number = world.lives;
    this.clock = new FakeClock(world.nowUs);
    const { ledger, dice } = world;
    this.#death.promise.catch(() => {});
    ledger.started(options.frameWaitMs);
    this.#real = Journal.open({
      path: this.path("journal"),
      ephemeral: null,
      nowUs: () => this.clock.nowUs(),
      randomU32: () => 7,
      bootId: `boot ${world.boots}`,
    });
    this.reader = new JournalReader(this.path("journal"));
    this.#readUnseen();
    this.framesAtStart = ledger.frames.length;
    this.journal = this.#watchedJournal();
    const around = { clock: this.clock, dice };
    this.llm = new LlmDouble(around, () => (options.llm ? world.weather.llm : "off"));
    const brain = new Brain({
      ...{
        llm: this.llm,
        deadlineMs: 30_000,
        fingerprint: null,
        excerpt: (body) => new TextDecoder().decode(body),
      },
      shapes: { all: () => [], write: () => {} },
      replies: { recall: () => null, remember: () => {}, keepOnly: () => {} },
    });
    this.#watchBrain(brain);
    this.pipeline = new world.Pipeline({
      version: "simulated",
      journal: this.journal,
      kinetics: new Kinetics({}),
      spin,
      checksums: false,
      schemas: {
        observe: () => ({ fillRate: 0 }),
        preview: () => ({ fillRate: 0 }),
        counters: {},
        gauges: {},
        drift: [],
      },
      textOf: (message, body) => message ?? new TextDecoder().decode(body),
      hashing,
      openStore: () => this.#openStore(),
      openRing: (newest) => this.#openRing(newest),
      openEmbedder: () => this.#openEmbedder(),
      brain,
      frameWaitMs: options.frameWaitMs,
      reembed: options.reembed,
      otherMetrics: () => ({ counters: {}, gauges: {} }),
      maxBacklogEvents: world.maxBacklogEvents,
      freeDiskBytes: () => ({ freeBytes: world.weather.disk === "ok" ? 100 : 1, neededBytes: 10 }),
      clock: this.clock,
      log: (level, line) => this.#trace(`${level} ${line}`),
      fatal: (error) => this.#fail(error),
    });
    this.journal.onCommitted = this.#committing(this.journal.onCommitted);
    this.journal.frameAtOnce = this.#framingAtOnce(this.journal.frameAtOnce);
    this.pipeline.start();
  }

  path(name: "journal" | "ring", number = this.#number): string {
    return join(this.#world.folder, `${name}-${number}`);
  }

  get dead(): boolean {
    return this.#dead;
  }

  get nowMs(): number {
    return this.clock.nowUs() / 1000;
  }

  #trace(line: string): void {
    if (!this.#dead) this.#world.trace(`${this.clock.nowUs()} ${line}`);
  }

  #fail(error: unknown): void {
    if (!this.#dead) this.failure ??= error;
  }

  /** A place where the process may crash. */
  point(): void {
    if (this.crashIn === null || this.#dead) return;
    this.crashIn -= 1;
    if (this.crashIn <= 0) this.crash();
  }

  /** Runs a check inside a call of the pipeline, which would catch what the check throws. */
  #checked(check: () => void): void {
    if (this.#dead) return;
    try {
      check();
    } catch (error) {
      this.#fail(error);
    }
  }

  // ------------------------------------------------------------------------------------------ journal

  /** Reads the rows that committed just before the last crash, unseen. */
  #readUnseen(): void {
    const { ledger } = this.#world;
    const rows = this.reader.events(ledger.events.size, Number.MAX_SAFE_INTEGER);
    ledger.received(rows.map(({ conversation_id: conversationId, ...row }) => ({ ...row, conversationId })));
    for (const row of this.reader.frames(ledger.frames.length, Number.MAX_SAFE_INTEGER))
      ledger.decided(row.id, [decidedOf(row)], this.nowMs);
    for (const row of this.reader.updates(ledger.updates.length, Number.MAX_SAFE_INTEGER))
      ledger.updated(row.id, [decidedOf(row)]);
  }

  #committing(onCommitted: Journal["onCommitted"]): Journal["onCommitted"] {
    const { ledger } = this.#world;
    return (batch) => {
      if (this.#dead) return;
      const made = this.#madeAtOnce;
      this.#checked(() => {
        ledger.received(batch.events);
        if (batch.frameId !== null && made !== null) ledger.decided(batch.frameId, [made], this.nowMs);
      });
      this.point();
      if (!this.#dead) onCommitted(batch);
    };
  }

  /** Remembers the frame that is made inside the transaction of its event, and now and then lets the transaction fail. */
  #framingAtOnce(frameAtOnce: Journal["frameAtOnce"]): Journal["frameAtOnce"] {
    return (event) => {
      this.#madeAtOnce = null;
      if (this.#dead) return null;
      this.#inTransaction = true;
      try {
        this.#madeAtOnce = frameAtOnce(event);
      } finally {
        this.#inTransaction = false;
      }
      if (this.#madeAtOnce !== null && this.#world.dice.chance(0.05)) throw new Error("the row was refused");
      return this.#madeAtOnce;
    };
  }

  /** The journal as the pipeline sees it: it fails with the weather, and the ledger notes each commit. */
  #watchedJournal(): Journal {
    const { ledger, weather } = this.#world;
    const real = this.#real;
    const fails = (): boolean =>
      weather.journal === "failing" || (weather.journal === "flaky" && this.#world.dice.chance(0.4));
    const full = (operation: string): GatewayError => {
      ledger.journalFailed(this.nowMs);
      return new GatewayError({ code: "disk_full", operation, object: "the simulation", detail: "no space" });
    };
    const write = async <T>(
      operation: string,
      work: () => Promise<T>,
      done: (value: T) => void,
    ): Promise<T> => {
      this.point();
      if (this.#dead) return never();
      if (fails()) throw full(operation);
      const value = await work();
      if (this.#dead) return never();
      this.#checked(() => done(value));
      this.point();
      return this.#dead ? never() : value;
    };
    const own: Partial<Record<keyof Journal, unknown>> = {
      append: (...args: Parameters<Journal["append"]>) =>
        write(
          "append",
          () => real.append(...args),
          (results) => {
            for (const { seq } of results) ledger.acknowledge(seq);
          },
        ),
      decide: (rows: Parameters<Journal["decide"]>[0]) =>
        write(
          "decide",
          () => real.decide(rows),
          (firstId) => ledger.decided(firstId, rows, this.nowMs),
        ),
      update: (rows: Parameters<Journal["update"]>[0]) =>
        write(
          "update",
          () => real.update(rows),
          (firstId) => ledger.updated(firstId, rows),
        ),
      prune: (...args: Parameters<Journal["prune"]>) =>
        this.#prune(
          () => fails() && full("prune"),
          () => real.prune(...args),
        ),
      pruneUpdates: (...args: Parameters<Journal["pruneUpdates"]>) =>
        this.#prune(
          () => fails() && full("prune updates"),
          () => real.pruneUpdates(...args),
        ),
    };
    own.setMeta = (key: string, value: string) => {
      if (!this.#dead && fails()) throw full("setMeta");
      real.setMeta(key, value);
    };
    own.addLabels = (labels: Parameters<Journal["addLabels"]>[0]) => {
      if (!this.#dead && fails()) throw full("addLabels");
      real.addLabels(labels);
    };
    return new Proxy(real, {
      get: (target, name) => {
        const found = own[name as keyof Journal];
        if (found !== undefined) return found;
        const value = Reflect.get(target, name, target);
        return typeof value === "function" ? value.bind(target) : value;
      },
      set: (target, name, value) => Reflect.set(target, name, value, target),
    });
  }

  #prune(failure: () => GatewayError | false, work: () => number): number {
    this.point();
    if (this.#dead) throw new ProcessEnded();
    const failed = failure();
    if (failed !== false) throw failed;
    const removed = work();
    this.checkPruned();
    this.point();
    return removed;
  }

  /** Whatever has left the journal is in DuckDB's newest checkpoint, and a ring has shown its frames. */
  checkPruned(): void {
    this.#checked(() => {
      const pruned = this.#real.pruned();
      const held = this.#world.storeFile.checkpointed;
      if (pruned.seq > held.seq || pruned.frameId > held.frameId || pruned.answerId > held.answerId)
        throw new Violation(
          `${JSON.stringify(pruned)} was pruned, the checkpoint holds ${JSON.stringify(held)}`,
        );
      if (pruned.frameId > this.#world.published)
        throw new Violation(
          `frame ${pruned.frameId} was pruned, the ring has shown ${this.#world.published}`,
        );
    });
  }

  // --------------------------------------------------------------------------------------------- ring

  async #openRing(newest: Parameters<typeof openRing>[1]): Promise<Ring> {
    const { weather, ringCapacity: capacity } = this.#world;
    if (this.#dead) return never();
    if (weather.ring === "no space")
      throw new GatewayError({
        code: "ring_no_space",
        operation: "ring: create",
        object: "the simulation",
        detail: "no space",
      });
    const ring = await openRing(
      {
        ...{ path: this.path("ring"), capacity, mode: 0o600, journalId: this.#real.journalId },
        ...{ nextFrameId: this.#real.nextFrameId(), adopt: this.#real.sameBoot, log: () => {} },
        clock: { ...systemClock, nowUs: () => this.clock.nowUs() },
      },
      (from, limit) => Promise.race([newest(from, limit), this.#death.promise]),
    ).catch((error: unknown) => (this.#dead ? never<Ring>() : Promise.reject(error)));
    this.#rings.set(ring, 0);
    if (this.#dead) return never();
    this.#shown(ring);
    this.#checked(() => this.#checkRing(ring));
    return this.#watchedRing(ring);
  }

  #shown(ring: Ring): void {
    if (!this.#dead) this.#world.published = Math.max(this.#world.published, ring.head() - 1);
  }

  #watchedRing(ring: Ring): Ring {
    const { ledger } = this.#world;
    const publish = (show: () => void, frames: Parameters<Ring["publishBatch"]>[0]): void => {
      this.point();
      if (this.#dead) throw new ProcessEnded();
      this.#checked(() => {
        for (const frame of frames) {
          ledger.checkFrame("the ring", frame.frameId, frame);
          this.#checkLabels(frame.frameId);
        }
      });
      show();
      this.#shown(ring);
      this.point();
    };
    const own: Partial<Record<keyof Ring, unknown>> = {
      publishBatch: (frames: Parameters<Ring["publishBatch"]>[0]) =>
        publish(() => ring.publishBatch(frames), frames),
      publish: (...[frameId, physics, vector]: Parameters<Ring["publish"]>) =>
        publish(() => ring.publish(frameId, physics, vector), [{ frameId, physics, vector }]),
      close: (state: "closed" | "superseded") => {
        if (this.#dead) return;
        ring.close(state);
        this.#rings.delete(ring);
      },
      setLabels: (labels: Parameters<Ring["setLabels"]>[0]) => {
        if (this.#dead) return;
        ring.setLabels(labels);
      },
    };
    return new Proxy(ring, {
      get: (target, name) => {
        const found = own[name as keyof Ring];
        if (found !== undefined) return found;
        const value = Reflect.get(target, name, target);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
  }

  /** A label stands beside the ring before the first frame that uses it. */
  #checkLabels(frameId: number): void {
    const path = `${this.path("ring")}.json`;
    const labels = existsSync(path) ? JSON.parse(readFileSync(path, "utf8")) : { intents: {}, types: {} };
    const { intent, eventType } = this.#world.ledger.frames[frameId - 1] as Content;
    if (intent !== null && labels.intents[labelId(intent)] !== intent)
      throw new Violation(
        `frame ${frameId} is published, and its intent ${intent} does not stand beside the ring`,
      );
    if (eventType !== null && eventType !== UNKNOWN_EVENT && labels.types[labelId(eventType)] !== eventType)
      throw new Violation(
        `frame ${frameId} is published, and its type ${eventType} does not stand beside the ring`,
      );
  }

  /** Every frame that a reader may take is the one that was decided. */
  #checkRing(ring: Ring): void {
    const bytes = ring.read(ring.tail(), ring.capacity) ?? new Uint8Array(0);
    for (const { frameId, ...shown } of framesIn(bytes))
      this.#world.ledger.checkFrame("the ring", frameId, shown);
  }

  /** Removes the ring's file under the writer. */
  removeRing(): void {
    rmSync(this.path("ring"), { force: true });
  }

  // -------------------------------------------------------------------------------- store and models

  async #openStore(): Promise<Store> {
    const { storeFile: file, dice, ledger, weather } = this.#world;
    const store = await StoreDouble.open({
      ...{ file, dice, ledger, reader: this.reader, clock: this.clock },
      pruned: this.#real.pruned(),
      weather: () => weather.store,
      point: () => this.point(),
      fail: (error) => this.#fail(error),
    }).catch((error: unknown) => {
      this.#fail(error);
      throw error;
    });
    if (this.#dead) return never();
    // The double has the methods of Store that the pipeline calls.
    return store as unknown as Store;
  }

  async #openEmbedder(): Promise<Embedder> {
    const { embedder } = this.options;
    const { dice } = this.#world;
    const around = { clock: this.clock, dice };
    await this.clock.sleep(dice.between(0, 300));
    if (embedder === "hashing") return hashing;
    if (embedder === "off") return embedderOff;
    return new RemoteEmbedder(embedder, around, () => this.#world.weather.embedder);
  }

  /** The pipeline passes an event to the brain when its vector is known. From then on only the language model can delay its frame. */
  #watchBrain(brain: Brain): void {
    const known = brain.known.bind(brain);
    brain.known = (event, nearest) => {
      const result = known(event, nearest);
      if (this.#inTransaction) return result;
      this.#checked(() => this.#world.ledger.ready(event.seq, result.question !== null, this.nowMs));
      return result;
    };
  }

  // ---------------------------------------------------------------------------------------------- use

  async append(events: readonly ParsedEvent[]): Promise<"kept" | "refused"> {
    try {
      await this.journal.append(events, { source: "simulation", receivedUs: this.clock.nowUs() });
      return "kept";
    } catch {
      return "refused";
    }
  }

  /** Checks what must hold at any instant. */
  check(): void {
    if (this.failure === null && !this.#dead) {
      const { ledger } = this.#world;
      this.checkPruned();
      this.#checked(() => {
        if (!this.pipeline.draining) ledger.checkWaits(this.nowMs);
        ledger.verifyJournal(
          this.reader.frames(ledger.verifiedFrames, Number.MAX_SAFE_INTEGER),
          this.#real.pruned(),
        );
        for (const [ring, head] of this.#rings) {
          if (ring.head() === head) continue;
          this.#checkRing(ring);
          // A ring that is still being refilled gets its labels once it is open.
          if (this.pipeline.snapshot().gauges.ring_head_frame_id === ring.head())
            for (let frameId = ring.tail(); frameId < ring.head(); frameId++) this.#checkLabels(frameId);
          this.#rings.set(ring, ring.head());
        }
      });
    }
    if (this.failure !== null) throw this.failure;
  }

  // ---------------------------------------------------------------------------------------------- end

  /** SIGKILL: only what the files hold at this instant is left. */
  crash(): void {
    if (this.#dead) return;
    this.#dead = true;
    this.#leaveFiles();
    this.#death.reject(new ProcessEnded());
  }

  #leaveFiles(): void {
    const next = this.#number + 1;
    for (const name of ["journal", "ring"] as const)
      for (const suffix of ["", "-wal", ".json"])
        if (existsSync(this.path(name) + suffix))
          copyFileSync(this.path(name) + suffix, this.path(name, next) + suffix);
    this.#world.lives = next;
    this.#world.nowUs = this.clock.nowUs();
  }

  /** SIGTERM: drains, flushes and closes. */
  async stop(): Promise<void> {
    let closed = false;
    const closing = this.pipeline.close().then(() => {
      closed = true;
    });
    await this.clock.until(() => closed || this.#dead || this.failure !== null, 60_000);
    if (this.failure !== null) throw this.failure;
    if (this.#dead) return;
    await closing;
    this.check();
    this.#dead = true;
    this.#real[Symbol.dispose]();
    this.#leaveFiles();
  }

  /** Releases files, memory and connections of a dead process. */
  async bury(): Promise<void> {
    this.#dead = true;
    // Whatever still runs comes to its end, without an effect.
    for (let turns = 0; turns < 8; turns++) await new Promise((resolve) => setImmediate(resolve));
    for (const ring of this.#rings.keys()) ring.close("closed");
    this.#rings.clear();
    this.reader.close();
    this.#real[Symbol.dispose]();
    for (const name of ["journal", "ring"] as const)
      for (const suffix of ["", "-wal", "-shm", ".json"]) rmSync(this.path(name) + suffix, { force: true });
  }
}

/** A promise of a dead process. */
function never<T>(): Promise<T> {
  return new Promise(() => {});
}
