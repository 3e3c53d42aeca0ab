/** Media type, encoding and size of bodies. */
import { expect, test } from "bun:test";
import { formOf, isTooSlow, refusedEncoding, wholeBody } from "../../src/http/body.ts";
import { jsonOf } from "../../src/http/json.ts";

function streamOf(...chunks: string[]): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start(controller) {
      for (const chunk of chunks) controller.enqueue(new TextEncoder().encode(chunk));
      controller.close();
    },
  });
}

test("a Content-Type is JSON, NDJSON or not supported", () => {
  const json = [null, "", "application/json", "APPLICATION/JSON ; charset=utf8", "application/a.b+json"];
  for (const type of json) expect([type, formOf(type)]).toEqual([type, "json"]);
  for (const type of ["application/x-ndjson", "application/ndjson", 'application/jsonl;charset="UTF-8"'])
    expect([type, formOf(type)]).toEqual([type, "ndjson"]);
  const refused = ["text/json", "application/json; charset=latin1", "application/x-ndjson; charset=utf-16"];
  for (const type of [...refused, "multipart/form-data", "application/a/b+json"])
    expect([type, formOf(type)]).toEqual([type, null]);
});

test("a Content-Encoding is refused unless it is absent, empty or identity", () => {
  for (const encoding of [null, "", "identity", "Identity"]) expect(refusedEncoding(encoding)).toBeNull();
  for (const encoding of ["gzip", "br", "identity, gzip"])
    expect(refusedEncoding(encoding)).toMatchObject({ code: "unsupported_media_type" });
});

test("a body comes in one piece, however many chunks it had", async () => {
  const read = async (sizeBytes: number | null, ...chunks: string[]) => {
    const whole = await wholeBody(streamOf(...chunks), sizeBytes, () => null);
    return "code" in whole ? whole : new TextDecoder().decode(whole);
  };
  expect(await read(null, "a", "b", "c")).toBe("abc");
  expect(await read(null, "only")).toBe("only");
  expect(await read(null)).toBe("");
  expect(await read(5, "ab", "cd", "e")).toBe("abcde");
  expect(await read(4, "only")).toBe("only");
  expect(await read(9, "short", "er")).toBe("shorter");
  expect(await read(0)).toBe("");
  expect(await wholeBody(null, null, () => null)).toHaveLength(0);
});

test("a body that is refused is read no further", async () => {
  let pulled = 0;
  const endless = new ReadableStream<Uint8Array>(
    { pull: (controller) => controller.enqueue(new Uint8Array(10).fill(++pulled)) },
    { highWaterMark: 0 },
  );
  const sizes: number[] = [];
  const refused = { code: "too_large", detail: "enough" } as const;
  const whole = await wholeBody(endless, null, (chunkBytes) => {
    sizes.push(chunkBytes);
    return sizes.length === 3 ? refused : null;
  });
  expect(whole).toBe(refused);
  expect([sizes, pulled]).toEqual([[10, 10, 10], 3]);
});

test("a JSON body is bounded by its chunks as well as by its Content-Length", async () => {
  let held = 0;
  const read = (body: ReadableStream<Uint8Array>, headers: Record<string, string> = {}) =>
    jsonOf({ headers: new Headers(headers), body }, (bytes) => held + bytes <= 12, {
      bytesMax: 10,
      hint: "send less",
    });
  expect(await read(streamOf('{"a"', ":1}"))).toEqual({ json: { a: 1 } });
  expect(await read(streamOf('{"a":', "1     }"))).toMatchObject({ code: "too_large" });
  expect(await read(streamOf("{}"), { "content-length": "11" })).toMatchObject({ code: "too_large" });
  expect(await read(streamOf("{"))).toMatchObject({ code: "malformed", hint: "send less" });
  held = 11;
  expect(await read(streamOf("{}"))).toMatchObject({ code: "overloaded", retryAfterSeconds: 1 });
});

test("a body is too slow if it has less than 8 KB/s after 30 s", () => {
  expect([isTooSlow(0, 30_000), isTooSlow(0, 30_001)]).toEqual([false, true]);
  expect([isTooSlow(479_999, 60_000), isTooSlow(480_000, 60_000)]).toEqual([true, false]);
});
