/** GET /api/events and GET /api/events/SEQ: reads of events from the store. */
import type { Clock } from "../clock.ts";
import { GatewayError } from "../errors.ts";
import type { EventsPage, EventsQuery } from "../store/protocol.ts";
import type { Handled, Pieces, Refused, RouteRequest } from "./contract.ts";
import { integerOf, POSITION, parametersOf } from "./parameters.ts";

/** @bound a read waits for DuckDB to have opened | 503 */
const STORE_WAIT_MS = 2000;
const STORE_POLL_MS = 10;
const EVENTS_LIMIT_DEFAULT = 50;
/** @bound a page of events | 400; `next` leads to the next page */
const EVENTS_LIMIT_MAX = 1000;
/** @bound one filter of /api/events | 400 */
const FILTER_CHARS_MAX = 1024;

/** @bound bodies of a page in memory at once | the next events are read when the client has taken them */
const PIECE_BODY_BYTES_MAX = 1024 * 1024;
/** @bound a page of events (one event may be larger) | the page ends earlier; `next` leads to the next page */
const PAGE_CHARS_MAX = 32 * 1024 * 1024;
const PAGE_HEAD = '{"events":[';

export interface StoredEvents {
  events(query: EventsQuery, headSeq: number): Promise<EventsPage & { readonly lag: number }>;
  event(seq: number, headSeq: number): Promise<{ json: string | null; lag: number }>;
}

export interface EventReadsOptions {
  /** null until DuckDB is open. Reads wait a little for that. */
  readonly store: () => StoredEvents | null;
  /** The newest seq that is acknowledged. */
  readonly headSeq: () => number;
  readonly stopping: () => boolean;
  readonly clock: Clock;
}

export class EventReads {
  readonly #o: EventReadsOptions;

  constructor(options: EventReadsOptions) {
    this.#o = options;
  }

  async page({ query }: RouteRequest): Promise<Handled> {
    const parsed = eventsQueryOf(query);
    if ("code" in parsed) return parsed;
    const store = await this.#openStore();
    if ("code" in store) return store;
    const { lag, ...first } = await store.events(
      { ...parsed, bodyBytesMax: PIECE_BODY_BYTES_MAX },
      this.#o.headSeq(),
    );
    const isWhole = first.next === null || first.count >= parsed.limit;
    return {
      body: isWhole ? first.json : this.#pieces(parsed, first),
      pieceBytes: first.json.length,
      headers: lagHeaders(lag),
    };
  }

  /** One page of several pages of the store. A page of the store is read when the one before was taken. */
  async *#pieces(query: EventsQuery, first: EventsPage): Pieces {
    const encoder = new TextEncoder();
    const direction = query.after === undefined ? "before" : "after";
    let page: EventsPage = first;
    let count = 0;
    let chars = 0;
    let comma = "";
    for (let head = PAGE_HEAD; ; head = "") {
      count += page.count;
      chars += page.json.length;
      const events = page.json.slice(PAGE_HEAD.length, -tailOf(page.next).length);
      const isLast = page.next === null || count >= query.limit || chars >= PAGE_CHARS_MAX;
      const tail = isLast ? tailOf(page.next) : "";
      yield encoder.encode(head + (events === "" ? "" : comma) + events + tail);
      if (page.next === null || isLast) return;
      if (events !== "") comma = ",";
      const store = await this.#openStore();
      if ("code" in store) throw new GatewayError({ operation: "http: read", object: "events", ...store });
      page = await store.events(
        { ...query, [direction]: page.next, limit: query.limit - count, bodyBytesMax: PIECE_BODY_BYTES_MAX },
        0,
      );
    }
  }

  async one({ parameter: text, query }: RouteRequest): Promise<Handled> {
    const parameters = parametersOf(query, []);
    if ("code" in parameters) return parameters;
    const seq = /^[1-9]\d{0,15}$/.test(text) ? Number(text) : Number.NaN;
    const headSeq = this.#o.headSeq();
    if (!(seq <= headSeq))
      return {
        code: "not_found",
        detail: `there is no event ${text}`,
        hint: "GET /api/events lists events and their seq",
      };
    const store = await this.#openStore();
    if ("code" in store) return store;
    const { json, lag } = await store.event(seq, headSeq);
    if (json !== null) return { body: json, headers: lagHeaders(lag) };
    if (lag === 0) return { code: "not_found", detail: `event ${text} is no longer kept` };
    return {
      code: "store_unavailable",
      detail: `the store is ${lag} events behind and may not hold event ${text} yet`,
    };
  }

  async #openStore(): Promise<StoredEvents | Refused> {
    const { clock, stopping } = this.#o;
    const untilMs = clock.monotonicMs() + STORE_WAIT_MS;
    let store = this.#o.store();
    while (store === null && clock.monotonicMs() < untilMs && !stopping()) {
      await clock.sleep(STORE_POLL_MS);
      store = this.#o.store();
    }
    return store ?? { code: "store_unavailable", detail: "DuckDB is not open yet", hint: "see /ready" };
  }
}

function tailOf(next: number | null): string {
  return `],"next":${next}}`;
}

function lagHeaders(lag: number): Record<string, string> {
  return lag > 0 ? { "x-store-lag": String(lag) } : {};
}

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
      detail: `${name} has ${text.length} characters, at most ${FILTER_CHARS_MAX} are allowed`,
      hint: "search for a shorter part of it",
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
