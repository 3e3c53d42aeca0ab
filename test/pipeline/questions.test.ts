/** What the language model is asked, when, and what its reply becomes. */
import { expect, test } from "bun:test";
import type { Known, Understanding } from "../../src/brain/brain.ts";
import { GatewayError } from "../../src/errors.ts";
import type { LlmRefusal } from "../../src/llm/contract.ts";
import { makeFrame, understandingOf } from "../../src/pipeline/frames.ts";
import { Questions } from "../../src/pipeline/questions.ts";
import type { Latest } from "../../src/pipeline/updates.ts";
import type { Item } from "../../src/pipeline/work.ts";
import { FakeClock } from "../fake-clock.ts";
import { eventOf, itemOf, makerOf, UNKNOWN } from "./fixtures.ts";

const SAID: Understanding = {
  ...UNKNOWN,
  intent: "Said",
  intentFrom: "llm",
  sentiment: 0,
  sentimentFrom: "llm",
};
const ASKED_LATER: LlmRefusal = { ok: false, reason: "timeout", retryable: true };

/** A model that replies after `replyMs`, or refuses with `refusal`. */
function around(frameWaitMs = 1000) {
  const clock = new FakeClock();
  const maker = makerOf(clock);
  const state = {
    ...{ replyMs: 100, refusal: null as LlmRefusal | null, usable: true, name: "ok" as "ok" | "off" },
    ...{ asked: [] as string[], withoutUpdate: [] as number[], ready: 0 },
    /** Null: as many as have frames. */
    ...{ nextFrameId: null as number | null, searched: [] as [from: number, to: number][] },
    /** Thrown by each look at the newest row. */
    ...{ latestFails: null as Error | null, looks: 0 },
  };
  const told: number[] = [];
  const written: [seq: number, intent: string | null][] = [];
  const rows = new Map<number, Latest>();
  const llm = {
    onChange: (): void => {},
    get usable() {
      return state.usable;
    },
    get state() {
      return { name: state.name, model: null, detail: "" };
    },
  };
  const completed = (_event: unknown, known: Understanding): Known => ({
    understanding: known,
    question: known.intentFrom === null ? "message" : null,
  });
  const questions = new Questions({
    brain: {
      llm: llm as never,
      completed,
      ask: async ({ message }) => {
        state.asked.push(message ?? "");
        await clock.sleep(state.replyMs);
        return state.refusal ?? { ok: true, value: SAID };
      },
    },
    journal: {
      nextFrameId: () => state.nextFrameId ?? 1 + rows.size,
      withoutUpdate: (from, to) => {
        state.searched.push([from, to]);
        return state.withoutUpdate.filter((seq) => seq >= from && seq < to);
      },
    },
    updates: {
      alone: (work) => work(),
      latest: async (seq) => {
        state.looks += 1;
        if (state.latestFails !== null) throw state.latestFails;
        return rows.get(seq) ?? null;
      },
      write: async (updates) => {
        for (const { row } of updates) written.push([row.seq, row.intent]);
        return true;
      },
      tell: (seq) => told.push(seq),
      waitedFor: () => [...rows.keys()],
    },
    frameWaitMs,
    clock,
    log: () => {},
    onReady: () => {
      state.ready += 1;
    },
  });
  /** Decides the frames of what can be decided, as the framer does. */
  const frame = (): [seq: number, intent: string | null][] =>
    questions.holds.take().map((item) => {
      const { decided } = makeFrame(item, clock.nowUs(), maker);
      rows.set(item.event.seq, { row: decided, message: item.event.message, body: item.event.body });
      questions.framed(item);
      return [item.event.seq, understandingOf(decided).intent];
    });
  return { clock, state, told, written, rows, llm, questions, frame };
}

const open = (seq: number, conversationId: string | null = null): Item => ({
  ...itemOf(seq, "message"),
  event: eventOf(seq, { conversationId }),
});

test("a frame waits for its reply, and goes out with it", async () => {
  const { clock, state, told, written, questions, frame } = around();
  questions.admit(open(1));
  questions.admit(itemOf(2));
  expect([frame(), told]).toEqual([[[2, null]], [2]]);
  await clock.advance(150);
  expect([state.asked, state.ready, frame(), told, written]).toEqual([
    ["message 1"],
    1,
    [[1, "Said"]],
    [2, 1],
    [],
  ]);
});

