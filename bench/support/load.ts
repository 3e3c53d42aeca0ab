/**
 * A load generator that costs as little as it can: raw sockets, one request at a time on each
 * connection, prebuilt requests. Runs in the process of the bench, on the same machine as the server.
 */

export interface LoadResult {
  readonly requestsPerSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly failures: number;
}

export interface LoadOptions {
  readonly port: number;
  readonly connections: number;
  readonly seconds: number;
  /** Bodies, taken in turn. */
  readonly bodies: readonly string[];
}

const HEADER_END = Buffer.from("\r\n\r\n");

/** POSTs to /ingest for so many seconds and counts answers with status 200. */
export async function load(options: LoadOptions): Promise<LoadResult> {
  const requests = options.bodies.map((body) =>
    Buffer.from(
      `POST /ingest HTTP/1.1\r\nHost: 127.0.0.1:${options.port}\r\nContent-Type: application/json\r\n` +
        `Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
    ),
  );
  const latenciesMs: number[] = [];
  let failures = 0;
  let turn = 0;
  const startedMs = performance.now();
  const untilMs = startedMs + options.seconds * 1000;
  const one = (): Promise<void> =>
    new Promise((done) => {
      let sentMs = 0;
      const send = (socket: { write(data: Uint8Array): number }): void => {
        sentMs = performance.now();
        const request = requests[turn++ % requests.length];
        if (request !== undefined) socket.write(request);
      };
      void Bun.connect({
        hostname: "127.0.0.1",
        port: options.port,
        socket: {
          open: send,
          data(socket, data) {
            // Answers are small: one read holds head and body. What is not, is a failure and seen as one.
            if (data.indexOf(HEADER_END) < 0) return;
            if (data.toString("latin1", 9, 12) !== "200") failures += 1;
            const nowMs = performance.now();
            latenciesMs.push(nowMs - sentMs);
            if (nowMs < untilMs) send(socket);
            else {
              socket.end();
              done();
            }
          },
          error: () => done(),
          close: () => done(),
        },
      });
    });
  await Promise.all(Array.from({ length: options.connections }, one));
  const seconds = (performance.now() - startedMs) / 1000;
  latenciesMs.sort((a, b) => a - b);
  const at = (share: number): number => latenciesMs[Math.floor(share * (latenciesMs.length - 1))] ?? 0;
  return { requestsPerSecond: latenciesMs.length / seconds, p50Ms: at(0.5), p99Ms: at(0.99), failures };
}

export interface Line {
  readonly name: string;
  readonly value: number;
  readonly unit: string;
  readonly baseline: number | null;
}

/** Prints one figure: a JSON object with --json, else a line for people. */
export function print({ name, value, unit, baseline }: Line): void {
  const ratio = baseline === null ? null : value / baseline;
  if (process.argv.includes("--json")) console.log(JSON.stringify({ name, value, unit, baseline, ratio }));
  else {
    const against = baseline === null ? "" : ` (baseline ${round(baseline)}, ratio ${ratio?.toFixed(3)})`;
    console.log(`${name.padEnd(34)} ${round(value)} ${unit}${against}`);
  }
}

function round(value: number): string {
  return value >= 100 ? Math.round(value).toLocaleString("en") : value.toPrecision(3);
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? 0;
}

/** About 750 bytes, as webhooks are; conversations as in life. */
export function webhookBody(n: number): string {
  return JSON.stringify({
    type: "UserMessage",
    conversation_id: `conversa-${n % 500}`,
    message: `Mensagem ${n}: quero cancelar meu plano e saber quanto falta para pagar a última fatura, por favor.`,
    actor: "human",
    customer: {
      name: "Maria Aparecida dos Santos",
      city: "Belo Horizonte",
      since: "2021-04-12",
      tags: ["vip", "pós-pago"],
    },
    order: {
      number: 8_000_000 + n,
      items: [
        { sku: "PLAN-50GB", price: 79.9 },
        { sku: "ROUTER", price: 12.5 },
      ],
      total: 92.4,
    },
    padding: "x".repeat(260),
  });
}
