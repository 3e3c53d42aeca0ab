/**
 * The table of routes. Dispatch, the Allow header of a 405, the names under which requests are counted and the need for
 * a token are all derived from it.
 */
import type { ChatRoutes } from "./chat.ts";
import type { Handled, Refused, RouteRequest } from "./contract.ts";
import type { EventReads } from "./events.ts";
import type { FrameReads } from "./frames.ts";
import type { IntentsRoutes } from "./intents.ts";
import { parameterless } from "./parameters.ts";
import type { SchemaReads } from "./schemas.ts";
import type { StateReads } from "./state.ts";

/** What the handlers of the table work on. */
export interface RouteParts {
  readonly events: EventReads;
  readonly frames: FrameReads;
  readonly schemas: SchemaReads;
  readonly chat: ChatRoutes;
  readonly intents: IntentsRoutes;
  readonly state: StateReads;
  /** Why the gateway can write nothing now; null if it can. */
  readonly admission: () => Refused | null;
}

type Handler = (parts: RouteParts, request: RouteRequest) => Handled | Promise<Handled>;

export interface Route {
  readonly method: "GET" | "POST" | "PUT" | "DELETE";
  /**
   * An upper-case last segment is a parameter. It takes the rest of the path, slashes included, and may be empty. Requests
   * are counted under the path as it stands here.
   */
  readonly path: `/${string}`;
  /** Whether a gateway with a token asks for it. All rows of one path agree. */
  readonly token: boolean;
  /** One sentence, for a description of the interface. */
  readonly summary: string;
  readonly handler: Handler;
}

const INGEST_MISSPELT: Refused = { code: "not_found", detail: "the request target must be exactly /ingest" };

export const ROUTES = [
  {
    method: "POST",
    path: "/ingest",
    token: true,
    summary: "Accepts one event, an array of events, or NDJSON.",
    // Bun's own router takes /ingest first (see http.ts). What arrives here is a target such as "/ingest#x".
    handler: () => INGEST_MISSPELT,
  },
  {
    method: "GET",
    path: "/api/events",
    token: true,
    summary: "A page of events, newest first, with the newest update of each.",
    handler: ({ events }, request) => events.page(request),
  },
  {
    method: "GET",
    path: "/api/events/SEQ",
    token: true,
    summary: "One event.",
    handler: ({ events }, request) => events.one(request),
  },
  {
    method: "GET",
    path: "/api/frames",
    token: true,
    summary: "A run of frames in order, as JSON or as the bytes of the ring.",
    handler: ({ frames }, request) => frames.run(request),
  },
  {
    method: "GET",
    path: "/api/labels",
    token: true,
    summary: "The texts behind intent_id, type_id and model_id.",
    handler: ({ frames }, request) => frames.labels(request),
  },
  {
    method: "GET",
    path: "/api/schemas",
    token: true,
    summary: "All learned schemas.",
    handler: ({ schemas }, request) => schemas.all(request),
  },
  {
    method: "GET",
    path: "/api/schemas/NAME",
    token: true,
    summary: "The learned schema of one event type.",
    handler: ({ schemas }, request) => schemas.one(request),
  },
  {
    method: "POST",
    path: "/api/chat",
    token: true,
    summary: "One turn of a conversation, as JSON or as server-sent events.",
    handler: ({ chat }, request) => chat.take(request),
  },
  {
    method: "GET",
    path: "/api/config",
    token: true,
    summary: "The configuration in force, secrets masked.",
    handler: ({ state }) => state.config(),
  },
  {
    method: "GET",
    path: "/api/intents",
    token: true,
    summary: "All labelled examples, and how well they tell their labels apart.",
    handler: ({ intents }, { query }) => parameterless(query) ?? intents.list(),
  },
  {
    method: "GET",
    path: "/api/intents/LABEL",
    token: true,
    summary: "The examples of one label.",
    handler: ({ intents }, request) => parameterless(request.query) ?? intents.show(request),
  },
  {
    method: "PUT",
    path: "/api/intents/LABEL",
    token: true,
    summary: "Replaces the examples of one label.",
    handler: ({ intents, admission }, request) =>
      parameterless(request.query) ?? admission() ?? intents.put(request),
  },
  {
    method: "DELETE",
    path: "/api/intents/LABEL",
    token: true,
    summary: "Deletes a label with its examples.",
    handler: ({ intents, admission }, request) =>
      parameterless(request.query) ?? admission() ?? intents.delete(request),
  },
  {
    method: "GET",
    path: "/health",
    token: false,
    summary: "Answers while the process lives.",
    handler: ({ state }) => state.health(),
  },
  {
    method: "GET",
    path: "/ready",
    token: false,
    summary:
      "Whether the gateway accepts events, and the state of each of its parts; details with the token.",
    handler: ({ state }, request) => state.ready(request),
  },
  {
    method: "GET",
    path: "/metrics",
    token: true,
    summary: "Counters, gauges and latencies, as Prometheus text or as JSON.",
    handler: ({ state }, request) => state.metrics(request),
  },
] as const satisfies readonly Route[];

