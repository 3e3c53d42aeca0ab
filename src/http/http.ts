/**
 * The routes, and the only place where an error becomes a status.
 *
 * Order of the checks: Host, Origin or token → route and method → admission → Content-Type and
 * Content-Encoding → size → parse → append → answer. /ingest is a route of Bun's own, the rest a look at the path.
 */
import { timingSafeEqual } from "node:crypto";
import { isIP } from "node:net";
import { hostname } from "node:os";
import type { Config } from "../config.ts";
import { type ErrorCode, GatewayError, messageOf } from "../errors.ts";
import { FRAME_BYTES, frameJson, OFFSET } from "../frame.ts";
import type { Log } from "../log.ts";
import type { Snapshot } from "../pipeline/snapshot.ts";
import type { EventsQuery } from "../store/protocol.ts";
import { ChatRoutes, type ChatRoutesOptions } from "./chat.ts";
import { type Answer, Ingest, type IngestOptions, type Refused, refusedBy } from "./ingest.ts";
import { type IntentsOptions, IntentsRoutes } from "./intents.ts";
import { HttpMetrics, metricsJson, prometheusText, ROUTE_NAMES, type RouteName } from "./metrics.ts";
import { allSchemas, oneSchema, type ShownSchemas } from "./schemas.ts";

export type { HttpMetrics } from "./metrics.ts";

const STORE_WAIT_MS = 2000;
const STORE_POLL_MS = 10;
const STOP_MS_MAX = 10_000;
/** A connection on which nothing moves for so long is closed. */
const IDLE_SECONDS = 30;
const EVENTS_LIMIT_DEFAULT = 50;
const EVENTS_LIMIT_MAX = 1000;
const FRAMES_LIMIT_DEFAULT = 1000;
const FRAMES_LIMIT_MAX = 1000;
const FRAMES_RAW_LIMIT_MAX = 10_000;
/** Frames that are made JSON before the thread is given back: about 3 ms. */
const FRAMES_A_TURN = 16;
/** Raw frames that go to the socket before the thread is given back: 0.5 MB, less than 1 ms. */
const RAW_FRAMES_A_TURN = 128;
const FILTER_CHARS_MAX = 1024;
const RAW_FRAMES_TYPE = "application/vnd.cs-physics.frames";

export interface HttpOptions {
  readonly config: Pick<Config, "host" | "port" | "token" | "insecure" | "maxBodyBytes">;
  readonly version: string;
  /** The body of /api/config: secrets masked. */
  readonly describeConfig: () => unknown;
  readonly journal: IngestOptions["journal"] & { headSeq(): number; readonly journalId: number };
  readonly events: IngestOptions["events"];
  /** null until DuckDB is open: reads wait for it a little. */
  readonly store: () => {
    events(query: EventsQuery, headSeq: number): Promise<{ json: string; lag: number }>;
    event(seq: number, headSeq: number): Promise<{ json: string | null; lag: number }>;
  } | null;
  readonly pipeline: IngestOptions["pipeline"] & {
    snapshot(): Snapshot;
    frames(after: number | null, limit: number): Promise<{ chunks: readonly Uint8Array[]; count: number }>;
    /** Every frame below it is decided. */
    nextFrameId(): number;
    /** What the file beside the ring holds. */
    labels(): unknown;
  };
  readonly intents: IntentsOptions;
  readonly schemas: ShownSchemas;
  readonly chat: ChatRoutesOptions["chat"];
  /** Unix µs. */
  readonly nowUs: () => number;
  readonly log: Log;
}

export interface GatewayServer {
  /** As "http://127.0.0.1:9382", without a slash at its end. */
  readonly url: string;
  readonly port: number;
  readonly metrics: HttpMetrics;
  /** Readiness goes red; new ingest gets 503; streams end after their last whole line. */
  drain(): void;
  /** Drains, takes no new connection, and lets running requests finish for at most 10 s. */
  stop(): Promise<void>;
}

