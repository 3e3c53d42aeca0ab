/**
 * A seeded run of the whole pipeline through traffic, bad weather and restarts, in virtual time. The same seed is the same
 * run, to the last choice.
 */
import { copyFileSync, existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { GatewayError } from "../../../src/errors.ts";
import type { ParsedEvent } from "../../../src/event/event.ts";
import { Journal } from "../../../src/journal/journal.ts";
import type { Pipeline } from "../../../src/pipeline/pipeline.ts";
import { Dice } from "./dice.ts";
import { framesIn, type KnownEvent, Ledger, Violation } from "./ledger.ts";
import { Life, type LifeOptions, type Weather, type World } from "./life.ts";
import { BLANK, EXAMPLE, HASHING, POISON } from "./models.ts";
import { StoreFile } from "./store.ts";

const FAIR: Readonly<Weather> = {
  ...{ embedder: "ok", llm: "ok", store: "ok", journal: "ok", disk: "ok", ring: "ok" },
};
/** The pipeline looks at the disk this often. */
const DISK_LOOK_US = 1_000_000;
const FINAL_MS_MAX = 180_000;

export interface SimulationOptions {
  readonly Pipeline: typeof Pipeline;
  /** Takes each step, and each line of the log. */
  readonly trace?: (line: string) => void;
}

/** What happened in a run. The test checks that the runs together see enough of everything. */
export interface Report {
  events: number;
  frames: number;
  updates: number;
  crashes: number;
  stops: number;
  refusals: number;
  prunedEvents: number;
  ringsReplaced: number;
  framesWithoutVector: number;
}

/** A folder in memory, if the machine has one. */
const ROOT = existsSync("/dev/shm") ? "/dev/shm" : tmpdir();

class Simulation {
  readonly #world: World;
  readonly #dice: Dice;
  #life: Life;
  #texts = 0;
  readonly report: Report = {
    ...{ events: 0, frames: 0, updates: 0, crashes: 0, stops: 0, refusals: 0 },
    ...{ prunedEvents: 0, ringsReplaced: 0, framesWithoutVector: 0 },
  };

  constructor(seed: number, folder: string, options: SimulationOptions) {
    const dice = new Dice(seed);
    this.#dice = dice;
    this.#world = {
      Pipeline: options.Pipeline,
      trace: options.trace ?? (() => {}),
      folder,
      dice,
      ledger: new Ledger(),
      storeFile: new StoreFile(),
      weather: { ...FAIR },
      maxBacklogEvents: dice.pick([10, 40, 1000]),
      ringCapacity: dice.pick([1, 8, 40]),
      nowUs: 1_700_000_000_000_000,
      ...{ boots: 1, lives: 0, published: 0, diskFullSinceUs: null },
    };
    this.#life = this.#start();
  }

  #start(): Life {
    const { dice } = this.#world;
    const options: LifeOptions = {
      embedder: dice.weighted({ hashing: 4, "remote-a": 3, "remote-b": 2, off: 1 }),
      llm: dice.chance(0.8),
      frameWaitMs: dice.pick([0, 300, 2000]),
      reembed: dice.chance(0.3),
    };
    this.#world.nowUs += dice.below(2_000_000);
    if (dice.chance(0.1)) this.#world.boots += 1;
    return new Life(this.#world, options);
  }

  async run(steps: number): Promise<void> {
    for (let step = 0; step < steps; step++) {
      await this.#step();
      if (this.#life.dead) await this.#restart();
      this.#life.check();
    }
    await this.#end();
  }

  async #restart(): Promise<void> {
    await this.#life.bury();
    this.#life = this.#start();
    this.#life.check();
  }

  async #stop(): Promise<void> {
    this.#note();
    await this.#life.stop();
  }

  #note(): void {
    const { counters } = this.#life.pipeline.snapshot();
    this.report.prunedEvents += counters.pruned_events_total ?? 0;
    this.report.ringsReplaced += counters.rings_replaced_total ?? 0;
    this.report.framesWithoutVector += counters.frames_without_vector_total ?? 0;
  }

  // -------------------------------------------------------------------------------------------- steps

  async #step(): Promise<void> {
    const step = this.#dice.weighted({
      ...{ ingest: 10, moment: 8, second: 4, minute: 0.4, turns: 3 },
      ...{ weather: 4, read: 2, enrichment: 2, snapshot: 0.5, removeRing: 0.4 },
      ...{ crash: 0.7, crashSoon: 1, stop: 0.5 },
    });
    const { clock } = this.#life;
    this.#world.trace(`${clock.nowUs()} ${step}`);
    switch (step) {
      case "ingest":
        return this.#ingest();
      case "moment":
        return clock.advance(this.#dice.between(0, 50));
      case "second":
        return clock.advance(this.#dice.between(50, 4000));
      case "minute":
        return clock.advance(this.#dice.between(4000, 60_000));
      case "turns":
        for (let turns = this.#dice.below(5); turns > 0; turns--)
          await new Promise((resolve) => setImmediate(resolve));
        return;
      case "weather":
        return this.#changeWeather();
      case "read":
        return this.#readFrames();
      case "enrichment":
        return this.#askEnrichment();
      case "snapshot":
        return this.#snapshot();
      case "removeRing":
        return this.#life.removeRing();
      case "crash":
        this.report.crashes += 1;
        return this.#life.crash();
      case "crashSoon":
        this.#life.crashIn = 1 + this.#dice.below(12);
        return;
      case "stop":
        this.report.stops += 1;
        return this.#stop();
    }
  }

  async #ingest(): Promise<void> {
    const life = this.#life;
    this.#checkAdmission();
    if (life.pipeline.admission() !== null) {
      this.report.refusals += 1;
      return;
    }
    const events = Array.from({ length: this.#dice.chance(0.1) ? 20 : 1 + this.#dice.below(3) }, () =>
      this.#event(),
    );
    const appended = life.append(events);
    // Sometimes the next step does not wait for the acknowledgement.
    if (this.#dice.chance(0.3)) return;
    let settled = false;
    void appended.then(() => {
      settled = true;
    });
    await life.clock.until(() => settled || life.dead, 1000);
  }

  #event(): ParsedEvent {
    const dice = this.#dice;
    const marks = [EXAMPLE, POISON, BLANK].filter(() => dice.chance(0.08)).join("");
    const text = `text ${++this.#texts} ${marks}`;
    const message = dice.chance(0.7) ? text : null;
    return {
      body: new TextEncoder().encode(JSON.stringify({ text })),
      ...{ id: null, key: null, dedupByBody: false, message, timestampUs: null, ignoredFields: 0 },
      type: dice.chance(0.3) ? "GivenType" : null,
      conversationId: dice.chance(0.2) ? null : `c${dice.below(4)}`,
      fields: dice.chance(0.2) ? { intent: "Given", sentiment: 0.5 } : null,
    };
  }

  /** An event is refused if and only if the backlog is at its bound or the disk is full, as far as the pipeline can know. */
  #checkAdmission(): void {
    const { maxBacklogEvents, weather, diskFullSinceUs } = this.#world;
    const refusal = this.#life.pipeline.admission();
    const backlog = this.#life.journal.backlog().events;
    const nowUs = this.#life.clock.nowUs();
    const lately = diskFullSinceUs !== null && nowUs - diskFullSinceUs <= DISK_LOOK_US;
    if (refusal?.code === "draining") throw new Violation("refused as if it were draining");
    if (refusal?.code === "overloaded" && backlog < maxBacklogEvents)
      throw new Violation(`refused at a backlog of ${backlog}, ${maxBacklogEvents} are allowed`);
    if (refusal?.code === "disk_full" && weather.disk === "ok" && !lately)
      throw new Violation("refused for a full disk that is not full");
    if (refusal !== null) return;
    if (backlog >= maxBacklogEvents)
      throw new Violation(`taken at a backlog of ${backlog}, ${maxBacklogEvents} are allowed`);
    if (weather.disk === "full" && !lately) throw new Violation("taken with a full disk");
  }

  #changeWeather(): void {
    const { weather } = this.#world;
    const dice = this.#dice;
    const options = {
      embedder: { ok: 5, slow: 2, failing: 2 },
      llm: { ok: 5, slow: 2, failing: 1, refusing: 1, busy: 1, away: 2 },
      store: { ok: 5, slow: 2, failing: 2 },
      journal: { ok: 4, flaky: 1, failing: 1 },
      disk: { ok: 3, full: 1 },
      ring: { ok: 3, "no space": 1 },
    } as const;
    const part = dice.pick(Object.keys(options) as (keyof Weather)[]);
    const wasFull = weather.disk === "full";
    Object.assign(weather, { [part]: dice.weighted<string>(options[part]) });
    this.#world.trace(`weather: ${JSON.stringify(weather)}`);
    if (wasFull !== (weather.disk === "full")) this.#world.diskFullSinceUs = this.#life.clock.nowUs();
    if (part === "llm") this.#life.llm.onChange();
  }

  async #readFrames(): Promise<void> {
    const { pipeline, clock } = this.#life;
    const { ledger } = this.#world;
    const after = this.#dice.below(ledger.frames.length + 1);
    const limit = 1 + this.#dice.below(40);
    const decided = pipeline.nextFrameId();
    let run: Awaited<ReturnType<Pipeline["frames"]>> | null = null;
    let refused: unknown = null;
    const reading = pipeline.frames(after, limit).then(
      (value) => {
        run = value;
      },
      (error: unknown) => {
        refused = error;
      },
    );
    await clock.until(() => run !== null || refused !== null || this.#life.dead, 60_000);
    if (this.#life.dead) return;
    await reading;
    if (refused !== null) {
      if (refused instanceof GatewayError && refused.code === "store_unavailable") return;
      throw refused;
    }
    const { chunks = [], count = 0 } = (run as Awaited<ReturnType<Pipeline["frames"]>> | null) ?? {};
    let next = after + 1;
    for (const { frameId, ...shown } of chunks.flatMap((chunk) => [...framesIn(chunk)])) {
      if (frameId !== next) throw new Violation(`/api/frames gives frame ${frameId} where ${next} should be`);
      ledger.checkFrame("/api/frames", next++, shown);
    }
    if (next !== after + 1 + count) throw new Violation(`/api/frames says ${count} frames and gives others`);
    if (count === 0 && after + 1 < decided) throw new Violation(`/api/frames has nothing after ${after}`);
  }

  async #askEnrichment(): Promise<void> {
    const { pipeline, clock } = this.#life;
    const { ledger } = this.#world;
    if (ledger.acknowledged.size === 0) return;
    const seq = this.#dice.pick([...ledger.acknowledged]);
    const timeoutMs = this.#dice.below(3000);
    let done = false;
    const asked = pipeline.enrichedWithin(seq, timeoutMs).then(
      (enrichment) => {
        done = true;
        if (enrichment !== null && !this.#life.dead) ledger.checkEnrichment(seq, enrichment);
      },
      (error: unknown) => {
        done = true;
        if (!(error instanceof GatewayError)) throw error;
      },
    );
    await clock.until(() => done || this.#life.dead, timeoutMs + 100);
    if (!this.#life.dead) await asked;
  }

  #snapshot(): void {
    const { gauges } = this.#life.pipeline.snapshot();
    for (const [name, value] of Object.entries(gauges))
      if (!(value >= 0)) throw new Violation(`the gauge ${name} is ${value}`);
  }

  // ---------------------------------------------------------------------------------------------- end

  /** The weather is fair from here on: everything that was acknowledged must arrive everywhere. */
  async #end(): Promise<void> {
    const { ledger, storeFile, weather } = this.#world;
    Object.assign(weather, FAIR);
    this.#life.crashIn = null;
    this.#life.llm.onChange();
    const { clock, pipeline } = this.#life;
    const arrived = (): boolean => {
      const { seq, frameId, answerId } = storeFile.cursors;
      const stored = frameId === ledger.frames.length && answerId === ledger.updates.length;
      return stored && seq === ledger.events.size && frameId === seq && this.#world.published === frameId;
    };
    const quiet = (): boolean => {
      const { gauges } = pipeline.snapshot();
      return gauges.unframed_events === 0 && gauges.llm_late_events === 0 && gauges.reembed_running !== 1;
    };
    try {
      const all = (): boolean =>
        arrived() && pipeline.store() !== null && pipeline.admission() === null && quiet();
      await clock.until(() => all() || this.#life.failure !== null, FINAL_MS_MAX);
    } catch {
      throw new Violation(
        `not everything has arrived after ${FINAL_MS_MAX} ms of fair weather: ${this.#lag()}`,
      );
    }
    this.#life.check();
    const lag = this.#lag();
    await this.#stop();
    // An update that commits while the store closes stays in the journal until the next start.
    if (storeFile.cursors.frameId < ledger.frames.length)
      throw new Violation(`the end has lost frames: ${lag}`);
    for (const seq of ledger.acknowledged) {
      const frameId = ledger.frameOf.get(seq);
      if (frameId === undefined) throw new Violation(`event ${seq} is acknowledged and has no frame`);
      if (storeFile.events[seq - 1]?.seq !== seq)
        throw new Violation(`event ${seq} is acknowledged and not in the store`);
      if (storeFile.frames[frameId - 1]?.seq !== seq)
        throw new Violation(`frame ${frameId} is not in the store`);
    }
    this.#checkReembedded();
    this.report.events = ledger.events.size;
    this.report.frames = ledger.frames.length;
    this.report.updates = ledger.updates.length;
  }

  /** With --reembed, older events have vectors of the embedder in use, as far as it takes their texts. */
  #checkReembedded(): void {
    const { framesAtStart, options } = this.#life;
    const { storeFile } = this.#world;
    if (!options.reembed || options.embedder === "off") return;
    const name = options.embedder === "hashing" ? HASHING : options.embedder;
    for (const { seq } of storeFile.frames.slice(0, framesAtStart)) {
      const { message, body } = storeFile.events[seq - 1] as KnownEvent;
      const text = message ?? new TextDecoder().decode(body);
      if (text.includes(BLANK) || text.includes(POISON)) continue;
      const { embedder } = JSON.parse(storeFile.newest(seq)?.provenance ?? "{}");
      if (embedder !== name)
        throw new Violation(`event ${seq} has the vector of ${embedder}, not of ${name}`);
    }
  }

  #lag(): string {
    const { ledger, storeFile } = this.#world;
    return JSON.stringify({
      events: ledger.events.size,
      frames: ledger.frames.length,
      updates: ledger.updates.length,
      stored: storeFile.cursors,
      admission: this.#life.pipeline.admission(),
      ...this.#life.pipeline.snapshot().gauges,
    });
  }

  async bury(): Promise<void> {
    await this.#life.bury();
  }
}