type RoutePath = (typeof ROUTES)[number]["path"];

/** Names under which requests are counted; "other" stands for every path that is not a route. */
export const ROUTE_NAMES: readonly (RoutePath | "other")[] = [
  ...new Set(ROUTES.map(({ path }) => path)),
  "other",
];
/** The index in ROUTE_NAMES of paths that are not a route. */
export const OTHER_INDEX = ROUTE_NAMES.indexOf("other");

/** All rows of one path. */
export interface RoutesOfPath {
  /** In ROUTE_NAMES. */
  readonly index: number;
  /** The Allow header. */
  readonly allow: string;
  readonly token: boolean;
  /** By method; HEAD has the handler of GET. */
  readonly handlers: ReadonlyMap<string, Handler>;
}

function rowsOf(path: RoutePath): RoutesOfPath {
  const rows: readonly Route[] = ROUTES.filter((row) => row.path === path);
  const handlers = new Map<string, Handler>();
  for (const { method, handler } of rows) {
    handlers.set(method, handler);
    if (method === "GET") handlers.set("HEAD", handler);
  }
  return {
    index: ROUTE_NAMES.indexOf(path),
    allow: [...handlers.keys(), "OPTIONS"].join(", "),
    token: rows.some(({ token }) => token),
    handlers,
  };
}

const PARAMETER = /\/[A-Z]+$/;
const EXACT = new Map<string, RoutesOfPath>();
const PREFIXES: { readonly prefix: string; readonly routes: RoutesOfPath }[] = [];
for (const { path } of ROUTES) {
  const prefix = path.replace(PARAMETER, "/");
  if (prefix === path) EXACT.set(path, rowsOf(path));
  else if (PREFIXES.every((known) => known.prefix !== prefix))
    PREFIXES.push({ prefix, routes: rowsOf(path) });
}

/** The rows of a request's path with the path's parameter; null if there are none. */
export function routesAt(path: string): { readonly routes: RoutesOfPath; readonly parameter: string } | null {
  const exact = EXACT.get(path);
  if (exact !== undefined) return { routes: exact, parameter: "" };
  const found = PREFIXES.find(({ prefix }) => path.startsWith(prefix));
  return found === undefined ? null : { routes: found.routes, parameter: path.slice(found.prefix.length) };
}

/** Path and query of a request's URL. If the Host header does not make a valid URL, Bun gives only the path. */
export function targetOf(url: string): { path: string; query: string } {
  const start = url.startsWith("/") ? 0 : url.indexOf("/", url.indexOf("://") + 3);
  const fragment = url.indexOf("#");
  const target = start < 0 ? "/" : url.slice(start, fragment < 0 ? undefined : fragment);
  const mark = target.indexOf("?");
  return mark < 0
    ? { path: target, query: "" }
    : { path: target.slice(0, mark), query: target.slice(mark + 1) };
}
