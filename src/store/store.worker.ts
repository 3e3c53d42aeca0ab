/**
 * The entry point of the store's thread, which owns every DuckDB connection and a read-only connection to the journal. It lowers the
 * thread's priority and passes the main thread's messages to the {@link Conductor}.
 */

import { freemem } from "node:os";
import { systemClock } from "../clock.ts";
import { lowerThreadPriority } from "../native/libc.ts";
import { Rest } from "../native/rest.ts";
import { Conductor } from "./conductor.ts";
import { messageFor } from "./database.ts";
import type { FromWorker, StoreCall, StoreCalls, ToWorker } from "./protocol.ts";

const NICE = 10;

declare const self: Worker;

function post(message: FromWorker, transfer: ArrayBuffer[] = []): void {
  self.postMessage(message, transfer);
}

/** null until the database is open. */
let conductor: Conductor | null = null;
/** null before the database is open and after the end, because a timer would keep the thread alive. */
let rest: Rest | null = null;

async function perform(message: StoreCall): Promise<unknown> {
  if (message.call === "open") {
    conductor = await Conductor.open(message.args, {
      clock: systemClock,
      post,
      // A container's limit counts where there is one.
      availableBytes: () => Math.min(process.availableMemory(), freemem()),
    });
    rest = new Rest(systemClock, () => workOf(conductor));
    return conductor.cursors;
  }
  if (conductor === null) throw new Error("the store is not open");
  switch (message.call) {
    case "events":
      return conductor.events(message.args);
    case "event":
      return conductor.event(message.args);
    case "frames":
      return conductor.frames(message.args);
    case "frameCount":
      return conductor.frameCount(message.args);
    case "decided":
      return conductor.decided(message.args);
    case "checkpoint":
      return conductor.checkpoint();
    case "stats":
      return conductor.stats();
    case "flush":
      return conductor.flush(message.args);
    case "close":
      return conductor.close(message.args);
  }
}

async function receive(message: ToWorker): Promise<void> {
  switch (message.call) {
    case "head":
      conductor?.head(message.seq);
      return;
    case "updates":
      conductor?.updates(message.answerId);
      return;
    case "offer":
      conductor?.offer(message);
      return;
  }
  try {
    const value = await perform(message);
    const transfer = message.call === "frames" ? [(value as StoreCalls["frames"][1]).bytes] : [];
    post({ event: "reply", id: message.id, value }, transfer);
    if (message.call === "close") leave();
  } catch (thrown) {
    post({ event: "refusal", id: message.id, error: messageFor(thrown, "database") });
    if (message.call === "open") leave();
  }
}

/** Lets the Worker end: it does so when it listens no more and has nothing left to do (Bun has no self.close). */
function leave(): void {
  rest?.[Symbol.dispose]();
  rest = null;
  self.onmessage = null;
}

/** A number that changes with everything that is stored. */
function workOf(store: Conductor | null): number {
  return store === null ? 0 : store.cursors.seq + store.cursors.frameId + store.cursors.answerId;
}

// Only in a Worker: if a bundler or a test imports this module, nothing starts.
if (!Bun.isMainThread) {
  // On other systems the call would lower the priority of the whole process, ingest included.
  if (process.platform === "linux") lowerThreadPriority(NICE);
  self.onmessage = ({ data }: MessageEvent<ToWorker>) => void receive(data);
}
