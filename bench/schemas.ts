/**
 * Measures what learning from one event costs, compared with JSON.parse of the same bytes, and the longest time for which
 * one hostile body blocks the thread.
 */
import { Schemas } from "../src/schemas/schemas.ts";
import { print } from "./support/load.ts";

const encoder = new TextEncoder();
const decoder = new TextDecoder();
const EVENTS = 20_000;
const ROUNDS = 9;
/** Uses all results, so that the compiler cannot remove the work. */
let sink = 0;

const learner = (): Schemas => new Schemas({ table: null, log: () => {} });

/** µs per call in the fastest of several rounds, because other processes can only make a round slower. */
function usEach(calls: number, run: () => void): number {
  let best = Number.POSITIVE_INFINITY;
  for (let round = 0; round < ROUNDS; round++) {
    const start = Bun.nanoseconds();
    run();
    best = Math.min(best, Bun.nanoseconds() - start);
  }
  return best / 1000 / calls;
}

/** An event of about 700 bytes, as a payment provider sends them. */
const invoice = (index: number): Uint8Array =>
  encoder.encode(
    JSON.stringify({
      id: `ev_${index}`,
      object: "event",
      created: 1_700_000_000 + index,
      livemode: index % 2 === 0,
      conversation_id: `c-${index % 50}`,
      message: `Quero cancelar meu plano ${index} porque está muito caro e não uso mais`,
      tags: ["cancelamento", "preço", "plano"],
      data: {
        object: {
          id: `in_${index}`,
          amount_due: 1999 + index,
          currency: "brl",
          paid: true,
          metadata: index % 3 === 0 ? null : { plan: "mensal", origin: "whatsapp" },
          customer: {
            id: `cus_${index}`,
            name: "Maria Souza",
            email: "maria@example.com",
            address: { city: "São Paulo", state: "SP", line1: `Rua A, ${index}`, postal_code: "01000-000" },
          },
          lines: [
            { id: 1, price: 10.5, description: "Plano mensal" },
            { id: 2, price: 3, description: "Seguro do carro" },
          ],
        },
      },
    }),
  );
const bodies = Array.from({ length: EVENTS }, (_, index) => invoice(index));
const schemas = learner();
const baseline = usEach(EVENTS, () => {
  for (const body of bodies) if (JSON.parse(decoder.decode(body)) !== null) sink++;
});
const bytes = Math.round(bodies.reduce((sum, body) => sum + body.length, 0) / EVENTS);
const observed = usEach(EVENTS, () => {
  for (const body of bodies) sink += schemas.observe("Invoice", body, 1).fillRate;
});
print({ name: `schemas/observe, ${bytes} bytes`, value: observed, unit: "us", baseline });
const printed = usEach(EVENTS, () => {
  for (const body of bodies) sink += schemas.fingerprint(body).length;
});
print({ name: `schemas/fingerprint, ${bytes} bytes`, value: printed, unit: "us", baseline });

// Many types, and types that are new with each event, take time as well.
const types = learner();
const spread = usEach(EVENTS, () => {
  bodies.forEach((body, index) => {
    sink += types.observe(`Type${index % 100}`, body, 1).fillRate;
  });
});
print({ name: "schemas/observe, 100 types", value: spread, unit: "us", baseline });
let made = 0;
const flood = usEach(EVENTS, () => {
  for (const body of bodies) sink += types.observe(`Made up ${made++}`, body, 1).fillRate;
});
print({ name: "schemas/observe, a new type each", value: flood, unit: "us", baseline });

const MIB = 1024 * 1024;
const hostile: Readonly<Record<string, string>> = {
  "16 KiB of keys": `{${Array.from({ length: 1300 }, (_, n) => `"k${n}":${n}`).join(",")}}`,
  "8 MiB string": `{"a":"${"x".repeat(8 * MIB)}","b":1}`,
  "8 MiB of escapes": `{"a":"${'\\"'.repeat(4 * MIB)}","b":1}`,
  "8 MiB array": `{"a":[${"1,".repeat(4 * MIB)}1],"b":1}`,
  "8 MiB of keys": `{${Array.from({ length: 500_000 }, (_, n) => `"k${n}":${n}`).join(",")}}`,
  "8 MiB of objects": `{"a":[${'{"k":{"l":[]}},'.repeat(MIB / 2)}1],"b":1}`,
};
for (const [name, text] of Object.entries(hostile)) {
  const body = encoder.encode(text);
  let worstMs = 0;
  for (let call = 0; call < 20; call++) {
    const start = performance.now();
    sink += schemas.observe(name, body, 1).fillRate;
    // The first calls include compilation.
    if (call >= 5) worstMs = Math.max(worstMs, performance.now() - start);
  }
  print({ name: `schemas/longest stall, ${name}`, value: worstMs, unit: "ms", baseline: null });
}
if (sink < 0) console.log(sink);
