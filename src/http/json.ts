/** The JSON body of a request that is no event, as routes beside /ingest take it. */
import { formOf, refusedEncoding, refusedType, wholeBody } from "./body.ts";
import type { Refused } from "./contract.ts";

export interface JsonBounds {
  readonly bytesMax: number;
  /** What a right body looks like. */
  readonly hint: string;
}

/** The value of the body, of which never more than `bytesMax` are held; or why it is refused. */
export async function jsonOf(
  { headers, body }: Pick<Request, "headers" | "body">,
  { bytesMax, hint }: JsonBounds,
): Promise<{ readonly json: unknown } | Refused> {
  const contentType = headers.get("content-type");
  if (formOf(contentType) !== "json") return refusedType(contentType, "send application/json in UTF-8");
  const encoded = refusedEncoding(headers.get("content-encoding"));
  if (encoded !== null) return encoded;
  const tooLarge: Refused = {
    code: "too_large",
    detail: `the body has more than ${bytesMax} bytes`,
    hint: "send less at once",
  };
  if (Number(headers.get("content-length") ?? 0) > bytesMax) return tooLarge;
  let bytes = 0;
  const whole = await wholeBody(body, (chunkBytes) => {
    bytes += chunkBytes;
    return bytes > bytesMax ? tooLarge : null;
  });
  if ("code" in whole) return whole;
  try {
    return { json: JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(whole)) };
  } catch (error) {
    return { code: "malformed", detail: `the body is no JSON in UTF-8: ${String(error)}`, hint };
  }
}