/** Status and title of each code; those that stand for no request mean a failure of ours. */
const STATUS: Readonly<Record<ErrorCode, readonly [status: number, title: string]>> = {
  malformed: [400, "The body is malformed"],
  not_an_event: [422, "The JSON is no event"],
  too_deep: [422, "The JSON is nested too deeply"],
  too_large: [413, "The body is too large"],
  unsupported_media_type: [415, "The media type is not supported"],
  bad_parameter: [400, "A parameter is wrong"],
  invalid_body: [422, "The body does not say what this route takes"],
  unauthorized: [401, "A valid token is needed"],
  forbidden_host: [403, "The host is not allowed"],
  forbidden_origin: [403, "The origin is not allowed"],
  not_found: [404, "Nothing is here"],
  method_not_allowed: [405, "The method is not allowed here"],
  overloaded: [503, "The gateway has too much to do"],
  draining: [503, "The gateway is shutting down"],
  disk_full: [503, "The disk is full"],
  store_unavailable: [503, "The store cannot answer now"],
  journal_failed: [503, "The journal cannot be written now"],
  store_failed: [503, "The store cannot answer now"],
  embedder_unavailable: [503, "The embedder cannot answer now"],
  llm_unavailable: [503, "The language model cannot answer now"],
  internal: [500, "The gateway made a mistake"],
  ...failures([
    "usage",
    "address_in_use",
    "locked",
    "foreign_journal",
    "foreign_store",
    "journal_missing",
    "store_missing",
    "store_behind",
    "ring_failed",
    "ring_no_space",
    "embedder_invalid",
    "model_missing",
    "model_invalid",
    "temp_folder",
  ]),
};

function failures<Code extends ErrorCode>(codes: readonly Code[]): Record<Code, readonly [number, string]> {
  const entries = codes.map((code) => [code, [500, "The gateway has failed"]] as const);
  return Object.fromEntries(entries) as Record<Code, readonly [number, string]>;
}

const WARN_EVERY_MS = 1000;
/** For 503s that do not say it themselves. */
const RETRY_AFTER_SECONDS = 2;

// ---- Who may ask -------------------------------------------------------------------------------------

/** null: the sender may ask. */
type Guard = (headers: Headers) => Refused | null;

function sha256(bytes: Uint8Array): Uint8Array {
  return Bun.SHA256.hash(bytes) as Uint8Array;
}

/** Compares digests in constant time: neither the token's length nor its beginning can be felt out. */
function tokenGuard(token: string): Guard {
  const expected = sha256(Buffer.from(token));
  const hint = "send the header Authorization: Bearer TOKEN";
  return (headers) => {
    const value = headers.get("authorization");
    if (value === null) return { code: "unauthorized", detail: "the request has no token", hint };
    if (!/^bearer /i.test(value))
      return { code: "unauthorized", detail: "the token is no bearer token", hint };
    // Header values are bytes that arrive as Latin-1.
    const given = sha256(Buffer.from(value.slice("bearer ".length).trim(), "latin1"));
    return timingSafeEqual(given, expected)
      ? null
      : { code: "unauthorized", detail: "the token is wrong", hint };
  };
}

/** The name in a Host header, lower case, without port and brackets; null where it is malformed. */
function hostName(host: string): string | null {
  const match = /^(?:\[([0-9a-f:.]+)\]|([^\s:/@[\]]+))(?::\d{1,5})?$/i.exec(host);
  return (match?.[1] ?? match?.[2])?.toLowerCase() ?? null;
}

function isLoopbackName(name: string): boolean {
  return name === "localhost" || name === "::1" || (isIP(name) === 4 && name.startsWith("127."));
}

/**
 * Without a token, a page in the user's browser must not get here: neither by its own name that resolves to this
 * machine (hence the Host), nor by a request across origins.
 */
function hostGuard(config: HttpOptions["config"]): Guard {
  const configured = config.host.toLowerCase();
  const wildcard = configured === "0.0.0.0" || configured === "::";
  const isAllowed = (name: string): boolean => {
    if (isLoopbackName(name)) return true;
    if (!config.insecure) return false;
    // A page can point a name of its own at this machine, but not an address.
    return name === configured || (wildcard && (isIP(name) !== 0 || name === hostname().toLowerCase()));
  };
  let knownHost = "";
  return (headers) => {
    const host = headers.get("host") ?? "";
    if (host !== knownHost) {
      const name = hostName(host);
      if (name === null || !isAllowed(name)) {
        return {
          code: "forbidden_host",
          detail: `the Host ${JSON.stringify(host)} is not this machine's loopback`,
          hint: "ask localhost, or start the gateway with --token",
        };
      }
      knownHost = host;
    }
    const origin = headers.get("origin");
    if (origin === null || origin.toLowerCase() === `http://${host.toLowerCase()}`) return null;
    return {
      code: "forbidden_origin",
      detail: `the Origin ${JSON.stringify(origin)} is foreign`,
      hint: "pages of other origins need a gateway with --token",
    };
  };
}

