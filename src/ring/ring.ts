/**
 * `ring stat`, `ring tail` and `ring verify` show a ring to a person or a script. They read it as any reader does, take no
 * lock, and can run beside a gateway or without one.
 */
import { type Clock, systemClock } from "../clock.ts";
import {
  FLAG,
  FRAME_BYTES,
  frameJson,
  OFFSET,
  RING_STATE,
  RING_VERSION,
  ringBytes,
  UNKNOWN_EVENT,
} from "../frame.ts";
import { RingFollower } from "./follow.ts";
import { LabelsBeside } from "./labels.ts";
import { Pulse } from "./pulse.ts";
import { type CopiedFrames, RingReader, RingUnreadable } from "./reader.ts";
import { DAMAGE, type DamageKind, type RingReport, verifyRing } from "./verify.ts";

const SLICE_FRAMES = 1024;

/** The command as parsed from the command line. */
export interface RingCommand {
  readonly action: "stat" | "tail" | "verify";
  readonly path: string;
  readonly json: boolean;
  /** tail: how many of the newest frames are printed first. */
  readonly count: number;
  /** tail: whether it goes on with the frames that are published later. */
  readonly follow: boolean;
}

/** What surrounds the tool, so that tests own it. */
export interface RingToolSurroundings {
  /** Writes to stdout. Resolves when the text was written; rejects with the code EPIPE if nobody reads any more. */
  readonly write: (text: string) => Promise<void>;
  /** Writes a line for people to stderr. */
  readonly say: (line: string) => void;
  readonly clock?: Clock;
  /** Ends a tail. */
  readonly stop: AbortSignal;
}

/**
 * @returns the exit code: 0, or 1 if verify found damage
 * @throws RingUnreadable if there is no ring, the file is not one, or it may not be read
 */
export async function ringTool(command: RingCommand, around: RingToolSurroundings): Promise<number> {
  try {
    const reader = RingReader.open(command.path);
    if (command.action === "tail") return await tail(reader, command, around);
    using opened = reader;
    if (command.action === "verify") {
      const report = verifyRing(opened);
      await around.write(command.json ? `${JSON.stringify(report)}\n` : verifyText(report));
      return Object.keys(report.problems).length === 0 ? 0 : 1;
    }
    const clock = around.clock ?? systemClock;
    const pulse = new Pulse(opened, clock);
    await pulse.settle();
    const stat = ringStat(opened, pulse, clock.nowUs());
    await around.write(command.json ? `${escaped(JSON.stringify(stat))}\n` : statText(stat));
    return 0;
  } catch (error) {
    // The program that reads our output has ended, as `head` does: no failure.
    if ((error as { code?: unknown } | null)?.code === "EPIPE") return 0;
    throw error;
  }
}

// -------------------------------------------------------------------------------------------------- stat

interface ModelStat {
  readonly id: number;
  /** null if the file of labels does not have it. */
  readonly name: string | null;
  readonly dim: number | null;
  /** Readable frames that carry its vectors. */
  readonly frames: number;
}

/** A name that stats() of consumer.py has, too, means the same there. */
interface RingStat {
  readonly path: string;
  readonly version: number;
  readonly frame_size: number;
  readonly capacity: number;
  readonly bytes: number;
  readonly head: number;
  readonly tail: number;
  /** Frames that may be read. */
  readonly frames: number;
  /** Share of the slots with a readable frame, 0 to 1. */
  readonly fill: number;
  /** How often the ring was filled to its end. */
  readonly laps: number;
  readonly epoch: number;
  readonly writer_pid: number;
  readonly state: string;
  readonly heartbeat_age_s: number;
  readonly stalled: boolean;
  /** Whether a reader sleeps until the next frame. */
  readonly waiters: number;
  readonly journal_id: number | null;
  readonly newest_age_s: number | null;
  readonly models: readonly ModelStat[];
  /** Whether the path still leads to the file that was read. */
  readonly current: boolean;
}

const STATE_NAMES = new Map<number, string>(Object.entries(RING_STATE).map(([name, state]) => [state, name]));

function ringStat(reader: RingReader, pulse: Pulse, nowUs: number): RingStat {
  const { low, high } = reader.range();
  const newest = reader.newest();
  const timestampUs = newest === null ? null : Number(newest.getBigInt64(OFFSET.timestamp_us, true));
  const state = reader.state();
  return {
    path: reader.path,
    version: RING_VERSION,
    frame_size: FRAME_BYTES,
    capacity: reader.capacity,
    bytes: ringBytes(reader.capacity),
    head: high,
    tail: low,
    frames: high - low,
    fill: (high - low) / reader.capacity,
    laps: Math.floor((high - 1) / reader.capacity),
    epoch: reader.epoch(),
    writer_pid: reader.writerPid(),
    state: STATE_NAMES.get(state) ?? String(state),
    heartbeat_age_s: rounded(pulse.ageMs() / 1000),
    stalled: pulse.stalled(),
    waiters: reader.waiters(),
    journal_id: newest?.getUint32(OFFSET.journal_id, true) ?? null,
    newest_age_s: timestampUs === null ? null : rounded(Math.max(0, nowUs - timestampUs) / 1e6),
    models: modelsIn(reader, { low, high }),
    current: reader.atPath() === "this",
  };
}

