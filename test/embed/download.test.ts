import { afterEach, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { getFile, request } from "../../src/embed/download.ts";
import { FakeClock } from "../fake-clock.ts";
import { PATIENCE_MS, refusal, until } from "./embedders.ts";

setDefaultTimeout(PATIENCE_MS);

const URL_OF_FILE = "http://hub/file";
const ETAG = { etag: '"1"' };

let folder = "";
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "gateway-download-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

function sha256(text: string): string {
  return new Bun.CryptoHasher("sha256").update(text).digest("hex");
}

type Answer = (url: string, headers: Headers) => Response | Promise<Response>;

/** Counts how often the code under test reads the clock. */
class CountingClock extends FakeClock {
  reads = 0;

  override monotonicMs(): number {
    this.reads++;
    return super.monotonicMs();
  }
}

/** @param answers one per request, in order; the last one also for all later requests. */
function transferOf(...answers: Answer[]) {
  const clock = new CountingClock();
  const lines: string[] = [];
  const sent: [url: string, range: string | null][] = [];
  const fetching = (async (input: string | URL | Request, init?: RequestInit) => {
    const headers = new Headers(init?.headers);
    sent.push([String(input), headers.get("range")]);
    const answer = answers.length > 1 ? answers.shift() : answers[0];
    const { promise, reject } = Promise.withResolvers<never>();
    init?.signal?.addEventListener("abort", () => reject(init.signal?.reason), { once: true });
    return Promise.race([answer?.(String(input), headers) ?? promise, promise]);
  }) as typeof fetch;
  return {
    clock,
    lines,
    sent,
    transfer: { fetch: fetching, clock, progress: (line: string) => lines.push(line) },
  };
}

function download(given: { bytes?: number; sha256?: string; optional?: boolean } = {}) {
  const { bytes = null, sha256: hash = null, optional = false } = given;
  const file = { path: "file", bytes, sha256: hash, gitSha1: null };
  return { url: URL_OF_FILE, file, target: join(folder, "file"), optional };
}

const whole = (text: string) => (): Response => new Response(text, { headers: ETAG });
const partOf = (text: string, from: number) => (): Response =>
  new Response(text.slice(from), {
    status: 206,
    headers: { ...ETAG, "content-range": `bytes ${from}-${text.length - 1}/${text.length}` },
  });

describe("a file", () => {
  test("is complete at its place, its hash is checked, and its parts are gone", async () => {
    const { transfer, lines } = transferOf(whole("hello"));
    await getFile(transfer, download({ bytes: 5, sha256: sha256("hello") }));
    expect(readFileSync(join(folder, "file"), "utf8")).toBe("hello");
    expect([existsSync(join(folder, "file.part")), existsSync(join(folder, "file.part.etag"))]).toEqual([
      false,
      false,
    ]);
    expect(lines).toEqual(["file: 5 bytes, hash checked"]);
  });

  test("that is already there is not downloaded again", async () => {
    writeFileSync(join(folder, "file"), "hello");
    const { transfer, sent, lines } = transferOf(whole("other"));
    await getFile(transfer, download({ sha256: sha256("hello") }));
    expect([sent, lines]).toEqual([[], ["file: already there"]]);
  });

  test("continues where the connection broke, a second later", async () => {
    const { transfer, clock, sent, lines } = transferOf(whole("hel"), partOf("hello", 3));
    const getting = getFile(transfer, download({ bytes: 5 }));
    await until(() => lines.length === 1);
    await clock.advance(999);
    expect(sent.length).toBe(1);
    await clock.advance(1);
    await getting;
    expect(sent.map(([, range]) => range)).toEqual([null, "bytes=3-"]);
    expect(readFileSync(join(folder, "file"), "utf8")).toBe("hello");
  });

  test("starts again if the server has another file by now", async () => {
    writeFileSync(join(folder, "file.part"), "old");
    writeFileSync(join(folder, "file.part.etag"), '"0"');
    const { transfer, sent } = transferOf(whole("hello"));
    await getFile(transfer, download({ bytes: 5 }));
    expect([sent[0]?.[1], readFileSync(join(folder, "file"), "utf8")]).toEqual(["bytes=3-", "hello"]);
  });

  test("with another hash is refused and removed", async () => {
    const { transfer } = transferOf(whole("hullo"));
    const error = await refusal(getFile(transfer, download({ sha256: sha256("hello") })));
    expect([error.code, existsSync(join(folder, "file"))]).toEqual(["model_invalid", false]);
  });

  test("that continues at another byte than was requested is refused", async () => {
    writeFileSync(join(folder, "file.part"), "hel");
    writeFileSync(join(folder, "file.part.etag"), '"1"');
    const { transfer } = transferOf(partOf("hello", 2));
    expect((await refusal(getFile(transfer, download({ bytes: 5 })))).code).toBe("model_invalid");
  });

  test("may be absent if it is optional, and is reported as missing otherwise", async () => {
    const absent = (): Response => new Response("no", { status: 404 });
    await getFile(transferOf(absent).transfer, download({ optional: true }));
    const error = await refusal(getFile(transferOf(absent).transfer, download()));
    expect([error.code, error.detail]).toEqual(["model_missing", "the server responded 404"]);
  });

  test("is given up after six tries in a row that brought no byte", async () => {
    const { transfer, clock, sent, lines } = transferOf(() => new Response("busy", { status: 503 }));
    const getting = refusal(getFile(transfer, download()));
    for (let n = 1; n < 6; n++) {
      await until(() => lines.length === n);
      expect(sent.length).toBe(n);
      await clock.advance(1000);
    }
    expect([(await getting).code, sent.length]).toEqual(["embedder_unavailable", 6]);
  });

  test("shows its progress every two seconds", async () => {
    const { promise, resolve } = Promise.withResolvers<ReadableStreamDefaultController<Uint8Array>>();
    const body = new ReadableStream<Uint8Array>({ start: resolve });
    const { transfer, clock, lines } = transferOf(() => new Response(body));
    const getting = getFile(transfer, download({ bytes: 3_000_000 }));
    const stream = await promise;
    const send = async (): Promise<void> => {
      const reads = clock.reads + 1;
      stream.enqueue(new Uint8Array(1_000_000));
      // The download reads the clock once per chunk, after it has written the chunk.
      await until(() => clock.reads === reads);
    };
    await until(() => clock.reads === 1);
    await send();
    await clock.advance(2000);
    await send();
    await send();
    stream.close();
    await getting;
    expect(lines).toEqual(["file: 2.0 of 3.0 MB", "file: 3000000 bytes, no hash is known to check it"]);
  });
});

describe("a request", () => {
  test("follows redirects, and takes the hash that the hub sends with one of them", async () => {
    const hash = "a".repeat(64);
    const { transfer, sent } = transferOf(
      () => new Response(null, { status: 302, headers: { location: "/cdn", "x-linked-etag": `"${hash}"` } }),
      () => new Response("hello"),
    );
    const linked = { sha256: null };
    const response = await request(transfer, URL_OF_FILE, {}, linked);
    expect([await response.text(), linked.sha256 as string | null]).toEqual(["hello", hash]);
    expect(sent.map(([url]) => url)).toEqual([URL_OF_FILE, "http://hub/cdn"]);
  });

  test("follows at most eight redirects", async () => {
    const { transfer, sent } = transferOf(
      () => new Response(null, { status: 302, headers: { location: URL_OF_FILE } }),
    );
    expect((await refusal(request(transfer, URL_OF_FILE, {}))).detail).toBe("too many redirects");
    expect(sent.length).toBe(8);
  });

  test("ends its wait for the next try when it is stopped, and keeps what is here", async () => {
    const { transfer, clock, sent } = transferOf(() => {
      throw new TypeError("no network");
    });
    const stop = new AbortController();
    const failing = refusal(getFile({ ...transfer, signal: stop.signal }, download()));
    await until(() => clock.pending === 1);
    stop.abort();
    expect((await failing).code).toBe("embedder_unavailable");
    expect([sent.length, clock.pending]).toEqual([1, 0]);
  });

  test("ends a body that brings nothing more when it is stopped, or after a minute", async () => {
    const silent = (): Response =>
      new Response(new ReadableStream({ start: (controller) => controller.enqueue(new Uint8Array(3)) }));
    const stop = new AbortController();
    const stopped = transferOf(silent);
    const failing = refusal(getFile({ ...stopped.transfer, signal: stop.signal }, download()));
    const arrived = (path: string): boolean => existsSync(path) && readFileSync(path).byteLength === 3;
    await until(() => arrived(join(folder, "file.part")) && stopped.clock.pending === 1);
    stop.abort();
    expect((await failing).detail).toContain("it was stopped");
    const slow = transferOf(silent, whole("hello"));
    const target = join(folder, "other");
    const finishing = getFile(slow.transfer, { ...download(), target });
    await until(() => arrived(`${target}.part`) && slow.clock.pending === 1);
    await slow.clock.advance(60_000);
    await until(() => slow.lines.length === 1 && slow.clock.pending === 1);
    await slow.clock.advance(1000);
    await finishing;
    expect(slow.lines.join()).toContain("no byte within 60 s");
    expect([stopped.clock.pending, slow.clock.pending]).toEqual([0, 0]);
  });

  test("of another size than the hub says is refused while it comes", async () => {
    const { transfer } = transferOf(whole("hello, and much more"));
    expect(await refusal(getFile(transfer, download({ bytes: 5 })))).toMatchObject({
      ...{ code: "model_invalid", detail: "it is larger than 5 bytes" },
    });
  });

  test("is not fetched from a redirect that leaves HTTP or gives up its encryption", async () => {
    const to = (location: string) => () => new Response(null, { status: 302, headers: { location } });
    for (const location of ["file:///etc/passwd", "data:,x", "http://hub/file"]) {
      const { transfer, sent } = transferOf(to(location));
      const asked = { ...download(), url: "https://hub/file" };
      const failing = refusal(request(transfer, asked.url, {}));
      expect([(await failing).detail.includes("not safe"), sent.length]).toEqual([true, 1]);
    }
  });

  test("waits 30 s for the headers of a response, and leaves no timer behind", async () => {
    const { transfer, clock } = transferOf(() => new Promise<Response>(() => {}));
    const waiting = refusal(request(transfer, URL_OF_FILE, {}));
    await clock.advance(30_000);
    expect((await waiting).detail).toBe("no response within 30 s");
    const prompt = transferOf(whole("hello"));
    await request(prompt.transfer, URL_OF_FILE, {});
    expect([clock.pending, prompt.clock.pending]).toEqual([0, 0]);
  });
});
