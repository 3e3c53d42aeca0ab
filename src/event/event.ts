/**
 * Bytes → events: the formats and limits of the input. A body is kept as the bytes that were received; the understood
 * fields are only copied out of it.
 *
 * Small events go through JSON.parse. Large events and arrays go through a byte scanner that can stop anywhere, so that
 * a body holds the thread for one slice at a time.
 */

import { isUtf8 } from "node:buffer";
import type { ErrorCode } from "../errors.ts";
import {
  type EventFields,
  eventOf,
  FIELD_NAMES,
  type FieldName,
  LIMITS,
  type Members,
  type ParsedEvent,
  typeFromQuery,
} from "./fields.ts";
import { type NdjsonLine, NdjsonSplitter } from "./ndjson.ts";
import {
  BACKSLASH,
  characterStart,
  decode,
  invalidUtf8At,
  JsonScanner,
  literalEnd,
  OPEN_ARRAY,
  OPEN_OBJECT,
  trimmed,
} from "./scan.ts";
import { textOf } from "./text.ts";

export type { EventFields, NdjsonLine, ParsedEvent };
export { FIELD_NAMES, LIMITS, NdjsonSplitter, textOf, typeFromQuery };

export interface Refusal {
  readonly code: Extract<ErrorCode, "malformed" | "not_an_event" | "too_deep" | "too_large">;
  /** Tells the sender what is wrong and, if it is in the bytes, at which offset. */
  readonly detail: string;
}

export type Outcome =
  | { readonly event: ParsedEvent; readonly refusal: null }
  | { readonly event: null; readonly refusal: Refusal };

function accepted(body: Uint8Array, members: Members, source: (name: FieldName) => string): Outcome {
  return { event: eventOf(body, members, source), refusal: null };
}

function refused(code: Refusal["code"], detail: string): Outcome {
  return { event: null, refusal: { code, detail } };
}

function refusedUtf8(bytes: Uint8Array, offset: number): Outcome {
  return refused("malformed", `byte ${offset + invalidUtf8At(bytes)}: not valid UTF-8`);
}

function refusedSize(sizeBytes: number): Outcome {
  return refused("too_large", `${sizeBytes} bytes; an event has at most ${LIMITS.eventBytesMax} (8 MiB)`);
}

const TOO_DEEP = refused("too_deep", `nested deeper than ${LIMITS.depthMax} objects and arrays`);
const NOT_AN_EVENT = refused("not_an_event", "an event is a JSON object");

// ---- One event --------------------------------------------------------------------------------------

const NAMES_BY_LENGTH: readonly FieldName[][] = Array.from({ length: 16 }, (_, length) =>
  FIELD_NAMES.filter((name) => name.length === length),
);
/** The longest spelling of a known key: every letter escaped, with its quotes. */
const KEY_BYTES_MAX = 6 * Math.max(...FIELD_NAMES.map((name) => name.length)) + 2;

/** Where the values of the understood fields stand in an object; of equal keys, the last one counts. */
type Found = Map<FieldName, { start: number; end: number }>;

/** The known name that the key from `start` to before `end` (quotes included) spells, or null. */
function nameAt(bytes: Uint8Array, start: number, end: number): FieldName | null {
  if (end - start > KEY_BYTES_MAX) return null;
  for (const name of NAMES_BY_LENGTH[end - start - 2] ?? []) {
    if (literalEnd(bytes, start + 1, name) > 0) return name;
  }
  for (let at = start; at < end; at++) {
    if (bytes[at] !== BACKSLASH) continue;
    const name = String(JSON.parse(decode(bytes.subarray(start, end))));
    return FIELD_NAMES.find((known) => known === name) ?? null;
  }
  return null;
}

/** Scans one JSON text in slices. Returns the understood members of its root object, or a refusal. */
function* scanText(body: Uint8Array): Generator<undefined, { found: Found; deepest: number } | Outcome> {
  const scanner = new JsonScanner(body);
  const found: Found = new Map();
  let checked = 0;
  for (let limit = LIMITS.sliceBytes; ; limit += LIMITS.sliceBytes) {
    const to = characterStart(body, Math.min(limit, body.length));
    const slice = body.subarray(checked, to);
    if (!isUtf8(slice)) return refusedUtf8(slice, checked);
    checked = to;
    for (;;) {
      const step = scanner.run(limit);
      if (step === "slice") break;
      if (step === "done") return { found, deepest: scanner.deepest };
      if (step === "bad") return refused("malformed", scanner.problem);
      // The elements of an array have no key, so no known name is found.
      const name = nameAt(body, scanner.keyStart, scanner.keyEnd);
      if (name !== null) found.set(name, { start: scanner.childStart, end: scanner.childEnd });
    }
    yield;
  }
}