// ---- Routes ------------------------------------------------------------------------------------------

interface Route {
  readonly name: RouteName;
  readonly allow: string;
  /** Answered without a token where there is one. */
  readonly open: boolean;
}

function route(name: RouteName, allow = "GET, HEAD, OPTIONS", open = false): Route {
  return { name, allow, open };
}

const ROUTES: ReadonlyMap<string, Route> = new Map(
  [
    route("/ingest", "POST, OPTIONS"),
    route("/api/events"),
    route("/api/frames"),
    route("/api/labels"),
    route("/api/schemas"),
    route("/api/chat", "POST, OPTIONS"),
    route("/api/config"),
    route("/api/intents"),
    route("/health", "GET, HEAD, OPTIONS", true),
    route("/ready", "GET, HEAD, OPTIONS", true),
    route("/metrics"),
  ].map((entry) => [entry.name, entry]),
);
const EVENT_ROUTE = route("/api/events/SEQ");
const EVENT_PREFIX = "/api/events/";
const INTENT_ROUTE = route("/api/intents/LABEL", "GET, HEAD, PUT, DELETE, OPTIONS");
const INTENT_PREFIX = "/api/intents/";
const SCHEMA_ROUTE = route("/api/schemas/NAME");
const SCHEMA_PREFIX = "/api/schemas/";

function routeOf(path: string): Route | null {
  const known = ROUTES.get(path);
  if (known !== undefined) return known;
  if (path.startsWith(SCHEMA_PREFIX)) return SCHEMA_ROUTE;
  if (path.startsWith(EVENT_PREFIX)) return EVENT_ROUTE;
  return path.startsWith(INTENT_PREFIX) ? INTENT_ROUTE : null;
}

/** Path and query of a request's URL; Bun gives the bare path where the Host makes no URL. */
function split(url: string): { path: string; query: string } {
  const start = url.startsWith("/") ? 0 : url.indexOf("/", url.indexOf("://") + 3);
  const fragment = url.indexOf("#");
  const target = start < 0 ? "/" : url.slice(start, fragment < 0 ? undefined : fragment);
  const mark = target.indexOf("?");
  return mark < 0
    ? { path: target, query: "" }
    : { path: target.slice(0, mark), query: target.slice(mark + 1) };
}

/** What a route gives back for a 2xx. */
interface Reply {
  readonly status?: number;
  readonly type?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body: string | Uint8Array | ReadableStream<Uint8Array>;
}

interface Asked {
  readonly path: string;
  readonly query: string;
  readonly accept: string;
}

// ---- Parameters --------------------------------------------------------------------------------------

/** The parameters of a query by name, each at most once and known; empty ones count as absent. */
function parametersOf(query: string, known: readonly string[]): Map<string, string> | Refused {
  const found = new Map<string, string>();
  for (const [name, value] of new URLSearchParams(query)) {
    if (!known.includes(name)) {
      const hint = known.length === 0 ? "this route takes none" : `known are ${known.join(", ")}`;
      return { code: "bad_parameter", detail: `there is no parameter ${JSON.stringify(name)} here`, hint };
    }
    if (found.has(name)) return { code: "bad_parameter", detail: `${name} is given twice` };
    if (value !== "") found.set(name, value);
  }
  return found;
}

/** Refuses any parameter. */
function parameterless(query: string): Refused | null {
  const parameters = parametersOf(query, []);
  return "code" in parameters ? parameters : null;
}

