/** What scripts/generate.ts derives: above all the bounds, which it reads from the sources. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { type Bound, boundsOf, boundsTable, boundText, isOfDashboard } from "../scripts/bounds.ts";
import { generate } from "../scripts/generate.ts";
import { productFiles } from "../scripts/sizes.ts";

// The machine may be busy.
setDefaultTimeout(60_000);

const ROOT = join(import.meta.dir, "..");

/** The bounds of one source, with others that it may import. */
function boundsIn(text: string, path = "src/a/a.ts", others: Readonly<Record<string, string>> = {}): Bound[] {
  return boundsOf(path, (name) => ({ ...others, [path]: text })[name] ?? "");
}

describe("a bound in TypeScript", () => {
  test("is a constant with a tag, exported or not, with other comments or without", () => {
    const text = `
      /** @bound one event | it is refused */
      export const EVENT_BYTES_MAX = 8 * 1024 * 1024;
      /**
       * Why it is so.
       * @bound the wait of
       *   a read | 503
       * @see elsewhere
       */
      const WAIT_MS = 2_000;
      /** Not tagged. */
      const OTHER = 1;`;
    expect(boundsIn(text)).toEqual([
      {
        ...{ what: "one event", beyond: "it is refused", name: "EVENT_BYTES_MAX" },
        ...{ path: "src/a/a.ts", value: 8_388_608 },
      },
      { what: "the wait of a read", beyond: "503", name: "WAIT_MS", path: "src/a/a.ts", value: 2000 },
    ]);
  });

  test("may be a member of a constant object", () => {
    const text = `const MIB = 1 << 20;
      export const LIMITS = {
        /** @bound one event | 413 */
        eventBytesMax: 8 * MIB,
        /** @bound levels of nesting | 422 */
        depthMax: 2 ** 7,
      } as const;`;
    expect(boundsIn(text).map(({ name, value }) => [name, value])).toEqual([
      ["LIMITS.eventBytesMax", 8_388_608],
      ["LIMITS.depthMax", 128],
    ]);
  });

  test("is computed from constants of its own file and of files that it imports", () => {
    const others = {
      "src/frame.ts": "export const FRAME_BYTES = 4 * WORDS;\nconst WORDS = 1056;",
      "src/a/limits.ts": "export const LIMITS = { framesMax: 10 } as const;",
    };
    const text = `import { FRAME_BYTES as SIZE } from "../frame.ts";
      import { LIMITS } from "./limits.ts";
      const EXTRA = (1 + 1) / 2;
      /** @bound x | y */
      const TOTAL_BYTES_MAX = SIZE * LIMITS.framesMax - EXTRA satisfies number;`;
    expect(boundsIn(text, "src/a/a.ts", others)[0]?.value).toBe(42_239);
  });

  test("that cannot be read is an error with its place, never a missing row", () => {
    const faults: [text: string, why: RegExp][] = [
      ["/** @bound only what */\nconst A = 1;", /a\.ts:1: .*WHAT \| BEYOND/],
      ["/** @bound a | b | c */\nconst A = 1;", /WHAT \| BEYOND/],
      ["\n/** @bound a | b */\nfunction f() {}", /a\.ts:2: .*no constant/],
      ["/** @bound a | b */", /no constant/],
      ["/** @bound a | b */\nlet A = 1;", /no constant/],
      ["/** @bound a | b */\nconst A = Math.floor(1.5);", /a\.ts:2: A: .*cannot be computed/],
      ["/** @bound a | b */\nconst A = B;", /cannot be computed/],
      ["const L = {};\n/** @bound a | b */\nconst A = L.x;", /cannot be computed/],
    ];
    for (const [text, why] of faults) expect(() => boundsIn(text)).toThrow(why);
  });
});

describe("a bound in Python", () => {
  test("is tagged above or behind, and may use other constants", () => {
    const text = `import x
_KIB = 1024
# bound: memory for copies | the oldest is freed
_COPIES_BYTES_MAX: int = 64 * _KIB * _KIB
_POLL_S = 0.25  # bound: a poll of the gateway | it counts as unreachable
_TABLE = [1, 2]  # not a number
`;
    expect(boundsIn(text, "consumer.py")).toEqual([
      {
        ...{ what: "memory for copies", beyond: "the oldest is freed" },
        ...{ name: "_COPIES_BYTES_MAX", path: "consumer.py", value: 67_108_864 },
      },
      {
        ...{ what: "a poll of the gateway", beyond: "it counts as unreachable" },
        ...{ name: "_POLL_S", path: "consumer.py", value: 0.25 },
      },
    ]);
  });

  test("that cannot be read is an error with its place", () => {
    const faults: [text: string, why: RegExp][] = [
      ["A = 1  # bound: only what", /consumer\.py:1: .*WHAT \| BEYOND/],
      ["# bound: a | b\ndef f(): ...", /no constant/],
      ["A = len(B)  # bound: a | b", /A: .*cannot be computed/],
      ["A = [1]  # bound: a | b", /cannot be computed/],
    ];
    for (const [text, why] of faults) expect(() => boundsIn(text, "consumer.py")).toThrow(why);
  });
});

