/**
 * Writes the files and blocks that are derived from a declaration, so that nothing is declared twice:
 *
 *   consumer.py (the block between the two marker comments)   from src/frame.ts
 *   docs/FRAME.md                                             from src/frame.ts
 *   test/golden/frames.bin, test/golden/frames.json           from src/frame.ts
 *   README.md (the table of options), .env.example            from src/config/options.ts
 *   README.md (the list of keys)                              from tui.ts
 *   docs/METRICS.md                                           from src/http/metric-table.ts
 *   docs/ARCHITECTURE.md (the tables of bounds)               from tagged constants (see scripts/bounds.ts)
 *
 *   bun scripts/generate.ts           writes the files that have changed
 *   bun scripts/generate.ts --check   writes nothing; exit code 1 if a file has drifted
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { OPTIONS } from "../src/config/options.ts";
import {
  conversationHash,
  encodeFrame,
  encodePhysics,
  FLAG,
  FRAME_BYTES,
  FRAME_FIELDS,
  frameChecksum,
  HEADER_BYTES,
  HEADER_FIELDS,
  type LayoutField,
  labelId,
  MAGIC,
  modelId,
  type Physics,
  RING_CAPACITY_DEFAULT,
  RING_STATE,
  RING_VERSION,
  SEMANTIC_DIM_MAX,
  wholeSequence,
} from "../src/frame.ts";
import { METRICS, type Metric } from "../src/http/metric-table.ts";
import { KEYS, TABS } from "../tui.ts";
import { type Bound, boundsOf, boundsTable, isOfDashboard } from "./bounds.ts";
import { productFiles } from "./sizes.ts";

/** A derived file, or a file with derived blocks. */
interface Target {
  /** Relative to the repository. */
  readonly path: string;
  /** The whole file as it should be. @param current the file as it is; empty if there is none. */
  render(current: string, root: string): string | Uint8Array;
}

/**
 * Puts `block` between two marker lines of `text`; the markers stay.
 * @throws Error if a marker is missing or appears twice.
 */
function replaceBlock(
  text: string,
  path: string,
  markers: { start: string; end: string },
  block: string,
): string {
  const parts = text.split(`${markers.start}\n`);
  const rest = parts[1]?.split(markers.end);
  if (parts.length !== 2 || rest?.length !== 2) {
    throw new Error(`generate ${path}: expected one "${markers.start}" and, after it, one "${markers.end}"`);
  }
  return `${parts[0]}${markers.start}\n${block}${markers.end}${rest[1]}`;
}

// consumer.py

const PYTHON_MARKERS = {
  start: "# --- the layout: generated from src/frame.ts by scripts/generate.ts, do not edit ---",
  end: "# --- end of the layout ---",
};
const PYTHON_WIDTH = 110;

/** Fields whose names are attributes of numpy's ndarray with another meaning. */
const TAKEN_BY_NDARRAY: ReadonlySet<string> = new Set(["flags"]);

const NUMPY_FORMAT: Readonly<Record<LayoutField["type"], string>> = {
  u64: "<u8",
  i64: "<i8",
  u32: "<u4",
  i32: "<i4",
  u16: "<u2",
  f32: "<f4",
};
const NUMPY_TYPE: Readonly<Record<LayoutField["type"], string>> = {
  u64: "np.uint64",
  i64: "np.int64",
  u32: "np.uint32",
  i32: "np.int32",
  u16: "np.uint16",
  f32: "np.float32",
};

function pythonDtype(name: string, fields: readonly LayoutField[]): string {
  const rows = fields.map(({ name, type, count, offset }) => {
    const shape = count === 1 ? "" : `, (${count},)`;
    return `        ("${name}", "${NUMPY_FORMAT[type]}"${shape}),  # ${offset}\n`;
  });
  return `${name}: np.dtype[np.void] = np.dtype(\n    [\n${rows.join("")}    ]\n)\n`;
}

