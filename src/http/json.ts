/** The JSON body of a request to any route but /ingest. */
import { BUSY, formOf, refusedEncoding, refusedType, wholeBody } from "./body.ts";
import type { Refused, RouteRequest } from "./contract.ts";

export interface JsonBounds {
  readonly bytesMax: number;
  /** An example of a correct body. */
  readonly hint: string;
}

/** The value of the body, or why the body is refused. Holds at most `bytesMax` of it in memory. */
export async function jsonOf(
  { headers, body }: Pick<Request, "headers" | "body">,
  hold: RouteRequest["hold"],
  { bytesMax, hint }: JsonBounds,
): Promise<{ readonly json: unknown } | Refused> {
  const contentType = headers.get("content-type");
  if (formOf(contentType) !== "json") return refusedType(contentType, "send application/json in UTF-8");
  const encoded = refusedEncoding(headers.get("content-encoding"));
  if (encoded !== null) return encoded;
  const tooLarge: Refused = {
    code: "too_large",
    detail: `the body has more than ${bytesMax} bytes`,
    hint: "send a smaller body",
  };
  if (Number(headers.get("content-length") ?? 0) > bytesMax) return tooLarge;
  let bytes = 0;
  const whole = await wholeBody(body, null, (chunkBytes) => {
    bytes += chunkBytes;
    if (bytes > bytesMax) return tooLarge;
    return hold(chunkBytes) ? null : BUSY;
  });
  if ("code" in whole) return whole;
  try {
    return { json: JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(whole)) };
  } catch (error) {
    return { code: "malformed", detail: `the body is not JSON in UTF-8: ${String(error)}`, hint };
  }
}
