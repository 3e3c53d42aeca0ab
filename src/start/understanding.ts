/** Opens what the gateway understands events with: schemas, intents, the brain, chat, and the embedder. */
import { Brain, Chat, Intents, MESSAGE_QUESTION, RememberedReplies } from "../brain/brain.ts";
import { type Config, LLM_BASE_URL_DEFAULT } from "../config/config.ts";
import { chooseEmbedder, type RecordedEmbedder } from "../embed/embed.ts";
import { messageOf } from "../errors.ts";
import * as events from "../event/event.ts";
import type { Journal } from "../journal/journal.ts";
import { openEndpoint, openLlm } from "../llm/llm.ts";
import type { Log } from "../log.ts";
import { workerUrl } from "../native/worker-url.ts";
import { Schemas } from "../schemas/schemas.ts";

/**
 * Bytes that are read of one reply: 64 vectors of 4,096 floats in JSON.
 * @bound a reply with embeddings | the request fails
 */
const EMBEDDINGS_BYTES_MAX = 8 * 1024 * 1024;

/** Disposing of it writes what the schemas have learned. */
export interface Understanding extends Disposable {
  readonly schemas: Schemas;
  readonly intents: Intents;
  readonly replies: RememberedReplies;
  readonly brain: Brain;
  readonly chat: Chat;
}

/** The endpoint of `--llm-base-url` is looked for only after `brain.llm.start()`. */
export function openUnderstanding(
  config: Config,
  journal: Journal,
  { log, fetch }: { readonly log: Log; readonly fetch: typeof globalThis.fetch },
): Understanding {
  // A temporary journal ends with the process, and so does what the schemas learned from it.
  const table = config.dbPath === null ? null : journal.table("schemas");
  const schemas = new Schemas({ table, log });
  const intents = new Intents({ rows: journal.intents, log });
  const replies = new RememberedReplies({
    rows: journal.intents,
    failed: (error) =>
      log("warn", `brain: cannot write the model's replies, so a restart may lose some: ${messageOf(error)}`),
  });
  const llm = openLlm({
    baseUrl: config.llmBaseUrl,
    apiKey: config.llmApiKey,
    model: config.llmModel,
    budgetCalls: config.llmBudgetCalls,
    kept: { read: () => journal.meta("llm.budget"), write: (text) => journal.setMeta("llm.budget", text) },
    trial: MESSAGE_QUESTION,
    log,
    fetch,
  });
  const brain = new Brain({
    llm,
    deadlineMs: config.llmTimeoutMs,
    fingerprint: (body) => schemas.fingerprint(body),
    excerpt: (body) => schemas.excerpt(body),
    shapes: journal.table("shapes"),
    replies,
  });
  const chat = new Chat({
    llm,
    knownTypes: (limit, also) => schemas.mostFrequent(limit, also),
    labels: () => intents.list().map(({ label }) => label),
    envelope: events.FIELD_NAMES,
    nowMs: () => performance.now(),
    newSessionId: () => crypto.randomUUID(),
  });
  return { schemas, intents, replies, brain, chat, [Symbol.dispose]: () => schemas[Symbol.dispose]() };
}

/** The embedder that follows from --embedder, the journal's record and the models that are available now. */
export async function openEmbedder(
  config: Config,
  journal: Journal,
  { log, fetch }: { readonly log: Log; readonly fetch: typeof globalThis.fetch },
) {
  const text = journal.meta("embedder");
  const kept = text === null ? null : (JSON.parse(text) as RecordedEmbedder);
  // An endpoint's dimension becomes known with its first reply, so the label of its frames has it and the record may not.
  const label = journal.labels().find(({ kind, label }) => kind === "model" && label === kept?.name);
  // A model of an endpoint that never made a vector for this database was chosen by its name alone, and may be none.
  const isUnproven = kept?.kind === "remote" && kept.dim === 0 && label === undefined;
  const recorded = isUnproven ? null : kept;
  const { embedder, record, advice } = await chooseEmbedder({
    choice: config.embedder,
    recorded: recorded === null ? null : { ...recorded, dim: label?.dim ?? recorded.dim },
    modelsDir: config.modelsDir,
    embeddingModel: config.embeddingModel,
    endpoint:
      config.llmBaseUrl === null
        ? null
        : openEndpoint({
            baseUrl: config.llmBaseUrl,
            apiKey: config.llmApiKey,
            fetch,
            replyBytesMax: EMBEDDINGS_BYTES_MAX,
          }),
    expected: config.llmBaseUrl !== LLM_BASE_URL_DEFAULT,
    workerUrl: workerUrl("embed"),
    log,
  });
  if (record !== null) journal.setMeta("embedder", JSON.stringify(record));
  log("info", `embedder ${embedder.name}`);
  if (advice !== null) log("warn", advice);
  return embedder;
}
