/**
 * The import rule of docs/ARCHITECTURE.md as a function over source texts, so that the tidy test can apply it to the
 * repository and to faults that it plants.
 */
import { dirname, join, normalize } from "node:path";

/** Path from the top of the repository → source text. */
export type Sources = ReadonlyMap<string, string>;

/** Every room may import these as values. They import nothing of ours but each other's types. */
export const LEAVES: readonly string[] = [
  "src/frame.ts",
  "src/errors.ts",
  "src/log.ts",
  "src/row-damage.ts",
  "src/clock.ts",
  "src/secrets.ts",
];

/** Faces at the top level, where the project's owner fixed them, and their rooms. */
const TOP_LEVEL_FACES: Readonly<Record<string, string>> = {
  "gateway.ts": "start",
  "collider.ts": "ring",
  "tui.ts": "tui",
};

/** Rooms whose files must not import `native/`: what they need of it comes in as an argument. */
const ROOMS_WITHOUT_NATIVE: readonly string[] = ["pipeline", "http"];

const transpiler = new Bun.Transpiler({
  loader: "ts",
  tsconfig: JSON.stringify({ compilerOptions: { verbatimModuleSyntax: true } }),
});

/** The specifiers that a source imports as values. An `import type` is not among them. */
export function valueSpecifiers(text: string): string[] {
  return transpiler.scanImports(text).map((entry) => entry.path);
}

/** Whether a source exports types only: it compiles to nothing. */
function isTypeLeaf(text: string): boolean {
  return (
    transpiler
      .transformSync(text)
      .replaceAll(/export\s*\{\s*\};?/g, "")
      .trim() === ""
  );
}

export interface Import {
  readonly from: string;
  readonly to: string;
  readonly kind: "value" | "type";
}

/** The imports of one source that name another TypeScript file of the repository, type imports included. */
export function importsOf(from: string, text: string): Import[] {
  const target = (specifier: string): string => normalize(join(dirname(from), specifier));
  const isOurs = (specifier: string): boolean => /^\..*\.ts$/.test(specifier);
  const values = new Set(valueSpecifiers(text).filter(isOurs).map(target));
  const named = [...text.matchAll(/(?:\bfrom|\bimport)\s*\(?\s*"(\.[^"\n]+\.ts)"/g)].map((match) =>
    target(match[1] ?? ""),
  );
  return [...new Set([...values, ...named])].map((to) => ({
    from,
    to,
    kind: values.has(to) ? "value" : "type",
  }));
}

/** A file's room: its folder under `src/`, or its own name if it has no folder. */
export function roomOf(path: string): string {
  const folder = /^src\/([^/]+)\//.exec(path)?.[1];
  return TOP_LEVEL_FACES[path] ?? folder ?? path.replace(/^src\/|\.ts$/g, "");
}

function isFace(path: string): boolean {
  return (
    path in TOP_LEVEL_FACES ||
    path === `src/${roomOf(path)}/${roomOf(path)}.ts` ||
    /^src\/[^/]+\.ts$/.test(path)
  );
}

/** Files that wire faces: the main thread's, and the entry point of each Worker for its own thread. */
function wiresFaces(path: string): boolean {
  return path === "gateway.ts" || path.startsWith("src/start/") || path.endsWith(".worker.ts");
}

/** Why the rule forbids this import; null if it allows it. */
function faultOf({ from, to, kind }: Import, sources: Sources): string | null {
  if (to === "gateway.ts") return "nothing imports gateway.ts";
  if (LEAVES.includes(from)) {
    return kind === "type" && LEAVES.includes(to) ? null : "a leaf imports only types of other leaves";
  }
  if (LEAVES.includes(to) || roomOf(from) === roomOf(to)) return null;
  const crossing = isFace(to) ? "a face" : "a private file of another room";
  if (kind === "type") {
    if (isFace(to) || roomOf(to) === "native" || isTypeLeaf(sources.get(to) ?? "")) return null;
    return `imports types from ${crossing}`;
  }
  if (roomOf(to) === "native") {
    return ROOMS_WITHOUT_NATIVE.includes(roomOf(from)) ? "must not reach native/" : null;
  }
  if (wiresFaces(from) && isFace(to)) return null;
  return `imports values from ${crossing}`;
}

/** Every import of the product that the rule forbids, as `FROM -> TO: why`. */
export function forbiddenImports(sources: Sources): string[] {
  return [...sources].flatMap(([path, text]) =>
    importsOf(path, text).flatMap((entry) => {
      const fault = faultOf(entry, sources);
      return fault === null ? [] : [`${entry.from} -> ${entry.to}: ${fault}`];
    }),
  );
}

/** Import circles, type imports included, as `A -> B -> A`. */
export function importCircles(sources: Sources): string[] {
  const circles: string[] = [];
  const done = new Set<string>();
  const visit = (path: string, trail: readonly string[]): void => {
    const start = trail.indexOf(path);
    if (start >= 0) circles.push([...trail.slice(start), path].join(" -> "));
    const text = sources.get(path);
    if (start >= 0 || done.has(path) || text === undefined) return;
    for (const { to } of importsOf(path, text)) visit(to, [...trail, path]);
    done.add(path);
  };
  for (const path of sources.keys()) visit(path, []);
  return circles;
}
