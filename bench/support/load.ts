/**
 * A load generator that uses as little processor time as possible: raw sockets, prebuilt requests, one request at a time on
 * each connection. It runs in the process of the bench, on the same machine as the server.
 */

export interface LoadResult {
  /** Responses with status 200, divided by the time until the last one. */
  readonly requestsPerSecond: number;
  readonly answered: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

export interface LoadOptions {
  readonly port: number;
  readonly connections: number;
  readonly seconds: number;
  /** The bodies of the requests, used in turn. */
  readonly bodies: readonly string[];
}

const HEADER_END = Buffer.from("\r\n\r\n");

/** Length of the response at the beginning of `data`; null if its head is not complete. */
function responseBytes(data: Buffer): number | null {
  const end = data.indexOf(HEADER_END);
  if (end < 0) return null;
  const length = /\r\ncontent-length: (\d+)/i.exec(data.toString("latin1", 0, end));
  if (length === null) throw new Error(`load: a response without Content-Length: ${data.toString("latin1")}`);
  return end + HEADER_END.length + Number(length[1]);
}

/**
 * Sends requests to /ingest for a number of seconds.
 * @throws Error at the first response that is not 200, or if a connection breaks: a failing server has no speed.
 */
export async function load(options: LoadOptions): Promise<LoadResult> {
  const requests = options.bodies.map((body) =>
    Buffer.from(
      `POST /ingest HTTP/1.1\r\nHost: 127.0.0.1:${options.port}\r\nContent-Type: application/json\r\n` +
        `Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
    ),
  );
  const latenciesMs: number[] = [];
  let turn = 0;
  const startedMs = performance.now();
  const untilMs = startedMs + options.seconds * 1000;
  const one = (): Promise<void> => {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    let sentMs = 0;
    let ended = false;
    let received: Buffer | null = null;
    const send = (socket: { write(data: Uint8Array): number }): void => {
      sentMs = performance.now();
      const request = requests[turn++ % requests.length] as Buffer;
      const writtenBytes = socket.write(request);
      if (writtenBytes !== request.byteLength)
        reject(new Error(`load: only ${writtenBytes} bytes were sent`));
    };
    const opening = Bun.connect({
      hostname: "127.0.0.1",
      port: options.port,
      socket: {
        open: send,
        data(socket, data) {
          const response: Buffer = received === null ? data : Buffer.concat([received, data]);
          const bytes = responseBytes(response);
          received = bytes === null || response.byteLength < bytes ? Buffer.from(response) : null;
          if (received !== null) return;
          const status = response.toString("latin1", 9, 12);
          if (status !== "200") reject(new Error(`load: status ${status}: ${response.toString()}`));
          const nowMs = performance.now();
          latenciesMs.push(nowMs - sentMs);
          if (nowMs < untilMs) return send(socket);
          ended = true;
          socket.end();
          resolve();
        },
        error: (_, error) => reject(error),
        close: () => {
          if (!ended) reject(new Error("load: the server closed a connection"));
        },
      },
    });
    opening.catch(reject);
    return promise;
  };
  await Promise.all(Array.from({ length: options.connections }, one));
  const seconds = (performance.now() - startedMs) / 1000;
  latenciesMs.sort((a, b) => a - b);
  const at = (share: number): number => latenciesMs[Math.floor(share * (latenciesMs.length - 1))] ?? 0;
  const answered = latenciesMs.length;
  return { requestsPerSecond: answered / seconds, answered, p50Ms: at(0.5), p99Ms: at(0.99) };
}

export interface Line {
  readonly name: string;
  readonly value: number;
  readonly unit: string;
  readonly baseline: number | null;
}

/** Prints one figure: with --json as a JSON object, else as a line for people. */
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

/** A typical webhook of about 750 bytes, from one of 500 conversations. */
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
