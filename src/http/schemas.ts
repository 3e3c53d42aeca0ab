/** GET /api/schemas and GET /api/schemas/NAME. Part of http. */

import type { Schemas } from "../schemas/schemas.ts";
import type { Refused } from "./ingest.ts";

/** What is made before the thread is given back: well under a millisecond of work each. */
const TURN_CHARS = 64 * 1024;
const NAME_CHARS_MAX = 1024;
const SCHEMA_TYPE = "application/schema+json";

export interface SchemasReply {
  readonly type: string;
  readonly body: string | ReadableStream<Uint8Array>;
}

export type ShownSchemas = Pick<Schemas, "types" | "show" | "dialect">;
type Format = Parameters<Schemas["show"]>[1];

function formatOf(parameters: ReadonlyMap<string, string>): Format | Refused {
  const format = parameters.get("format") ?? "json";
  if (format === "json") return "plain";
  if (format === "jsonschema") return "jsonschema";
  const detail = `format is ${JSON.stringify(format)}`;
  return { code: "bad_parameter", detail, hint: "it takes json (the default) or jsonschema" };
}

/** All schemas: `{"schemas":[…]}`, or one JSON Schema with each of them in `$defs`. */
export function allSchemas(
  schemas: ShownSchemas,
  parameters: ReadonlyMap<string, string>,
): SchemasReply | Refused {
  const format = formatOf(parameters);
  if (typeof format === "object") return format;
  const plain = format === "plain";
  return {
    type: plain ? "application/json" : SCHEMA_TYPE,
    body: streamOf(schemas, format, {
      head: plain ? '{"schemas":[' : `{"$schema":${JSON.stringify(schemas.dialect)},"$defs":{`,
      tail: plain ? "]}" : "}}",
    }),
  };
}

/** As fast as it is read, and never so much at once that an acknowledgement would wait for it. */
function streamOf(
  schemas: ShownSchemas,
  format: Format,
  { head, tail }: { readonly head: string; readonly tail: string },
): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  const waiting = schemas.types();
  let text = head;
  let comma = "";
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      await new Promise((turn) => setImmediate(turn));
      while (waiting.length > 0 && text.length < TURN_CHARS) {
        const type = waiting.shift() as string;
        const shown = schemas.show(type, format, { dialect: false });
        // One that was dropped meanwhile is passed over.
        if (shown === null) continue;
        text += comma + (format === "plain" ? shown : `${JSON.stringify(type)}:${shown}`);
        comma = ",";
      }
      const done = waiting.length === 0;
      controller.enqueue(encoder.encode(done ? text + tail : text));
      text = "";
      if (done) controller.close();
    },
  });
}

/** @param encodedName what stands in the path after /api/schemas/. */
export function oneSchema(
  schemas: ShownSchemas,
  encodedName: string,
  parameters: ReadonlyMap<string, string>,
): SchemasReply | Refused {
  const format = formatOf(parameters);
  if (typeof format === "object") return format;
  const name = decoded(encodedName);
  const text = name === null ? null : schemas.show(name, format, { dialect: true });
  if (text !== null) return { type: format === "plain" ? "application/json" : SCHEMA_TYPE, body: text };
  const detail = `no schema was learned for the event type ${JSON.stringify(name ?? encodedName.slice(0, NAME_CHARS_MAX))}`;
  return { code: "not_found", detail, hint: "GET /api/schemas lists those that were" };
}

function decoded(text: string): string | null {
  try {
    const name = decodeURIComponent(text);
    return name.length <= NAME_CHARS_MAX ? name : null;
  } catch {
    return null;
  }
}