test("a frame waits at most frame-wait; the reply becomes an update", async () => {
  const { clock, state, told, written, questions, frame } = around(1000);
  state.replyMs = 3000;
  questions.admit(open(1));
  await clock.advance(999);
  expect(frame()).toEqual([]);
  await clock.advance(10);
  expect([frame(), told, questions.expects(1)]).toEqual([[[1, null]], [], true]);
  await clock.advance(3000);
  expect([written, told, questions.expects(1)]).toEqual([[[1, "Said"]], [1], false]);
  expect(questions.counters).toEqual({
    late_answers_total: 1,
    llm_forgotten_total: 0,
    frame_waits_in_vain_total: 1,
  });
  expect(state.asked).toHaveLength(1);
});

test("without a frame wait the event is asked about after its frame, the newest first", async () => {
  const { clock, state, written, questions, frame } = around(0);
  state.replyMs = 10;
  for (let seq = 1; seq <= 5; seq++) questions.admit(open(seq));
  expect(frame()).toHaveLength(5);
  await clock.advance(1000);
  expect(written.map(([seq]) => seq)).toEqual([1, 2, 5, 4, 3]);
});

test("two questions are under way at once", async () => {
  const { clock, state, questions } = around();
  for (let seq = 1; seq <= 4; seq++) questions.admit(open(seq));
  expect(state.asked).toHaveLength(2);
  await clock.advance(100);
  expect(state.asked).toHaveLength(4);
});

test("after five frames in a row that waited in vain none waits, until a reply comes in time", async () => {
  const { clock, state, questions, frame } = around(100);
  state.replyMs = 150;
  for (let seq = 1; seq <= 5; seq++) questions.admit(open(seq));
  await clock.advance(120);
  expect(frame()).toHaveLength(5);
  questions.admit(open(6));
  expect(frame()).toEqual([[6, null]]);
  state.replyMs = 10;
  await clock.advance(2000);
  questions.admit(open(7));
  expect(frame()).toEqual([]);
  await clock.advance(20);
  expect(frame()).toEqual([[7, "Said"]]);
});

test("no frame waits while the model cannot be asked, and those who wait for a reply hear what is known", async () => {
  const { clock, state, told, llm, questions, frame } = around();
  state.replyMs = 5000;
  questions.admit(open(1));
  await clock.advance(1100);
  expect([frame(), questions.expects(1)]).toEqual([[[1, null]], true]);
  state.usable = false;
  llm.onChange();
  expect([told, questions.expects(1)]).toEqual([[1], false]);
  questions.admit(open(2));
  expect(frame()).toEqual([[2, null]]);
  expect(questions.late).toBe(1);
  state.usable = true;
  llm.onChange();
  expect(questions.late).toBe(0);
});

test("a question that fails is asked three times, and then forgotten", async () => {
  const { clock, state, told, questions, frame } = around(0);
  state.refusal = ASKED_LATER;
  questions.admit(open(1));
  frame();
  await clock.advance(10_000);
  expect([state.asked.length, told, questions.counters.llm_forgotten_total]).toEqual([3, [1], 1]);
});

test("a reply that no form fits is not asked for again, and the frame goes out at once", async () => {
  const { clock, state, told, questions, frame } = around(1000);
  state.refusal = { ok: false, reason: "invalid", retryable: false };
  questions.admit(open(1));
  await clock.advance(110);
  expect([frame(), told, questions.counters.llm_forgotten_total]).toEqual([[[1, null]], [1], 1]);
  await clock.advance(10_000);
  expect(state.asked).toHaveLength(1);
});

test("a refusal because others use the model does not count as an attempt, and costs a pause", async () => {
  const { clock, state, written, questions, frame } = around(0);
  Object.assign(state, { refusal: { ok: false, reason: "busy", retryable: true }, replyMs: 1 });
  questions.admit(open(1));
  frame();
  await clock.advance(5000);
  expect(state.asked.length).toBeGreaterThan(10);
  expect(state.asked.length).toBeLessThan(55);
  state.refusal = null;
  await clock.advance(1000);
  expect([written, questions.counters.llm_forgotten_total]).toEqual([[[1, "Said"]], 0]);
});

test("an event that has left every place is forgotten", async () => {
  const { clock, rows, told, questions, frame } = around(0);
  questions.admit(open(1));
  frame();
  rows.clear();
  await clock.advance(1000);
  expect([told, questions.counters.llm_forgotten_total]).toEqual([[1], 1]);
});