function wrap(text: string, indent: string, hanging: string): string {
  const lines: string[] = [];
  let line = indent;
  for (const word of text.split(" ")) {
    if (line.trim() !== "" && line.length + 1 + word.length > PYTHON_WIDTH) {
      lines.push(line);
      line = hanging;
    }
    line += line.trim() === "" ? word : ` ${word}`;
  }
  return `${[...lines, line].join("\n")}\n`;
}

function pythonFieldDocs(): string {
  return FRAME_FIELDS.map((entry) => {
    const meaning = entry.meaning.replaceAll("\\", "\\\\");
    return wrap(`${entry.name}: ${meaning}`, "    ", "        ");
  }).join("");
}

function pythonLayout(): string {
  const scalar = ({ name, type, count }: LayoutField): string => {
    if (count > 1) return `    ${name}: npt.NDArray[${NUMPY_TYPE[type]}]\n`;
    return `    ${name}: ${type === "f32" ? "float" : "int"}\n`;
  };
  const column = ({ name, type }: LayoutField): string => `    ${name}: npt.NDArray[${NUMPY_TYPE[type]}]\n`;
  const constants = [
    `MAGIC = 0x${MAGIC.toString(16)}`,
    `VERSION = ${RING_VERSION}`,
    `HEADER_BYTES = ${HEADER_BYTES}`,
    `FRAME_BYTES = ${FRAME_BYTES}`,
    `SEMANTIC_DIM_MAX = ${SEMANTIC_DIM_MAX}`,
    ...Object.entries(RING_STATE).map(([name, value]) => `STATE_${name.toUpperCase()} = ${value}`),
    ...Object.entries(FLAG).map(([name, value]) => `FLAG_${name.toUpperCase()} = ${value}`),
  ];
  return [
    `${constants.join("\n")}\n\n`,
    `# name, format, elements; the comment is the offset in bytes\n`,
    pythonDtype("HEADER_DTYPE", HEADER_FIELDS),
    pythonDtype("FRAME_DTYPE", FRAME_FIELDS),
    `\n\nclass _FrameFields:\n    """The fields of one frame. Every float is finite.\n\n`,
    pythonFieldDocs(),
    `    """\n\n    __slots__ = ()\n\n`,
    FRAME_FIELDS.map(scalar).join(""),
    `\n\nclass _FrameColumns:\n    """The same fields of n frames: (n,) each, \`\`semantic\`\` (n, ${SEMANTIC_DIM_MAX}), \`\`spin\`\` (n, 4)."""\n\n`,
    FRAME_FIELDS.filter(({ name }) => !TAKEN_BY_NDARRAY.has(name))
      .map(column)
      .join(""),
    `\n\n`,
  ].join("");
}

// docs/FRAME.md

function markdownTable(fields: readonly LayoutField[]): string {
  const rows = fields.map(({ offset, name, type, count, meaning }) => {
    const shape = count === 1 ? type : `${type}[${count}]`;
    return `| ${offset} | ${name} | ${shape} | ${meaning} |\n`;
  });
  return `| offset | field | type | meaning |\n|---|---|---|---|\n${rows.join("")}`;
}

