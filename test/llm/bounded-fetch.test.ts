import { expect, test } from "bun:test";
import { boundedFetch, TooLargeError } from "../../src/llm/bounded-fetch.ts";

const MIB = 1024 * 1024;

/** A response with an endless body, and how many bytes of it were read. */
function endless(headers: Record<string, string>) {
  const made = { bytes: 0, cancelled: false };
  const body = new ReadableStream<Uint8Array>({
    pull(controller) {
      made.bytes += 64 * 1024;
      controller.enqueue(new Uint8Array(64 * 1024));
    },
    cancel() {
      made.cancelled = true;
    },
  });
  return { made, response: new Response(body, { headers }) };
}

async function read(response: Response): Promise<Response> {
  const fetching = (async () => response) as unknown as typeof fetch;
  return boundedFetch(fetching)("http://endpoint/");
}

test.each([
  ["a reply", "application/json", MIB],
  ["a stream", "text/event-stream; charset=utf-8", 8 * MIB],
])("%s is read up to its bound, and its source is cancelled there", async (_, type, bound) => {
  const { made, response } = endless({ "content-type": type });
  await expect((await read(response)).bytes()).rejects.toBeInstanceOf(TooLargeError);
  expect(made.cancelled).toBe(true);
  expect(made.bytes).toBeGreaterThan(bound);
  expect(made.bytes).toBeLessThan(bound + MIB);
});

test("a body within the bound arrives unchanged, with its status and headers", async () => {
  const sent = new Response("hello", { status: 503, headers: { "retry-after": "7" } });
  const got = await read(sent);
  expect([got.status, got.headers.get("retry-after"), await got.text()]).toEqual([503, "7", "hello"]);
});

test("a content-length within the bound is trusted, unless the body is compressed or chunked", async () => {
  const length = { "content-length": "5" };
  const plain = new Response("hello", { headers: length });
  expect(await read(plain)).toBe(plain);
  for (const more of [{ "content-encoding": "gzip" }, { "transfer-encoding": "chunked" }]) {
    const response = new Response("hello", { headers: { ...length, ...more } });
    expect(await read(response)).not.toBe(response);
  }
  const long = new Response("hello", { headers: { "content-length": String(MIB + 1) } });
  expect(await read(long)).not.toBe(long);
});

test("a response without a body is passed on", async () => {
  const response = new Response(null, { status: 204 });
  expect(await read(response)).toBe(response);
});
