/** Downloads files: continues where a connection broke, and checks their hashes. */
import { existsSync, statSync } from "node:fs";
import { mkdir, open, readFile, rename, rm, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import type { Clock } from "../clock.ts";
import { GatewayError, messageOf } from "../errors.ts";
import { hashFile } from "./hash-file.ts";
import { invalidModel } from "./models.ts";

const PROGRESS_MS = 2000;
/** How long the headers of a response may take. */
const RESPONSE_MS = 30_000;
/** How long a body may bring no byte. */
const STALL_MS = 60_000;
/**
 * Bytes of a file whose size the hub does not tell.
 * @bound a file of a model, if the hub does not tell its size | the download fails
 */
const FILE_BYTES_MAX = 16 * 1024 ** 3;
/** Tries in a row that bring no byte. */
const TRIES_MAX = 6;
/** Between two tries. */
const RETRY_MS = 1000;

/** What a download needs. */
export interface Transfer {
  readonly fetch: typeof fetch;
  readonly clock: Clock;
  readonly progress: (line: string) => void;
  /** Ends the download. */
  readonly signal?: AbortSignal;
}

/** A file as the hub lists it; null for what it does not tell. */
export interface HubFile {
  readonly path: string;
  readonly bytes: number | null;
  readonly sha256: string | null;
  /** Git's own hash, for a file that is not in LFS: SHA-1 over "blob LENGTH\0" and the content. */
  readonly gitSha1: string | null;
}

/**
 * Sends one request and follows its redirects. `fetch` could follow them, but the hub sends the hash with the redirect.
 * @param linked receives that hash.
 */
export async function request(
  o: Transfer,
  url: string,
  headers: Record<string, string>,
  linked?: { sha256: string | null },
): Promise<Response> {
  let at = url;
  for (let hops = 0; hops < 8; hops++) {
    const response = await responseOf(o, at, headers);
    const etag = response.headers.get("x-linked-etag")?.replace(/^W\/|"/g, "") ?? "";
    if (linked !== undefined && /^[0-9a-f]{64}$/.test(etag)) linked.sha256 = etag;
    const location = response.headers.get("location");
    if (response.status < 300 || response.status > 399 || location === null) return response;
    await response.body?.cancel();
    const next = URL.canParse(location, at) ? new URL(location, at) : null;
    const isSafe = next?.protocol === "https:" || (next?.protocol === "http:" && at.startsWith("http:"));
    if (next === null || !isSafe)
      throw offline(url, `it redirects to ${location.slice(0, 200)}, which is not safe`);
    at = next.href;
  }
  throw offline(url, "too many redirects");
}

async function responseOf(o: Transfer, url: string, headers: Record<string, string>): Promise<Response> {
  // The deadline covers only the headers: a body may take hours.
  const slow = new AbortController();
  using _timer = o.clock.after(RESPONSE_MS, () =>
    slow.abort(new Error(`no response within ${RESPONSE_MS / 1000} s`)),
  );
  using _stop = onAbort(o.signal, () => slow.abort(STOPPED));
  try {
    return await o.fetch(url, {
      headers: { "user-agent": "one_file_gateway", "accept-encoding": "identity", ...headers },
      redirect: "manual",
      signal: slow.signal,
    });
  } catch (cause) {
    throw offline(url, messageOf(cause), cause);
  }
}

const STOPPED = new Error("it was stopped");

/** Calls back when the signal aborts, or at once if it has, unless it is disposed of before. */
function onAbort(signal: AbortSignal | undefined, callback: () => void): Disposable {
  if (signal?.aborted === true) callback();
  signal?.addEventListener("abort", callback, { once: true });
  return { [Symbol.dispose]: () => signal?.removeEventListener("abort", callback) };
}

/** Yields a body as it arrives. @throws Error if it brings nothing for a while, or the download is stopped */
async function* chunksOf(o: Transfer, body: ReadableStream<Uint8Array>): AsyncIterable<Uint8Array> {
  const reader = body.getReader();
  let why: Error | null = null;
  const end = (reason: Error): void => {
    why = reason;
    void reader.cancel(reason).catch(() => undefined);
  };
  using _stop = onAbort(o.signal, () => end(STOPPED));
  try {
    for (;;) {
      using _timer = o.clock.after(STALL_MS, () => end(new Error(`no byte within ${STALL_MS / 1000} s`)));
      const { done, value } = await reader.read();
      if (why !== null) throw why;
      if (done) return;
      yield value;
    }
  } finally {
    void reader.cancel().catch(() => undefined);
  }
}

/** Reads a small body. @throws Error as {@link chunksOf}, and at `bytesMax` */
export async function textOf(o: Transfer, response: Response, bytesMax: number): Promise<string> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of response.body === null ? [] : chunksOf(o, response.body)) {
    chunks.push(chunk);
    bytes += chunk.byteLength;
    if (bytes > bytesMax) throw new Error(`the reply is larger than ${bytesMax} bytes`);
  }
  return Buffer.concat(chunks).toString("utf8");
}