function frameDocument(): string {
  const states = Object.entries(RING_STATE).map(([name, value]) => `${value} ${name}`);
  const flags = Object.entries(FLAG).map(([name, value]) => `| ${Math.log2(value)} | ${value} | ${name} |\n`);
  const bytesDefault = HEADER_BYTES + RING_CAPACITY_DEFAULT * FRAME_BYTES;
  return `<!-- Generated from src/frame.ts by scripts/generate.ts: change it there, then run "bun run generate". -->

# The ring and its frames, byte for byte

A public format: any program may read it. Version ${RING_VERSION}, little endian, no padding.

The ring is a file that readers map: \`/dev/shm/cs_physics\` on Linux, \`/tmp/cs_physics\` on macOS; \`--ring-path\` and
\`CS_PHYSICS_PATH\` change it. Its size is ${HEADER_BYTES} + capacity × ${FRAME_BYTES.toLocaleString("en-GB")} bytes: ${bytesDefault.toLocaleString("en-GB")} at the default capacity of ${RING_CAPACITY_DEFAULT.toLocaleString("en-GB")} frames. One
gateway writes it, any number of programs read it, and no reader can delay the writer.

## Header: ${HEADER_BYTES} bytes at offset 0

${markdownTable(HEADER_FIELDS)}
Readers may load \`head\` and \`tail\` with one 64-bit load at any time. States: ${states.join(", ")}.

## Frame: ${FRAME_BYTES.toLocaleString("en-GB")} bytes

Frame i (its \`frame_id\`, from 1) begins at offset ${HEADER_BYTES} + (i mod capacity) × ${FRAME_BYTES}. Every float is finite.

${markdownTable(FRAME_FIELDS)}
Bits of \`flags\`: a value without its bit is unknown, which is not the same as neutral or zero.

| bit | value | set if the frame has, or is |
|---|---|---|
${flags.join("")}
\`GET /api/frames\` with \`Accept: application/vnd.cs-physics.frames\` returns the same bytes, frame after frame.

## How to read a frame

1. Check \`magic\`, \`version\`, \`frame_size\`, and that the file has room for \`capacity\` frames, before mapping it.
2. Load \`head\` and \`tail\`. Frame i is readable if and only if tail ≤ i < head.
3. The frame's \`sequence\` must be exactly 2 · (⌊i / capacity⌋ + 1). Odd or lower: not complete yet. Higher: overwritten.
4. Copy the frame, or use it in place.
5. Load \`sequence\` and \`tail\` again. If the sequence has changed, or tail > i, discard the copy: it may be torn.

On a processor that does not keep the order of loads and stores (any but x86-64) the sequences are not enough. There, also
require that \`frame_id\` is i and, if \`checksum\` is not 0, that it is the checksum of the copied bytes:

    w_k  the frame's little-endian 32-bit words from byte 16 to byte 4215, k from 0 to 1049, with bit 4 of flags as 0
    u_k  = w_k XOR (w_k >> 16)
    low  = Σ u_k · a_k mod 2³²    a_k = fmix32(2k + 1) | 1
    high = Σ u_k · b_k mod 2³²    b_k = fmix32(2k + 2) | 1
    checksum = high · 2³² + low, or 1 if that is 0

fmix32 is the 32-bit finaliser of MurmurHash3: x ^= x >> 16, x *= 0x85ebca6b, x ^= x >> 13, x *= 0xc2b2ae35, x ^= x >> 16.

A frame that was overwritten before it was read is lost. The number of lost frames is exact: the ids have no gaps, so it is
the distance from the expected id to the oldest one that is still in the ring.

A reader that knows only the first 40 bytes of the header and the first 4,192 of a frame keeps working with every version ${RING_VERSION}.

## How to wait for a frame

Set \`waiters\` to 1 and load \`head\` again. If it has not moved, sleep with \`FUTEX_WAIT\` (not private) on the low word of \`head\`,
with a timeout. A reader that may not write polls \`head\`.

## Restart, replacement, stall

- \`epoch\` has changed: the gateway has restarted on the same file. Frame ids continue.
- \`state\` is ${RING_STATE.superseded}, or the path leads to another inode: another file has replaced this one. Read this one to its end, open the path
  again, and go on at the same \`frame_id\` if \`journal_id\` is the same. A saved position is (\`journal_id\`, \`frame_id\`).
- \`heartbeat_us\` is older than 5 s while \`state\` is ${RING_STATE.running}, and does not change for 1.5 s by the reader's monotonic clock: the writer has
  stalled or was killed. Its age alone proves nothing, because the wall clock may have been set. For the same reason a heartbeat that is
  more than 1 s in the future counts as old, and so does one that has not changed for 5 s, whatever it says.

The gateway never truncates the file. A program that truncates it kills the readers that map it (SIGBUS).

## Labels

\`intent_id\`, \`type_id\` and \`model_id\` are hashes. Their texts are in \`<ring path>.json\`. The gateway replaces that file by rename
before it publishes the first frame that uses a new one:

    {"intents": {"ID": "label"}, "types": {"ID": "label"}, "models": {"ID": {"name": "…", "dim": 1024}}}

A gateway that cannot replace the file does not start. If it becomes impossible later, frames are published all the same, without the texts
of new labels. The gateway then tries again every half second, and \`/ready\` reports \`ring\` as degraded. It also writes the file again if
somebody removes or replaces it.
`;
}

