/** When an event is refused, and why. */
import { expect, test } from "bun:test";
import { Admission } from "../../src/pipeline/admission.ts";

function around() {
  const state = { backlog: 0, freeBytes: 100 };
  const admission = new Admission({
    journal: { filesLost: () => null, backlog: () => ({ events: state.backlog, bytes: 0 }) },
    maxBacklogEvents: 10,
    freeDiskBytes: () => ({ freeBytes: state.freeBytes, neededBytes: 100 }),
  });
  return { state, admission };
}

test("events are refused from the bound of the backlog on, and taken again below it", () => {
  const { state, admission } = around();
  state.backlog = 9;
  expect(admission.refusal()).toBeNull();
  state.backlog = 10;
  expect(admission.refusal()).toEqual({
    code: "overloaded",
    detail: "10 events wait in the journal, 10 are allowed (--max-backlog)",
    retryAfterSeconds: 2,
  });
  state.backlog = 9;
  expect(admission.refusal()).toBeNull();
});

test("events are refused while the disk has too little room, as of the last look", () => {
  const { state, admission } = around();
  state.freeBytes = 99;
  expect(admission.refusal()).toBeNull();
  admission.lookAtDisk();
  expect(admission.refusal()).toMatchObject({ code: "disk_full", retryAfterSeconds: 5 });
  state.freeBytes = 100;
  admission.lookAtDisk();
  expect(admission.refusal()).toBeNull();
});

test("from the beginning of a drain everything is refused, whatever else is wrong", () => {
  const { state, admission } = around();
  Object.assign(state, { backlog: 99, freeBytes: 0 });
  admission.lookAtDisk();
  expect([admission.draining, admission.refusal()?.code]).toEqual([false, "disk_full"]);
  admission.drain();
  expect([admission.draining, admission.refusal()?.code]).toEqual([true, "draining"]);
});

test("a checkpoint is due above half of the bound", () => {
  const { state, admission } = around();
  state.backlog = 5;
  expect(admission.checkpointDue).toBe(false);
  state.backlog = 6;
  expect(admission.checkpointDue).toBe(true);
});
