/** GET /api/schemas and GET /api/schemas/NAME. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import type { Pieces, RouteRequest } from "../../src/http/contract.ts";
import { SchemaReads } from "../../src/http/schemas.ts";
import { learn, problem, start } from "./stubs.ts";

// The machine may be busy.
setDefaultTimeout(60_000);

describe("/api/schemas", () => {
  test("lists all types, and shows one by its name in any encoding of the path", async () => {
    await using http = start();
    expect(await (await fetch(`${http.url}/api/schemas`)).json()).toEqual({ schemas: [] });
    learn(http, "Order", { id: 7, note: null });
    learn(http, "Pedido/novo é", { total: 1.5 });
    const all = await fetch(`${http.url}/api/schemas`);
    expect(all.headers.get("content-type")).toBe("application/json");
    const { schemas } = (await all.json()) as { schemas: { type: string }[] };
    expect(schemas.map(({ type }) => type)).toEqual(["Order", "Pedido/novo é"]);
    const one = await fetch(`${http.url}/api/schemas/Order`);
    expect(one.headers.get("content-type")).toBe("application/json");
    expect(await one.json()).toEqual({
      type: "Order",
      events: 1,
      first_seen_us: 1_700_000_000_000_000,
      last_seen_us: 1_700_000_000_000_000,
      expected_fields: 1,
      drift: { new_field: 0, type_change: 0, gone: 0 },
      fields: [
        {
          ...{ path: "id", types: ["integer"], fill_rate: 1, drift: null, sample: 7 },
          ...{ first_seen_us: 1_700_000_000_000_000, last_seen_us: 1_700_000_000_000_000 },
        },
        {
          ...{ path: "note", types: ["null"], fill_rate: 0, drift: null, sample: null },
          ...{ first_seen_us: 1_700_000_000_000_000, last_seen_us: 1_700_000_000_000_000 },
        },
      ],
    });
    const again: unknown = await (await fetch(`${http.url}/api/schemas/Order`)).json();
    expect(schemas[0] as unknown).toEqual(again);
    for (const path of ["Pedido%2Fnovo%20%C3%A9", "Pedido/novo%20%c3%a9"])
      expect(await (await fetch(`${http.url}/api/schemas/${path}`)).json()).toMatchObject({ events: 1 });
  });

  test("exports JSON Schema, of one type and of all", async () => {
    await using http = start();
    learn(http, "Order", { id: 7 });
    learn(http, "__proto__", JSON.parse('{"__proto__":1}'));
    const one = await fetch(`${http.url}/api/schemas/Order?format=jsonschema`);
    expect(one.headers.get("content-type")).toBe("application/schema+json");
    expect(await one.json()).toMatchObject({
      $schema: "https://json-schema.org/draft/2020-12/schema",
      type: "object",
      required: ["id"],
    });
    const all = await fetch(`${http.url}/api/schemas?format=jsonschema`);
    expect(all.headers.get("content-type")).toBe("application/schema+json");
    const document = (await all.json()) as { $schema: string; $defs: Record<string, { title: string }> };
    expect(document.$schema).toContain("2020-12");
    expect(Object.keys(document.$defs)).toEqual(["Order", "__proto__"]);
    expect(document.$defs.Order).not.toHaveProperty("$schema");
  });

  test("refuses unknown types, parameters and methods as problems", async () => {
    await using http = start();
    const missing = await problem(await fetch(`${http.url}/api/schemas/Nothing`), 404, "not_found");
    expect(missing.detail).toContain('"Nothing"');
    for (const path of ["", "%E0%A4%A", "x".repeat(2000), "UnknownEvent"])
      await problem(await fetch(`${http.url}/api/schemas/${path}`), 404, "not_found");
    learn(http, "Order", { id: 7 });
    for (const path of [
      "/api/schemas?format=xml",
      "/api/schemas/Order?format=JSONSchema",
      "/api/schemas?limit=5",
    ])
      await problem(await fetch(http.url + path), 400, "bad_parameter");
    await problem(await http.post("{}", { path: "/api/schemas/Order" }), 405, "method_not_allowed");
    expect((await fetch(`${http.url}/api/schemas/Order`, { method: "HEAD" })).status).toBe(200);
  });

  test("needs the token if there is one", async () => {
    await using http = start({ token: "secret" });
    await problem(await fetch(`${http.url}/api/schemas`), 401, "unauthorized");
    await problem(await fetch(`${http.url}/api/schemas/Order`), 401, "unauthorized");
    await problem(await http.post('{"msg":"Oi"}', { path: "/api/chat" }), 401, "unauthorized");
  });
});

describe("the text of all schemas", () => {
  const request: RouteRequest = {
    ...{ req: new Request("http://localhost/api/schemas"), parameter: "", query: "", accept: "" },
    keepOpen: () => {},
    hold: () => true,
  };

  /** Types whose schemas are `chars` long; those in `dropped` are no longer there when they are shown. */
  function reads(types: readonly string[], chars: number, dropped: ReadonlySet<string> = new Set()) {
    const show = (type: string): string | null =>
      dropped.has(type) ? null : JSON.stringify({ type, text: "x".repeat(chars) });
    const dialect = "https://json-schema.org/draft/2020-12/schema";
    return new SchemaReads({ dialect, types: () => [...types], show });
  }

  async function piecesOf(schemas: SchemaReads): Promise<string[]> {
    const handled = schemas.all(request);
    if ("code" in handled || typeof handled.body === "string") throw new Error("expected pieces");
    const pieces: string[] = [];
    for await (const piece of handled.body as Pieces) pieces.push(new TextDecoder().decode(piece));
    return pieces;
  }

  test("comes in pieces of at most 64 Ki characters and one schema", async () => {
    const types = Array.from({ length: 40 }, (_, n) => `Type${n}`);
    const pieces = await piecesOf(reads(types, 10_000));
    expect(pieces.length).toBe(6);
    for (const piece of pieces) expect(piece.length).toBeLessThan(64 * 1024 + 10_100);
    expect(JSON.parse(pieces.join("")).schemas.map(({ type }: { type: string }) => type)).toEqual(types);
  });

  test("leaves out a type that was dropped meanwhile", async () => {
    const pieces = await piecesOf(reads(["A", "B", "C"], 1, new Set(["A", "C"])));
    expect(JSON.parse(pieces.join("")).schemas.map(({ type }: { type: string }) => type)).toEqual(["B"]);
  });
});