// test/golden

interface GoldenFrame {
  readonly frameId: number;
  readonly physics: Physics;
  /** How many floats the vector has; 0: none. */
  readonly vectorDim: number;
}

const GOLDEN_CAPACITY = 1_000;
/** The frame that has its correct checksum. */
const GOLDEN_CHECKED_ID = 2 ** 40 + 8;
const GOLDEN_TEXTS = {
  conversation_hash: "conversa-ação-7",
  intent_id: "transferência pix",
  type_id: "UserMessage",
  model_id: "hashing-1024-v1",
} as const;

/** A vector that is a pure function of `seed` on every machine: integer arithmetic, then one division. */
function goldenVector(seed: number, dim: number): Float32Array {
  const vector = new Float32Array(dim);
  let state = seed >>> 0;
  for (let index = 0; index < dim; index += 1) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    vector[index] = (state - 0x80000000) / 0x100000000;
  }
  return vector;
}

/** A plain message, a frame with nothing known, the extremes of each type, and a frame with its checksum. */
function goldenFrames(): GoldenFrame[] {
  const plain: Physics = {
    delta_time: 0,
    duration_ms: 12.5,
    velocity: 1,
    interrupt: 0,
    timestamp_us: 1_789_000_000_123_456,
    conversation_hash: conversationHash(GOLDEN_TEXTS.conversation_hash),
    workflow_node: -1,
    case_status: 0,
    lead_status: 0,
    fill_rate: 0,
    actor_type: 1,
    intent_id: labelId(GOLDEN_TEXTS.intent_id),
    sentiment: Math.fround(-0.3),
    confidence: Math.fround(0.9),
    spin: [0.5, -0.5, 0.5, -0.5],
    event_seq: 41,
    semantic_dim: SEMANTIC_DIM_MAX,
    flags: FLAG.semantic | FLAG.intent | FLAG.sentiment | FLAG.conversation | FLAG.first,
    model_id: modelId(GOLDEN_TEXTS.model_id),
    type_id: labelId(GOLDEN_TEXTS.type_id),
    journal_id: 0xdeadbeef,
    checksum: 0n,
  };
  const bare: Physics = {
    ...plain,
    conversation_hash: 0n,
    actor_type: 0,
    intent_id: -1,
    sentiment: 0,
    confidence: 0,
    spin: [1, 0, 0, 0],
    semantic_dim: 0,
    flags: 0,
    model_id: 0,
    type_id: -1,
  };
  const low: Physics = {
    ...plain,
    delta_time: Math.fround(Math.log(0.001)),
    duration_ms: Math.fround(1e-45),
    velocity: Math.fround(-3.4028234663852886e38),
    timestamp_us: Number.MIN_SAFE_INTEGER,
    workflow_node: -0x80000000,
    case_status: 4,
    lead_status: 4,
    actor_type: 3,
    intent_id: 0,
    sentiment: -1,
    event_seq: 1,
    type_id: 0,
    journal_id: 1,
  };
  const high: Physics = {
    ...plain,
    delta_time: Math.fround(3.4028234663852886e38),
    velocity: Math.fround(1 / 3),
    interrupt: 1,
    timestamp_us: Number.MAX_SAFE_INTEGER,
    conversation_hash: 0xffff_ffff_ffff_fffen,
    workflow_node: 0x7fffffff,
    fill_rate: 1,
    intent_id: 0x7fffffff,
    sentiment: 1,
    confidence: 1,
    event_seq: Number.MAX_SAFE_INTEGER,
    semantic_dim: 384,
    flags: 0xffff,
    model_id: 0xffffffff,
    type_id: 0x7fffffff,
    journal_id: 0xffffffff,
    checksum: 0x0123_4567_89ab_cdefn,
  };
  const checked: Physics = { ...plain, semantic_dim: 384, flags: plain.flags | FLAG.refilled };
  checked.checksum = frameChecksum(encodePhysics(checked), goldenVector(GOLDEN_CHECKED_ID, 384));
  return [
    { frameId: 1, physics: plain, vectorDim: SEMANTIC_DIM_MAX },
    { frameId: GOLDEN_CAPACITY - 1, physics: bare, vectorDim: 0 },
    { frameId: GOLDEN_CAPACITY, physics: low, vectorDim: 1 },
    { frameId: 2 ** 40 + 7, physics: high, vectorDim: 384 },
    { frameId: GOLDEN_CHECKED_ID, physics: checked, vectorDim: 384 },
  ];
}

