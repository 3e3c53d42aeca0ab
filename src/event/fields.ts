/** The fields that the gateway understands in an event, their ranges, and every bound of the input. Part of the event room. */

import { isDigit } from "./scan.ts";

const MIB = 1024 * 1024;

/** Every bound of the input. Bytes are counted without white space around the JSON text. */
export const LIMITS = {
  /** @bound one event | that event is refused */
  eventBytesMax: 8 * MIB,
  /** @bound a JSON body (an NDJSON body: `--max-body`) | 413 */
  jsonBodyBytesMax: 64 * MIB,
  /**
   * Nested objects and arrays of one event, its own object included.
   * @bound nesting of one event | that event is refused
   */
  depthMax: 128,
  /**
   * UTF-16 units of type, intent, id, keys and conversation id.
   * @bound type, intent, id, key and conversation id of an event | the field is ignored and counted
   */
  labelCharsMax: 1024,
  /**
   * UTF-16 units of the text that is embedded for an event without message.
   * @bound the text that is embedded for an event without a message | cut
   */
  textCharsMax: 8192,
  /** How far into a body without message strings are searched for. */
  textScanBytesMax: MIB,
  /**
   * Refused elements of a batch that the response names; the rest is only counted.
   * @bound refused elements that the response to a batch names | only counted
   */
  errorsMax: 100,
  /** Larger events are read in slices by the scanner and not by JSON.parse. */
  largeEventBytes: 128 * 1024,
  /** Work on this many bytes before yielding the thread; also the size of chunks for NdjsonSplitter. */
  sliceBytes: 64 * 1024,
} as const;

/** The frame fields that the sender gave; a key that is absent was not given. */
export interface EventFields {
  /** 0 system, 1 human, 2 agent, 3 tool. */
  actor?: 0 | 1 | 2 | 3;
  /** i32. */
  workflow_node?: number;
  /** 0 to 4. */
  case_status?: number;
  /** 0 to 4. */
  lead_status?: number;
  /** −1 to 1. */
  sentiment?: number;
  intent?: string;
}

/** Strings are well-formed (U+FFFD replaces lone surrogates) and never empty. */
export interface ParsedEvent {
  /** A view of the received bytes, without white space around them: one JSON object in valid UTF-8. */
  body: Uint8Array;
  /** The sender's id; an integer as its digits. */
  id: string | null;
  /** The key that the sender gave as one, with its kind, like "idempotency_key:abc"; the journal scopes it by source. */
  key: string | null;
  /**
   * Whether an event without a key is a repeat if its source sent the same bytes before: true if it has an id. The id
   * alone does not decide, because many senders put the id of the order or message there, which several events share.
   */
  dedupByBody: boolean;
  type: string | null;
  message: string | null;
  conversationId: string | null;
  /** Unix µs, years 1970 to 2200. */
  timestampUs: number | null;
  /** null if none was given. */
  fields: EventFields | null;
  /** How many understood fields had a wrong JSON type or were out of range. A field with value null counts as absent. */
  ignoredFields: number;
}

/** The keys that are understood at the top level of an event. */
export const FIELD_NAMES = [
  "type",
  "event_type",
  "message",
  "text",
  "conversation_id",
  "actor",
  "timestamp",
  "id",
  "idempotency_key",
  "workflow_node",
  "case_status",
  "lead_status",
  "sentiment",
  "intent",
] as const;
export type FieldName = (typeof FIELD_NAMES)[number];
/** Values as JSON.parse gives them. Only own keys count; JSON.parse makes even `__proto__` an own key. */
export type Members = { readonly [Name in FieldName]?: unknown };

const ACTORS: ReadonlyMap<unknown, 0 | 1 | 2 | 3> = new Map([
  ["system", 0],
  ["human", 1],
  ["agent", 2],
  ["tool", 3],
]);
const CASE_STATUSES = statuses(["new", "open", "pending", "resolved", "closed"]);
const LEAD_STATUSES = statuses(["cold", "warm", "hot", "converted", "lost"]);

function statuses(names: readonly string[]): ReadonlyMap<unknown, number> {
  return new Map(
    names.flatMap((name, value): [unknown, number][] => [
      [name, value],
      [value, value],
    ]),
  );
}

const YEAR_2201_US = Date.UTC(2201, 0, 1) * 1000;
/** Days before each month, except in a leap year. */
const DAYS_BEFORE = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365];
/** Longer than any sensible fraction of a second. */
const TIMESTAMP_CHARS_MAX = 64;