test("the unit of a bound comes from its name", () => {
  const cases: [name: string, value: number, text: string][] = [
    ["EVENT_BYTES_MAX", 8 * 1024 ** 2, "8 MiB"],
    ["BODY_BYTES_MAX", 1536, "1,536 bytes"],
    ["BODY_BYTES_MAX", 64 * 1024, "64 KiB"],
    ["DISK_BYTES_MIN", 256_000_000, "256 MB"],
    ["LIMITS.labelCharsMax", 1024, "1,024 UTF-16 units"],
    ["LIMITS.depthMax", 128, "128"],
    ["WAITING_MAX", 4096, "4,096"],
    ["POLL_MS", 250, "250 ms"],
    ["POLL_MS", 1500, "1.5 s"],
    ["PATIENCE_MS", 30_000, "30 s"],
    ["PATIENCE_MS", 60_000, "60 s"],
    ["TURN_SECONDS_MAX", 120, "2 min"],
    ["DEDUP_WINDOW_US", 15 * 24 * 3600 * 1e6, "15 days"],
    ["_HTTP_POLL_S", 0.25, "250 ms"],
    ["FRAMES_A_TURN", 16, "16 frames"],
    ["BURST_EVENTS_PER_SECOND", 3000, "3,000 events per second"],
    ["INTENT_LIMITS.examplesPerLabelMax", 1000, "1,000 examples"],
    ["ADDRESS_MAX", 7, "7"],
  ];
  for (const [name, value, text] of cases)
    expect(`${name} ${boundText({ name, value })}`).toBe(`${name} ${text}`);
});

test("the table has a row for each bound, in the order in which an event meets the rooms", () => {
  const bound = (path: string, name: string): Bound => ({ what: "w", beyond: "b", value: 1, name, path });
  const bounds = [
    bound("consumer.py", "_A"),
    bound("src/store/a.ts", "B"),
    bound("src/physics.ts", "C"),
    bound("src/http/b.ts", "D"),
    bound("src/http/b.ts", "A"),
    bound("src/http/a.ts", "E"),
  ];
  const rows = boundsTable(bounds).trimEnd().split("\n").slice(2);
  expect(rows.map((row) => /`(\w+)`/.exec(row)?.[1])).toEqual(["E", "D", "A", "B", "C", "_A"]);
  expect(rows[0]).toBe("| w | 1 | `E` in `src/http/a.ts` | b |");
  expect(boundsTable([])).toBe("");
});

test("the dashboard's bounds are told from the others by their folders", () => {
  for (const path of ["src/dashboard/x.ts", "src/tui/tabs/x.ts", "tui.ts"])
    expect(isOfDashboard({ path })).toBeTrue();
  for (const path of ["src/http/x.ts", "gateway.ts", "consumer.py"])
    expect(isOfDashboard({ path })).toBeFalse();
});

describe("generate", () => {
  const root = mkdtempSync(join(tmpdir(), "generate-"));
  afterAll(() => rmSync(root, { recursive: true, force: true }));
  const copied = [...productFiles(), "consumer.py", "README.md", ".env.example", "docs", "test/golden"];
  for (const path of copied) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    cpSync(join(ROOT, path), join(root, path), { recursive: true });
  }
  const check = (): string[] => {
    const said: string[] = [];
    const drifted = generate(root, { check: true, say: (line) => said.push(line) });
    expect(said).toHaveLength(drifted);
    return said.map((line) => line.split(" ")[1] ?? "");
  };

  test("finds this repository as its sources say", () => {
    expect(check()).toEqual([]);
  });

  test("notices a bound that has changed in its source", () => {
    const path = join(root, "src/http/held.ts");
    const before = readFileSync(path, "utf8");
    expect(before).toContain("HELD_BYTES_MAX = 160 *");
    writeFileSync(path, before.replace("HELD_BYTES_MAX = 160 *", "HELD_BYTES_MAX = 161 *"));
    expect(check()).toEqual(["docs/ARCHITECTURE.md"]);
    writeFileSync(path, before);
    expect(check()).toEqual([]);
  });

  test("notices every derived file that was edited by hand, and mends it", () => {
    const edits: [path: string, from: string, to: string][] = [
      ["docs/ARCHITECTURE.md", "| 160 MiB |", "| 159 MiB |"],
      ["docs/METRICS.md", "| counter |", "| gauge |"],
      ["README.md", "| `--port PORT` |", "| `--port NUMBER` |"],
      [".env.example", "#PORT=", "#PORT=1"],
    ];
    for (const [path, from, to] of edits) {
      const before = readFileSync(join(root, path), "utf8");
      expect(before).toContain(from);
      writeFileSync(join(root, path), before.replace(from, to));
      expect(check()).toEqual([path]);
      expect(generate(root, { check: false, say: () => {} })).toBe(1);
      expect(readFileSync(join(root, path), "utf8")).toBe(before);
    }
  });

  test("refuses a document without the markers of its block", () => {
    const path = join(root, "docs/ARCHITECTURE.md");
    const before = readFileSync(path, "utf8");
    writeFileSync(path, before.replace("<!-- generated: bounds -->\n", ""));
    expect(check).toThrow("docs/ARCHITECTURE.md");
    writeFileSync(path, before);
  });
});