interface Download {
  readonly url: string;
  readonly file: HubFile;
  readonly target: string;
  readonly optional: boolean;
}

/**
 * Downloads one file, complete and with the right hash. A file that is there with the right hash is kept.
 * @throws GatewayError embedder_unavailable, model_missing, model_invalid.
 */
export async function getFile(o: Transfer, d: Download): Promise<void> {
  const linked = { sha256: d.file.sha256 };
  await mkdir(dirname(d.target), { recursive: true });
  if (existsSync(d.target) && (await hashMatches(d, linked.sha256)) === true) {
    o.progress(`${d.file.path}: already there`);
    return;
  }
  const part = `${d.target}.part`;
  for (let tries = 1; ; tries++) {
    const before = bytesOf(part);
    try {
      if ((await fetchPart(o, d, part, linked)) === "absent") return;
      break;
    } catch (error) {
      // A try that brought bytes does not count: a slow line may break many times.
      if (bytesOf(part) > before) tries = 0;
      const retryable = error instanceof GatewayError && error.code === "embedder_unavailable";
      if (!retryable || tries >= TRIES_MAX) throw error;
      o.progress(`${d.file.path}: ${error.detail}; continuing at byte ${bytesOf(part)}`);
      await pause(o, RETRY_MS);
      if (o.signal?.aborted === true) throw error;
    }
  }
  await rename(part, d.target);
  await rm(`${part}.etag`, { force: true });
  const matches = await hashMatches(d, linked.sha256);
  if (matches === false) {
    const found = await hashFile(d.target, "sha256");
    await rm(d.target);
    throw invalidModel(
      d.url,
      `the file has sha256 ${found}, expected ${linked.sha256 ?? d.file.gitSha1}; it was removed`,
    );
  }
  o.progress(
    `${d.file.path}: ${bytesOf(d.target)} bytes, ${matches === null ? "no hash is known to check it" : "hash checked"}`,
  );
}

/** Ends early if the download is stopped. */
async function pause(o: Transfer, ms: number): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  using _stop = onAbort(o.signal, resolve);
  using _timer = o.clock.after(ms, resolve);
  await promise;
}

function bytesOf(path: string): number {
  return existsSync(path) ? statSync(path).size : 0;
}

/** Null if no hash is known. */
async function hashMatches(d: Download, sha256: string | null): Promise<boolean | null> {
  if (sha256 !== null) return (await hashFile(d.target, "sha256")) === sha256;
  if (d.file.gitSha1 !== null) return (await hashFile(d.target, "git")) === d.file.gitSha1;
  return null;
}