/** An empty journal. Copying it for each run is faster than making one. */
let template: string | null = null;

/**
 * Runs one seed.
 * @throws Violation, or whatever the pipeline threw
 */
export async function simulate(seed: number, options: SimulationOptions): Promise<Report> {
  const folder = mkdtempSync(join(ROOT, "simulation-"));
  const loose: unknown[] = [];
  const onLoose = (error: unknown): void => void loose.push(error);
  process.on("unhandledRejection", onLoose);
  process.on("uncaughtException", onLoose);
  let simulation: Simulation | null = null;
  try {
    template ??= makeTemplate();
    copyFileSync(template, join(folder, "journal-0"));
    simulation = new Simulation(seed, folder, options);
    await simulation.run(15 + (seed % 50));
    await simulation.bury();
    if (loose.length > 0) throw loose[0];
    return simulation.report;
  } catch (error) {
    await simulation?.bury();
    throw error;
  } finally {
    process.off("unhandledRejection", onLoose);
    process.off("uncaughtException", onLoose);
    rmSync(folder, { recursive: true, force: true });
  }
}

function makeTemplate(): string {
  const folder = mkdtempSync(join(ROOT, "simulation-template-"));
  const path = join(folder, "journal");
  Journal.open({ path, ephemeral: null, nowUs: () => 0, randomU32: () => 7, bootId: "none" })[
    Symbol.dispose
  ]();
  process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
  return path;
}
