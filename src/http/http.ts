/**
 * The server: it listens, guards, dispatches by the table of routes, and stops. `http` is the only room in which an error
 * becomes a status.
 *
 * The checks of a request to /ingest, in their order: token, or Host and Origin → admission → Content-Type and
 * Content-Encoding → size → content. Bun's router dispatches /ingest; {@link routesAt} finds all other routes.
 */
import { type Clock, systemClock } from "../clock.ts";
import type { Config } from "../config/config.ts";
import type { Log } from "../log.ts";
import type { Snapshot } from "../pipeline/snapshot.ts";
import { type AccessOptions, type Guard, guardOf } from "./access.ts";
import { ChatRoutes, type ChatRoutesOptions } from "./chat.ts";
import type { Handled, Pieces, Refused, RouteRequest, RouteResponse } from "./contract.ts";
import { Descriptors } from "./descriptors.ts";
import { EventReads, type StoredEvents } from "./events.ts";
import { FrameReads, type FrameReadsOptions } from "./frames.ts";
import { HeldBytes, Hold } from "./held.ts";
import { Ingest, type IngestOptions, type IngestResult } from "./ingest.ts";
import { type IntentsOptions, IntentsRoutes } from "./intents.ts";
import { Listener, type ListenerOptions } from "./listener.ts";
import { HttpMetrics } from "./metrics.ts";
import { Problems, SAFE_HEADERS } from "./problems.ts";
import { RequestIds } from "./request-ids.ts";
import {
  OTHER_INDEX,
  ROUTE_NAMES,
  type RouteParts,
  type RoutesOfPath,
  routesAt,
  targetOf,
} from "./routes.ts";
import { SchemaReads, type ShownSchemas } from "./schemas.ts";
import { StateReads } from "./state.ts";
import { Streams } from "./stream.ts";

export type { HttpMetrics } from "./metrics.ts";

/** @bound requests under way when the server stops (less if the stop as a whole is late) | they are cut off */
const STOP_MS_MAX = 10_000;
const STOP_POLL_MS = 5;
/**
 * @bound a connection on which nothing moves | it is closed
 */
const IDLE_SECONDS = 30;

export interface HttpOptions extends Pick<AccessOptions, "isLoopback"> {
  readonly config: Pick<Config, "host" | "port" | "token" | "insecure" | "maxBodyBytes">;
  /** The body of /api/config: secrets masked. */
  readonly describeConfig: () => unknown;
  readonly journal: IngestOptions["journal"] & { headSeq(): number; readonly journalId: number };
  readonly events: IngestOptions["events"];
  /** null until DuckDB is open. Reads wait a little for that. */
  readonly store: () => StoredEvents | null;
  readonly pipeline: IngestOptions["pipeline"] & FrameReadsOptions["pipeline"] & { snapshot(): Snapshot };
  readonly intents: IntentsOptions;
  readonly schemas: ShownSchemas;
  readonly chat: ChatRoutesOptions["chat"];
  readonly log: Log;
  readonly clock?: Clock;
  readonly descriptors?: Descriptors;
  /** The beginning of each process's request ids. */
  readonly randomId?: () => string;
}

export interface GatewayServer {
  /** Such as "http://127.0.0.1:9382", without a slash at its end. */
  readonly url: string;
  readonly port: number;
  readonly metrics: HttpMetrics;
  /** From now on /ready and /ingest answer 503. NDJSON bodies end after their last whole line, chat turns at once. */
  drain(): void;
  /** Drains, accepts no new connection, and lets requests under way finish, for at most `withinMs` (10 s if left out). */
  stop(withinMs?: number): Promise<void>;
}

/** The server that has a request, which need not be the one that listens now. */
type TimeoutOf = Pick<Bun.Server<undefined>, "timeout">;

const INGEST_INDEX = ROUTE_NAMES.indexOf("/ingest");
const JSON_TYPE = "application/json";
const JSON_RESPONSE: ResponseInit = { headers: new Headers({ ...SAFE_HEADERS, "content-type": JSON_TYPE }) };