/** Completes `part`, from its present length if the server still has the same file, else from the start. */
async function fetchPart(
  o: Transfer,
  d: Download,
  part: string,
  linked: { sha256: string | null },
): Promise<"whole" | "absent"> {
  const have = bytesOf(part);
  const etagPath = `${part}.etag`;
  const etag = have > 0 && existsSync(etagPath) ? await readFile(etagPath, "utf8") : null;
  if (have > 0 && have === d.file.bytes) return "whole";
  // Without a strong ETag nothing proves that the rest belongs to the same file as the beginning.
  const headers: Record<string, string> = etag === null ? {} : { range: `bytes=${have}-`, "if-range": etag };
  const response = await request(o, d.url, headers, linked);
  if (d.optional && response.status === 404) {
    await response.body?.cancel();
    return "absent";
  }
  if (response.status === 416) {
    await response.body?.cancel();
    await rm(part, { force: true });
    throw offline(d.url, "the server has another file than the one that is here in part");
  }
  if (!response.ok || response.body === null) throw await refusal(d, response);
  const from = response.status === 206 ? rangeStart(response) : 0;
  const length = Number(response.headers.get("content-length") ?? Number.NaN);
  const totalBytes = d.file.bytes ?? (Number.isFinite(length) ? from + length : null);
  const newEtag = response.headers.get("etag");
  if (from === 0 || from !== have) {
    if (from !== 0)
      throw invalidModel(d.url, `the server continued at byte ${from}, but ${have} bytes are here`);
    await writeFile(part, "");
    if (newEtag?.startsWith('"')) await writeFile(etagPath, newEtag);
    else await rm(etagPath, { force: true });
  }
  await appendBody(o, d, { body: response.body, part, from, totalBytes });
  return "whole";
}

function rangeStart(response: Response): number {
  return Number(/^bytes (\d+)-/.exec(response.headers.get("content-range") ?? "")?.[1] ?? Number.NaN);
}

async function appendBody(
  o: Transfer,
  d: Download,
  w: { body: ReadableStream<Uint8Array>; part: string; from: number; totalBytes: number | null },
): Promise<void> {
  const file = await open(w.part, "a");
  let bytes = w.from;
  let shownMs = o.clock.monotonicMs();
  try {
    for await (const chunk of chunksOf(o, w.body)) {
      if (bytes + chunk.byteLength > (d.file.bytes ?? FILE_BYTES_MAX)) {
        throw invalidModel(d.url, `it is larger than ${d.file.bytes ?? FILE_BYTES_MAX} bytes`);
      }
      await file.write(chunk);
      bytes += chunk.byteLength;
      const nowMs = o.clock.monotonicMs();
      if (nowMs - shownMs < PROGRESS_MS) continue;
      shownMs = nowMs;
      o.progress(
        `${d.file.path}: ${megabytes(bytes)} of ${w.totalBytes === null ? "?" : megabytes(w.totalBytes)} MB`,
      );
    }
    await file.sync();
  } catch (cause) {
    if (cause instanceof GatewayError) throw cause;
    throw offline(d.url, `the connection broke after ${bytes} bytes: ${messageOf(cause)}`, cause);
  } finally {
    await file.close();
  }
  if (w.totalBytes !== null && bytes < w.totalBytes) {
    throw offline(d.url, `the connection broke after ${bytes} of ${w.totalBytes} bytes`);
  }
}

function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(1);
}

async function refusal(d: Download, response: Response): Promise<GatewayError> {
  await response.body?.cancel();
  const { status } = response;
  if (status === 429 || status >= 500) return offline(d.url, `the server responded ${status}`);
  return new GatewayError({
    code: "model_missing",
    operation: "pull-model",
    object: d.url,
    detail: `the server responded ${status}`,
    hint: "check the model's name and HF_ENDPOINT (the hub responds 401 also for a model that does not exist)",
  });
}

function offline(url: string, detail: string, cause?: unknown): GatewayError {
  return new GatewayError({
    code: "embedder_unavailable",
    operation: "pull-model",
    object: url,
    detail,
    hint: "run it again to continue where it stopped; without a network, copy the model's folder here and pass --from DIR",
    cause,
  });
}
