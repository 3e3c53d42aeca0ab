/** Looks for the embedding model of an endpoint. It is taken only after it has embedded a text: names may deceive. */
import type { Clock } from "../clock.ts";
import type { Endpoint, EndpointFailure } from "../llm/endpoint-contract.ts";
import type { Log } from "../log.ts";
import { MODEL_DEFAULT, type RemoteEmbedder } from "./remote.ts";

/** For the list of models. */
const LIST_TIMEOUT_MS = 1000;
/** At least, for the first text of a model; at most what is left of the wait, because a server may load it only then. */
const PROBE_TIMEOUT_MS_MIN = 1000;
/** @bound how long a new database waits for an endpoint that says that it is loading | hashing until the next start */
const LOADING_MS_MAX = 30_000;
/** @bound how long a new database waits for an endpoint that the user named and that does not answer | hashing until the next start */
const ABSENT_MS_MAX = 10_000;
const RETRY_MS = 1000;
/** Models that are asked for a vector. */
const CANDIDATES_MAX = 3;

export interface FindRemoteOptions {
  /** Null: off. */
  readonly endpoint: Endpoint | null;
  /** Whether the user named the endpoint, and not only left the default address in force. */
  readonly expected: boolean;
  /** The model that the user named; null: any. */
  readonly wanted: string | null;
  readonly open: (name: string) => RemoteEmbedder;
  readonly clock: Clock;
  readonly log: Log;
}

export type FoundRemote =
  | { readonly embedder: RemoteEmbedder }
  | {
      readonly embedder: null;
      /** Why there is none, within a sentence. */
      readonly why: string;
      /** Whether the endpoint was there and has none, so that it will have none at the next start. */
      readonly final: boolean;
    };

interface Absent {
  readonly embedder: null;
  readonly why: string;
  readonly final: boolean;
  /** Whether it is worth waiting for. */
  readonly isLoading: boolean;
}

/** Waits for an endpoint that is loading, and for a while for one that the user named and that is away. */
export async function findRemote(o: FindRemoteOptions): Promise<FoundRemote> {
  const { endpoint, expected, clock, log } = o;
  if (endpoint === null) return { embedder: null, why: "no endpoint is set", final: true };
  const startedMs = clock.monotonicMs();
  for (let looks = 1; ; looks++) {
    const found = await look(o, endpoint, startedMs + LOADING_MS_MAX);
    if (found.embedder !== null || found.final) return found;
    const patienceMs = found.isLoading ? LOADING_MS_MAX : expected ? ABSENT_MS_MAX : 0;
    if (clock.monotonicMs() - startedMs >= patienceMs) return found;
    if (looks === 1) log("info", `embed: ${found.why}; waiting up to ${patienceMs / 1000} s for it`);
    await clock.sleep(RETRY_MS);
  }
}

async function look(
  o: FindRemoteOptions,
  endpoint: Endpoint,
  untilMs: number,
): Promise<{ embedder: RemoteEmbedder } | Absent> {
  const { wanted, expected, clock, log } = o;
  using limit = endpoint.limit(LIST_TIMEOUT_MS, []);
  const listed = await endpoint.listModels(limit);
  if (!listed.ok) {
    // Most users run no endpoint, so its absence at the default address is no news.
    if (!expected) log("debug", `embed: list models ${endpoint.address}: ${listed.failure.detail}`);
    return absentBy(listed.failure, `${endpoint.address}: ${listed.failure.detail}`, expected);
  }
  const names = embeddingModels(listed.value ?? [], wanted).slice(0, CANDIDATES_MAX);
  let absent: Absent = {
    ...{ embedder: null, why: `${endpoint.address} lists no embedding model` },
    ...{ final: true, isLoading: false },
  };
  for (const name of names) {
    const embedder = o.open(name);
    const error = await embedder.probe(Math.max(PROBE_TIMEOUT_MS_MIN, untilMs - clock.monotonicMs()));
    if (error === null) return { embedder };
    await embedder[Symbol.asyncDispose]();
    const cannot = error.code === "embedder_invalid";
    // Another model may be right, so a later refusal does not hide that an earlier one may come.
    if (absent.final) absent = { embedder: null, why: error.message, final: cannot, isLoading: !cannot };
  }
  return absent;
}

function absentBy({ kind, status }: EndpointFailure, why: string, expected: boolean): Absent {
  // Another status of the 4xx, and 501, say that the endpoint has no list of models, and so none to choose.
  const passes =
    status !== null && ([401, 403, 408, 425, 429].includes(status) || (status >= 500 && status !== 501));
  const final = status === null ? kind === "unreachable" && !expected : !passes;
  return { embedder: null, why, final, isLoading: status !== null && [502, 503, 504].includes(status) };
}

/** The models to try, the likeliest first: those with the name of an embedding model, or the one that the user named. */
export function embeddingModels(
  models: readonly { readonly id: string; readonly embeds: boolean }[],
  wanted: string | null,
): string[] {
  const named = models.filter(({ id, embeds }) => (wanted === null ? embeds : id === wanted));
  return named.map(({ id }) => id).sort((a, b) => Number(b === MODEL_DEFAULT) - Number(a === MODEL_DEFAULT));
}
