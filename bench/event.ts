/**
 * Measures the speed of the input, bytes → events, against plain JSON.parse of the same bytes, and the longest time for
 * which one slice of a large body holds the thread.
 */

import {
  type JsonBody,
  LIMITS,
  NdjsonSplitter,
  type Outcome,
  parseEvent,
  parseJsonBody,
  parseLine,
} from "../src/event/event.ts";
import { print } from "./support/load.ts";

const MIB = 1024 * 1024;
const OPEN_ARRAY = 0x5b;
const encoder = new TextEncoder();
/** Uses the results, so that no work is optimised away. */
let sink = 0;

function report(name: string, value: number, unit: string, baseline: number | null): void {
  print({ name: `event/${name}`, value, unit, baseline });
}

/** Calls per second in the fastest of several rounds, because other processes can only make a round slower. */
function perSecond(calls: number, run: () => void): number {
  let best = Number.POSITIVE_INFINITY;
  for (let round = 0; round < 7; round++) {
    const start = Bun.nanoseconds();
    run();
    best = Math.min(best, Bun.nanoseconds() - start);
  }
  return (calls * 1e9) / best;
}

function plain(bytes: Uint8Array): unknown {
  return JSON.parse(new TextDecoder().decode(bytes));
}

function rate(name: string, bodies: readonly Uint8Array[]): void {
  const baseline = perSecond(bodies.length, () => {
    for (const body of bodies) if (plain(body) !== null) sink++;
  });
  const value = perSecond(bodies.length, () => {
    for (const body of bodies) if (parseEvent(body).event !== null) sink++;
  });
  report(name, value, "events/s", baseline);
}

const text = (index: number): string => `I am still waiting on my card, number ${index}?`;
const small = Array.from({ length: 100_000 }, (_, index) =>
  encoder.encode(
    JSON.stringify({ message: text(index), conversation_id: `c-${index % 1000}`, type: "UserMessage" }),
  ),
);
const medium = Array.from({ length: 20_000 }, (_, index) =>
  encoder.encode(
    JSON.stringify({
      id: `evt_${index}`,
      type: "UserMessage",
      conversation_id: `c-${index % 1000}`,
      timestamp: "2026-01-02T03:04:05.678Z",
      message: text(index).repeat(4),
      customer: { name: "Maria", tags: ["new", "vip"], address: { city: "Recife", zip: "50000-000" } },
      items: [
        { sku: "A-1", quantity: 2, price: 19.9 },
        { sku: "B-2", quantity: 1, price: 5 },
      ],
      note: "n".repeat(250),
    }),
  ),
);
const portuguese = small.map((_, index) =>
  encoder.encode(
    `{"message":"Olá, não recebi o cartão nº ${index}","conversation_id":"c-1","type":"UserMessage"}`,
  ),
);
const snowflakes = small.map((_, index) =>
  encoder.encode(`{"id":11754943508222${10_000 + index},"message":"${text(index)}","type":"UserMessage"}`),
);

rate(`parseEvent, ${small[0]?.length} bytes`, small);
rate(`parseEvent, ${portuguese[0]?.length} bytes, not ASCII`, portuguese);
rate("parseEvent, an id beyond 2^53", snowflakes);
rate(`parseEvent, ${medium[0]?.length} bytes`, medium);

const ndjson = Buffer.concat(small.flatMap((body) => [body, encoder.encode("\n")]));
{
  const baseline = perSecond(small.length, () => {
    for (const body of small) if (plain(body) !== null) sink++;
  });
  const value = perSecond(small.length, () => {
    const splitter = new NdjsonSplitter();
    for (let at = 0; at < ndjson.length; at += LIMITS.sliceBytes) {
      for (const line of splitter.push(ndjson.subarray(at, at + LIMITS.sliceBytes))) {
        if (parseLine(line).event !== null) sink++;
      }
    }
  });
  report("NDJSON, split and parsed", value, "events/s", baseline);
}

/** Reads a whole body; measures all of it and the longest slice. */
function slices(bytes: Uint8Array): { wholeMs: number; longestMs: number; body: JsonBody } {
  const reader = parseJsonBody(bytes);
  const start = Bun.nanoseconds();
  let longest = 0;
  for (let before = start; ; ) {
    const step: IteratorResult<readonly Outcome[], JsonBody> = reader.next();
    const now = Bun.nanoseconds();
    longest = Math.max(longest, now - before);
    before = now;
    if (step.done === true)
      return { wholeMs: (now - start) / 1e6, longestMs: longest / 1e6, body: step.value };
  }
}

function filled(open: string, element: string, close: string, sizeBytes: number): Uint8Array {
  const count = Math.floor((sizeBytes - open.length - close.length) / (element.length + 1));
  return encoder.encode(`${open}${`${element},`.repeat(count - 1)}${element}${close}`);
}

const one = new TextDecoder().decode(small[0]);
// Bodies are made one at a time, because a large heap makes the pauses of the collector, and so the slices, longer.
const bodies: [string, () => Uint8Array][] = [
  ["60 MiB array of small events", () => filled("[", one, "]", 60 * MIB)],
  ["6 MiB array of {}", () => filled("[", "{}", "]", 6 * MIB)],
  [
    "60 MiB array of 8 MiB events",
    () => filled("[", `{"message":"m","a":[${"1,".repeat(4 * MIB - 32)}1]}`, "]", 60 * MIB),
  ],
  [
    "60 MiB array of 6 MiB messages, not ASCII",
    () => filled("[", `{"message":"${"é".repeat(3 * MIB)}"}`, "]", 30 * MIB),
  ],
  ["8 MiB event of numbers", () => filled('{"a":[', "1", "]}", 8 * MIB)],
  ["8 MiB event of keys", () => filled('{"a":1,', '"mypet":1', "}", 8 * MIB)],
  ["60 MiB of [", () => new Uint8Array(60 * MIB).fill(OPEN_ARRAY)],
];
small.length = portuguese.length = snowflakes.length = medium.length = 0;
for (const [name, make] of bodies) {
  const bytes = make();
  const baseline = bytes[1] === OPEN_ARRAY ? null : stallMs(bytes);
  Bun.gc(true);
  const { wholeMs, longestMs } = slices(bytes);
  report(`${name}: longest slice`, longestMs, "ms", baseline);
  report(`${name}: all of it`, wholeMs, "ms", baseline);
}

/** For how many ms JSON.parse of the whole body holds the thread. */
function stallMs(bytes: Uint8Array): number {
  const start = Bun.nanoseconds();
  if (plain(bytes) !== null) sink++;
  return (Bun.nanoseconds() - start) / 1e6;
}

if (sink === 0) throw new Error("bench: nothing was parsed");