function goldenBytes(): Uint8Array {
  const frames = goldenFrames();
  const bytes = new Uint8Array(frames.length * FRAME_BYTES);
  frames.forEach(({ frameId, physics, vectorDim }, index) => {
    encodeFrame(bytes, index * FRAME_BYTES, {
      frameId,
      capacity: GOLDEN_CAPACITY,
      physics: encodePhysics(physics),
      vector: vectorDim === 0 ? null : goldenVector(frameId, vectorDim),
    });
  });
  return bytes;
}

/**
 * 64-bit numbers are decimal strings. Floats are exact, because every float32 is a double. Of the vector only the leading
 * floats are listed; the rest is zero.
 */
function goldenJson(): string {
  const frames = goldenFrames().map(({ frameId, physics, vectorDim }) => {
    const values: Record<string, unknown> = {
      sequence: String(wholeSequence(frameId, GOLDEN_CAPACITY)),
      frame_id: String(frameId),
      semantic: [...goldenVector(frameId, vectorDim)],
    };
    for (const [name, value] of Object.entries(physics)) {
      const { type } = FRAME_FIELDS.find((entry) => entry.name === name) ?? { type: "" };
      values[name] = type === "u64" || type === "i64" ? String(value) : value;
    }
    return values;
  });
  const lines = frames.map((frame) => `    ${JSON.stringify(frame)}`);
  return [
    "{",
    `  "capacity": ${GOLDEN_CAPACITY},`,
    `  "frame_bytes": ${FRAME_BYTES},`,
    `  "texts": ${JSON.stringify(GOLDEN_TEXTS)},`,
    `  "frames": [`,
    lines.join(",\n"),
    "  ]",
    "}",
    "",
  ].join("\n");
}

// README.md and .env.example

const README_MARKERS = { start: "<!-- generated: options -->", end: "<!-- /generated: options -->" };

function optionsTable(): string {
  const cell = (text: string): string => text.replaceAll("|", "\\|");
  const rows = OPTIONS.map(({ flag, metavar, env, defaultText, help }) => {
    const name = metavar === null ? flag : `${flag} ${metavar}`;
    return `| \`${name}\` | ${env === null ? "" : `\`${env}\``} | ${cell(defaultText)} | ${cell(help)} |\n`;
  });
  return `| flag | environment | default | |\n|---|---|---|---|\n${rows.join("")}`;
}

const KEY_MARKERS = { start: "<!-- generated: keys -->", end: "<!-- /generated: keys -->" };

function keysTable(): string {
  const rows = [null, ...TABS].flatMap((tab) =>
    KEYS.filter((key) => key.tab === tab && key.help !== "").map(
      ({ label, help }) => `| ${tab ?? "everywhere"} | \`${label}\` | ${help} |\n`,
    ),
  );
  return `| tab | key | |\n|---|---|---|\n${rows.join("")}`;
}

function envExample(): string {
  const entries = OPTIONS.flatMap(({ env, flag, defaultText, help }) =>
    env === null ? [] : [`# ${help} (${flag}; default: ${defaultText})\n#${env}=\n`],
  );
  const head =
    "# Copy this file to .env in the folder where the gateway is started, and uncomment what you need.\n";
  const rule = "# Flags win over the environment, the environment over this file.\n";
  return `${head}${rule}\n${entries.join("\n")}`;
}

// docs/METRICS.md