function finish<Result>(generator: Generator<undefined, Result>): Result {
  for (;;) {
    const step = generator.next();
    if (step.done === true) return step.value;
  }
}

/** The event of a valid object. Parses only the understood scalars. */
function eventFromFound(body: Uint8Array, found: Found): Outcome {
  const token = (name: FieldName): string => {
    const bounds = found.get(name);
    return bounds === undefined ? "" : decode(body.subarray(bounds.start, bounds.end));
  };
  const members: { [Name in FieldName]?: unknown } = {};
  for (const [name, { start }] of found) {
    const nested = body[start] === OPEN_OBJECT || body[start] === OPEN_ARRAY;
    // No field is an object, an array or a boolean, so `true` stands for any value of a wrong type.
    members[name] = nested ? true : JSON.parse(token(name));
  }
  return accepted(body, members, token);
}

/** Finds the digits of a top-level number in a valid body; of equal keys the last one counts, as for JSON.parse. */
function sourceIn(body: Uint8Array): (name: FieldName) => string {
  return (name) => {
    const scanner = new JsonScanner(body);
    let source = body.subarray(0, 0);
    while (scanner.run(body.length) === "child") {
      if (nameAt(body, scanner.keyStart, scanner.keyEnd) !== name) continue;
      source = body.subarray(scanner.childStart, scanner.childEnd);
    }
    return decode(source);
  };
}

/** Whether valid JSON `text` could be nested too deep, judged by the number of its opening brackets. */
function mayBeTooDeep(text: string): boolean {
  // Every level takes two characters.
  if (text.length < 2 * (LIMITS.depthMax + 1)) return false;
  let left = LIMITS.depthMax;
  for (let at = text.indexOf("{"); at >= 0; at = text.indexOf("{", at + 1)) if (--left < 0) return true;
  for (let at = text.indexOf("["); at >= 0; at = text.indexOf("[", at + 1)) if (--left < 0) return true;
  return false;
}

