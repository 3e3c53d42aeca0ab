/** The JSON body of a request that is no event, as routes beside /ingest take it. Part of http. */
import { formOf, type Refused } from "./ingest.ts";

export interface JsonRequest {
  readonly headers: Pick<Headers, "get">;
  readonly body: ReadableStream<Uint8Array> | null;
}

export interface JsonBounds {
  readonly bytesMax: number;
  /** What a right body looks like. */
  readonly hint: string;
}

/** The value of the body, of which never more than `bytesMax` are held; or why it is refused. */
export async function jsonOf(
  { headers, body }: JsonRequest,
  { bytesMax, hint }: JsonBounds,
): Promise<{ readonly json: unknown } | Refused> {
  const contentType = headers.get("content-type");
  if (formOf(contentType) !== "json") {
    const detail = `Content-Type ${JSON.stringify(contentType)} is not taken`;
    return { code: "unsupported_media_type", detail, hint: "send application/json in UTF-8" };
  }
  const encoding = headers.get("content-encoding");
  if (encoding !== null && encoding !== "" && encoding.toLowerCase() !== "identity") {
    const detail = `Content-Encoding ${JSON.stringify(encoding)} is not taken`;
    return { code: "unsupported_media_type", detail, hint: "send the body uncompressed" };
  }
  const tooLarge: Refused = {
    code: "too_large",
    detail: `the body has more than ${bytesMax} bytes`,
    hint: "send less at once",
  };
  if (Number(headers.get("content-length") ?? 0) > bytesMax) return tooLarge;
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of body ?? []) {
    bytes += chunk.byteLength;
    if (bytes > bytesMax) return tooLarge;
    chunks.push(chunk);
  }
  try {
    return { json: JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(chunks))) };
  } catch (error) {
    return { code: "malformed", detail: `the body is no JSON in UTF-8: ${String(error)}`, hint };
  }
}