/** The models whose vectors are in the ring, those with most frames first. */
function modelsIn(reader: RingReader, { low, high }: { low: number; high: number }): ModelStat[] {
  const frames = new Map<number, number>();
  for (let first = low; first < high; first += SLICE_FRAMES) {
    for (const id of reader.modelIds(first, Math.min(first + SLICE_FRAMES, high)))
      frames.set(id, (frames.get(id) ?? 0) + 1);
  }
  frames.delete(0);
  const labels = new LabelsBeside(reader.path);
  return [...frames]
    .sort(([, a], [, b]) => b - a)
    .map(([id, count]) => {
      const label = labels.model(id);
      return { id, name: label?.name ?? null, dim: label?.dim ?? null, frames: count };
    });
}

/** To three decimals. */
function rounded(value: number): number {
  return Math.round(value * 1000) / 1000;
}

function statText(stat: RingStat): string {
  const lines: [name: string, text: string][] = [
    ["path", stat.current ? stat.path : `${stat.path} (now leads to another file, or to none)`],
    ["state", stat.stalled ? `${stat.state}, but stalled: no heartbeat` : stat.state],
    ["heartbeat", `${seconds(stat.heartbeat_age_s)} ago, by process ${stat.writer_pid}`],
    ["frames", `${grouped(stat.frames)} of ${grouped(stat.capacity)} (${Math.round(100 * stat.fill)}%)`],
    ["ids", stat.frames === 0 ? "none yet" : `${stat.tail} to ${stat.head - 1}`],
    ["laps", grouped(stat.laps)],
    ["newest", stat.newest_age_s === null ? "none" : `${seconds(stat.newest_age_s)} old`],
    ["journal", stat.journal_id === null ? "not known without a frame" : String(stat.journal_id)],
    ["epoch", String(stat.epoch)],
    ["waiters", stat.waiters === 0 ? "no reader sleeps" : "a reader sleeps"],
    ["size", `${grouped(stat.bytes)} bytes`],
    ["format", `version ${stat.version}, frames of ${grouped(stat.frame_size)} bytes`],
  ];
  for (const { id, name, dim, frames } of stat.models) {
    const named = name === null ? `id:${id}` : `${printable(name)}${dim === null ? "" : `, ${dim} floats`}`;
    lines.push(["model", `${named}, in ${grouped(frames)} frames`]);
  }
  return lines.map(([name, text]) => `${name.padEnd(10)} ${text}\n`).join("");
}

function grouped(value: number): string {
  return value.toLocaleString("en-US");
}

function seconds(value: number): string {
  return `${value < 10 ? value : Math.round(value)} s`;
}

// ------------------------------------------------------------------------------------------------ verify

function verifyText(report: RingReport): string {
  const { path, frames, whole, damaged, skipped, problems } = report;
  const counts = [`${grouped(frames)} frames: ${grouped(whole)} whole`, `${grouped(damaged)} damaged`];
  if (skipped > 0) counts.push(`${grouped(skipped)} overwritten before they could be looked at`);
  const lines = [`${path}: ${counts.join(", ")}`];
  // In the order of the table, whichever came first.
  for (const kind of Object.keys(DAMAGE) as DamageKind[]) {
    const problem = problems[kind];
    if (problem === undefined) continue;
    const { count, first_ids } = problem;
    const more = count > first_ids.length && first_ids.length > 0 ? ", …" : "";
    const ids = first_ids.length === 0 ? "" : `: frame ${first_ids.join(", ")}${more}`;
    lines.push(`${kind.padEnd(10)} ${grouped(count)} × ${DAMAGE[kind]}${ids}`);
  }
  return `${lines.join("\n")}\n`;
}

// -------------------------------------------------------------------------------------------------- tail

/** Owns the reader. */
async function tail(reader: RingReader, command: RingCommand, around: RingToolSurroundings): Promise<number> {
  const { low, high } = reader.range();
  const first = Math.max(low, high - command.count);
  using follower = new RingFollower(reader, first, {
    clock: around.clock ?? systemClock,
    stop: around.stop,
    tell: (kind, message) => around.say(`ring: ${kind}: ${message}`),
  });
  const labels = new LabelsBeside(command.path);
  for (let next = first; command.follow || next < high; ) {
    // With --no-follow nothing is waited for: a damaged newest frame never comes.
    const copied = command.follow ? await follower.next() : follower.take();
    if (copied === null) {
      if (next === first && !command.follow) throw noneWhole(command.path, high - first);
      return 0;
    }
    next = copied.first + copied.count;
    const wanted = command.follow ? copied.count : Math.min(copied.count, high - copied.first);
    await around.write(framesText({ ...copied, count: wanted }, labels, command.json));
  }
  return 0;
}