/** Parses a trimmed, small body that is valid UTF-8. */
function parseSmall(body: Uint8Array): Outcome {
  const text = decode(body);
  if (mayBeTooDeep(text)) {
    const scanned = finish(scanText(body));
    if (!("found" in scanned)) return scanned;
    if (scanned.deepest > LIMITS.depthMax) return TOO_DEEP;
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (thrown) {
    // JSON.parse does not tell the offset; the scanner does.
    const scanned = finish(scanText(body));
    return "found" in scanned ? refused("malformed", String(thrown)) : scanned;
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    return NOT_AN_EVENT;
  }
  return accepted(body, value, sourceIn(body));
}

/**
 * Reads one event: a JSON object in UTF-8. White space around it and a byte order mark are allowed. Never throws. The
 * largest events take about 50 ms; {@link parseEventInSlices} yields in between.
 */
export function parseEvent(bytes: Uint8Array): Outcome {
  const body = trimmed(bytes);
  return body.length > LIMITS.largeEventBytes ? finish(parseBody(body)) : parseSmallBytes(body);
}

/** Like {@link parseEvent}, but yields after every slice of a large event. */
export function parseEventInSlices(bytes: Uint8Array): Generator<undefined, Outcome> {
  return parseBody(trimmed(bytes));
}

function* parseBody(body: Uint8Array): Generator<undefined, Outcome> {
  if (body.length <= LIMITS.largeEventBytes) return parseSmallBytes(body);
  if (body.length > LIMITS.eventBytesMax) return refusedSize(body.length);
  return yield* parseLarge(body);
}

function parseSmallBytes(body: Uint8Array): Outcome {
  if (body.length === 0) return refused("malformed", "byte 0: a JSON object was expected, nothing came");
  return isUtf8(body) ? parseSmall(body) : refusedUtf8(body, 0);
}

function* parseLarge(body: Uint8Array): Generator<undefined, Outcome> {
  const scanned = yield* scanText(body);
  if (!("found" in scanned)) return scanned;
  if (body[0] !== OPEN_OBJECT) return NOT_AN_EVENT;
  if (scanned.deepest > LIMITS.depthMax) return TOO_DEEP;
  return eventFromFound(body, scanned.found);
}

// ---- A JSON body: one event or a batch --------------------------------------------------------------

export type JsonBody =
  | { readonly kind: "event"; readonly event: ParsedEvent }
  /** `count` elements were yielded, refused ones included. */
  | { readonly kind: "batch"; readonly count: number }
  /** Nothing of the body was yielded. */
  | { readonly kind: "refused"; readonly refusal: Refusal };

/** The cost of an element besides its bytes, so that many tiny elements do not make a long slice. */
const ELEMENT_COST_BYTES = 128;

/**
 * Reads the body of one request: an object is one event, an array is a batch of events. Yields after every slice of work
 * (a few ms), so that the caller can let the event loop turn. For a batch it yields the outcomes of the elements read
 * since the last yield. The whole array is checked before its first element is yielded: malformed JSON anywhere refuses
 * all of it. An element that is valid JSON but not an event is refused alone.
 */
export function* parseJsonBody(bytes: Uint8Array): Generator<readonly Outcome[], JsonBody> {
  const body = trimmed(bytes);
  if (body[0] === OPEN_ARRAY) {
    if (body.length > LIMITS.jsonBodyBytesMax) {
      const detail = `${body.length} bytes; a JSON body has at most ${LIMITS.jsonBodyBytesMax} (64 MiB)`;
      return { kind: "refused", refusal: { code: "too_large", detail } };
    }
    const scanned = yield* withoutOutcomes(scanText(body));
    if ("refusal" in scanned && scanned.refusal !== null)
      return { kind: "refused", refusal: scanned.refusal };
    return { kind: "batch", count: yield* parseElements(body) };
  }
  const outcome = yield* withoutOutcomes(parseBody(body));
  if (outcome.refusal !== null) return { kind: "refused", refusal: outcome.refusal };
  return { kind: "event", event: outcome.event };
}

function* withoutOutcomes<Result>(
  generator: Generator<undefined, Result>,
): Generator<readonly Outcome[], Result> {
  for (;;) {
    const step = generator.next();
    if (step.done === true) return step.value;
    yield [];
  }
}

/** Yields the outcomes of the elements of a valid array, in order. Returns the number of elements. */
function* parseElements(body: Uint8Array): Generator<readonly Outcome[], number> {
  // A second scan is cheaper than remembering the bounds of up to 20 million elements.
  const scanner = new JsonScanner(body);
  let count = 0;
  let outcomes: Outcome[] = [];
  let limit = LIMITS.sliceBytes;
  for (;;) {
    const step = scanner.run(limit);
    if (step === "done") break;
    if (step === "child") {
      const element = body.subarray(scanner.childStart, scanner.childEnd);
      const { deepest } = scanner;
      scanner.deepest = 0;
      if (element.length > LIMITS.largeEventBytes && element.length <= LIMITS.eventBytesMax) {
        outcomes.push(yield* withoutOutcomes(parseBody(element)));
      } else outcomes.push(elementOutcome(element, deepest));
      count++;
      limit -= ELEMENT_COST_BYTES;
      if (scanner.at < limit) continue;
    }
    if (step === "bad") throw new Error(`event: a checked array is malformed, ${scanner.problem}`);
    yield outcomes;
    outcomes = [];
    limit = scanner.at + LIMITS.sliceBytes;
  }
  if (outcomes.length > 0) yield outcomes;
  return count;
}

/** @param deepest the nesting, with the array around the element as level 1. */
function elementOutcome(element: Uint8Array, deepest: number): Outcome {
  if (element.length > LIMITS.eventBytesMax) return refusedSize(element.length);
  if (element[0] !== OPEN_OBJECT) return NOT_AN_EVENT;
  if (deepest - 1 > LIMITS.depthMax) return TOO_DEEP;
  return accepted(element, JSON.parse(decode(element)), sourceIn(element));
}

// ---- A line of NDJSON -------------------------------------------------------------------------------

/** Reads the event of one line. The detail of a refusal names the line. */
export function parseLine(line: NdjsonLine): Outcome {
  const outcome =
    line.bytes === null
      ? refused("too_large", `an event has at most ${LIMITS.eventBytesMax} bytes (8 MiB)`)
      : parseEvent(line.bytes);
  if (outcome.refusal === null) return outcome;
  return refused(outcome.refusal.code, `line ${line.lineNumber}: ${outcome.refusal.detail}`);
}