/** The integer of a parameter; undefined where it is absent. */
function integerOf(
  parameters: ReadonlyMap<string, string>,
  name: string,
  range: { min: number; max: number },
): number | undefined | Refused {
  const text = parameters.get(name);
  if (text === undefined) return undefined;
  const value = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN;
  if (value >= range.min && value <= range.max) return value;
  const bounds = `${range.min} to ${range.max === Number.MAX_SAFE_INTEGER ? "2^53 - 1" : range.max}`;
  return {
    code: "bad_parameter",
    detail: `${name} is ${JSON.stringify(text)}`,
    hint: `it takes an integer, ${bounds}`,
  };
}

const POSITION = { min: 0, max: Number.MAX_SAFE_INTEGER };

function eventsQueryOf(query: string): EventsQuery | Refused {
  const names = ["limit", "type", "intent", "conversation_id", "q", "before", "after"];
  const parameters = parametersOf(query, names);
  if ("code" in parameters) return parameters;
  const limit = integerOf(parameters, "limit", { min: 1, max: EVENTS_LIMIT_MAX }) ?? EVENTS_LIMIT_DEFAULT;
  const before = integerOf(parameters, "before", POSITION);
  const after = integerOf(parameters, "after", POSITION);
  for (const value of [limit, before, after]) if (typeof value === "object") return value;
  if (before !== undefined && after !== undefined) {
    return { code: "bad_parameter", detail: "before and after are both given", hint: "give one of them" };
  }
  for (const [name, text] of parameters) {
    if (text.length <= FILTER_CHARS_MAX) continue;
    return {
      code: "bad_parameter",
      detail: `${name} has ${text.length} characters, at most ${FILTER_CHARS_MAX}`,
    };
  }
  const filter = <Key extends string>(key: Key, name: string): { [K in Key]?: string } => {
    const text = parameters.get(name);
    return (text === undefined ? {} : { [key]: text }) as { [K in Key]?: string };
  };
  return {
    limit: limit as number,
    ...filter("type", "type"),
    ...filter("intent", "intent"),
    ...filter("conversationId", "conversation_id"),
    ...filter("q", "q"),
    ...(before === undefined ? {} : { before: before as number }),
    ...(after === undefined ? {} : { after: after as number }),
  };
}

// ---- Frames as JSON ----------------------------------------------------------------------------------

function lastFrameId(chunks: readonly Uint8Array[]): string | null {
  const bytes = chunks.at(-1);
  if (bytes === undefined || bytes.byteLength === 0) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return view.getBigUint64(bytes.byteLength - FRAME_BYTES + OFFSET.frame_id, true).toString();
}

/** The same frames in pieces of at most `framesMax`, without a copy. */
function* pieces(chunks: readonly Uint8Array[], framesMax: number): Generator<Uint8Array, void> {
  for (const chunk of chunks) {
    const step = framesMax * FRAME_BYTES;
    for (let at = 0; at < chunk.byteLength; at += step) yield chunk.subarray(at, at + step);
  }
}

/** A body that is made as fast as it is read, one piece a turn of the event loop. */
function inTurns(made: Iterator<Uint8Array, void>): ReadableStream<Uint8Array> {
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      await new Promise((turn) => setImmediate(turn));
      const { done, value } = made.next();
      if (done === true) controller.close();
      else controller.enqueue(value);
    },
  });
}

/** `{"frames":[…],"next":…}`, a few frames at a time. */
function* framesJson(chunks: readonly Uint8Array[]): Generator<Uint8Array, void> {
  const encoder = new TextEncoder();
  const next = lastFrameId(chunks);
  let before = '{"frames":[';
  for (const bytes of pieces(chunks, FRAMES_A_TURN)) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    let text = "";
    for (let at = 0; at < bytes.byteLength; at += FRAME_BYTES) {
      text += before + frameJson(view, at);
      before = ",";
    }
    yield encoder.encode(text);
  }
  yield encoder.encode(`${next === null ? before : ""}],"next":${next === null ? "null" : `"${next}"`}}`);
}

/** Frames as they are; a few of them as one piece, whose length is then told. */
function framesRaw(chunks: readonly Uint8Array[], count: number): Uint8Array | ReadableStream<Uint8Array> {
  if (count === 0) return new Uint8Array(0);
  const [only] = chunks;
  if (only !== undefined && chunks.length === 1 && count <= RAW_FRAMES_A_TURN) return only;
  return inTurns(pieces(chunks, RAW_FRAMES_A_TURN));
}