test("a start asks about open events of earlier runs, the newest first", async () => {
  const { clock, state, rows, written, questions, frame } = around(0);
  state.name = "off";
  for (let seq = 1; seq <= 4; seq++) questions.admit(itemOf(seq));
  frame();
  state.withoutUpdate = [4, 3, 1];
  await questions.restore();
  expect([questions.late, rows.size]).toEqual([0, 4]);
  state.name = "ok";
  await questions.restore();
  expect([questions.expects(1), questions.expects(2)]).toEqual([true, false]);
  await clock.advance(1000);
  expect(written.map(([seq]) => seq)).toEqual([4, 3, 1]);
});

test("an event that a temporary journal dropped is told to those who wait for it", async () => {
  const { clock, told, written, questions } = around();
  questions.admit(open(1));
  questions.gone(1);
  await clock.advance(5000);
  expect([told, written]).toEqual([[1], []]);
});

test("in a drain no frame waits, and nothing more is asked", async () => {
  const { state, told, questions, frame } = around();
  for (let seq = 1; seq <= 4; seq++) questions.admit(open(seq));
  questions.hurry();
  expect(frame()).toHaveLength(4);
  questions.admit(open(5));
  expect(frame()).toEqual([[5, null]]);
  expect([state.asked.length, told.toSorted((a, b) => a - b)]).toEqual([2, [1, 2, 3, 4, 5]]);
});

test("at most 64 frames wait for the model at once", async () => {
  const { clock, questions, frame } = around();
  for (let seq = 1; seq <= 66; seq++) questions.admit(open(seq));
  expect(frame()).toEqual([
    [65, null],
    [66, null],
  ]);
  await clock.advance(150);
  expect(frame()).toEqual([
    [1, "Said"],
    [2, "Said"],
  ]);
  questions.admit(open(67));
  expect(frame()).toEqual([]);
});

test("of the events to ask about later the oldest 1,000 are forgotten when 11,000 wait", async () => {
  const { state, told, questions, frame } = around(0);
  state.usable = false;
  for (let seq = 1; seq < 11_000; seq++) questions.admit(open(seq));
  frame();
  expect([questions.late, questions.counters.llm_forgotten_total]).toEqual([10_999, 0]);
  told.length = 0;
  questions.admit(open(11_000));
  frame();
  expect([questions.late, questions.counters.llm_forgotten_total]).toEqual([10_000, 1000]);
  expect(told.slice(0, 1000)).toEqual(Array.from({ length: 1000 }, (_, index) => index + 1));
  state.usable = true;
  expect([1, 1000, 1001, 11_000].map((seq) => questions.expects(seq))).toEqual([false, false, true, true]);
}, 60_000);

test("a start searches the newest 20,000 frames in steps, and keeps the newest 10,000 open events", async () => {
  const { state, questions } = around();
  Object.assign(state, { nextFrameId: 30_001, usable: false });
  state.withoutUpdate = Array.from({ length: 30_000 }, (_, index) => 30_000 - index);
  await questions.restore();
  expect([state.searched.length, state.searched[0], state.searched.at(-1)]).toEqual([
    20,
    [29_001, 30_001],
    [10_001, 11_001],
  ]);
  expect([questions.late, questions.counters.llm_forgotten_total]).toEqual([10_000, 10_000]);
  state.usable = true;
  expect([20_000, 20_001, 30_000].map((seq) => questions.expects(seq))).toEqual([false, true, true]);
});

test("a drain ends the search of a start", async () => {
  const { state, questions } = around();
  Object.assign(state, { nextFrameId: 30_001, usable: false });
  const restored = questions.restore();
  questions.hurry();
  await restored;
  expect(state.searched).toHaveLength(1);
});

test("a newest row that cannot be read now is looked for three times; a fault of the program is not tried again", async () => {
  const { clock, state, told, questions, frame } = around(0);
  state.latestFails = new GatewayError({
    code: "store_unavailable",
    operation: "store",
    object: "x",
    detail: "opens again",
  });
  questions.admit(itemOf(1, "message"));
  state.usable = false;
  frame();
  state.usable = true;
  questions.admit(open(2));
  frame();
  await clock.advance(10_000);
  expect([state.looks, state.asked, questions.counters.llm_forgotten_total]).toEqual([6, [], 2]);
  state.latestFails = new TypeError("a fault");
  told.length = 0;
  questions.admit(open(3));
  frame();
  await clock.advance(10_000);
  expect([state.looks, told, questions.counters.llm_forgotten_total]).toEqual([7, [3], 3]);
});