/** The number in the two digits at `at`; NaN if they are not digits. */
function twoDigits(text: string, at: number): number {
  const tens = text.charCodeAt(at) - 48;
  const ones = text.charCodeAt(at + 1) - 48;
  return tens >= 0 && tens <= 9 && ones >= 0 && ones <= 9 ? 10 * tens + ones : Number.NaN;
}

/** Days from 1970 to a date of the Gregorian calendar; NaN if there is no such day. Years 1969 to 2201. */
function daysOf(year: number, month: number, day: number): number {
  const leap = year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0) ? 1 : 0;
  const before = (DAYS_BEFORE[month - 1] ?? Number.NaN) + (month > 2 ? leap : 0);
  const next = (DAYS_BEFORE[month] ?? Number.NaN) + (month >= 2 ? leap : 0);
  if (!(year >= 1969 && year <= 2201 && day >= 1 && day <= next - before)) return Number.NaN;
  const past = year - 1;
  const leapDays = Math.floor(past / 4) - Math.floor(past / 100) + Math.floor(past / 400) - 477;
  return 365 * (year - 1970) + leapDays + before + day - 1;
}

/**
 * Unix µs of an RFC 3339 text, without the digits beyond the microsecond; NaN if the text is not one. A leap second
 * counts as the first second after it. Written by hand, because a regular expression would cost more than the rest of
 * an event.
 */
function rfc3339Us(text: string): number {
  const separator = text[10];
  if (text.length > TIMESTAMP_CHARS_MAX || text[4] !== "-" || text[7] !== "-") return Number.NaN;
  if (text[13] !== ":" || text[16] !== ":") return Number.NaN;
  if (separator !== "T" && separator !== "t" && separator !== " ") return Number.NaN;
  const days = daysOf(100 * twoDigits(text, 0) + twoDigits(text, 2), twoDigits(text, 5), twoDigits(text, 8));
  const hour = twoDigits(text, 11);
  const minute = twoDigits(text, 14);
  const second = twoDigits(text, 17);
  if (!(hour <= 23 && minute <= 59 && second <= 60)) return Number.NaN;
  let at = 19;
  let us = 0;
  if (text[at] === ".") {
    const start = ++at;
    for (let unit = 100_000; isDigit(text.charCodeAt(at)); unit /= 10)
      us += Math.floor(unit) * (text.charCodeAt(at++) - 48);
    if (at === start) return Number.NaN;
  }
  const offset = offsetMinutes(text, at);
  return days * 86_400e6 + (3600 * hour + 60 * (minute - offset) + second) * 1e6 + us;
}

/** Minutes east of UTC in the rest of an RFC 3339 text from `at` on, `Z` or an offset like `-03:00`; else NaN. */
function offsetMinutes(text: string, at: number): number {
  const sign = text[at];
  if ((sign === "Z" || sign === "z") && text.length === at + 1) return 0;
  if ((sign !== "+" && sign !== "-") || text[at + 3] !== ":" || text.length !== at + 6) return Number.NaN;
  const hours = twoDigits(text, at + 1);
  const minutes = twoDigits(text, at + 4);
  if (!(hours <= 23 && minutes <= 59)) return Number.NaN;
  return (sign === "-" ? -1 : 1) * (60 * hours + minutes);
}

/**
 * Whether a text has as many digits as seconds, ms or µs since 1970 have today: 10, 13 or 16, and nothing else. Texts of another length
 * are more often dates such as 20240605.
 */
function isEpochText(text: string): boolean {
  const { length } = text;
  if (length !== 10 && length !== 13 && length !== 16) return false;
  for (let at = 0; at < length; at++) if (!isDigit(text.charCodeAt(at))) return false;
  return true;
}

function epochUs(value: number): number {
  return Math.round(value < 1e11 ? value * 1e6 : value < 1e14 ? value * 1e3 : value);
}

/**
 * Unix µs of a `timestamp`: RFC 3339, or epoch seconds, ms or µs, told apart by magnitude, also in quotes. NaN if it is
 * none of them.
 */
function timestampUs(value: unknown): number {
  let us = Number.NaN;
  if (typeof value === "number") us = epochUs(value);
  else if (typeof value === "string") us = isEpochText(value) ? epochUs(Number(value)) : rfc3339Us(value);
  return us >= 0 && us < YEAR_2201_US ? us + 0 : Number.NaN;
}

/** Reads the understood fields of an event and counts those that it must ignore. */
class FieldReader {
  ignored = 0;

  constructor(
    private readonly members: Members,
    /** Gives the digits of a top-level number, for integers that a double cannot hold. */
    private readonly source: (name: FieldName) => string,
  ) {}