// ---- The server --------------------------------------------------------------------------------------

/** An `x-request-id` that may stand in a log and a header: visible ASCII, at most 128. */
const SANE_REQUEST_ID = /^[\x21-\x7e]{1,128}$/;
const INGEST_INDEX = ROUTE_NAMES.indexOf("/ingest");
const JSON_TYPE = "application/json";
const JSON_RESPONSE: ResponseInit = { headers: new Headers({ "content-type": JSON_TYPE }) };

class Gateway implements GatewayServer {
  readonly url: string;
  readonly port: number;
  readonly metrics = new HttpMetrics();
  readonly #o: HttpOptions;
  readonly #guard: Guard;
  readonly #ingest: Ingest;
  readonly #intents: IntentsRoutes;
  readonly #chat: ChatRoutes;
  readonly #server: Bun.Server<undefined>;
  readonly #requestIdPrefix = crypto.randomUUID().slice(0, 8);
  #requests = 0;
  /** When each code was logged last: a refusal of all there is must not fill the log, too. */
  readonly #warnedMs = new Map<ErrorCode, number>();
  #stopping = false;

  constructor(options: HttpOptions) {
    const { config } = options;
    this.#o = options;
    this.#guard = config.token === null ? hostGuard(config) : tokenGuard(config.token);
    this.#ingest = new Ingest({ ...options, maxBodyBytes: config.maxBodyBytes }, this.metrics);
    this.#intents = new IntentsRoutes(options.intents);
    this.#chat = new ChatRoutes({
      chat: options.chat,
      problem: (refused) => problemText(refused),
      failed: (thrown) => this.#mistake(thrown, this.#newRequestId()),
    });
    this.#server = listen({
      hostname: config.host,
      port: config.port,
      development: false,
      // Said aloud: with development off alone, Bun 1.4.5 lets a second gateway share the port.
      reusePort: false,
      idleTimeout: IDLE_SECONDS,
      // Limits are this gateway's own: they depend on the format, and their answers say what was accepted before.
      maxRequestBodySize: Number.MAX_SAFE_INTEGER,
      routes: { "/ingest": { POST: (req: Request) => this.#takeIngest(req) } },
      fetch: (req: Request) => this.#answer(req),
      error: (thrown: unknown) => this.#failed(thrown, this.#newRequestId()),
    });
    this.port = this.#server.port ?? config.port;
    this.url = `http://${config.host.includes(":") ? `[${config.host}]` : config.host}:${this.port}`;
  }

  drain(): void {
    this.#ingest.drain();
    this.#chat.drain();
  }

  async stop(): Promise<void> {
    this.drain();
    this.#stopping = true;
    const untilMs = performance.now() + STOP_MS_MAX;
    // Not awaited: it settles only when idle keep-alive connections are gone, too.
    void this.#server.stop(false);
    while (this.#server.pendingRequests > 0 && performance.now() < untilMs) await Bun.sleep(5);
    await this.#server.stop(true);
  }

  // ------------------------------------------------------------------------------------------- /ingest

  #takeIngest(req: Request): Response | Promise<Response> {
    const requestId = this.#requestIdOf(req.headers);
    const refused = this.#guard(req.headers);
    if (refused !== null) return this.#refuse(INGEST_INDEX, refused, requestId);
    const mark = req.url.indexOf("?");
    const query = mark < 0 ? "" : req.url.slice(mark + 1);
    const answer = this.#ingest.take(req, query, (seconds) => this.#server.timeout(req, seconds));
    if (!(answer instanceof Promise)) return this.#ingestResponse(answer, requestId);
    return answer.then(
      (value) => this.#ingestResponse(value, requestId),
      (thrown) => this.#failed(thrown, requestId, INGEST_INDEX),
    );
  }

  #ingestResponse(answer: Answer, requestId: string): Response {
    if (typeof answer !== "string") return this.#refuse(INGEST_INDEX, answer, requestId);
    this.metrics.request(INGEST_INDEX, 200);
    // A copy of headers that exist is cheaper than new ones.
    const response = new Response(answer, JSON_RESPONSE);
    response.headers.set("x-request-id", requestId);
    return response;
  }

  #requestIdOf(headers: Headers): string {
    const given = headers.get("x-request-id");
    return given !== null && SANE_REQUEST_ID.test(given) ? given : this.#newRequestId();
  }

  #newRequestId(): string {
    return `${this.#requestIdPrefix}-${(this.#requests++).toString(36)}`;
  }

  // ------------------------------------------------------------------------------------- all the others

  async #answer(req: Request): Promise<Response> {
    const requestId = this.#requestIdOf(req.headers);
    const { path, query } = split(req.url);
    const asked: Asked = { path, query, accept: req.headers.get("accept") ?? "" };
    const route = routeOf(path);
    const index = ROUTE_NAMES.indexOf(route?.name ?? "other");
    try {
      const reply = this.#refusal(req, route, path) ?? (await this.#reply(req, route as Route, asked));
      if ("code" in reply) return this.#refuse(index, reply, requestId, route?.allow);
      const status = reply.status ?? 200;
      this.metrics.request(index, status);
      const headers: Record<string, string> = { "x-request-id": requestId, ...reply.headers };
      if (status !== 204) headers["content-type"] = reply.type ?? JSON_TYPE;
      return new Response(
        status === 204 ? null : (reply.body as string | Uint8Array<ArrayBuffer> | ReadableStream),
        { status, headers },
      );
    } catch (thrown) {
      return this.#failed(thrown, requestId, index);
    }
  }

  #refusal(req: Request, route: Route | null, path: string): Refused | null {
    // With a token, liveness is for everybody; without one, nothing is for foreign pages.
    const refused = route?.open === true && this.#o.config.token !== null ? null : this.#guard(req.headers);
    if (refused !== null) return refused;
    if (route === null) return { code: "not_found", detail: `there is no ${path}` };
    if (!route.allow.split(", ").includes(req.method)) {
      return { code: "method_not_allowed", detail: `${req.method} ${path}`, hint: `it takes ${route.allow}` };
    }
    if (this.#stopping) return { code: "draining", detail: "the gateway is shutting down" };
    return null;
  }

  #reply(req: Request, route: Route, asked: Asked): Reply | Refused | Promise<Reply | Refused> {
    if (req.method === "OPTIONS") return { status: 204, headers: { allow: route.allow }, body: "" };
    switch (route.name) {
      case "/api/events":
        return this.#events(asked.query);
      case "/api/events/SEQ":
        return this.#event(asked);
      case "/api/frames":
        return this.#frames(asked);
      case "/api/intents":
        return parameterless(asked.query) ?? { body: this.#intents.list() };
      case "/api/intents/LABEL":
        return parameterless(asked.query) ?? this.#intent(req, asked.path);
      case "/api/labels":
        return this.#labels(asked.query);
      case "/api/schemas":
      case "/api/schemas/NAME":
        return this.#schemas(route.name, asked);
      case "/api/chat":
        return this.#chat.take(req, (seconds) => this.#server.timeout(req, seconds));
      case "/api/config":
        return { body: JSON.stringify(this.#o.describeConfig()) };
      case "/health":
        return { body: '{"status":"ok"}' };
      case "/ready":
        return this.#ready();
      case "/metrics":
        return this.#metricsReply(asked.accept);
      default:
        // A POST whose target is spelt in a way that Bun's router does not take for /ingest.
        return { code: "not_found", detail: "the target has to be /ingest, as it is" };
    }
  }

  #intent(req: Request, path: string): Promise<Reply | Refused> | Refused {
    const { method, headers, body } = req;
    // What changes examples is written to the journal.
    const refused = method === "GET" || method === "HEAD" ? null : this.#ingest.admission();
    if (refused !== null) return refused;
    const label = path.slice(INTENT_PREFIX.length);
    return this.#intents.answer({ method, label, headers, body });
  }

  async #events(query: string): Promise<Reply | Refused> {
    const parsed = eventsQueryOf(query);
    if ("code" in parsed) return parsed;
    const store = await this.#openStore();
    if ("code" in store) return store;
    const { json, lag } = await store.events(parsed, this.#o.journal.headSeq());
    return { body: json, headers: lagHeaders(lag) };
  }

  async #event({ path, query }: Asked): Promise<Reply | Refused> {
    const parameters = parametersOf(query, []);
    if ("code" in parameters) return parameters;
    const text = path.slice(EVENT_PREFIX.length);
    const seq = /^[1-9]\d{0,15}$/.test(text) ? Number(text) : Number.NaN;
    const headSeq = this.#o.journal.headSeq();
    if (!(seq <= headSeq)) return { code: "not_found", detail: `there is no event ${text}` };
    const store = await this.#openStore();
    if ("code" in store) return store;
    const { json, lag } = await store.event(seq, headSeq);
    if (json !== null) return { body: json, headers: lagHeaders(lag) };
    if (lag === 0) return { code: "not_found", detail: `event ${text} is not kept any more` };
    return {
      code: "store_unavailable",
      detail: `the store is ${lag} events behind and may not hold event ${text} yet`,
    };
  }

  async #openStore(): Promise<NonNullable<ReturnType<HttpOptions["store"]>> | Refused> {
    const untilMs = performance.now() + STORE_WAIT_MS;
    let store = this.#o.store();
    while (store === null && performance.now() < untilMs && !this.#stopping) {
      await Bun.sleep(STORE_POLL_MS);
      store = this.#o.store();
    }
    return store ?? { code: "store_unavailable", detail: "DuckDB is not open yet", hint: "see /ready" };
  }

  /** `next` is the last frame_id of the run, to be given as `after`; null only where the run is empty. */
  async #frames({ query, accept }: Asked): Promise<Reply | Refused> {
    const raw = accept.includes(RAW_FRAMES_TYPE);
    const parameters = parametersOf(query, ["after", "limit"]);
    if ("code" in parameters) return parameters;
    const after = integerOf(parameters, "after", POSITION) ?? null;
    if (typeof after === "object" && after !== null) return after;
    const max = raw ? FRAMES_RAW_LIMIT_MAX : FRAMES_LIMIT_MAX;
    const limit = integerOf(parameters, "limit", { min: 1, max }) ?? FRAMES_LIMIT_DEFAULT;
    if (typeof limit === "object") return limit;
    const { chunks, count } = await this.#o.pipeline.frames(after, limit);
    const next = lastFrameId(chunks);
    const headers = {
      // Asked for after the run was read, so that no frame of the run is at or beyond it.
      "x-frames-head": String(this.#o.pipeline.nextFrameId()),
      "x-journal-id": String(this.#o.journal.journalId),
      "x-frames-count": String(count),
      ...(next === null ? {} : { "x-next": next }),
      vary: "Accept",
    };
    if (raw) return { type: RAW_FRAMES_TYPE, headers, body: framesRaw(chunks, count) };
    return { headers, body: inTurns(framesJson(chunks)) };
  }

  #labels(query: string): Reply | Refused {
    const parameters = parametersOf(query, []);
    return "code" in parameters ? parameters : { body: JSON.stringify(this.#o.pipeline.labels()) };
  }

  #schemas(name: RouteName, { path, query }: Asked): Reply | Refused {
    const parameters = parametersOf(query, ["format"]);
    if ("code" in parameters) return parameters;
    const { schemas } = this.#o;
    if (name === "/api/schemas") return allSchemas(schemas, parameters);
    return oneSchema(schemas, path.slice(SCHEMA_PREFIX.length), parameters);
  }

  /** Ready means that an event would be taken now; what works behind it is told, part by part. */
  #ready(): Reply {
    const { parts } = this.#o.pipeline.snapshot();
    const refused = this.#ingest.admission();
    if (refused === null && parts.journal.state !== "down")
      return { body: JSON.stringify({ status: "ready", parts }) };
    const { code, detail } = refused ?? { code: "journal_failed", detail: parts.journal.detail };
    return {
      status: 503,
      headers: { "retry-after": String(refused?.retryAfterSeconds ?? RETRY_AFTER_SECONDS) },
      body: JSON.stringify({ status: "not ready", code, detail, parts }),
    };
  }

  #metricsReply(accept: string): Reply {
    const snapshot = this.#snapshot();
    const gauges = {
      http_bodies_in_flight_bytes: this.#ingest.bodiesInFlightBytes,
      http_pending_requests: this.#server.pendingRequests,
    };
    const headers = { vary: "Accept" };
    if (accept.includes(JSON_TYPE)) return { headers, body: metricsJson(snapshot, this.metrics, gauges) };
    const type = "text/plain; version=0.0.4; charset=utf-8";
    return { headers, type, body: prometheusText(snapshot, this.metrics, gauges) };
  }

  /** The pipeline's, with what is counted on this side of it. */
  #snapshot(): Snapshot {
    const { chat, pipeline } = this.#o;
    const snapshot = pipeline.snapshot();
    return {
      ...snapshot,
      counters: { ...snapshot.counters, ...chat.counters },
      gauges: { ...snapshot.gauges, ...chat.gauges },
    };
  }

  // -------------------------------------------------------------------------------------------- errors

  #refuse(index: number, refused: Refused, requestId: string, allow?: string): Response {
    const [status] = STATUS[refused.code];
    this.metrics.request(index, status);
    this.metrics.refusal(refused.code);
    if (status >= 500 && refused.code !== "internal") this.#warn(refused);
    const headers: Record<string, string> = {
      "content-type": "application/problem+json",
      "x-request-id": requestId,
    };
    if (status === 401) headers["www-authenticate"] = 'Bearer realm="one_file_gateway"';
    if (status === 405 && allow !== undefined) headers.allow = allow;
    if (status === 503) headers["retry-after"] = String(refused.retryAfterSeconds ?? RETRY_AFTER_SECONDS);
    return new Response(problemText(refused), { status, headers });
  }

  #warn({ code, detail }: Refused): void {
    const nowMs = performance.now();
    if (nowMs - (this.#warnedMs.get(code) ?? Number.NEGATIVE_INFINITY) < WARN_EVERY_MS) return;
    this.#warnedMs.set(code, nowMs);
    this.#o.log(
      "warn",
      `http: refused with ${code}: ${detail} (said once a second at most; /metrics counts them)`,
    );
  }

  #failed(thrown: unknown, requestId: string, index = ROUTE_NAMES.length - 1): Response {
    if (thrown instanceof Error && thrown.name === "AbortError") {
      this.metrics.aborted++;
      // Nobody reads it; the status only says whose fault it was.
      return new Response(null, { status: 400 });
    }
    if (thrown instanceof GatewayError) return this.#refuse(index, refusedBy(thrown), requestId);
    return this.#refuse(index, this.#mistake(thrown, requestId), requestId);
  }

  /** Logs what nobody expected, and says of it only where to look. */
  #mistake(thrown: unknown, requestId: string): Refused {
    const trace = thrown instanceof Error ? (thrown.stack ?? messageOf(thrown)) : messageOf(thrown);
    this.#o.log("error", `http: request ${requestId}: ${trace}`);
    return { code: "internal", detail: `the log says more under request ${requestId}` };
  }
}