function noneWhole(path: string, frames: number): RingUnreadable {
  const detail = `none of its newest frames (${frames}) is whole: they are damaged`;
  return new RingUnreadable(path, detail, 'see what is wrong with them: "one_file_gateway ring verify"');
}

function framesText({ bytes, count }: CopiedFrames, labels: LabelsBeside, json: boolean): string {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let text = "";
  for (let index = 0; index < count; index++) {
    const at = index * FRAME_BYTES;
    text += `${json ? jsonLine(view, at, labels) : frameLine(view, at, labels)}\n`;
  }
  return text;
}

/** A frame as in /api/frames, and its labels. */
function jsonLine(view: DataView, at: number, labels: LabelsBeside): string {
  const { intent, type } = labelsOf(view, at, labels);
  const added = JSON.stringify({ intent_label: intent, type_label: type });
  return escaped(`${frameJson(view, at).slice(0, -1)},${added.slice(1)}`);
}

function labelsOf(
  view: DataView,
  at: number,
  labels: LabelsBeside,
): { intent: string | null; type: string | null } {
  const typeId = view.getInt32(at + OFFSET.type_id, true);
  return {
    intent: labels.intent(view.getInt32(at + OFFSET.intent_id, true)),
    type: typeId < 0 ? UNKNOWN_EVENT : labels.type(typeId),
  };
}

/** One frame for people, on one line; the same as consumer.py prints. */
function frameLine(view: DataView, at: number, labels: LabelsBeside): string {
  const float = (offset: number): number => view.getFloat32(at + offset, true);
  const flags = view.getUint16(at + OFFSET.flags, true);
  const has = (bit: number): boolean => (flags & bit) !== 0;
  const { intent, type } = labelsOf(view, at, labels);
  const intentText = labelText(intent, view.getInt32(at + OFFSET.intent_id, true));
  const typeText = labelText(type, view.getInt32(at + OFFSET.type_id, true));
  const hash = view
    .getBigUint64(at + OFFSET.conversation_hash, true)
    .toString(16)
    .padStart(16, "0");
  const floats = [0, 1, 2, 3].map((index) => signed(float(OFFSET.semantic + 4 * index), 3));
  return [
    clock(view.getBigInt64(at + OFFSET.timestamp_us, true)),
    `#${view.getBigUint64(at + OFFSET.frame_id, true)}`,
    `${typeText}/${intentText}`,
    `sentiment ${has(FLAG.sentiment) ? signed(float(OFFSET.sentiment), 2) : "?"}`,
    `conversation ${has(FLAG.conversation) ? hash : "-"}`,
    paceText({ flags, deltaTime: float(OFFSET.delta_time), velocity: float(OFFSET.velocity) }),
    `[${has(FLAG.semantic) ? floats.join(" ") : "no vector"}]`,
  ].join("  ");
}

function paceText(o: { flags: number; deltaTime: number; velocity: number }): string {
  if ((o.flags & FLAG.conversation) === 0) return "dt -";
  const velocity = `${significant(o.velocity, 6)}/min`;
  if ((o.flags & FLAG.first) !== 0) return `dt first  ${velocity}`;
  // The format allows any finite logarithm; beyond this one the number of seconds is infinite.
  return `dt ${significant(Math.exp(Math.min(o.deltaTime, 700)), 3)}s  ${velocity}`;
}

function clock(timestampUs: bigint): string {
  const moment = new Date(Number(timestampUs / 1000n));
  // A sender's clock may say anything; the JSON output has the number itself.
  if (Number.isNaN(moment.getTime())) return "--:--:--.---";
  const two = (value: number): string => String(value).padStart(2, "0");
  const hours = `${two(moment.getHours())}:${two(moment.getMinutes())}:${two(moment.getSeconds())}`;
  return `${hours}.${String(moment.getMilliseconds()).padStart(3, "0")}`;
}

function signed(value: number, decimals: number): string {
  const text = value.toFixed(decimals);
  return value < 0 || Object.is(value, -0) ? text.replace(/^(?!-)/, "-") : `+${text}`;
}

/** So many significant digits, without zeros at the end: what C and Python call %g. */
function significant(value: number, digits: number): string {
  const [mantissa, power] = value.toExponential(digits - 1).split("e");
  const exponent = Number(power);
  if (exponent >= -4 && exponent < digits) return String(Number(value.toPrecision(digits)));
  const sign = exponent < 0 ? "-" : "+";
  return `${Number(mantissa)}e${sign}${String(Math.abs(exponent)).padStart(2, "0")}`;
}

function labelText(label: string | null, id: number): string {
  if (label !== null) return printable(label);
  return id < 0 ? "-" : `id:${id}`;
}

/** JSON with an escape for each character that could control the terminal. */
function escaped(json: string): string {
  return json.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (character) =>
    Array.from({ length: character.length }, (_, index) => {
      return `\\u${character.charCodeAt(index).toString(16).padStart(4, "0")}`;
    }).join(""),
  );
}

/** Labels come from whoever sent the event: a control character in one must not reach the terminal. */
function printable(text: string): string {
  return text.replace(/[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/gu, "\ufffd");
}
