/** Log lines and a descriptor whose other end is gone, full or asleep. */
import { expect, test } from "bun:test";
import { LineWriter } from "../../src/start/line-writer.ts";
import { FakeClock } from "../fake-clock.ts";

/** An output that takes at most `state.room` bytes before it fails with `state.failure`. */
function around() {
  const clock = new FakeClock();
  const state = { ready: true, room: Number.POSITIVE_INFINITY, failure: "ENOSPC", text: "", largest: 0 };
  const lines = new LineWriter(
    {
      isReady: () => state.ready,
      write: (bytes) => {
        state.largest = Math.max(state.largest, bytes.length);
        if (state.room === 0) throw Object.assign(new Error(state.failure), { code: state.failure });
        const taken = bytes.subarray(0, state.room);
        state.room -= taken.length;
        state.text += new TextDecoder().decode(taken);
        return taken.length;
      },
    },
    clock,
  );
  return { clock, state, lines };
}

test("lines come out at once and in order, in pieces that do not wait", () => {
  const { clock, state, lines } = around();
  const long = "x".repeat(10_000);
  for (const line of ["first", long, "last"]) lines.write(line);
  expect([state.text, state.largest, clock.pending]).toEqual([`first\n${long}\nlast\n`, 4096, 0]);
});

for (const failure of ["EPIPE", "ENOSPC", "EIO", "EBADF"])
  test(`lines that fail with ${failure} are dropped, and their number is said once writing works again`, () => {
    const { clock, state, lines } = around();
    Object.assign(state, { room: 0, failure });
    for (const line of ["a", "b", "c"]) lines.write(line);
    expect([state.text, clock.pending]).toEqual(["", 0]);
    state.room = Number.POSITIVE_INFINITY;
    lines.write("d");
    lines.write("e");
    expect(state.text).toBe(
      "one_file_gateway: 3 log lines were lost, because standard error took no more\nd\ne\n",
    );
  });

test("a line that was cut by a full disk ends before the next one begins", () => {
  const { state, lines } = around();
  state.room = 4;
  lines.write("complete?");
  state.room = Number.POSITIVE_INFINITY;
  lines.write("next");
  expect(state.text).toBe(
    "comp\none_file_gateway: 1 log line was lost, because standard error took no more\nnext\n",
  );
});

test("lines wait for a reader that is asleep, and come out when it wakes up", async () => {
  for (const asleep of [{ ready: false }, { room: 0, failure: "EAGAIN" }]) {
    const { clock, state, lines } = around();
    Object.assign(state, asleep);
    lines.write("a");
    lines.write("b");
    await clock.advance(10_000);
    expect([state.text, clock.pending]).toEqual(["", 1]);
    Object.assign(state, { ready: true, room: Number.POSITIVE_INFINITY });
    lines.write("c");
    await clock.advance(100);
    expect([state.text, clock.pending]).toEqual(["a\nb\nc\n", 0]);
  }
});

test("at most 256 KiB wait; what comes after that is counted", async () => {
  const { clock, state, lines } = around();
  state.ready = false;
  const line = "x".repeat(1023);
  for (let n = 0; n < 300; n++) lines.write(line);
  state.ready = true;
  await clock.advance(100);
  const [notice, ...rest] = state.text.split("\n");
  expect(notice).toBe("one_file_gateway: 44 log lines were lost, because standard error took no more");
  expect([rest.length, rest.at(-1)]).toEqual([257, ""]);
});

test("one line that is longer than what may wait still comes out", async () => {
  const { clock, state, lines } = around();
  state.ready = false;
  const line = "x".repeat(300_000);
  lines.write(line);
  state.ready = true;
  await clock.advance(100);
  expect(state.text).toBe(`${line}\n`);
});
