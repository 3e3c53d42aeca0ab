/**
 * Opens embedders: a local ONNX model, an OpenAI-compatible endpoint, feature hashing, or none. Chooses one of them once
 * per database.
 */

import { basename } from "node:path";
import { type Clock, systemClock } from "../clock.ts";
import { GatewayError, messageOf } from "../errors.ts";
import type { Endpoint } from "../llm/endpoint-contract.ts";
import type { Log } from "../log.ts";
import type { Embedder, EmbedderKind } from "./embedder.ts";
import { embeddingModels, type FoundRemote, findRemote } from "./find-remote.ts";
import { HASHING_NAME } from "./hashing.ts";
import { HashingEmbedder } from "./hashing-embedder.ts";
import { LocalEmbedder } from "./local.ts";
import { findModel } from "./models.ts";
import { OffEmbedder } from "./off.ts";
import { type PullOptions, pullModel as pull } from "./pull.ts";
import { MODEL_DEFAULT, RemoteEmbedder } from "./remote.ts";
import { workerOf } from "./thread.ts";

/** The choice as the journal keeps it. */
export interface RecordedEmbedder {
  readonly kind: EmbedderKind;
  readonly name: string;
  /** 0 if it was not known yet. */
  readonly dim: number;
}

export interface ChooseOptions {
  readonly choice: "auto" | EmbedderKind;
  /** Null: no embedder was chosen for this database yet. */
  readonly recorded: RecordedEmbedder | null;
  readonly modelsDir: string;
  /** Named by the user; null: the default model of the kind. */
  readonly embeddingModel: string | null;
  /** Of --llm-base-url; null: off. */
  readonly endpoint: Endpoint | null;
  /** Whether the user named that endpoint, and not only left the default address in force. */
  readonly expected?: boolean;
  readonly workerUrl: string | URL;
  readonly log: Log;
  readonly clock?: Clock;
}

export interface ChosenEmbedder {
  readonly embedder: Embedder;
  /** Replaces the record of the database; null: nothing was decided, because what may be right was not there yet. */
  readonly record: RecordedEmbedder | null;
  /** A line for the user at this start, or null. */
  readonly advice: string | null;
}

const LOCAL_MODEL_DEFAULT = "bge-m3";
/** For the list of models, and for a first text, of an endpoint that a start does not wait for. */
const LOOK_TIMEOUT_MS = 1000;

/**
 * Chooses the embedder by --embedder and by the record of this database.
 *
 * `auto` without a record takes a local model if --models-dir holds one, else an embedding model that an endpoint lists and
 * that embeds a text, else hashing. It waits for an endpoint that is loading, and decides nothing if that takes too long. `auto` with a record keeps the recorded embedder, even if its model is away: the embedder then fails with
 * embedder_unavailable until the model is back. Any other value of --embedder switches to that kind.
 * @throws GatewayError model_missing, model_invalid, embedder_invalid or usage if the kind that --embedder names cannot be opened.
 */
export async function chooseEmbedder(o: ChooseOptions): Promise<ChosenEmbedder> {
  const chosen = await choose(o);
  const { kind, name, dim } = chosen.embedder;
  let { advice } = chosen;
  if (o.recorded !== null && o.recorded.name !== name && advice === null) {
    advice = `vectors now come from ${name}; earlier frames keep those of ${o.recorded.name}`;
  }
  const record = chosen.undecided === true ? null : { kind, name, dim };
  return { embedder: chosen.embedder, record, advice };
}

interface Choice extends Pick<ChosenEmbedder, "embedder" | "advice"> {
  /** Whether the next start should choose again. */
  readonly undecided?: boolean;
}

async function choose(o: ChooseOptions): Promise<Choice> {
  if (o.choice === "off") return { embedder: new OffEmbedder(), advice: null };
  if (o.choice === "hashing") return { embedder: openHashing(o.workerUrl), advice: null };
  if (o.choice === "local") return { embedder: await openLocal(o), advice: null };
  if (o.choice === "remote") return openRemote(o);
  if (o.recorded === null) return decide(o);
  if (o.recorded.kind === "local") return { embedder: await openRecordedLocal(o, o.recorded), advice: null };
  if (o.recorded.kind === "remote") return { embedder: recordedRemote(o, o.recorded), advice: null };
  const embedder = o.recorded.kind === "off" ? new OffEmbedder() : openHashing(o.workerUrl);
  return { embedder, advice: await adviceFor(o, embedder) };
}

/** The first choice for a database, if the user names no embedder. */
async function decide(o: ChooseOptions): Promise<Choice> {
  if (findModel(o.modelsDir, o.embeddingModel) !== null)
    return { embedder: await openLocal(o), advice: null };
  const found = await findFor(o);
  if (found.embedder !== null) return { embedder: found.embedder, advice: null };
  const lexical = `vectors are lexical (${HASHING_NAME}), not semantic, because --models-dir holds no model and ${found.why}`;
  const todo = found.final
    ? 'run "one_file_gateway pull-model" and pass --embedder local'
    : "the next start looks again; --embedder remote waits for it";
  return { embedder: openHashing(o.workerUrl), advice: `${lexical}; ${todo}`, undecided: !found.final };
}

/** The embedding model that the endpoint lists; null: none, or it does not reply. */
async function listedModel({ endpoint, embeddingModel, log }: ChooseOptions): Promise<string | null> {
  if (endpoint === null) return null;
  using limit = endpoint.limit(LOOK_TIMEOUT_MS, []);
  const reply = await endpoint.listModels(limit);
  if (reply.ok) return embeddingModels(reply.value ?? [], embeddingModel)[0] ?? null;
  log("debug", `embed: list models ${endpoint.address}: ${reply.failure.detail}`);
  return null;
}

