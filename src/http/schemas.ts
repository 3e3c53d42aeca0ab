/** GET /api/schemas and GET /api/schemas/NAME. */
import type { Schemas } from "../schemas/schemas.ts";
import type { Handled, Pieces, Refused, RouteRequest } from "./contract.ts";
import { parametersOf } from "./parameters.ts";

/** Text that is made per turn of the event loop: well under a millisecond of work. */
const TURN_CHARS = 64 * 1024;
/** @bound the name of a type in /api/schemas/NAME | 404 */
const NAME_CHARS_MAX = 1024;
const SCHEMA_TYPE = "application/schema+json";

export type ShownSchemas = Pick<Schemas, "types" | "show" | "dialect">;
type Format = Parameters<Schemas["show"]>[1];

export class SchemaReads {
  readonly #schemas: ShownSchemas;

  constructor(schemas: ShownSchemas) {
    this.#schemas = schemas;
  }

  /** All schemas: `{"schemas":[…]}`, or one JSON Schema with each of them in `$defs`. */
  all({ query }: RouteRequest): Handled {
    const format = formatOf(query);
    if (typeof format === "object") return format;
    const plain = format === "plain";
    const dialect = JSON.stringify(this.#schemas.dialect);
    const pieces = piecesOf(this.#schemas, format, {
      head: plain ? '{"schemas":[' : `{"$schema":${dialect},"$defs":{`,
      tail: plain ? "]}" : "}}",
    });
    return { type: typeOf(format), body: pieces, pieceBytes: 2 * TURN_CHARS };
  }

  one({ parameter, query }: RouteRequest): Handled {
    const format = formatOf(query);
    if (typeof format === "object") return format;
    const name = decoded(parameter);
    const text = name === null ? null : this.#schemas.show(name, format, { dialect: true });
    if (text !== null) return { type: typeOf(format), body: text };
    const detail = `no schema was learned for the event type ${JSON.stringify(name ?? parameter.slice(0, NAME_CHARS_MAX))}`;
    return { code: "not_found", detail, hint: "GET /api/schemas lists the learned types" };
  }
}

function formatOf(query: string): Format | Refused {
  const parameters = parametersOf(query, ["format"]);
  if ("code" in parameters) return parameters;
  const format = parameters.get("format") ?? "json";
  if (format === "json") return "plain";
  if (format === "jsonschema") return "jsonschema";
  const detail = `format is ${JSON.stringify(format)}`;
  return { code: "bad_parameter", detail, hint: "it takes json (the default) or jsonschema" };
}

function typeOf(format: Format): string {
  return format === "plain" ? "application/json" : SCHEMA_TYPE;
}

/** The text of all schemas, in pieces so small that no acknowledgement waits for one. */
async function* piecesOf(
  schemas: ShownSchemas,
  format: Format,
  { head, tail }: { readonly head: string; readonly tail: string },
): Pieces {
  const encoder = new TextEncoder();
  let text = head;
  let comma = "";
  for (const type of schemas.types()) {
    const shown = schemas.show(type, format, { dialect: false });
    // The type was dropped meanwhile.
    if (shown === null) continue;
    text += comma + (format === "plain" ? shown : `${JSON.stringify(type)}:${shown}`);
    comma = ",";
    if (text.length < TURN_CHARS) continue;
    yield encoder.encode(text);
    text = "";
  }
  yield encoder.encode(text + tail);
}

function decoded(text: string): string | null {
  try {
    const name = decodeURIComponent(text);
    return name.length <= NAME_CHARS_MAX ? name : null;
  } catch {
    return null;
  }
}