  /** A string of 1 to `charsMax` UTF-16 units. */
  string(name: FieldName, value: unknown, charsMax: number): string | null {
    if (value === undefined || value === null || value === "") return null;
    if (!Object.hasOwn(this.members, name)) return null;
    if (typeof value === "string" && value.length <= charsMax) return value.toWellFormed();
    this.ignored++;
    return null;
  }

  /** A label, or an integer as its exact digits. */
  identifier(name: FieldName, value: unknown): string | null {
    if (typeof value !== "number" || !Object.hasOwn(this.members, name)) {
      return this.string(name, value, LIMITS.labelCharsMax);
    }
    if (Number.isSafeInteger(value)) return String(value);
    const source = this.source(name);
    if (/^-?\d+$/.test(source) && source.length <= LIMITS.labelCharsMax) return source;
    this.ignored++;
    return null;
  }

  /** What `read` returns for a value that was given; if that is NaN or undefined, the field is ignored. */
  other<Value extends number>(
    name: FieldName,
    value: unknown,
    read: (value: unknown) => Value | undefined,
  ): Value | null {
    if (value === undefined || value === null || value === "") return null;
    if (!Object.hasOwn(this.members, name)) return null;
    const taken = read(value);
    if (taken !== undefined && !Number.isNaN(taken)) return taken;
    this.ignored++;
    return null;
  }
}

function workflowNode(value: unknown): number | undefined {
  return typeof value === "number" && (value | 0) === value ? value | 0 : undefined;
}

function sentimentOf(value: unknown): number | undefined {
  return typeof value === "number" && value >= -1 && value <= 1 ? value + 0 : undefined;
}

function fieldsOf(reader: FieldReader, members: Members): EventFields | null {
  const actor = reader.other("actor", members.actor, (name) => ACTORS.get(name));
  const node = reader.other("workflow_node", members.workflow_node, workflowNode);
  const caseStatus = reader.other("case_status", members.case_status, (value) => CASE_STATUSES.get(value));
  const leadStatus = reader.other("lead_status", members.lead_status, (value) => LEAD_STATUSES.get(value));
  const sentiment = reader.other("sentiment", members.sentiment, sentimentOf);
  const intent = reader.string("intent", members.intent, LIMITS.labelCharsMax);
  // Most events give none of these fields. For them one test is enough and nothing is allocated.
  if ((actor ?? node ?? caseStatus ?? leadStatus ?? sentiment ?? intent) === null) return null;
  const fields: EventFields = {};
  if (actor !== null) fields.actor = actor;
  if (node !== null) fields.workflow_node = node;
  if (caseStatus !== null) fields.case_status = caseStatus;
  if (leadStatus !== null) fields.lead_status = leadStatus;
  if (sentiment !== null) fields.sentiment = sentiment;
  if (intent !== null) fields.intent = intent;
  return fields;
}

/**
 * The event of an object's members.
 * @param source gives the digits of a top-level number, for integers that a double cannot hold.
 */
export function eventOf(
  body: Uint8Array,
  members: Members,
  source: (name: FieldName) => string,
): ParsedEvent {
  const reader = new FieldReader(members, source);
  const { labelCharsMax, eventBytesMax } = LIMITS;
  const id = reader.identifier("id", members.id);
  const idempotencyKey = reader.identifier("idempotency_key", members.idempotency_key);
  const event: ParsedEvent = {
    body,
    id,
    key: idempotencyKey === null ? null : `idempotency_key:${idempotencyKey}`,
    dedupByBody: id !== null,
    type:
      reader.string("type", members.type, labelCharsMax) ??
      reader.string("event_type", members.event_type, labelCharsMax),
    message:
      reader.string("message", members.message, eventBytesMax) ??
      reader.string("text", members.text, eventBytesMax),
    conversationId: reader.identifier("conversation_id", members.conversation_id),
    timestampUs: reader.other("timestamp", members.timestamp, timestampUs),
    fields: fieldsOf(reader, members),
    ignoredFields: 0,
  };
  event.ignoredFields = reader.ignored;
  return event;
}

/**
 * The `?type=NAME` of a request, for events without a type (`event.type ??= type`); null if it is absent or empty. A name
 * of more than LIMITS.labelCharsMax characters is refused with `detail`.
 */
export function typeFromQuery(
  value: string | null,
):
  | { readonly type: string | null; readonly detail: null }
  | { readonly type: null; readonly detail: string } {
  if (value === null || value === "") return { type: null, detail: null };
  if (value.length <= LIMITS.labelCharsMax) return { type: value.toWellFormed(), detail: null };
  return {
    type: null,
    detail: `type has ${value.length} characters, at most ${LIMITS.labelCharsMax} are taken`,
  };
}