/** The body of a refusal, by RFC 9457. */
function problemText({ code, detail, hint, members }: Refused): string {
  const [status, title] = STATUS[code];
  const type = `urn:one-file-gateway:problem:${code}`;
  return JSON.stringify({ type, title, status, code, detail, hint: hint ?? null, ...members });
}

function lagHeaders(lag: number): Record<string, string> {
  return lag > 0 ? { "x-store-lag": String(lag) } : {};
}

function listen(
  options: Parameters<typeof Bun.serve<undefined>>[0] & { hostname: string; port: number },
): Bun.Server<undefined> {
  try {
    return Bun.serve(options);
  } catch (thrown) {
    const code = (thrown as { code?: unknown }).code;
    const object = `${options.hostname}:${options.port}`;
    if (code === "EADDRINUSE") {
      throw new GatewayError({
        code: "address_in_use",
        operation: "http: listen on",
        object,
        detail: "another program listens there",
        hint: "stop it, or pass --port (0 takes a free one)",
        cause: thrown,
      });
    }
    throw new GatewayError({
      code: "address_in_use",
      operation: "http: listen on",
      object,
      detail: messageOf(thrown),
      hint: "pass another --host or --port",
      cause: thrown,
    });
  }
}

/**
 * Listens and answers from here on.
 * @throws GatewayError address_in_use where the address cannot be had.
 */
export function serve(options: HttpOptions): GatewayServer {
  return new Gateway(options);
}