class Gateway implements GatewayServer {
  readonly url: string;
  readonly port: number;
  readonly metrics = new HttpMetrics(ROUTE_NAMES);
  readonly #clock: Clock;
  readonly #guard: Guard;
  readonly #hasToken: boolean;
  readonly #ids: RequestIds;
  readonly #problems: Problems;
  readonly #held: HeldBytes;
  readonly #streams: Streams;
  readonly #ingest: Ingest;
  readonly #parts: RouteParts;
  readonly #listener: Listener;
  #stopping = false;

  constructor(options: HttpOptions) {
    const { config, log, clock = systemClock, randomId = () => crypto.randomUUID() } = options;
    const { metrics } = this;
    this.#clock = clock;
    this.#guard = guardOf(options);
    this.#hasToken = config.token !== null;
    this.#ids = new RequestIds(randomId().slice(0, 8));
    this.#problems = new Problems({ metrics, log, clock });
    this.#held = new HeldBytes(clock);
    this.#streams = new Streams({
      held: this.#held,
      clock,
      onStuck: () => {
        metrics.stuckClients++;
      },
      onFailed: (thrown) => this.#problems.cut(thrown),
    });
    this.#ingest = new Ingest(
      { ...options, clock, held: this.#held, maxBodyBytes: config.maxBodyBytes },
      metrics,
    );
    this.#parts = this.#openParts(options, clock);
    const serve: ListenerOptions["serve"] = {
      hostname: config.host,
      port: config.port,
      development: false,
      // Stated, because with `development: false` alone Bun 1.4.5 lets a second gateway share the port.
      reusePort: false,
      idleTimeout: IDLE_SECONDS,
      // The gateway has its own limits: they depend on the format, and their responses say what was accepted before.
      maxRequestBodySize: Number.MAX_SAFE_INTEGER,
      routes: { "/ingest": { POST: (req: Request, server: TimeoutOf) => this.#takeIngest(req, server) } },
      fetch: (req: Request, server: TimeoutOf) => this.#answer(req, server),
      error: (thrown: unknown) => this.#problems.failed(OTHER_INDEX, thrown, this.#ids.next()),
    };
    const { descriptors = new Descriptors() } = options;
    this.#listener = new Listener({
      ...{ serve, descriptors, clock, log },
      onExhausted: () => {
        metrics.descriptorExhaustions++;
      },
    });
    this.port = this.#listener.port;
    this.url = `http://${config.host.includes(":") ? `[${config.host}]` : config.host}:${this.port}`;
  }

  #openParts(options: HttpOptions, clock: Clock): RouteParts {
    const { journal, pipeline, store, chat } = options;
    const admission = (): Refused | null => this.#ingest.admission();
    return {
      events: new EventReads({
        store,
        headSeq: () => journal.headSeq(),
        stopping: () => this.#stopping,
        clock,
      }),
      frames: new FrameReads({ pipeline, journalId: journal.journalId }),
      schemas: new SchemaReads(options.schemas),
      chat: new ChatRoutes({
        chat,
        failed: (thrown) => this.#problems.mistake(thrown, this.#ids.next()),
      }),
      intents: new IntentsRoutes(options.intents),
      state: new StateReads({
        snapshot: () => pipeline.snapshot(),
        chat,
        metrics: this.metrics,
        gauges: () => ({
          http_bodies_in_flight_bytes: this.#held.requests,
          http_responses_in_flight_bytes: this.#held.responses,
          http_pending_requests: this.#listener.pendingRequests,
        }),
        // Without a token, the guard has let nobody through who may not see everything.
        seesDetails: (headers) => !this.#hasToken || this.#guard(headers) === null,
        admission,
        describeConfig: options.describeConfig,
      }),
      admission,
    };
  }

  drain(): void {
    this.#ingest.drain();
    this.#held.refuseWaiting();
    this.#parts.chat.drain();
  }

  async stop(withinMs = STOP_MS_MAX): Promise<void> {
    this.drain();
    this.#stopping = true;
    const untilMs = this.#clock.monotonicMs() + withinMs;
    this.#listener.close();
    while (this.#listener.pendingRequests > 0 && this.#clock.monotonicMs() < untilMs)
      await this.#clock.sleep(STOP_POLL_MS);
    await this.#listener.cut();
  }

  /** The hot path: no allocation here that an acknowledgement does not need. */
  #takeIngest(req: Request, server: TimeoutOf): Response | Promise<Response> {
    const requestId = this.#ids.of(req.headers);
    const refused = this.#guard(req.headers);
    if (refused !== null) return this.#problems.refuse(INGEST_INDEX, refused, requestId);
    const mark = req.url.indexOf("?");
    const query = mark < 0 ? "" : req.url.slice(mark + 1);
    const result = this.#ingest.take(req, query, (seconds) => server.timeout(req, seconds));
    if (!(result instanceof Promise)) return this.#ingestResponse(result, requestId);
    return result.then(
      (value) => this.#ingestResponse(value, requestId),
      (thrown) => this.#problems.failed(INGEST_INDEX, thrown, requestId),
    );
  }

  #ingestResponse(result: IngestResult, requestId: string): Response {
    if (typeof result !== "string") return this.#problems.refuse(INGEST_INDEX, result, requestId);
    this.metrics.request(INGEST_INDEX, 200);
    // Copying existing headers is cheaper than making new ones.
    const response = new Response(result, JSON_RESPONSE);
    response.headers.set("x-request-id", requestId);
    return response;
  }

  /** Every request but POST /ingest. */
  async #answer(req: Request, server: TimeoutOf): Promise<Response> {
    const requestId = this.#ids.of(req.headers);
    const { path, query } = targetOf(req.url);
    const found = routesAt(path);
    const routes = found?.routes ?? null;
    const index = routes?.index ?? OTHER_INDEX;
    using hold = new Hold(this.#held);
    try {
      const request: RouteRequest = {
        req,
        parameter: found?.parameter ?? "",
        query,
        accept: req.headers.get("accept") ?? "",
        keepOpen: (seconds) => server.timeout(req, seconds),
        hold: (bytes) => hold.add(bytes),
      };
      const handled =
        this.#refusal(req, routes, path) ?? (await this.#handle(routes as RoutesOfPath, request));
      if ("code" in handled) return this.#problems.refuse(index, handled, requestId, routes?.allow);
      const body = this.#bodyOf(handled);
      if (typeof body !== "string" && "code" in body) return this.#problems.refuse(index, body, requestId);
      const status = handled.status ?? 200;
      this.metrics.request(index, status);
      const headers: Record<string, string> = {
        ...SAFE_HEADERS,
        "x-request-id": requestId,
        ...handled.headers,
      };
      if (status !== 204) headers["content-type"] = handled.type ?? JSON_TYPE;
      return new Response(
        status === 204 ? null : (body as string | Uint8Array<ArrayBuffer> | ReadableStream),
        {
          status,
          headers,
        },
      );
    } catch (thrown) {
      return this.#problems.failed(index, thrown, requestId);
    }
  }

  #bodyOf({ body, pieceBytes = 0 }: RouteResponse): Exclude<RouteResponse["body"], Pieces> | Refused {
    if (body instanceof ReadableStream) return body;
    if (typeof body === "string" || body instanceof Uint8Array) return this.#streams.whole(body);
    return this.#streams.pieces(body, pieceBytes);
  }

  #refusal(req: Request, routes: RoutesOfPath | null, path: string): Refused | null {
    // With a token, open routes are for everybody. Without one, no route is open to foreign web pages.
    const refused = routes?.token === false && this.#hasToken ? null : this.#guard(req.headers);
    if (refused !== null) return refused;
    if (routes === null) return { code: "not_found", detail: `there is no ${path}` };
    if (req.method !== "OPTIONS" && !routes.handlers.has(req.method)) {
      return {
        code: "method_not_allowed",
        detail: `${path} does not support ${req.method}`,
        hint: `it supports ${routes.allow}`,
      };
    }
    if (this.#stopping) return { code: "draining", detail: "the gateway is shutting down" };
    return null;
  }

  #handle({ allow, handlers }: RoutesOfPath, request: RouteRequest): Handled | Promise<Handled> {
    const handler = handlers.get(request.req.method);
    if (handler === undefined) return { status: 204, headers: { allow }, body: "" };
    return handler(this.#parts, request);
  }
}

/**
 * Listens and answers requests from now on.
 * @throws GatewayError address_in_use if it cannot listen on the address.
 */
export function serve(options: HttpOptions): GatewayServer {
  return new Gateway(options);
}
