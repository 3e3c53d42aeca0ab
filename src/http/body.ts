/** Media type, encoding and size of a body, whatever the body contains. */
import type { Refused } from "./contract.ts";

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

/**
 * The whole body in one piece.
 * @param admit called with the size of each chunk before the chunk is kept; it may refuse the body.
 */
export async function wholeBody(
  body: ReadableStream<Uint8Array> | null,
  admit: (chunkBytes: number) => Refused | null,
): Promise<Uint8Array | Refused> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of body ?? []) {
    const refused = admit(chunk.byteLength);
    if (refused !== null) return refused;
    chunks.push(chunk);
  }
  return chunks.length === 1 ? (chunks[0] as Uint8Array) : Buffer.concat(chunks);
}
