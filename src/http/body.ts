/** Media type, encoding and size of a body, whatever the body contains. */
import type { Refused } from "./contract.ts";

/** @bound a body over 16 KiB, or a line over 64 KiB, that arrives with less than 8 KB/s | 503 after 30 s */
const SLOW_AFTER_MS = 30_000;
const SLOW_BYTES_A_MS = 8;

type Form = "json" | "ndjson";
const NDJSON_TYPES: ReadonlySet<string> = new Set([
  "application/x-ndjson",
  "application/ndjson",
  "application/jsonl",
]);

/** The form of a body by its Content-Type; null if the type is not supported. A missing one counts as JSON. */
export function formOf(contentType: string | null): Form | null {
  if (contentType === null || contentType === "application/json") return "json";
  const [mime = "", ...parameters] = contentType.toLowerCase().split(";");
  for (const parameter of parameters) {
    const [name, value = ""] = parameter.split("=", 2);
    if (name?.trim() === "charset" && !/^\s*"?utf-?8"?\s*$/.test(value)) return null;
  }
  const type = mime.trim();
  if (type === "" || type === "application/json" || /^application\/[^\s/]+\+json$/.test(type)) return "json";
  return NDJSON_TYPES.has(type) ? "ndjson" : null;
}

/** The refusal of an unsupported Content-Type. @param hint names the supported ones. */
export function refusedType(contentType: string | null, hint: string): Refused {
  const detail = `Content-Type ${JSON.stringify(contentType)} is not supported`;
  return { code: "unsupported_media_type", detail, hint };
}

/** Why a body with this Content-Encoding is refused; null if it is not. */
export function refusedEncoding(encoding: string | null): Refused | null {
  if (encoding === null || encoding === "" || encoding.toLowerCase() === "identity") return null;
  const detail = `Content-Encoding ${JSON.stringify(encoding)} is not supported`;
  return { code: "unsupported_media_type", detail, hint: "send the body uncompressed" };
}

/** Whether a body, or a line, arrives so slowly that it must not hold memory any longer: less than 8 KB/s after 30 s. */
export function isTooSlow(bytes: number, elapsedMs: number): boolean {
  return elapsedMs > SLOW_AFTER_MS && bytes < elapsedMs * SLOW_BYTES_A_MS;
}

export const BUSY: Refused = {
  code: "overloaded",
  detail: "what is held for other clients leaves no room for this body",
  hint: "send large bodies one after the other, or as application/x-ndjson with shorter lines",
  retryAfterSeconds: 1,
};

export const TOO_SLOW: Refused = {
  code: "overloaded",
  detail: "the body arrives too slowly: a large one needs at least 8 KB/s",
  hint: "send smaller bodies, or lines of NDJSON that are shorter than 64 KiB",
};

/**
 * The whole body in one piece.
 * @param sizeBytes its size, if it is known.
 * @param admit called with the size of each chunk before the chunk is kept; it may refuse the body.
 */
export async function wholeBody(
  body: ReadableStream<Uint8Array> | null,
  sizeBytes: number | null,
  admit: (chunkBytes: number) => Refused | null,
): Promise<Uint8Array | Refused> {
  const chunks: Uint8Array[] = [];
  // With a known size, chunks are copied to their place at once, so that no second copy of all of them is needed.
  let whole: Uint8Array | null = null;
  let bytes = 0;
  for await (const chunk of body ?? []) {
    const refused = admit(chunk.byteLength);
    if (refused !== null) return refused;
    if (sizeBytes === null || (bytes === 0 && chunk.byteLength >= sizeBytes)) chunks.push(chunk);
    else {
      whole ??= new Uint8Array(sizeBytes);
      whole.set(chunk, bytes);
    }
    bytes += chunk.byteLength;
  }
  if (whole !== null) return bytes === whole.byteLength ? whole : whole.subarray(0, bytes);
  return chunks.length === 1 ? (chunks[0] as Uint8Array) : Buffer.concat(chunks);
}
