/**
 * Measures the product's files, classes and functions and fails if one outgrows its bound. Prints the largest of each kind.
 *
 *   bun scripts/sizes.ts
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parseSync, Visitor } from "oxc-parser";
import { ROOT } from "./steps.ts";

export const FILE_LINES_MAX = 600;
export const FUNCTION_LINES_MAX = 60;
export const CLASS_FIELDS_MAX = 20;
const PRINTED_OF_EACH_KIND = 3;

/** One pass over bytes with a state machine: taken apart, it would be slower and no easier to follow. */
const EXEMPT_FUNCTIONS: readonly string[] = ["src/event/scan.ts"];

export interface Size {
  readonly kind: "file" | "class" | "function";
  /** `path` for a file, `path:line` for the others. */
  readonly where: string;
  /** Lines of a file or a function, fields of a class. */
  readonly size: number;
}

const BOUNDS = { file: FILE_LINES_MAX, class: CLASS_FIELDS_MAX, function: FUNCTION_LINES_MAX } as const;
const UNITS = { file: "lines", class: "fields", function: "lines" } as const;

/** The sizes of one source file, of its classes and of its functions. @throws Error if it does not parse. */
export function sizesOf(path: string, text: string): Size[] {
  const { program, errors } = parseSync(path, text);
  if (errors[0] !== undefined) throw new Error(`${path}: ${errors[0].message}`);
  const lineStarts = [0, ...[...text.matchAll(/\n/g)].map(({ index }) => index + 1)];
  const lineAt = (offset: number): number => lineStarts.findLastIndex((start) => start <= offset) + 1;
  const sizes: Size[] = [{ kind: "file", where: path, size: lineStarts.length - 1 }];
  const measure = ({ start, end }: { start: number; end: number }): void => {
    const first = lineAt(start);
    sizes.push({ kind: "function", where: `${path}:${first}`, size: lineAt(end) - first + 1 });
  };
  new Visitor({
    FunctionDeclaration: measure,
    FunctionExpression: measure,
    ArrowFunctionExpression: measure,
    ClassBody: (body) => {
      const fields = body.body.filter(({ type }) => type === "PropertyDefinition");
      sizes.push({ kind: "class", where: `${path}:${lineAt(body.start)}`, size: fields.length });
    },
  }).visit(program);
  return sizes;
}

/** What is larger than its kind's bound, as one line each. */
export function tooLarge(sizes: readonly Size[]): string[] {
  return sizes
    .filter(({ kind, size }) => size > BOUNDS[kind])
    .filter(({ kind, where }) => kind !== "function" || !EXEMPT_FUNCTIONS.includes(where.split(":")[0] ?? ""))
    .map(({ kind, where, size }) => `${where}: a ${kind} of ${size} ${UNITS[kind]}, at most ${BOUNDS[kind]}`);
}

/** The product's TypeScript files, as paths from the top of the repository. */
export function productFiles(root = ROOT): string[] {
  const rooms = readdirSync(join(root, "src"), { recursive: true, encoding: "utf8" })
    .filter((path) => path.endsWith(".ts") && !path.endsWith(".d.ts"))
    .map((path) => `src/${path}`);
  return ["gateway.ts", "collider.ts", "tui.ts", ...rooms].sort();
}

if (import.meta.main) {
  const sizes = productFiles().flatMap((path) => sizesOf(path, readFileSync(join(ROOT, path), "utf8")));
  for (const kind of ["file", "class", "function"] as const) {
    const largest = sizes.filter((size) => size.kind === kind).sort((a, b) => b.size - a.size);
    const shown = largest.slice(0, PRINTED_OF_EACH_KIND).map(({ where, size }) => `${where} ${size}`);
    console.log(`largest ${kind} (${UNITS[kind]}, at most ${BOUNDS[kind]}): ${shown.join(", ")}`);
  }
  const faults = tooLarge(sizes);
  for (const fault of faults) console.error(fault);
  process.exit(faults.length === 0 ? 0 : 1);
}