/** Advice for a database without a semantic embedder, if one is available by now. */
async function adviceFor(o: ChooseOptions, embedder: Embedder): Promise<string | null> {
  const folder = findModel(o.modelsDir, o.embeddingModel);
  const listed = folder === null ? await listedModel(o) : null;
  if (folder === null && listed === null) return null;
  const found = folder === null ? `the endpoint lists ${listed}` : `a model is at ${folder}`;
  const flag = folder === null ? "remote" : "local";
  return `this database started with --embedder ${embedder.kind} and keeps it; ${found}: pass --embedder ${flag} to use it from now on`;
}

/** Opens the hashing embedder in the embed Worker. It never fails. */
export function openHashing(workerUrl: string | URL): Embedder {
  return new HashingEmbedder(workerOf(workerUrl));
}

function noEndpoint(): GatewayError {
  return new GatewayError({
    code: "usage",
    operation: "embed: choose",
    object: "--embedder remote",
    detail: "no endpoint is set",
    hint: "pass --llm-base-url URL",
  });
}

/** @throws GatewayError model_missing */
function localFolder(o: Pick<ChooseOptions, "modelsDir" | "embeddingModel">): string {
  const folder = findModel(o.modelsDir, o.embeddingModel);
  if (folder !== null) return folder;
  throw new GatewayError({
    code: "model_missing",
    operation: "embed: find model",
    object: `${o.embeddingModel ?? LOCAL_MODEL_DEFAULT} in ${o.modelsDir}`,
    detail: "no such model",
    hint: 'run "one_file_gateway pull-model" or pass --embedder remote or hashing',
  });
}

/**
 * Refuses a choice of the user that can only fail, before anything is opened.
 * @throws GatewayError model_missing, usage
 */
export function checkEmbedder(o: {
  readonly choice: ChooseOptions["choice"];
  readonly modelsDir: string;
  readonly embeddingModel: string | null;
  readonly hasEndpoint: boolean;
}): void {
  if (o.choice === "local") localFolder(o);
  if (o.choice === "remote" && !o.hasEndpoint) throw noEndpoint();
}

async function openLocal(o: ChooseOptions): Promise<Embedder> {
  return openModel(localFolder(o), o.workerUrl);
}

/**
 * Opens a model's folder in the embed Worker.
 * @throws GatewayError model_missing, model_invalid.
 */
export async function openModel(folder: string, workerUrl: string | URL): Promise<Embedder> {
  const embedder = new LocalEmbedder(workerOf(workerUrl), {
    find: () => folder,
    name: basename(folder),
    dim: 0,
  });
  await embedder.load();
  return embedder;
}

/**
 * Installs a model, after a check in the embed Worker: see `pullModel` in pull.ts.
 * @returns the model's folder.
 */
export function pullModel(
  o: Omit<PullOptions, "openModel"> & { readonly workerUrl: string | URL },
): Promise<string> {
  return pull({ ...o, openModel: (folder) => openModel(folder, o.workerUrl) });
}

async function openRecordedLocal(o: ChooseOptions, recorded: RecordedEmbedder): Promise<Embedder> {
  const wanted = o.embeddingModel ?? (recorded.name.split("@")[0] as string);
  const find = (): string | null => findModel(o.modelsDir, wanted);
  const embedder = new LocalEmbedder(workerOf(o.workerUrl), { find, name: recorded.name, dim: recorded.dim });
  try {
    await embedder.load();
  } catch (error) {
    // The database keeps its model. Frames wait for it, and after a while go out without a vector.
    o.log("warn", `${messageOf(error)}; this database uses ${recorded.name} and waits for it`);
  }
  return embedder;
}

async function openRemote(o: ChooseOptions): Promise<Choice> {
  if (o.endpoint === null) throw noEndpoint();
  const recorded = o.recorded?.kind === "remote" ? o.recorded : null;
  if (recorded !== null) return { embedder: recordedRemote(o, recorded), advice: null };
  // A model that the user named need not be listed.
  const found = o.embeddingModel === null ? await findFor({ ...o, expected: true }) : null;
  if (found !== null && found.embedder !== null) return { embedder: found.embedder, advice: null };
  const remote = remoteOf(o, o.embeddingModel ?? MODEL_DEFAULT, 0);
  const error = await remote.probe(LOOK_TIMEOUT_MS);
  // An endpoint that returns wrong vectors may be repaired while the gateway runs, so frames wait as for one that is away.
  const level = error?.code === "embedder_invalid" ? "error" : "warn";
  if (error !== null) o.log(level, `${error.message}; frames wait for it`);
  return { embedder: remote, advice: null, undecided: error !== null };
}

function findFor(o: ChooseOptions): Promise<FoundRemote> {
  return findRemote({
    ...{ endpoint: o.endpoint, expected: o.expected === true, wanted: o.embeddingModel, log: o.log },
    ...{ open: (name) => remoteOf(o, name, 0), clock: o.clock ?? systemClock },
  });
}

function recordedRemote(o: ChooseOptions, recorded: RecordedEmbedder): Embedder {
  const name = o.embeddingModel ?? recorded.name;
  return remoteOf(o, name, name === recorded.name ? recorded.dim : 0);
}

function remoteOf({ endpoint, workerUrl }: ChooseOptions, name: string, dim: number): RemoteEmbedder {
  return new RemoteEmbedder({ endpoint, name, dim, worker: () => workerOf(workerUrl) });
}
