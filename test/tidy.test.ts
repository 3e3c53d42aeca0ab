import { describe, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { CLASS_FIELDS_MAX, FILE_LINES_MAX, FUNCTION_LINES_MAX, sizesOf, tooLarge } from "../scripts/sizes.ts";
import { forbiddenImports, importCircles, importsOf, roomOf, valueSpecifiers } from "./import-rule.ts";

const ROOT = join(import.meta.dir, "..");
const read = (path: string): string => readFileSync(join(ROOT, path), "utf8");

/** The names and patterns of .gitignore. */
const ignored = read(".gitignore")
  .split("\n")
  .filter((line) => line !== "" && !line.startsWith("#") && !line.startsWith("!"))
  .map((line) => new Bun.Glob(line.replace(/\/$/, "")));

function isIgnored(path: string): boolean {
  if (path === ".git" || path === "models/README.md") return path === ".git";
  return ignored.some((glob) => glob.match(path) || glob.match(basename(path)));
}

/** Lists every file that git would track, and every folder without such a file. */
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
/** The sources of the executable: the top-level modules and the rooms. */
const program = sources.filter((path) => !path.includes("/") || path.startsWith("src/"));

const textsOf = (paths: readonly string[]): Map<string, string> =>
  new Map(paths.map((path) => [path, read(path)]));
const productTexts = textsOf(program);

/** The product with one line added to a file, as if somebody had just written it. */
function withLine(path: string, line: string): Map<string, string> {
  return new Map(productTexts).set(path, `${line}\n${productTexts.get(path) ?? ""}`);
}

/** The only places that may import a package. Native packages are imported through their module in src/native. */
const SDK_HOME: Readonly<Record<string, string[]>> = {
  "@duckdb/node-api": ["src/native/duckdb.ts"],
  "@duckdb/node-bindings": [],
  "@xenova/transformers": ["src/native/onnx.ts"],
  "onnxruntime-node": ["src/native/onnx.ts"],
  "@opentui/core": ["src/native/opentui.ts"],
  "src/native/duckdb.ts": ["src/store", "src/start/selftest.ts"],
  "src/native/onnx.ts": ["src/embed/onnx-model.ts", "src/start/selftest.ts"],
  "src/native/opentui.ts": ["tui.ts", "src/tui", "src/start/selftest.ts"],
  openai: ["src/llm/endpoint.ts"],
  valibot: [...["src/embed", "src/http", "src/brain", "src/llm"], "src/schemas/pack.ts"],
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

  test("a module is named after what it does, not after what it is", () => {
    const names = /^(utils?|helpers?|common|misc|shared|index)\b/;
    expect(sources.filter((path) => names.test(basename(path)))).toEqual([]);
  });

  test("the size check finds a file, a class and a function that are too large", () => {
    const lines = (count: number, line: string): string => `${line}\n`.repeat(count);
    const long = `function f() {\n${lines(FUNCTION_LINES_MAX, "  g();")}}\n`;
    const wide = `class C {\n${lines(CLASS_FIELDS_MAX + 1, "  #x = 0;").replaceAll("#x", () => `x${Math.random()}`.replace(".", ""))}}\n`;
    const faults = tooLarge(sizesOf("a.ts", `${long}${wide}${lines(FILE_LINES_MAX, "")}`));
    expect(faults.map((fault) => fault.split(" of ")[0])).toEqual([
      "a.ts: a file",
      "a.ts:1: a function",
      `a.ts:${FUNCTION_LINES_MAX + 3}: a class`,
    ]);
    expect(
      tooLarge(sizesOf("a.ts", `const f = () => {\n${lines(FUNCTION_LINES_MAX - 2, "g();")}};\n`)),
    ).toEqual([]);
  });

  test("no file contains a path of a machine or of a home folder", () => {
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
  test("the scanner tells values from types", () => {
    const scan = (code: string): string[] =>
      importsOf("src/x/x.ts", code).map(({ to, kind }) => `${to} ${kind}`);
    expect(scan(`import type { A } from "./a.ts"; let x: A; export type { B } from "../b/b.ts";`)).toEqual([
      "src/x/a.ts type",
      "src/b/b.ts type",
    ]);
    expect(scan(`import { type A, b } from "./a.ts"; b();`)).toEqual(["src/x/a.ts value"]);
    expect(scan(`export * from "./a.ts"; await import("./b.ts");`).sort()).toEqual([
      "src/x/a.ts value",
      "src/x/b.ts value",
    ]);
  });

  test("values come from the own room, native/ and the leaves; types also from faces and type leaves", () => {
    expect(forbiddenImports(productTexts)).toEqual([]);
  });

  test("no file imports itself by way of others, type imports included", () => {
    expect(importCircles(textsOf(sources))).toEqual([]);
  });

  test("every room has a face, and every file under src/ is in a room", () => {
    const rooms = [...new Set(program.filter((path) => path.startsWith("src/")).map(roomOf))];
    const faceless = rooms.filter(
      (room) =>
        !["native", "start", "ring", "tui"].includes(room) &&
        !program.includes(`src/${room}.ts`) &&
        !program.includes(`src/${room}/${room}.ts`),
    );
    expect(faceless).toEqual([]);
  });

  const planted: readonly [claim: string, path: string, line: string, fault: string][] = [
    [
      "a value from another room's private file",
      "src/http/ingest.ts",
      `import { scan } from "../event/scan.ts"; scan();`,
      "src/http/ingest.ts -> src/event/scan.ts: imports values from a private file of another room",
    ],
    [
      "a value from another room's face",
      "src/http/http.ts",
      `import { Journal } from "../journal/journal.ts"; Journal.open();`,
      "src/http/http.ts -> src/journal/journal.ts: imports values from a face",
    ],
    [
      "a type from another room's private file",
      "src/http/http.ts",
      `import type { Keys } from "../journal/keys.ts"; let keys: Keys;`,
      "src/http/http.ts -> src/journal/keys.ts: imports types from a private file of another room",
    ],
    [
      "a private file in the composition root",
      "gateway.ts",
      `import { eventOf } from "./src/journal/rows.ts"; eventOf();`,
      "gateway.ts -> src/journal/rows.ts: imports values from a private file of another room",
    ],
    [
      "native/ in http",
      "src/http/http.ts",
      `import { whyNotExecutable } from "../native/libc.ts"; whyNotExecutable("");`,
      "src/http/http.ts -> src/native/libc.ts: must not reach native/",
    ],
    [
      "a room in a leaf",
      "src/errors.ts",
      `import type { Journal } from "./journal/journal.ts"; let journal: Journal;`,
      "src/errors.ts -> src/journal/journal.ts: a leaf imports only types of other leaves",
    ],
    [
      "gateway.ts in a room",
      "src/start/selftest.ts",
      `import "../../gateway.ts";`,
      "src/start/selftest.ts -> gateway.ts: nothing imports gateway.ts",
    ],
  ];
  test.each(planted)("the rule forbids %s", (_claim, path, line, fault) => {
    expect(productTexts.has(path)).toBe(true);
    expect(forbiddenImports(withLine(path, line))).toEqual([fault]);
  });

  test("a type import that closes a circle is found", () => {
    const texts = withLine(
      "src/journal/rows.ts",
      `import type { Journal } from "./journal.ts"; let j: Journal;`,
    );
    expect(importCircles(texts)).toEqual([
      expect.stringMatching(
        /^src\/journal\/journal\.ts -> .*src\/journal\/rows\.ts -> src\/journal\/journal\.ts$/,
      ),
    ]);
  });

  test("each package is imported in its one room", () => {
    const wrong = program.flatMap((from) => {
      const ours = importsOf(from, read(from)).flatMap(({ to, kind }) => (kind === "value" ? [to] : []));
      const packages = valueSpecifiers(read(from)).filter(
        (specifier) => !specifier.startsWith(".") && !isBuiltin(specifier),
      );
      return [...ours, ...packages.map(packageOf)]
        .filter((name) => {
          // This file imports the libraries' files, not the packages.
          if (from === "src/native/libraries.ts") return false;
          const homes = SDK_HOME[name];
          if (homes === undefined) return !name.endsWith(".ts");
          return !homes.some((home) => from.startsWith(home));
        })
        .map((name) => `${from} imports ${name}`);
    });
    expect(wrong).toEqual([]);
  });

  test("every place that may import a package exists", () => {
    const homes = Object.values(SDK_HOME).flat();
    expect(homes.filter((home) => !program.some((path) => path.startsWith(home)))).toEqual([]);
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

  test("docs/DEPENDENCIES.md has the installed version and licence of each dependency", () => {
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

  test("package.json and LICENSE both say MIT", () => {
    expect([manifest.license, read("LICENSE").split("\n")[0]]).toEqual(["MIT", "MIT License"]);
  });

  test("bun.lock names no registry", () => {
    expect(read("bun.lock")).not.toMatch(/https?:\/\//);
  });

  test("every file names the same version of Bun", () => {
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
