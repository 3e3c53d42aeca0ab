import { describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { basename, dirname, join, normalize } from "node:path";

const ROOT = join(import.meta.dir, "..");
const read = (path: string): string => readFileSync(join(ROOT, path), "utf8");

/** Names and patterns of .gitignore that leave something out anywhere or at the top. */
const ignored = read(".gitignore")
  .split("\n")
  .filter((line) => line !== "" && !line.startsWith("#") && !line.startsWith("!"))
  .map((line) => new Bun.Glob(line.replace(/\/$/, "")));

function isIgnored(path: string): boolean {
  if (path === ".git" || path === "models/README.md") return path === ".git";
  return ignored.some((glob) => glob.match(path) || glob.match(basename(path)));
}

/** Every file of the repository that git would take, and every folder without one. */
function survey(): { files: string[]; emptyFolders: string[] } {
  const files: string[] = [];
  const emptyFolders: string[] = [];
  const walk = (folder: string): number => {
    let count = 0;
    for (const entry of readdirSync(join(ROOT, folder), { withFileTypes: true })) {
      const path = folder === "" ? entry.name : `${folder}/${entry.name}`;
      if (isIgnored(path)) continue;
      if (entry.isDirectory()) count += walk(path);
      else {
        files.push(path);
        count++;
      }
    }
    if (count === 0) emptyFolders.push(folder);
    return count;
  };
  walk("");
  return { files: files.sort(), emptyFolders };
}

const { files, emptyFolders } = survey();
const sources = files.filter((path) => path.endsWith(".ts") && !path.endsWith(".d.ts"));
/** What becomes the executable: the top-level modules and the rooms. */
const program = sources.filter((path) => !path.includes("/") || path.startsWith("src/"));

const transpiler = new Bun.Transpiler({
  loader: "ts",
  tsconfig: JSON.stringify({ compilerOptions: { verbatimModuleSyntax: true } }),
});

/** What a source imports as values; an `import type` leaves no trace here. */
function valueImports(path: string): string[] {
  return transpiler.scanImports(read(path)).map((entry) => entry.path);
}

/** The modules of the repository that a source imports as values, by their path from the top. */
function ourImports(path: string): string[] {
  return valueImports(path)
    .filter((specifier) => specifier.startsWith("."))
    .map((specifier) => normalize(join(dirname(path), specifier)))
    .filter((target) => target.endsWith(".ts"));
}

/** The rooms' faces. */
const FACES: readonly string[] = [
  ...["gateway.ts", "collider.ts", "tui.ts", "src/start/selftest.ts"],
  ...["src/frame.ts", "src/errors.ts", "src/config.ts", "src/physics.ts"],
  ...["event", "journal", "store", "embed", "pipeline", "brain", "schemas", "http", "ring", "dashboard"].map(
    (name) => `src/${name}/${name}.ts`,
  ),
  ...["src/brain/chat.ts", "src/brain/intents.ts"],
];

/** A room's name: its folder under src/, or the file by itself. */
function room(path: string): string {
  if (path === "collider.ts") return "ring";
  if (path === "tui.ts") return "tui";
  return /^src\/([^/]+)\//.exec(path)?.[1] ?? path;
}

const isFace = (path: string): boolean => FACES.includes(path) || path.startsWith("src/native/");

const LEAVES = ["src/frame.ts", "src/errors.ts"];

/**
 * Whether the layout of the design lets `from` import `to` as a value. A neighbour is its room's own affair:
 * not even gateway.ts, which wires the faces, reaches past them.
 */
function allowed(from: string, to: string): boolean {
  if (to === "gateway.ts" || LEAVES.includes(from)) return false;
  if (LEAVES.includes(to)) return true;
  if (room(from) === room(to)) return true;
  // The moves left these behind; the next commit wires them.
  if (["brain", "embed"].includes(room(from)) && ["llm", "nearest"].includes(room(to))) return true;
  if (room(from) === "llm" && room(to) === "brain") return true;
  if (!isFace(to)) return false;
  if (from === "gateway.ts") return true;
  // What is native is reached through the rooms that own it.
  if (room(from) === "pipeline" || room(from) === "http") return false;
  // The self test does with the ring what gateway.ts does.
  if (from === "src/start/selftest.ts" && to === "collider.ts") return true;
  return room(to) === "native";
}

/** Which room may import a package's SDK; the native ones only through their module of src/native. */
const SDK_HOME: Readonly<Record<string, string[]>> = {
  "@duckdb/node-api": ["src/native/duckdb.ts"],
  "@duckdb/node-bindings": [],
  "@xenova/transformers": ["src/native/onnx.ts"],
  "onnxruntime-node": ["src/native/onnx.ts"],
  "@opentui/core": ["src/native/opentui.ts"],
  "src/native/duckdb.ts": ["src/store", "src/start/selftest.ts"],
  "src/native/onnx.ts": ["src/embed/embed.worker.ts", "src/start/selftest.ts"],
  "src/native/opentui.ts": ["tui.ts", "src/tui", "src/start/selftest.ts"],
  openai: ["src/embed/embed.ts", "src/llm/client.ts"],
  valibot: [
    ...[
      "src/config.ts",
      "src/event",
      "src/embed/embed.ts",
      "src/embed/models.ts",
      "src/http",
      "src/brain",
      "src/llm",
    ],
    "src/schemas/pack.ts",
  ],
};

/** The package of a specifier: `@scope/name/file` is `@scope/name`. */
function packageOf(specifier: string): string {
  return specifier.split("/", specifier.startsWith("@") ? 2 : 1).join("/");
}

const isBuiltin = (specifier: string): boolean => /^(node|bun):/.test(specifier) || specifier === "bun";

describe("layout", () => {
  test("the top level is the fixed set of files and folders", () => {
    const folders = [".ci", ".github", "bench", "docs", "examples", "models", "scripts", "src", "test"];
    const fixed = [
      ...[".env.example", ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md"],
      ...[
        "biome.json",
        "bun.lock",
        "bunfig.toml",
        "knip.json",
        "package.json",
        "pyproject.toml",
        "tsconfig.json",
      ],
      ...["collider.ts", "consumer.py", "gateway.ts", "tui.ts"],
      ...folders,
    ];
    const top = [...new Set(files.map((path) => path.split("/")[0] ?? ""))];
    expect(top.sort()).toEqual(fixed.sort());
  });

  test("no folder stands empty", () => {
    expect(emptyFolders).toEqual([]);
  });

  test("no module is called after what it is instead of what it does", () => {
    const names = /^(utils?|helpers?|common|misc|shared|index)\b/;
    expect(sources.filter((path) => names.test(basename(path)))).toEqual([]);
  });

  test("no module of the program outgrows 900 lines", () => {
    const length = (path: string): number => read(path).split("\n").length - 1;
    const long = sources.filter((path) => length(path) > 700).map((path) => `${path}: ${length(path)} lines`);
    if (long.length > 0) console.log(`over the 700 lines of the guidance:\n  ${long.join("\n  ")}`);
    expect(
      program.filter((path) => length(path) > 900).map((path) => `${path}: ${length(path)} lines`),
    ).toEqual([]);
  });

  test("no file names a machine's own folders or somebody's home", () => {
    const homes = ["home", "root", "Users", "work"].join("|");
    const pattern = new RegExp(`(?<![\\w$.}/-])/(${homes})/[A-Za-z0-9_.-]+`);
    const text = files.filter(
      (path) => !/\.(bin|onnx|f32|duckdb|gz|csv|npy)$/.test(path) && !path.includes("tokenizer"),
    );
    const found = text.flatMap((path) => {
      const line = read(path)
        .split("\n")
        .findIndex((content) => pattern.test(content));
      return line < 0 ? [] : [`${path}:${line + 1}`];
    });
    expect(found).toEqual([]);
  });
});

describe("imports", () => {
  test("the scanner sees values and not types", () => {
    const scan = (code: string): string[] => transpiler.scanImports(code).map((entry) => entry.path);
    expect(scan(`import type { A } from "./a.ts"; let x: A; export type { B } from "./b.ts";`)).toEqual([]);
    expect(scan(`import { type A, b } from "./a.ts"; b();`)).toEqual(["./a.ts"]);
    expect(scan(`export * from "./a.ts"; await import("./b.ts");`).sort()).toEqual(["./a.ts", "./b.ts"]);
  });

  test("a room imports frame, errors, its neighbours and src/native, and nothing else of ours", () => {
    const wrong = program.flatMap((from) =>
      ourImports(from)
        .filter((to) => !allowed(from, to))
        .map((to) => `${from} imports ${to}`),
    );
    expect(wrong).toEqual([]);
  });

  test("every module is a room's face or stands beside one", () => {
    const rooms = new Set([...FACES.map(room), "tui", "llm", "nearest"]);
    const homeless = program.filter((path) => !isFace(path) && !rooms.has(room(path)));
    expect(homeless).toEqual([]);
    expect(FACES.filter((path) => !program.includes(path))).toEqual([]);
  });

  test("the rule itself refuses what the design refuses", () => {
    expect(allowed("gateway.ts", "src/ring/file.ts")).toBe(false);
    expect(allowed("gateway.ts", "src/journal/rows.ts")).toBe(false);
    expect(allowed("src/http/ingest.ts", "src/event/scan.ts")).toBe(false);
    expect(allowed("src/pipeline/frames.ts", "src/physics.ts")).toBe(false);
    expect(allowed("src/ring/file.ts", "src/physics.ts")).toBe(false);
    expect(allowed("src/start/selftest.ts", "src/ring/file.ts")).toBe(false);
    expect(allowed("src/native/libc.ts", "src/ring/file.ts")).toBe(false);
    expect(allowed("src/store/rows.ts", "src/journal/rows.ts")).toBe(false);
    expect(allowed("collider.ts", "src/ring/file.ts")).toBe(true);
    expect(allowed("src/pipeline/pipeline.ts", "src/pipeline/frames.ts")).toBe(true);
    expect(allowed("gateway.ts", "src/physics.ts")).toBe(true);
    expect(allowed("src/http/http.ts", "src/journal/journal.ts")).toBe(false);
    expect(allowed("src/frame.ts", "src/errors.ts")).toBe(false);
    expect(allowed("src/pipeline/pipeline.ts", "src/native/libc.ts")).toBe(false);
    expect(allowed("src/store/store.worker.ts", "src/embed/hashing.ts")).toBe(false);
    expect(allowed("src/start/selftest.ts", "gateway.ts")).toBe(false);
    expect(allowed("src/store/store.worker.ts", "src/store/rows.ts")).toBe(true);
    expect(allowed("src/embed/embed.worker.ts", "src/embed/hashing.ts")).toBe(true);
  });

  test("nobody imports gateway.ts", () => {
    expect(sources.filter((path) => ourImports(path).includes("gateway.ts"))).toEqual([]);
  });

  test("no module imports itself by way of others", () => {
    const cycles: string[] = [];
    const done = new Set<string>();
    const visit = (path: string, trail: readonly string[]): void => {
      if (trail.includes(path)) cycles.push([...trail.slice(trail.indexOf(path)), path].join(" -> "));
      if (done.has(path) || trail.includes(path)) return;
      for (const next of ourImports(path)) if (existsSync(join(ROOT, next))) visit(next, [...trail, path]);
      done.add(path);
    };
    for (const path of sources) visit(path, []);
    expect(cycles).toEqual([]);
  });

  test("each SDK is imported in its one room", () => {
    const wrong = program.flatMap((from) => {
      const ours = ourImports(from);
      const packages = valueImports(from).filter(
        (specifier) => !specifier.startsWith(".") && !isBuiltin(specifier),
      );
      return [...ours, ...packages.map(packageOf)]
        .filter((name) => {
          // src/native/libraries.ts imports the libraries' files, not the packages.
          if (from === "src/native/libraries.ts") return false;
          const homes = SDK_HOME[name];
          if (homes === undefined) return !name.endsWith(".ts");
          return !homes.some((home) => from.startsWith(home));
        })
        .map((name) => `${from} imports ${name}`);
    });
    expect(wrong).toEqual([]);
  });

  test("importing every room opens, starts and prints nothing, and lets the process end", async () => {
    const rooms = program.filter(
      (path) => path !== "gateway.ts" && !path.startsWith("src/native/") && !path.includes(".worker."),
    );
    const code = rooms.map((path) => `await import(${JSON.stringify(join(ROOT, path))});`).join("\n");
    const child = Bun.spawn([process.execPath, "-e", code], {
      stdout: "pipe",
      stderr: "pipe",
      timeout: 20_000,
    });
    const output = (await new Response(child.stdout).text()) + (await new Response(child.stderr).text());
    expect({ output, code: await child.exited }).toEqual({ output: "", code: 0 });
  }, 30_000);
});

describe("packages", () => {
  const manifest = JSON.parse(read("package.json"));
  const direct: Record<string, string> = { ...manifest.dependencies, ...manifest.devDependencies };

  test("every direct dependency is pinned to one version", () => {
    expect(
      Object.entries(direct).filter(([, version]) => !/^\d+\.\d+\.\d+(-[\w.]+)?$/.test(version)),
    ).toEqual([]);
  });

  test("docs/DEPENDENCIES.md names each with the version and the licence that are installed", () => {
    const table = new Map<string, string>();
    for (const match of read("docs/DEPENDENCIES.md").matchAll(
      /^\| ([@\w][^ ]*) \| ([^ ]+) \| ([^|]+) \|/gm,
    )) {
      if (match[1] !== "package") table.set(match[1] ?? "", `${match[2]} ${match[3]}`);
    }
    const installed = new Map<string, string>();
    for (const name of Object.keys(direct)) {
      const { version, license } = JSON.parse(read(`node_modules/${name}/package.json`));
      installed.set(name, `${version} ${license}`);
    }
    expect(Object.fromEntries(table)).toEqual(Object.fromEntries(installed));
  });

  test("the licence is MIT, and says so in both places", () => {
    expect([manifest.license, read("LICENSE").split("\n")[0]]).toEqual(["MIT", "MIT License"]);
  });

  test("bun.lock names no registry", () => {
    expect(read("bun.lock")).not.toMatch(/https?:\/\//);
  });

  test("one version of Bun is named everywhere", () => {
    const pinned: string = manifest.devDependencies.bun;
    const named = files
      .filter((path) => /\.(md|yml|ts)$/.test(path) || path === ".ci/run")
      .flatMap((path) =>
        [...read(path).matchAll(/\bbun@(\d[\w.]*\w)/g)].map((match) => `${path}: ${match[1]}`),
      );
    expect(named.length).toBeGreaterThan(2);
    expect(named.filter((line) => !line.endsWith(`: ${pinned}`))).toEqual([]);
  });
});