function metricsDocument(): string {
  const rows = Object.entries<Metric>(METRICS).map(([name, { type, unit, help, labels = [] }]) => {
    const braces = labels.length === 0 ? "" : `{${labels.join(",")}}`;
    return `| \`gateway_${name}${braces}\` | ${type} | ${unit} | ${help} |\n`;
  });
  return `<!-- Generated from src/http/metric-table.ts by scripts/generate.ts: change it there, then run "bun run generate". -->

# Metrics

\`GET /metrics\` returns these as Prometheus text. With \`Accept: application/json\` it returns one JSON object instead, whose \`counters\` and
\`gauges\` have the same names without \`gateway_\`. Counters start at 0 with the process.

| metric | type | unit | meaning |
|---|---|---|---|
${rows.join("")}`;
}

// docs/ARCHITECTURE.md

const BOUND_MARKERS = { start: "<!-- generated: bounds -->", end: "<!-- /generated: bounds -->" };
const DASHBOARD_BOUND_MARKERS = {
  start: "<!-- generated: bounds of the dashboard -->",
  end: "<!-- /generated: bounds of the dashboard -->",
};

function withBounds(document: string, root: string): string {
  const path = "docs/ARCHITECTURE.md";
  const bounds = [...productFiles(root), "consumer.py"].flatMap((file) =>
    boundsOf(file, (name) => readFileSync(join(root, name), "utf8")),
  );
  const table = (isListed: (bound: Bound) => boolean): string => boundsTable(bounds.filter(isListed));
  return replaceBlock(
    replaceBlock(
      document,
      path,
      BOUND_MARKERS,
      table((bound) => !isOfDashboard(bound)),
    ),
    path,
    DASHBOARD_BOUND_MARKERS,
    table(isOfDashboard),
  );
}

/** All derived files. */
const TARGETS: readonly Target[] = [
  {
    path: "README.md",
    render: (current) =>
      replaceBlock(
        replaceBlock(current, "README.md", README_MARKERS, optionsTable()),
        "README.md",
        KEY_MARKERS,
        keysTable(),
      ),
  },
  { path: ".env.example", render: envExample },
  {
    path: "consumer.py",
    render: (current) => replaceBlock(current, "consumer.py", PYTHON_MARKERS, pythonLayout()),
  },
  { path: "docs/FRAME.md", render: frameDocument },
  { path: "docs/METRICS.md", render: metricsDocument },
  { path: "docs/ARCHITECTURE.md", render: withBounds },
  { path: "test/golden/frames.bin", render: goldenBytes },
  { path: "test/golden/frames.json", render: goldenJson },
];

/**
 * Writes every derived file of a repository that has drifted from its source. With `check`, only names them.
 * @param say called with one line per drifted file.
 * @returns how many files had drifted.
 */
export function generate(
  root: string,
  o: { readonly check: boolean; readonly say: (line: string) => void },
): number {
  let drifted = 0;
  for (const target of TARGETS) {
    const path = join(root, target.path);
    const before = existsSync(path) ? readFileSync(path) : Buffer.alloc(0);
    const after = Buffer.from(target.render(before.toString("utf8"), root));
    if (before.equals(after)) continue;
    drifted += 1;
    if (o.check) {
      o.say(`generate: ${target.path} is not what its source says; run "bun run generate" and commit it`);
      continue;
    }
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, after);
    o.say(`generate: wrote ${target.path}`);
  }
  return drifted;
}

function main(args: readonly string[]): number {
  const check = args[0] === "--check";
  if (args.length > (check ? 1 : 0)) {
    console.error(
      `generate: unknown argument ${args[check ? 1 : 0]}; usage: bun scripts/generate.ts [--check]`,
    );
    return 2;
  }
  const say = check ? console.error : console.log;
  const drifted = generate(join(import.meta.dir, ".."), { check, say });
  if (drifted === 0) console.log(`generate: ${TARGETS.length} files are as their sources say`);
  return check && drifted > 0 ? 1 : 0;
}

if (import.meta.main) process.exit(main(process.argv.slice(2)));
